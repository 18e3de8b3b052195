"""Masked words (Devlin et al. 2018): the distribution over the vocabulary at every mask of a text, all read at once."""

from __future__ import annotations

import torch
from torch import Tensor

from ..model.transformer import Transformer
from ..native.product import in_turn


@torch.no_grad()
def fill(machine: Transformer, ids: list[int], mask: int) -> list[tuple[int, Tensor]]:
    """(position, logits (V,)) of every ``mask`` among ``ids``; the head runs at those positions only."""
    read = torch.tensor([ids], device=next(machine.parameters()).device)
    masked = [t for t, id in enumerate(ids) if id == mask]
    with in_turn(machine, read):
        stream = machine.stream(read)[:, masked]
        return list(zip(masked, machine.logits(stream)[0], strict=True))
