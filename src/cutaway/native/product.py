"""Products for PyTorch: with quantised matrices, which are read as they are kept while inputs stay as they are, unless
they may be rounded; and of few vectors with matrices of floats.

Shapes: M vectors, N rows, K columns of the matrix.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cutaway.model import quantized
from cutaway.model.linear import FEW_BY, MANY
from cutaway.model.quantized import unpacked_product

from . import library
from .program import KINDS, LINEAR, QUANTIZED, CMatrix, COp, workspace
from .threads import one_thread

#: Of the kernels, where PyTorch has fewer for a while; 0: as many as PyTorch.
THREADS: ContextVar[int] = ContextVar("threads", default=0)


@functools.cache
def install() -> None:
    """From now on ``torch.ops.cutaway.product`` is computed by the kernels on a processor, where they can be had."""
    quantized.LIBRARY.impl("product", _product, "CPU")


def _product(x: Tensor, packed: Tensor, bits: int, rows: int) -> Tensor:
    kernels = library.ready()
    if kernels is None or x.dtype is not torch.float32 or x.numel() == 0:
        return unpacked_product(x, packed, bits, rows)
    exact = not quantized.ROUNDED.get()
    return _run(kernels, x, CMatrix(packed.data_ptr(), None, None, QUANTIZED[bits], rows, x.shape[-1]), exact)


@contextlib.contextmanager
def in_turn(machine: nn.Module, *inputs: Tensor) -> Iterator[None]:
    """In here PyTorch and the kernels take turns at the processor, while a machine reads ``inputs``.

    The threads of either stay awake for a while after what they did, on cores that the other needs next: PyTorch takes
    one only. Few tokens are multiplied with matrices of float32 by the kernels, too. Where those have nothing to do, as
    with many tokens and floats, or can't be had, nothing changes.
    """
    some, kernels = next(machine.parameters()), None
    if some.device.type == "cpu" and some.dtype is torch.float32 and (_are_few(inputs) or quantized.matrices(machine)):
        kernels = library.ready()
    if kernels is None:
        yield
        return
    by, threads = FEW_BY.set(functools.partial(_few, kernels)), THREADS.set(torch.get_num_threads())
    try:
        with one_thread():
            yield
    finally:
        FEW_BY.reset(by)
        THREADS.reset(threads)


def _are_few(inputs: Sequence[Tensor]) -> bool:
    return all(ids.dtype is torch.long and ids.numel() < MANY for ids in inputs)


def _few(kernels: library.Library, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if weight.dtype is not torch.float32 or not weight.is_contiguous():
        return F.linear(x, weight, bias)
    rows, columns = weight.shape
    its_bias = None if bias is None else bias.data_ptr()
    matrix = CMatrix(weight.data_ptr(), its_bias, None, KINDS[torch.float32], rows, columns)
    return _run(kernels, x, matrix)


def _run(kernels: library.Library, x: Tensor, matrix: CMatrix, exact: bool = True) -> Tensor:
    """x W^T + b, (..., N)."""
    given = x.detach().contiguous()
    out = torch.empty(*x.shape[:-1], matrix.rows)
    matrix.out = out.data_ptr()
    op = COp(code=LINEAR, input=given.data_ptr(), width=matrix.columns, matrices=1, scale=1, exact=exact)
    op.matrix[0] = matrix
    batch, _held = workspace(given.numel() // matrix.columns, matrix.columns)
    kernels.run((COp * 1)(op), batch, THREADS.get() or torch.get_num_threads())
    return out
