"""From-scratch weights, in one table: what GPT-2 and most decoders since start from."""

from __future__ import annotations

import math

import torch
from torch import nn

STANDARD_DEVIATION = 0.02

#: state-dict name ends with -> how it starts. The first match holds; "stream" is 0.02 / sqrt(additions to the stream)
#: so that the residual stream does not grow with depth (Radford et al. 2019, section 2.3).
TABLE = (
    ("norm.weight", "one"), ("pre.weight", "one"), ("post.weight", "one"), ("stream.weight", "one"),
    ("bias", "zero"),
    ("attn.o.weight", "stream"), ("cross.o.weight", "stream"), ("mlp.down.weight", "stream"),
    ("weight", "normal"),
)  # fmt: skip


@torch.no_grad()
def initialise(model: nn.Module, seed: int) -> nn.Module:
    """Fill every parameter of ``model`` from ``seed``, the same on every machine (drawn on the CPU in float32)."""
    generator = torch.Generator().manual_seed(seed)
    parameters = dict(model.named_parameters())
    additions = sum(name.endswith(("attn.o.weight", "cross.o.weight", "mlp.down.weight")) for name in parameters)
    for name, parameter in parameters.items():
        start = next(how for end, how in TABLE if name.endswith(end))
        if start in ("zero", "one"):
            parameter.fill_(0.0 if start == "zero" else 1.0)
            continue
        deviation = STANDARD_DEVIATION / math.sqrt(additions) if start == "stream" else STANDARD_DEVIATION
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * deviation)
    return model
