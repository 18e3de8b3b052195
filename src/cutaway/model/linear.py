"""A matrix and a bias, and the product of matrices that is the fastest for so many vectors.

Shapes: D columns, N rows of the matrix.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: So few vectors, those of beams say, best meet a matrix of at least so many numbers and more rows than columns from
#: its other side, but on processors of Intel, which PyTorch's own product, MKL's, is made for; so many vectors, or a
#: matrix of so many rows, take oneDNN's product, which is faster than that.
FEW, LARGE = 4, 2**17
MANY, TALL = 32, 8192
#: So many numbers of a machine are packed at most; they take the memory of as many again.
PACKED = 2**28


Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]
#: What multiplies fewer than MANY vectors with a large matrix, where no gradient is asked for, if PyTorch is not to
#: (native/product.py).
FEW_BY: ContextVar[Product | None] = ContextVar("few_by", default=None)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + b: (..., D) -> (..., N), with the product of matrices that is the fastest for so many vectors."""
    if x.device.type != "cpu" or x.dtype is not torch.float32 or torch.compiler.is_compiling():
        return F.linear(x, weight, bias)
    count, (rows, columns) = x.numel() // x.shape[-1], weight.shape
    few = 0 < count < MANY and weight.numel() >= LARGE and not torch.is_grad_enabled()
    if few and (product := FEW_BY.get()) is not None:
        return product(x, weight, bias)
    if 1 < count < MANY and torch.is_inference_mode_enabled() and (packed := _packed(weight)) is not None:
        return _onednn(x, packed, bias)
    if intel():
        if count < FEW:
            return F.linear(x, weight, bias)
    elif 0 < count <= FEW and rows >= columns and weight.numel() >= LARGE:
        return _from_the_other_side(x, weight, bias)
    fused = rows >= TALL or (count >= MANY and min(rows, columns) >= MANY)
    if not fused or not _ONEDNN or torch.is_grad_enabled():
        return F.linear(x, weight, bias)
    return _onednn(x, weight, bias)


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")
    return product


def _from_the_other_side(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(W x^T)^T, which reads W as it lies, where x W^T packs it first; of one vector twice, since the product of a
    matrix with a vector alone is slower."""
    flat = x.flatten(0, -2)
    flat = flat.repeat(2, 1) if len(flat) == 1 else flat.contiguous()
    y = (weight @ flat.T).T[: x.numel() // x.shape[-1]].contiguous().view(*x.shape[:-1], -1)
    return y if bias is None else y + bias


def pack(matrices: Iterable[Tensor], count: int) -> None:
    """Keep large matrices a second time, as oneDNN reads them fastest for ``count`` vectors at once.

    In inference mode, where many products with a few vectors follow, as in a search with beams, ``linear`` takes the
    copy of a matrix that has not changed since.
    """
    large = [weight for weight in matrices if weight.dim() == 2 and weight.numel() >= LARGE]
    fits = all(w.device.type == "cpu" and w.dtype is torch.float32 and not w.is_inference() for w in large)
    if not _ONEDNN or not fits or sum(weight.numel() for weight in large) > PACKED:
        return
    for weight in large:
        if _packed(weight) is None:
            copy = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), count)
            weight.packed = (weight._version, copy)  # type: ignore[attr-defined]


def _packed(weight: Tensor) -> Tensor | None:
    """The packed copy of a matrix that has not changed since."""
    version, copy = getattr(weight, "packed", (None, None))
    return copy if version is not None and version == weight._version else None


@functools.cache
def intel() -> bool:
    """Is this processor one of Intel's, as far as the system tells?"""
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return False


#: Is oneDNN's product in this build of PyTorch? It has no gradient.
_ONEDNN = torch._C._has_mkldnn and all(
    hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_reorder_linear_weight")
)


class Linear(nn.Linear):
    """A matrix and perhaps a bias."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)
