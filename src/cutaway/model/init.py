"""From-scratch weights, in one table: what GPT-2 and most decoders since start from."""

from __future__ import annotations

import math

import torch
from torch import nn

from .positions import sinusoids

STANDARD_DEVIATION = 0.02
HEARD = 0.15  # height of the waves beside what two convolutions make of a sound, whatever the deviation
NEAR = 0.08  # of queries that begin as keys: scores of a few units between tokens alike

#: state-dict name ends with -> how it starts. The first match holds; "stream" is less by sqrt(additions to the stream)
#: so that the residual stream does not grow with depth (Radford et al. 2019, section 2.3). Where a norm stands on the
#: stream it cannot grow, and a weak branch would only be slow to learn: there "stream" is "normal".
TABLE = (
    ("norm.weight", "one"), ("pre.weight", "one"), ("post.weight", "one"), ("stream.weight", "one"),
    ("bias", "zero"),
    ("attn.o.weight", "stream"), ("cross.o.weight", "stream"), ("mlp.down.weight", "stream"),
    ("weight", "normal"),
)  # fmt: skip


@torch.no_grad()
def initialise(
    model: nn.Module, seed: int, deviation: float = STANDARD_DEVIATION, look_around: bool = False
) -> nn.Module:
    """Fill every parameter of ``model`` from ``seed``, the same on every machine (drawn on the CPU in float32).

    ``look_around``: each token begins by reading those near it and those like it (Trockman & Kolter 2023). Learned
    positions start as waves, as large as the tokens' own vectors, and keys as queries: what is near has a vector alike,
    and so a high score. From nothing an encoder takes very long to tell its positions apart.
    """
    generator = torch.Generator().manual_seed(seed)
    parameters = dict(model.named_parameters())
    additions = sum(name.endswith(("attn.o.weight", "cross.o.weight", "mlp.down.weight")) for name in parameters)
    for name, parameter in parameters.items():
        start = next(how for end, how in TABLE if name.endswith(end))
        if look_around and name.endswith(("stem.positions.weight", "source.positions.weight")):
            waves = sinusoids(torch.arange(len(parameter)), parameter.shape[1], torch.float)
            parameter.copy_(waves * (HEARD if "source" in name else deviation * math.sqrt(2)))
            continue
        if start in ("zero", "one"):
            parameter.fill_(0.0 if start == "zero" else 1.0)
            continue
        sublayer = name.rpartition(".")[0].rpartition(".")[0]
        grows = start == "stream" and f"{sublayer}.stream.weight" not in parameters
        its = deviation / math.sqrt(additions) if grows else deviation
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * its)
    for name, query in parameters.items():
        if look_around and name.endswith("attn.q.weight"):
            query.mul_(NEAR / deviation)
            parameters[name.replace("attn.q", "attn.k")].copy_(query)
    return model
