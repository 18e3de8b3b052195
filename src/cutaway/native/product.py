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
from .program import ABREAST, GROUP, LINEAR, PANEL, QUANTIZED, CBatch, CMatrix, COp


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
    vectors, padded = given.numel() // columns, -(-columns // GROUP) * GROUP
    out = torch.empty(*x.shape[:-1], rows)
    exact = not quantized.ROUNDED.get()
    op = COp(code=LINEAR, input=given.data_ptr(), width=columns, matrices=1, scale=1, exact=exact)
    op.matrix[0] = CMatrix(packed.data_ptr(), None, out.data_ptr(), QUANTIZED[bits], rows, columns)
    blocks, groups = -(-vectors // ABREAST) * ABREAST, padded // GROUP
    inputs, scales = torch.empty(blocks, padded), torch.empty(blocks, groups)
    codes, sums = torch.empty(blocks, padded, dtype=torch.int8), torch.empty(blocks, groups, dtype=torch.int32)
    own = 2 * 64 * 64 * 4 + padded * 16 + 4096 + 4 * groups * (2 * PANEL + PANEL * GROUP)
    batch = CBatch(
        rows=vectors, floats=inputs.data_ptr(), bytes=codes.data_ptr(), scales=scales.data_ptr(), sums=sums.data_ptr(),
        scratch=own,
    )  # fmt: skip
    kernels.run((COp * 1)(op), batch, torch.get_num_threads())
    return out
