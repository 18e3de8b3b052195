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

#: So few vectors, those of beams say, best meet a matrix of at least so many numbers and more rows than columns from
#: its other side; so many vectors, or a matrix of so many rows, take oneDNN's product, which is faster than PyTorch's.
FEW, LARGE = 4, 2**17
MANY, TALL = 32, 8192


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + b: (..., D) -> (..., N), with the product of matrices that is the fastest for so many vectors."""
    if x.device.type != "cpu" or x.dtype is not torch.float32 or torch.compiler.is_compiling():
        return F.linear(x, weight, bias)
    count, (rows, columns) = x.numel() // x.shape[-1], weight.shape
    if 0 < count <= FEW and rows >= columns and weight.numel() >= LARGE:
        return _from_the_other_side(x, weight, bias)
    fused = rows >= TALL or (count >= MANY and min(rows, columns) >= MANY)
    if not fused or _ONEDNN is None or torch.is_grad_enabled():
        return F.linear(x, weight, bias)
    product: Tensor = _ONEDNN(x.contiguous(), weight, bias, "none", [], "")
    return product


def _from_the_other_side(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(W x^T)^T, which reads W as it lies, where x W^T packs it first; of one vector twice, since the product of a
    matrix with a vector alone is slower."""
    flat = x.flatten(0, -2)
    flat = flat.repeat(2, 1) if len(flat) == 1 else flat.contiguous()
    y = (weight @ flat.T).T[: x.numel() // x.shape[-1]].contiguous().view(*x.shape[:-1], -1)
    return y if bias is None else y + bias


#: It has no gradient; None where this build of PyTorch lacks it.
_ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch._C._has_mkldnn else None


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
