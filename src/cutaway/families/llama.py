"""Llama and its relatives: rotary positions, RMSNorm, a gated MLP, keys and values shared by groups of heads.

Llama 1 to 3, Mistral, Qwen 2 and 3, SmolLM 1 to 3, OLMo 2, Gemma 2 and 3 (text) differ in the facts of ``FACTS``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from ..model import spec
from . import Family, decoder, rotary
from .config import LARGEST, MOST_LAYERS, WIDEST, Config, rms_norm, shown
from .names import ONE_PLUS, SAME, Names, Operation, Rule

FULL, SLIDING = "full_attention", "sliding_attention"  # what config.json's layer_types says of each layer


# ---------------------------------------------------------------- which layers look back only a window


def _never(c: Config, layers: int) -> list[str]:
    return [FULL] * layers


def _always(c: Config, layers: int) -> list[str]:
    """Mistral: every layer, unless sliding_window is null."""
    windowed = c.nullable(c.integer, "sliding_window", 4096) is not None
    return [SLIDING if windowed else FULL] * layers


def _late(c: Config, layers: int) -> list[str]:
    """Qwen: from layer max_window_layers on, if at all."""
    first = c.integer("max_window_layers", 28, least=0)
    return [SLIDING if c.flag("use_sliding_window", False) and i >= first else FULL for i in range(layers)]


def _where_positions_are_absent(c: Config, layers: int) -> list[str]:
    """SmolLM3: the layers without rotation, if at all."""
    windowed = c.flag("use_sliding_window", False) and c.has("sliding_window")
    return [SLIDING if windowed and not turns else FULL for turns in _rotated(c, layers)]


def _every_other(c: Config, layers: int) -> list[str]:
    """Gemma 2."""
    return [FULL if i % 2 else SLIDING for i in range(layers)]


def _all_but_each_sixth(c: Config, layers: int) -> list[str]:
    """Gemma 3."""
    pattern = c.integer("sliding_window_pattern", c.integer("_sliding_window_pattern", 6))
    return [SLIDING if (i + 1) % pattern else FULL for i in range(layers)]


# ---------------------------------------------------------------- which layers rotate


def _rotated(c: Config, layers: int) -> list[bool]:
    """SmolLM3 leaves every fourth layer without positions (NoPE): 0 in no_rope_layers means no rotation."""
    listed = c.each("no_rope_layers", layers)
    interval = c.integer("no_rope_layer_interval", 4)
    if listed is None:
        return [(i + 1) % interval != 0 for i in range(layers)]
    if any(on not in (0, 1) for on in listed):
        raise ValueError("no_rope_layers holds something other than 0 and 1")
    return [bool(on) for on in listed]


def _one_rope(c: Config, head_width: int, base: float) -> dict[str, spec.Rope]:
    rope = rotary.read(c, head_width, base)
    return {FULL: rope, SLIDING: rope}


def _two_ropes(c: Config, head_width: int, _: float) -> dict[str, spec.Rope]:
    """Gemma 3: windowed layers turn faster and are never scaled.

    Old files write rope_theta, rope_local_base_freq and a rope_scaling for the full layers; new ones an object each.
    """
    far, near = c.number("rope_theta", 1000000.0), c.number("rope_local_base_freq", 10000.0)
    both = c.part("rope_parameters")
    if any(kind in both for kind in (FULL, SLIDING)):
        c.only("rope_scaling")
        full, sliding = both.part(FULL), both.part(SLIDING)
    else:
        full, sliding = rotary.scaling_part(c), Config({})
    return {FULL: rotary.rope(c, full, head_width, far), SLIDING: rotary.rope(c, sliding, head_width, near)}


# ---------------------------------------------------------------- the facts


@dataclass(frozen=True)
class Facts:
    """What sets one model_type apart from Llama. The defaults are Llama's own."""

    slots: tuple[str, ...] = ("pre",)
    norms: Operation = SAME
    eps: float = 1e-6
    qk_norm: Literal["head", "full"] | None = None
    attention_bias: str | None = None  # fixed letters; None: config.json's attention_bias says (none or all four)
    mlp_bias: bool = False  # may config.json ask for it?
    activation_key: str = "hidden_act"
    activation: str = "silu"
    head_width: int | None = None  # where config.json does not say; None: width / heads
    own_scale: bool = False  # scores divided by the root of query_pre_attn_scalar, not of the head's width
    embedding_scaled: bool = False  # by the root of the width
    softcaps: tuple[float | None, float | None] | None = None  # of scores and logits, where config.json is silent
    tied: bool = False
    base: float = 10000.0
    ropes: Callable[[Config, int, float], dict[str, spec.Rope]] = _one_rope
    windows: Callable[[Config, int], list[str]] = _never
    window: int | None = 4096  # where config.json is silent
    window_switch: bool = False  # sliding_window holds only with use_sliding_window
    listed: bool = False  # config.json's layer_types overrides ``windows``
    skips_rotation: bool = False
    only: tuple[tuple[Any, ...], ...] = ()  # keys computed at these values alone: (key, value, ...)
    inert: tuple[str, ...] = ()


