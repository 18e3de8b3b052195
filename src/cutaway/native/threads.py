"""Whose turn the processor's cores are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """What PyTorch does in here takes one thread. It leaves more of them awake for a while after each of its
    operations, on cores that others are about to need: an engine beside it, a browser."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
