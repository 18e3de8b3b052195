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
