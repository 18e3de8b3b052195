"""Where NaN began: a text whose logits are none is read once more with everything named, and the first that is none
either is said."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cutaway.errors import Failed
from cutaway.model.tap import record
from cutaway.model.transformer import Transformer

LARGE = (".scores", ".pattern")  # T x T for each head, and never the first: what they are made of comes before


@torch.no_grad()
def broken(machine: Transformer, ids: Sequence[int]) -> Failed:
    """The error for logits after ``ids`` that hold NaN or infinity."""
    device = next(machine.parameters()).device
    with record(machine, keep=lambda name: not name.endswith(LARGE)) as tape:
        machine(torch.tensor([list(ids)], device=device))
    said = "The model returned NaN or infinity, so no token can be drawn"
    for name, tensor in tape.tensors.items():
        if not (fine := tensor.isfinite()).all():
            place = int((~fine).nonzero()[0, 0])
            return Failed(
                f"{said}: the first is in {name}, at token {place}.",
                "The weights or the arithmetic are broken: check the file, or load the model with dtype=float32.",
            )
    return Failed(
        f"{said}; read again by PyTorch, the text gives none.", "Load the model without quantize, and report."
    )