_GEMMA = Facts(
    slots=("pre", "post"),
    norms=ONE_PLUS,
    activation_key="hidden_activation",
    activation="gelu_pytorch_tanh",
    head_width=256,
    own_scale=True,
    embedding_scaled=True,
    tied=True,
    listed=True,
    only=(("use_bidirectional_attention", False),),
    inert=("hidden_act",),  # stands beside hidden_activation in old files, and is not what is computed
)


FACTS = {
    "llama": Facts(mlp_bias=True, only=(("rope_interleaved", False),), inert=("is_llama_config",)),
    "mistral": Facts(attention_bias="", windows=_always),
    "qwen2": Facts(attention_bias="qkv", windows=_late, window_switch=True, listed=True, only=(("use_mrope", False),)),
    "qwen3": Facts(head_width=128, qk_norm="head", windows=_late, window_switch=True, listed=True),
    "smollm3": Facts(
        mlp_bias=True,
        tied=True,
        base=2000000.0,
        windows=_where_positions_are_absent,
        window=None,
        window_switch=True,
        listed=True,
        skips_rotation=True,
        inert=("max_window_layers",),
    ),
    "olmo2": Facts(slots=("post",), eps=1e-5, qk_norm="full", only=(("clip_qkv",),)),
    "gemma2": replace(_GEMMA, windows=_every_other, softcaps=(50.0, 30.0)),
    "gemma3_text": replace(
        _GEMMA, windows=_all_but_each_sixth, qk_norm="head", ropes=_two_ropes, softcaps=(None, None)
    ),
}


# ---------------------------------------------------------------- config.json -> spec


def read(facts: Facts, c: Config) -> spec.Transformer:
    width, heads = c.integer("hidden_size", most=WIDEST), c.integer("num_attention_heads", most=WIDEST)
    layers = c.integer("num_hidden_layers", most=MOST_LAYERS)
    head_width = _head_width(facts, c, width, heads)
    kv_heads = c.integer("num_key_value_heads", heads, most=WIDEST)
    norm = rms_norm(c, "rms_norm_eps", facts.eps)
    bias = facts.attention_bias
    if bias is None:
        bias = "qkvo" if c.flag("attention_bias", False) else ""
    mlp = spec.MLP(
        c.integer("intermediate_size", most=WIDEST),
        c.activation(facts.activation_key, facts.activation),
        gated=True,
        bias=facts.mlp_bias and c.flag("mlp_bias", False),
    )
    scale = (c.number("query_pre_attn_scalar", 256.0) if facts.own_scale else head_width) ** -0.5
    score_cap, logit_cap = facts.softcaps or (None, None)
    if facts.softcaps is not None:
        score_cap = c.nullable(c.number, "attn_logit_softcapping", score_cap)
        logit_cap = c.nullable(c.number, "final_logit_softcapping", logit_cap)
    windows = _windows(facts, c, layers)
    ropes = facts.ropes(c, head_width, facts.base)
    turns = _rotated(c, layers) if facts.skips_rotation else [True] * layers
    for key, *handled in facts.only:
        c.only(key, *handled)
    c.ignore(*facts.inert)

    def block(layer: int) -> spec.Block:
        window, rope = windows[layer], ropes[FULL if windows[layer] is None else SLIDING]
        attention = spec.Attention(
            heads,
            kv_heads,
            head_width,
            scale,
            bias,
            window=window,
            rope=rope if turns[layer] else None,
            qk_norm=facts.qk_norm,
            softcap=score_cap,
        )
        return spec.Block(attention, mlp, norm, facts.slots)

    vocabulary = c.integer("vocab_size", most=LARGEST)
    return spec.Transformer(
        spec.Tokens(vocabulary, width, scale=width**0.5 if facts.embedding_scaled else 1.0),
        spec.Stack(width, tuple(block(i) for i in range(layers)), norm),
        decoder.head(c, vocabulary, tied=c.flag("tie_word_embeddings", facts.tied), softcap=logit_cap),
        c.integer("max_position_embeddings", most=LARGEST),
    )


