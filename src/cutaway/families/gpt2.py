"""GPT-2 (Radford et al. 2019): learned positions, LayerNorm before each sublayer, one GELU MLP, tied head."""

from __future__ import annotations

from ..model import spec
from . import Family, decoder
from .config import LARGEST, MOST_LAYERS, WIDEST, Config, layer_norm
from .names import THIRDS_TRANSPOSED, TRANSPOSED, Names, Rule


def read(c: Config) -> spec.Transformer:
    width, heads = c.integer("n_embd", most=WIDEST), c.integer("n_head", most=WIDEST)
    if width % heads:
        raise ValueError(f"n_embd {width} is not a multiple of n_head {heads}")
    norm = layer_norm(c, "layer_norm_epsilon", 1e-5)
    hidden = c.integer("n_inner", 4 * width, most=WIDEST)
    mlp = spec.MLP(hidden, c.activation("activation_function", "gelu_new"), bias=True)

    scale = (width // heads) ** -0.5 if c.flag("scale_attn_weights", True) else 1.0
    deeper_is_flatter = c.flag("scale_attn_by_inverse_layer_idx", False)

    def block(layer: int) -> spec.Block:
        its_scale = scale / (layer + 1) if deeper_is_flatter else scale
        return spec.Block(spec.Attention(heads, heads, width // heads, its_scale, bias="qkvo"), mlp, norm)

    layers = c.integer("n_layer", most=MOST_LAYERS)
    context, vocabulary = c.integer("n_positions", most=LARGEST), c.integer("vocab_size", most=LARGEST)
    # Upcasting changes rounding in half precision only; n_ctx repeats n_positions; a summary head is never loaded.
    c.ignore("reorder_and_upcast_attn", "n_ctx", "summary_type", "summary_use_proj", "summary_activation")
    c.ignore("summary_proj_to_labels", "summary_first_dropout")
    return spec.Transformer(
        spec.Tokens(vocabulary, width, positions=spec.Positions("learned", context)),
        spec.Stack(width, tuple(block(i) for i in range(layers)), norm),
        decoder.head(c, vocabulary, tied=c.flag("tie_word_embeddings", True)),
        context,
    )


def names(s: spec.Transformer) -> Names:
    theirs, ours = "transformer.h.{}", "stack.blocks.{}"
    return Names(
        "transformer.",
        [
            Rule("transformer.wte", ("stem.tokens",)),
            Rule("transformer.wpe", ("stem.positions",)),
            Rule(f"{theirs}.ln_1", (f"{ours}.attn.pre",)),
            Rule(f"{theirs}.attn.c_attn", tuple(f"{ours}.attn.{x}" for x in "qkv"), THIRDS_TRANSPOSED),
            Rule(f"{theirs}.attn.c_proj", (f"{ours}.attn.o",), TRANSPOSED),
            Rule(f"{theirs}.ln_2", (f"{ours}.mlp.pre",)),
            Rule(f"{theirs}.mlp.c_fc", (f"{ours}.mlp.up",), TRANSPOSED),
            Rule(f"{theirs}.mlp.c_proj", (f"{ours}.mlp.down",), TRANSPOSED),
            Rule("transformer.ln_f", ("stack.norm",)),
            *decoder.head_rules(s, "lm_head"),
        ],
        dead=(f"{theirs}.attn.bias", f"{theirs}.attn.masked_bias"),  # the causal mask, and what it masks with
    )


FAMILIES = [Family("gpt2", read, names)]
