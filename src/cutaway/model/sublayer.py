"""Normalisation, and where it sits around a branch of the residual stream.

Shapes: B batch, T time, D width.

    x --+--[pre]-- branch --[post]--(+)--[stream]-->     three optional norm slots, one sublayer
        \\____________________________/
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import spec
from .tap import tap

#: So many vectors at once, those of beams say, meet a matrix from its other side.
FEW = 8


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + b: (..., D) -> (..., N). For a few vectors on a CPU it is computed as (W x^T)^T, which reads a large W as
    it lies, in half the time of a product that packs it first."""
    few = 1 < x.numel() // x.shape[-1] <= FEW and x.device.type == "cpu" and x.dtype is torch.float32
    if not few or weight.shape[0] < weight.shape[1]:
        return F.linear(x, weight, bias)
    y = (weight @ x.flatten(0, -2).T).T.contiguous().view(*x.shape[:-1], -1)
    return y if bias is None else y + bias


class Linear(nn.Linear):
    """A matrix and perhaps a bias."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight (Zhang & Sennrich 2019), computed in float32, returned in x's dtype."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps).to(x.dtype)


def make_norm(norm: spec.Norm | None, width: int) -> nn.Module | None:
    if norm is None:
        return None
    return RMSNorm(width, norm.eps) if norm.kind == "rms" else nn.LayerNorm(width, norm.eps)


class Sublayer(nn.Module):
    """A branch and its norms: ``enter`` reads the stream, ``leave`` says what is added, ``settle`` adds it."""

    def __init__(self, width: int, norm: spec.Norm, slots: tuple[str, ...]) -> None:
        super().__init__()
        self.pre = make_norm(norm if "pre" in slots else None, width)
        self.post = make_norm(norm if "post" in slots else None, width)
        self.stream = make_norm(norm if "stream" in slots else None, width)

    def enter(self, x: Tensor) -> Tensor:
        return tap(self, "in", x if self.pre is None else self.pre(x))

    def leave(self, y: Tensor) -> Tensor:
        return tap(self, "out", y if self.post is None else self.post(y))

    def settle(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y if self.stream is None else self.stream(x + y)
