"""BART (Lewis et al. 2019) and Marian (Junczys-Dowmunt et al. 2018): the Transformer of 2017, as its authors had it.

A norm on the stream behind each sublayer, biases everywhere, the embedding as the head, and a bias on the logits.

    BART      learned positions behind two rows that nobody uses, a norm on the embedding
    Marian    sinusoids, which a file may hold and which are computed here; OPUS-MT (Tiedemann & Thottingal 2020)
"""

from __future__ import annotations

from dataclasses import replace

from ..model import spec
from . import Family
from .config import LARGEST, MOST_LAYERS, WIDEST, Config, require_writer
from .names import BATCH_OF_ONE, SHARED, Names, Rule

NORM = spec.Norm("layer", 1e-5)


def read_bart(c: Config) -> spec.Seq2Seq:
    c.only("static_position_embeddings", False)
    vocabulary = c.integer("vocab_size", 50265, most=LARGEST)
    length = c.integer("max_position_embeddings", 1024, most=LARGEST)
    return _read(c, vocabulary, vocabulary, True, spec.Positions("learned", length, 2), NORM)


def read_marian(c: Config) -> spec.Seq2Seq:
    c.only("static_position_embeddings", True)
    c.only("normalize_embedding", False)
    vocabulary = c.integer("vocab_size", 58101, most=LARGEST)
    shared = c.flag("share_encoder_decoder_embeddings", True)
    target = c.integer("decoder_vocab_size", vocabulary, most=LARGEST)
    length = c.integer("max_position_embeddings", 1024, most=LARGEST)
    return _read(c, vocabulary, vocabulary if shared else target, shared, spec.Positions("sinusoid", length), None)


def _read(
    c: Config, source: int, target: int, shared: bool, positions: spec.Positions, norm: spec.Norm | None
) -> spec.Seq2Seq:
    """``norm``: that of the embedding."""
    require_writer(c, tied=True)
    c.only("tie_word_embeddings", True)
    for key in ("normalize_before", "add_final_layer_norm", "add_bias_logits"):  # mBART's and Pegasus' layouts
        c.only(key, False)
    width = c.integer("d_model", 1024, most=WIDEST)
    activation = c.activation("activation_function", "gelu")

    def stack(side: str) -> spec.Stack:
        heads = c.integer(f"{side}_attention_heads", 16, most=WIDEST)
        if width % heads:
            raise ValueError(f"d_model {width} is not a multiple of {heads} heads")
        its = spec.Attention(
            heads, heads, width // heads, (width // heads) ** -0.5, bias="qkvo", causal=side == "decoder"
        )
        cross = None if side == "encoder" else replace(its, causal=False)
        mlp = spec.MLP(c.integer(f"{side}_ffn_dim", 4096, most=WIDEST), activation, bias=True)
        block = spec.Block(its, mlp, NORM, slots=("stream",), cross=cross)
        return spec.Stack(width, (block,) * c.integer(f"{side}_layers", 12, most=MOST_LAYERS), None)

    scale = width**0.5 if c.flag("scale_embedding", False) else 1.0
    # Training's, bookkeeping, and generation's own; num_hidden_layers repeats encoder_layers.
    c.ignore("dropout", "activation_dropout", "encoder_layerdrop", "decoder_layerdrop", "init_std", "classif_dropout")
    c.ignore("_num_labels", "num_hidden_layers", "output_past", "save_step", "force_bos_token_to_be_generated")
    c.ignore("extra_pos_embeddings", "normalize_embedding", "gradient_checkpointing")
    return spec.Seq2Seq(
        spec.Tokens(source, width, scale, positions, norm=norm),
        stack("encoder"),
        spec.Tokens(target, width, scale, positions, norm=norm),
        stack("decoder"),
        spec.Head(target, tied=True, bias=True),
        positions.length,
        shared_embedding=shared,
    )


def _names(s: spec.Seq2Seq, dead: tuple[str, ...] = ()) -> Names:
    rules = []
    if s.shared_embedding:
        both = ("target.tokens", "source.tokens")
        tables = ("model.shared", "model.encoder.embed_tokens", "model.decoder.embed_tokens")
        rules += [Rule(theirs, both, SHARED) for theirs in tables]
    else:
        rules.append(Rule("model.encoder.embed_tokens", ("source.tokens",)))
        rules.append(Rule("model.decoder.embed_tokens", ("target.tokens",)))
    rules += [Rule("lm_head.weight", ("head.out.weight",)), Rule("final_logits_bias", ("head.out.bias",), BATCH_OF_ONE)]
    for side, stem in (("encoder", "source"), ("decoder", "target")):
        rules.append(Rule(f"model.{side}.embed_positions", (f"{stem}.positions",)))
        rules.append(Rule(f"model.{side}.layernorm_embedding", (f"{stem}.norm",)))
        rules += layers(side, "stream")
    dead = (*dead, "model.encoder.version", "model.decoder.version")
    twice = ("target.tokens.weight", "source.tokens.weight") if s.shared_embedding else ()
    return Names("model.", rules, dead, twice=twice, absent={"head.out.bias": None})


def layers(side: str, slot: str) -> list[Rule]:
    """The rules for the layers of one side, whose norms sit in ``slot``."""
    theirs, ours = f"model.{side}.layers.{{}}", f"{side}.blocks.{{}}"
    rules = [Rule(f"{theirs}.fc1", (f"{ours}.mlp.up",)), Rule(f"{theirs}.fc2", (f"{ours}.mlp.down",))]
    rules.append(Rule(f"{theirs}.final_layer_norm", (f"{ours}.mlp.{slot}",)))
    for its, at in {"self_attn": "attn", "encoder_attn": "cross"}.items():
        rules += [Rule(f"{theirs}.{its}.{x}_proj", (f"{ours}.{at}.{x}",)) for x in "qkv"]
        rules.append(Rule(f"{theirs}.{its}.out_proj", (f"{ours}.{at}.o",)))
        rules.append(Rule(f"{theirs}.{its}_layer_norm", (f"{ours}.{at}.{slot}",)))
    return rules


def names_bart(s: spec.Seq2Seq) -> Names:
    return _names(s)


def names_marian(s: spec.Seq2Seq) -> Names:
    return _names(s, ("model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight"))


FAMILIES = [Family("bart", read_bart, names_bart), Family("marian", read_marian, names_marian)]
