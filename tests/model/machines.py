"""Tiny random machines, one of each kind a spec can express."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from cutaway.model import spec
from cutaway.model.init import initialise
from cutaway.model.transformer import Seq2Seq, Transformer, build

VOCABULARY, WIDTH, CONTEXT = 97, 48, 64
LAYER, RMS = spec.Norm("layer", 1e-5), spec.Norm("rms", 1e-6)
ROPE = spec.Rope(10000.0, 16)
LENGTH = 23
IDS = torch.randint(0, VOCABULARY, (LENGTH,), generator=torch.Generator().manual_seed(1)).tolist()


def attention(**facts: object) -> spec.Attention:
    base = spec.Attention(heads=4, kv_heads=2, width=16, scale=0.25, rope=ROPE)
    return dataclasses.replace(base, **facts)  # type: ignore[arg-type]


def decoder(*blocks: spec.Block, **facts: object) -> spec.Transformer:
    base = spec.Transformer(
        spec.Tokens(VOCABULARY, WIDTH), spec.Stack(WIDTH, blocks, RMS), spec.Head(VOCABULARY, tied=True), CONTEXT
    )
    return dataclasses.replace(base, **facts)  # type: ignore[arg-type]


GATED = spec.MLP(80, "silu", gated=True)
PLAIN = spec.MLP(80, "gelu_tanh", bias=True)
LLAMA = spec.Block(attention(), GATED, RMS)
WINDOWED = spec.Block(attention(window=5), GATED, RMS)
GPT2 = spec.Block(attention(kv_heads=4, bias="qkvo", rope=None), PLAIN, LAYER)

DECODERS: dict[str, spec.Transformer] = {
    "gpt2": decoder(
        *[GPT2] * 3, stem=spec.Tokens(VOCABULARY, WIDTH, positions=spec.Positions("learned", CONTEXT)),
        stack=spec.Stack(WIDTH, (GPT2,) * 3, LAYER),
    ),
    "llama": decoder(*[LLAMA] * 3),
    "windows": decoder(WINDOWED, LLAMA, WINDOWED, LLAMA),
    "gemma2": decoder(
        *[spec.Block(attention(softcap=50.0, window=w), GATED, RMS, ("pre", "post")) for w in (5, None, 5)],
        stem=spec.Tokens(VOCABULARY, WIDTH, scale=WIDTH**0.5), head=spec.Head(VOCABULARY, tied=True, softcap=30.0),
    ),
    "olmo2": decoder(*[spec.Block(attention(qk_norm="full"), GATED, RMS, ("post",))] * 2),
    "qwen3": decoder(*[spec.Block(attention(qk_norm="head"), GATED, RMS)] * 2),
    "neox": decoder(*[spec.Block(attention(bias="qkvo"), PLAIN, LAYER, parallel=True)] * 2),
    "phi": decoder(
        *[spec.Block(attention(rope=spec.Rope(10000.0, 8)), PLAIN, LAYER, parallel=True, shared_norm=True)] * 2,
        head=spec.Head(VOCABULARY, bias=True),
    ),
    "original": decoder(
        *[spec.Block(attention(rope=None), spec.MLP(80, "relu", bias=True), LAYER, ("stream",))] * 2,
        stem=spec.Tokens(VOCABULARY, WIDTH, scale=WIDTH**0.5, positions=spec.Positions("sinusoid", CONTEXT)),
        stack=spec.Stack(WIDTH, (spec.Block(attention(rope=None), PLAIN, LAYER, ("stream",)),) * 2, None),
    ),
}  # fmt: skip

BERT = spec.Transformer(
    spec.Tokens(VOCABULARY, WIDTH, positions=spec.Positions("learned", CONTEXT, offset=2), segments=2, norm=LAYER),
    spec.Stack(
        WIDTH, (spec.Block(attention(rope=None, causal=False, bias="qkvo"), PLAIN, LAYER, ("stream",)),) * 2, None
    ),
    spec.Head(VOCABULARY, tied=True, bias=True, transform=("gelu", LAYER)),
    CONTEXT,
)
VIT = spec.Transformer(
    spec.Patches(WIDTH, image=32, patch=8),
    spec.Stack(WIDTH, (spec.Block(attention(rope=None, causal=False, bias="qkvo"), PLAIN, LAYER),) * 2, LAYER),
    spec.Head(11, bias=True, pool="first"),
    17,
)
DEIT = dataclasses.replace(
    VIT, stem=spec.Patches(WIDTH, image=32, patch=8, extra_tokens=2), head=spec.Head(11, bias=True, pool="first_two")
)
_SIDE = attention(rope=None, scale=1.0)
_LOOK = attention(rope=None, scale=1.0, causal=False)
T5 = spec.Seq2Seq(
    spec.Tokens(VOCABULARY, WIDTH),
    spec.Stack(WIDTH, (spec.Block(_LOOK, GATED, RMS),) * 2, RMS, spec.RelativeBias(8, 20, True)),
    spec.Tokens(VOCABULARY, WIDTH),
    spec.Stack(WIDTH, (spec.Block(_SIDE, GATED, RMS, cross=_LOOK),) * 2, RMS, spec.RelativeBias(8, 20, False)),
    spec.Head(VOCABULARY, tied=True, scale=WIDTH**-0.5),
    CONTEXT,
    shared_embedding=True,
)
WHISPER = spec.Seq2Seq(
    spec.Mel(WIDTH, bins=12, length=30),
    spec.Stack(WIDTH, (spec.Block(_LOOK, PLAIN, LAYER),) * 2, LAYER),
    spec.Tokens(VOCABULARY, WIDTH, positions=spec.Positions("learned", CONTEXT)),
    spec.Stack(WIDTH, (spec.Block(_SIDE, PLAIN, LAYER, cross=_LOOK),) * 2, LAYER),
    spec.Head(VOCABULARY, tied=True),
    CONTEXT,
)
SOURCES = {"t5": T5, "whisper": WHISPER}


def lively(machine: spec.Spec, seed: int = 0) -> Transformer | Seq2Seq:
    """A machine whose biases and norms matter: everything moved off 0 and 1, weights large enough to disagree."""
    model = initialise(build(machine), seed).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        else:
            parameter *= 5
    return model


def tokens(batch: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))


def largest(model: nn.Module, difference: torch.Tensor, reference: torch.Tensor) -> float:
    return (difference - reference).abs().max().item() / reference.abs().max().item()


def in_8_bits(x: torch.Tensor) -> torch.Tensor:
    """Inputs as a quantised machine reads them where it writes: each 32 share a scale."""
    if not x.is_floating_point():  # ids
        return x
    groups = nn.functional.pad(x, (0, -x.shape[-1] % 32)).unflatten(-1, (-1, 32))
    most = groups.abs().amax(-1, keepdim=True)
    codes = (groups * torch.where(most > 0, 127 / most, 0)).round()
    return (codes * most / 127).flatten(-2)[..., : x.shape[-1]]
