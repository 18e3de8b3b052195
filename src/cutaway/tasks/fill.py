"""Masked words (Devlin et al. 2018): the distribution over the vocabulary at every mask of a text, all read at once."""

from __future__ import annotations

import torch
from torch import Tensor

from ..model.transformer import Transformer


@torch.no_grad()
def fill(machine: Transformer, ids: list[int], mask: int) -> list[tuple[int, Tensor]]:
    """(position, logits (V,)) of every ``mask`` among ``ids``; the head runs at those positions only."""
    device = next(machine.parameters()).device
    masked = [t for t, id in enumerate(ids) if id == mask]
    stream = machine.stream(torch.tensor([ids], device=device))[:, masked]
    return list(zip(masked, machine.logits(stream)[0], strict=True))
