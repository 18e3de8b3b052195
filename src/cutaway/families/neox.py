"""GPT-NeoX (Pythia) and Phi: attention and MLP side by side, partial rotary positions, LayerNorm, biases.

NeoX   x + attention(norm1(x)) + mlp(norm2(x)), or one after the other
Phi    x + attention(norm(x)) + mlp(norm(x))
"""

from __future__ import annotations

from ..model import spec
from . import Family, decoder, rotary
from .config import LARGEST, MOST_LAYERS, WIDEST, Config, layer_norm
from .names import Names, Rule, interleaved


def _head_width(c: Config, width: int, heads: int) -> int:
    if width % heads:
        raise ValueError(f"hidden_size {width} is not a multiple of num_attention_heads {heads}")
    return width // heads


def _transformer(c: Config, block: spec.Block, width: int, head_bias: bool) -> spec.Transformer:
    layers, vocabulary = c.integer("num_hidden_layers", most=MOST_LAYERS), c.integer("vocab_size", most=LARGEST)
    return spec.Transformer(
        spec.Tokens(vocabulary, width),
        spec.Stack(width, (block,) * layers, block.norm),
        decoder.head(c, vocabulary, tied=c.flag("tie_word_embeddings", False), bias=head_bias),
        c.integer("max_position_embeddings", most=LARGEST),
    )


def read_neox(c: Config) -> spec.Transformer:
    width, heads = c.integer("hidden_size", most=WIDEST), c.integer("num_attention_heads", most=WIDEST)
    head_width = _head_width(c, width, heads)
    rope = rotary.read(c, head_width, fraction=0.25, base_key="rotary_emb_base", fraction_key="rotary_pct")
    bias = "qkvo" if c.flag("attention_bias", True) else ""
    attention = spec.Attention(heads, heads, head_width, head_width**-0.5, bias, rope=rope)
    mlp = spec.MLP(c.integer("intermediate_size", most=WIDEST), c.activation("hidden_act", "gelu"), bias=True)
    norm = layer_norm(c, "layer_norm_eps", 1e-5)
    c.ignore("is_decoder")
    block = spec.Block(attention, mlp, norm, parallel=c.flag("use_parallel_residual", True))
    return _transformer(c, block, width, head_bias=False)


def neox_names(s: spec.Transformer) -> Names:
    theirs, ours = "gpt_neox.layers.{}", "stack.blocks.{}"
    fused = interleaved(s.stack.blocks[0].attn.heads)
    return Names(
        "gpt_neox.",
        [
            Rule("gpt_neox.embed_in", ("stem.tokens",)),
            Rule(f"{theirs}.input_layernorm", (f"{ours}.attn.pre",)),
            Rule(f"{theirs}.attention.query_key_value", tuple(f"{ours}.attn.{x}" for x in "qkv"), fused),
            Rule(f"{theirs}.attention.dense", (f"{ours}.attn.o",)),
            Rule(f"{theirs}.post_attention_layernorm", (f"{ours}.mlp.pre",)),
            Rule(f"{theirs}.mlp.dense_h_to_4h", (f"{ours}.mlp.up",)),
            Rule(f"{theirs}.mlp.dense_4h_to_h", (f"{ours}.mlp.down",)),
            Rule("gpt_neox.final_layer_norm", ("stack.norm",)),
            *decoder.head_rules(s, "embed_out", "lm_head"),  # the latter: what the reference calls it while it runs
        ],
        dead=tuple(f"{theirs}.attention.{x}" for x in ("bias", "masked_bias", "rotary_emb.inv_freq")),
    )


def read_phi(c: Config) -> spec.Transformer:
    width, heads = c.integer("hidden_size", most=WIDEST), c.integer("num_attention_heads", most=WIDEST)
    head_width = _head_width(c, width, heads)
    attention = spec.Attention(
        heads,
        c.integer("num_key_value_heads", heads, most=WIDEST),
        head_width,
        head_width**-0.5,
        "qkvo",
        rope=rotary.read(c, head_width, fraction=0.5),
        qk_norm="head" if c.flag("qk_layernorm", False) else None,
    )
    mlp = spec.MLP(c.integer("intermediate_size", most=WIDEST), c.activation("hidden_act", "gelu_new"), bias=True)
    norm = layer_norm(c, "layer_norm_eps", 1e-5)
    return _transformer(c, spec.Block(attention, mlp, norm, parallel=True, shared_norm=True), width, head_bias=True)


def phi_names(s: spec.Transformer) -> Names:
    theirs, ours = "model.layers.{}", "stack.blocks.{}"
    return Names(
        "model.",
        [
            Rule("model.embed_tokens", ("stem.tokens",)),
            Rule(f"{theirs}.input_layernorm", (f"{ours}.attn.pre",)),
            *(Rule(f"{theirs}.self_attn.{x}_proj", (f"{ours}.attn.{x}",)) for x in "qkv"),
            *(Rule(f"{theirs}.self_attn.{x}_layernorm", (f"{ours}.attn.{x}_norm",)) for x in "qk"),
            Rule(f"{theirs}.self_attn.dense", (f"{ours}.attn.o",)),
            Rule(f"{theirs}.mlp.fc1", (f"{ours}.mlp.up",)),
            Rule(f"{theirs}.mlp.fc2", (f"{ours}.mlp.down",)),
            Rule("model.final_layernorm", ("stack.norm",)),
            *decoder.head_rules(s, "lm_head"),
        ],
        dead=(f"{theirs}.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq"),
    )


FAMILIES = [Family("gpt_neox", read_neox, neox_names), Family("phi", read_phi, phi_names)]
