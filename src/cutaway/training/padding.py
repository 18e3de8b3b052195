"""Rows of different lengths as one table.

Shapes: B rows, T tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


def padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Rows of ids as one table (B, T), filled up with zeros, and where they are, (B, T)."""
    lengths = torch.tensor([len(row) for row in rows])
    table = pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    return table, torch.arange(table.shape[1])[None] < lengths[:, None]
