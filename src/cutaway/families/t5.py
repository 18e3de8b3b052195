"""T5 (Raffel et al. 2019): an encoder and a decoder without biases or scaled scores, positions as a bias of the scores.

    T5        relu,       the head is the embedding, and what it reads is multiplied by width ** -0.5
    T5 1.1    gated gelu, a head of its own; Flan-T5 (Chung et al. 2022) is that, trained further

The bias by distance is learned once a stack, beside its first block's attention; cross-attention has none.
"""

from __future__ import annotations

from ..errors import Refused
from ..model import spec
from . import Family
from .config import ACTIVATIONS, LARGEST, MOST_LAYERS, WIDEST, Config, require_writer, rms_norm, shown
from .names import SHARED, Names, Rule


def read(c: Config) -> spec.Seq2Seq:
    tied = c.flag("tie_word_embeddings", True)
    scaled = c.flag("scale_decoder_outputs", tied)
    tied = tied and scaled  # transformers 5 calls every T5 tied, and those with a head of their own not scaled
    require_writer(c, tied)
    width, heads = c.integer("d_model", 512, most=WIDEST), c.integer("num_heads", 8, most=WIDEST)
    head_width, vocabulary = c.integer("d_kv", 64, most=WIDEST), c.integer("vocab_size", 32128, most=LARGEST)
    norm, mlp = rms_norm(c, "layer_norm_epsilon", 1e-6), _mlp(c)
    layers = c.integer("num_layers", 6, most=MOST_LAYERS)

    def attention(causal: bool) -> spec.Attention:
        return spec.Attention(heads, heads, head_width, 1.0, causal=causal)

    def relative(bidirectional: bool) -> spec.RelativeBias:
        buckets = c.integer("relative_attention_num_buckets", 32, most=100_000)
        return spec.RelativeBias(
            buckets, c.integer("relative_attention_max_distance", 128, most=LARGEST), bidirectional
        )

    encoder = spec.Block(attention(False), mlp, norm)
    decoder = spec.Block(attention(True), mlp, norm, cross=attention(False))
    c.ignore("dropout_rate", "output_past")
    return spec.Seq2Seq(
        spec.Tokens(vocabulary, width),
        spec.Stack(width, (encoder,) * layers, norm, relative(True)),
        spec.Tokens(vocabulary, width),
        spec.Stack(
            width, (decoder,) * c.integer("num_decoder_layers", layers, most=MOST_LAYERS), norm, relative(False)
        ),
        spec.Head(vocabulary, tied=tied, scale=width**-0.5 if scaled else 1.0),
        c.integer("n_positions", 512, most=LARGEST),
        shared_embedding=True,
    )


def _mlp(c: Config) -> spec.MLP:
    """``feed_forward_proj``: "relu", "gated-silu", and so on; "gated-gelu" means gelu's approximation."""
    stated = c.any("feed_forward_proj", "relu")
    named = "gelu_new" if stated == "gated-gelu" else str(stated).removeprefix("gated-")
    gated = str(stated).startswith("gated-")
    if not isinstance(stated, str) or named not in ACTIVATIONS:
        raise Refused(
            f"config.json says feed_forward_proj = {shown(stated)}, which Cutaway does not compute.",
            f'Computed are {", ".join(ACTIVATIONS)}, and "gated-" in front of them.',
        )
    c.only("dense_act_fn", named)  # newer files say the same in two parts
    c.only("is_gated_act", gated)
    return spec.MLP(c.integer("d_ff", 2048, most=WIDEST), ACTIVATIONS[named], gated=gated)


SUBLAYERS = {
    "encoder": {"SelfAttention": "attn"},
    "decoder": {"SelfAttention": "attn", "EncDecAttention": "cross"},
}


def names(s: spec.Seq2Seq) -> Names:
    both = ("target.tokens", "source.tokens")
    rules = [Rule(theirs, both, SHARED) for theirs in ("shared", "encoder.embed_tokens", "decoder.embed_tokens")]
    rules.append(Rule("lm_head", ("head.out",)))
    gate = s.encoder.blocks[0].mlp.gated
    mlp = {"wi_0": "gate", "wi_1": "up", "wo": "down"} if gate else {"wi": "up", "wo": "down"}
    for side, attentions in SUBLAYERS.items():
        theirs, ours = f"{side}.block.{{}}.layer", f"{side}.blocks.{{}}"
        for i, (its, at) in enumerate(attentions.items()):
            rules += [Rule(f"{theirs}.{i}.{its}.{x}", (f"{ours}.{at}.{x}",)) for x in "qkvo"]
            rules.append(Rule(f"{theirs}.{i}.layer_norm", (f"{ours}.{at}.pre",)))
        last = f"{theirs}.{len(attentions)}"
        rules += [Rule(f"{last}.DenseReluDense.{its}", (f"{ours}.mlp.{x}",)) for its, x in mlp.items()]
        rules.append(Rule(f"{last}.layer_norm", (f"{ours}.mlp.pre",)))
        first = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias"
        rules += [Rule(first, (f"{side}.relative.table",)), Rule(f"{side}.final_layer_norm", (f"{side}.norm",))]
    dead = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"  # in old files; never read
    twice = ("target.tokens.weight", "source.tokens.weight")
    return Names("", rules, (dead,), twice=twice, absent={} if s.head.tied else {"head.out.weight": twice[0]})


FAMILIES = [Family("t5", read, names)]