def _head_width(facts: Facts, c: Config, width: int, heads: int) -> int:
    stated = c.integer("head_dim", None, most=WIDEST)
    if stated is not None:
        return int(stated)
    if facts.head_width is not None and not c.says("head_dim"):
        return facts.head_width
    if width % heads:
        raise ValueError(f"hidden_size {width} is not a multiple of num_attention_heads {heads}")
    return width // heads


def _windows(facts: Facts, c: Config, layers: int) -> list[int | None]:
    """How far back each layer sees; None: to the beginning."""
    kinds = facts.windows(c, layers)
    listed = c.each("layer_types", layers)
    if listed is not None and listed != kinds:
        for kind in listed:
            if kind not in (FULL, SLIDING):
                raise ValueError(f"layer_types holds {shown(kind)}, which this family does not have")
        if not facts.listed:
            raise ValueError("layer_types says otherwise than sliding_window, and this family has no such key")
        kinds = listed
    if SLIDING not in kinds:
        c.ignore("sliding_window")
        return [None] * layers
    window = c.nullable(c.integer, "sliding_window", facts.window)
    if window is None or (facts.window_switch and not c.flag("use_sliding_window", False)):
        raise ValueError("layer_types asks for windowed layers and sliding_window for none")
    return [window if kind == SLIDING else None for kind in kinds]


# ---------------------------------------------------------------- names

# Where their norms sit in ours. OLMo 2 and Gemma reuse one name for different slots.
_NORMS = {
    ("pre",): {"input_layernorm": "attn.pre", "post_attention_layernorm": "mlp.pre"},
    ("post",): {"post_attention_layernorm": "attn.post", "post_feedforward_layernorm": "mlp.post"},
    ("pre", "post"): {
        "input_layernorm": "attn.pre",
        "post_attention_layernorm": "attn.post",
        "pre_feedforward_layernorm": "mlp.pre",
        "post_feedforward_layernorm": "mlp.post",
    },
}


def names(facts: Facts, s: spec.Transformer) -> Names:
    theirs, ours = "model.layers.{}", "stack.blocks.{}"
    return Names(
        "model.",
        [
            Rule("model.embed_tokens", ("stem.tokens",)),
            *(Rule(f"{theirs}.{x}", (f"{ours}.{y}",), facts.norms) for x, y in _NORMS[facts.slots].items()),
            *(Rule(f"{theirs}.self_attn.{x}_proj", (f"{ours}.attn.{x}",)) for x in "qkvo"),
            *(Rule(f"{theirs}.self_attn.{x}_norm", (f"{ours}.attn.{x}_norm",), facts.norms) for x in "qk"),
            *(Rule(f"{theirs}.mlp.{x}_proj", (f"{ours}.mlp.{x}",)) for x in ("gate", "up", "down")),
            Rule("model.norm", ("stack.norm",), facts.norms),
            *decoder.head_rules(s, "lm_head"),
        ],
        dead=(f"{theirs}.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq"),
    )


FAMILIES = [Family(name, partial(read, facts), partial(names, facts)) for name, facts in FACTS.items()]
