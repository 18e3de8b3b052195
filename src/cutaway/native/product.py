"""Products with quantised matrices for PyTorch: the matrix is read as it is kept, and inputs stay as they are, unless
they may be rounded.

Shapes: M vectors, N rows, K columns of the matrix.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from cutaway.model import quantized
from cutaway.model.quantized import unpacked_product

from . import library
from .program import LINEAR, QUANTIZED, CMatrix, COp, workspace


@functools.cache
def install() -> None:
    """From now on ``torch.ops.cutaway.product`` is computed by the kernels on a processor, where they can be had."""
    quantized.LIBRARY.impl("product", _product, "CPU")


def _product(x: Tensor, packed: Tensor, bits: int, rows: int) -> Tensor:
    kernels = library.ready()
    if kernels is None or x.dtype is not torch.float32 or x.numel() == 0:
        return unpacked_product(x, packed, bits, rows)
    given = x.detach().contiguous()
    columns = x.shape[-1]
    out = torch.empty(*x.shape[:-1], rows)
    exact = not quantized.ROUNDED.get()
    op = COp(code=LINEAR, input=given.data_ptr(), width=columns, matrices=1, scale=1, exact=exact)
    op.matrix[0] = CMatrix(packed.data_ptr(), None, out.data_ptr(), QUANTIZED[bits], rows, columns)
    batch, _held = workspace(given.numel() // columns, columns)
    kernels.run((COp * 1)(op), batch, torch.get_num_threads())
    return out
