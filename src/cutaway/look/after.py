"""A run that goes on from another: what both texts begin with is taken over, and only what follows is run.

Axes: T time, p tokens in common.

    earlier   The cat sat on the mat            each tensor (T, ...)
    now       The cat sat on a chair   ->       the earlier one's first p rows, and those of " a chair" run behind
                            ^ p                 the keys and values that the p tokens left

A decoder's token reads none that come after it, so its numbers are the same in both runs, up to rounding: that of a
matrix product may differ by how many rows it has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..model import spec as specs
from ..model.cache import in_common
from ..model.tap import record as taped
from ..model.transformer import Transformer
from ..native.product import in_turn
from . import names as naming

if TYPE_CHECKING:
    from .record import Record


def begun(earlier: Record, tokens: Sequence[int]) -> int:
    """How many tokens a run over ``tokens`` begins with as an earlier one; never its last, which is run anyway."""
    return in_common(earlier.tokens, tokens[:-1])


def can_be_gone_on_from(earlier: Record) -> bool:
    """Did each token read none after it, and was everything kept as the model made it?"""
    machine = earlier.spec
    if not isinstance(machine, specs.Transformer) or machine.task != "continue" or machine.stack.relative is not None:
        return False
    causal = all(block.attn.causal for block in machine.stack.blocks)
    return causal and not earlier.edits and naming.all_stored(machine) <= earlier.tensors.keys()


def go_on(model: Transformer, earlier: Mapping[str, Tensor], count: int, ids: Tensor) -> dict[str, Tensor]:
    """The tensors of a run over ``ids`` (1, T), of which the first ``count`` tokens left theirs in ``earlier``."""
    length, new = ids.shape[1], ids[:, count:]

    def left(block: int, name: str) -> Tensor:
        return earlier[f"blocks.{block}.attn.{name}"][None, :count].transpose(1, 2)

    with torch.no_grad(), in_turn(model, new):
        cache = model.cache(1, length, chunk=length - count)
        cache.begin(((left(block, "k_rot"), left(block, "v")) for block in range(len(cache.layers))), count)
        with taped(model, naming.all_stored(model.spec).__contains__) as tape:
            model.stream(new, cache=cache)
        return {name: torch.cat([earlier[name][:count], x]) for name, x in tape.tensors.items()}
