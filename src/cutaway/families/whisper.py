"""Whisper (Radford et al. 2022): an encoder that hears thirty seconds, and a decoder that writes down what was said.

Norms before each sublayer and at the end of both sides, biases everywhere but on keys, the embedding as the head. The
encoder's sinusoids stand in its files, and are read from there.
"""

from __future__ import annotations

from dataclasses import replace

from ..model import spec
from . import Family
from .bart import NORM, layers
from .config import LARGEST, MOST_LAYERS, WIDEST, Config, require_writer
from .names import Names, Rule


def read(c: Config) -> spec.Seq2Seq:
    require_writer(c, tied=True)
    c.only("tie_word_embeddings", True)
    c.only("scale_embedding", False)
    width = c.integer("d_model", 384, most=WIDEST)
    activation = c.activation("activation_function", "gelu")

    def stack(side: str) -> spec.Stack:
        heads = c.integer(f"{side}_attention_heads", 6, most=WIDEST)
        if width % heads:
            raise ValueError(f"d_model {width} is not a multiple of {heads} heads")
        attn = spec.Attention(
            heads, heads, width // heads, (width // heads) ** -0.5, bias="qvo", causal=side == "decoder"
        )
        cross = None if side == "encoder" else replace(attn, causal=False)
        mlp = spec.MLP(c.integer(f"{side}_ffn_dim", 1536, most=WIDEST), activation, bias=True)
        block = spec.Block(attn, mlp, NORM, cross=cross)
        return spec.Stack(width, (block,) * c.integer(f"{side}_layers", 4, most=MOST_LAYERS), NORM)

    vocabulary = c.integer("vocab_size", 51865, most=LARGEST)
    length = c.integer("max_target_positions", 448, most=LARGEST)
    bins = c.integer("num_mel_bins", 80, most=WIDEST)
    frames = c.integer("max_source_positions", 1500, most=LARGEST)
    # Training's, generation's own, and an audio classifier's; num_hidden_layers repeats encoder_layers.
    c.ignore("dropout", "activation_dropout", "encoder_layerdrop", "decoder_layerdrop", "init_std", "num_hidden_layers")
    c.ignore("apply_spec_augment", "mask_time_prob", "mask_time_length", "mask_time_min_masks", "mask_feature_prob")
    c.ignore("mask_feature_length", "mask_feature_min_masks", "classifier_proj_size", "use_weighted_layer_sum")
    c.ignore("forced_decoder_ids", "median_filter_width")
    return spec.Seq2Seq(
        spec.Mel(width, bins, frames),
        stack("encoder"),
        spec.Tokens(vocabulary, width, positions=spec.Positions("learned", length)),
        stack("decoder"),
        spec.Head(vocabulary, tied=True),
        length,
    )


def names(_: spec.Seq2Seq) -> Names:
    rules = [
        Rule("model.encoder.conv1", ("source.conv1",)),
        Rule("model.encoder.conv2", ("source.conv2",)),
        Rule("model.encoder.embed_positions", ("source.positions",)),
        Rule("model.decoder.embed_tokens", ("target.tokens",)),
        Rule("model.decoder.embed_positions", ("target.positions",)),
        Rule("proj_out.weight", ("head.out.weight",)),
    ]
    for side in ("encoder", "decoder"):
        rules += [*layers(side, "pre"), Rule(f"model.{side}.layer_norm", (f"{side}.norm",))]
    return Names("model.", rules)


FAMILIES = [Family("whisper", read, names)]
