"""A table of names: which of a file's tensors becomes which of ours, and by what reversible change of layout.

    theirs                                ours                                                        operation
    transformer.h.{}.attn.c_attn    <->   stack.blocks.{}.attn.q  ...attn.k  ...attn.v                split, transpose

A rule names modules, and holds for their ``.weight`` and their ``.bias``; or, where its name of ours ends in one of
these, single parameters, each by its whole name. ``{}`` stands for a layer's number.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Operation:
    """A change of layout that loses nothing: one of their tensors -> one or several of ours, and back.

    ``float32``: what it makes is kept in float32 whatever the model's dtype.
    """

    to_ours: Callable[[Tensor], tuple[Tensor, ...]]
    to_theirs: Callable[[tuple[Tensor, ...]], Tensor]
    float32: bool = False


def _join(parts: tuple[Tensor, ...]) -> Tensor:
    import torch  # here, so that listing models does not wait for it

    return torch.cat(parts)


def _one_plus(w: Tensor) -> tuple[Tensor, ...]:
    return (w.float() + 1,)


SAME = Operation(lambda w: (w,), lambda ours: ours[0])
#: One tensor of theirs that stands in two places of ours: an embedding that encoder and decoder share.
SHARED = Operation(lambda w: (w, w), lambda ours: ours[0])
#: GPT-2 keeps its matrices as (in, out); a bias has no direction.
TRANSPOSED = Operation(lambda w: (w.t(),), lambda ours: ours[0].t())
#: GPT-2's query, key and value side by side: (D, 3D), bias (3D).
THIRDS_TRANSPOSED = Operation(lambda w: w.t().chunk(3), lambda ours: _join(ours).t())
#: Gemma's norms store w and multiply by 1 + w, in float32, as the reference does. What float32 rounds away there
#: cannot come back: a bfloat16 w below 2^-16, the last bits of a float32 w. The 1 + w that counts is the same.
ONE_PLUS = Operation(_one_plus, lambda ours: ours[0] - 1, float32=True)
#: Rows kept as a batch of one, (1, T, D), as vision models keep learned vectors that are no module's.
BATCH_OF_ONE = Operation(lambda w: w.unbind(0), lambda ours: ours[0][None])


def interleaved(heads: int) -> Operation:
    """NeoX's query, key and value, head by head: rows (heads, 3, E)."""

    def to_ours(w: Tensor) -> tuple[Tensor, ...]:
        return w.unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(1, 2).unbind(0)

    def to_theirs(ours: tuple[Tensor, ...]) -> Tensor:
        stacked = _join(tuple(w[None] for w in ours))  # (3, heads * E, ...)
        return stacked.unflatten(1, (heads, -1)).transpose(0, 1).flatten(0, 2)

    return Operation(to_ours, to_theirs)


@dataclass(frozen=True)
class Rule:
    """Their module <-> our module or modules; or one parameter <-> one of ours: ``embeddings.cls_token`` <->
    ``stem.extra.0.weight``."""

    theirs: str
    ours: tuple[str, ...]
    operation: Operation = SAME


@dataclass(frozen=True)
class Claim:
    """One tensor of a file, ``theirs``, and the tensors of ours it becomes."""

    theirs: str
    ours: tuple[str, ...]
    operation: Operation


class Names:
    """A family's whole table.

    ``base`` is the prefix that files saved without a head leave out ("transformer."). ``dead`` names
    buffers old files carry: masks and frequency tables that are computed here. A later rule for a module that an
    earlier one already makes is another spelling: read, never written. ``spellings`` are old words for weight and bias;
    ``twice`` names tensors of ours that a file may hold under two names, with the same numbers. ``absent`` says what a
    tensor of ours is that a file may lack: another of ours, or None for zeros.
    """

    def __init__(
        self,
        base: str,
        rules: list[Rule],
        dead: tuple[str, ...] = (),
        spellings: dict[str, str] | None = None,
        twice: tuple[str, ...] = (),
        absent: dict[str, str | None] | None = None,
    ) -> None:
        self.base = base
        self.rules = rules
        self.twice = twice
        self.absent = absent or {}
        self._spellings = spellings or {}
        each = [one for rule in rules for one in _parameters(rule)]
        self._theirs = [(re.compile(_numbered(rule.theirs)), rule) for rule in each]
        self._ours = [(re.compile(_numbered(rule.ours[0])), rule) for rule in each]
        self._dead = [_exactly(name) for name in dead]

    def is_dead(self, name: str) -> bool:
        """Is this a tensor that the computation does not need?"""
        return any(pattern.fullmatch(full) for pattern in self._dead for full in self._full(name))

    def _full(self, name: str) -> tuple[str, str, str]:
        """A name as it may stand in the table: as it is, with the prefix, without it."""
        return name, self.base + name, name.removeprefix(self.base)

    def claim(self, name: str) -> Claim | None:
        """What becomes of the tensor ``name`` of a file; None when no rule knows it."""
        module, dot, kind = name.rpartition(".")
        now = f"{module}{dot}{self._spellings.get(kind, kind)}"
        for full in self._full(now):
            for pattern, rule in self._theirs:
                if match := pattern.fullmatch(full):
                    return Claim(name, tuple(its.format(*match.groups()) for its in rule.ours), rule.operation)
        return None

    def back(self, name: str) -> Claim | None:
        """The claim whose first tensor of ours is ``name``; None when no rule makes it."""
        for pattern, rule in self._ours:
            if match := pattern.fullmatch(name):
                layer = match.groups()
                ours = tuple(its.format(*layer) for its in rule.ours)
                return Claim(rule.theirs.format(*layer), ours, rule.operation)
        return None


def _parameters(rule: Rule) -> list[Rule]:
    """A rule for each parameter of the modules it names; a rule that names a parameter is one already."""
    if rule.ours[0].endswith((".weight", ".bias")):
        return [rule]
    return [
        Rule(f"{rule.theirs}.{kind}", tuple(f"{its}.{kind}" for its in rule.ours), rule.operation)
        for kind in ("weight", "bias")
    ]


def _exactly(name: str) -> re.Pattern[str]:
    """A tensor by its whole name; a trailing ``.{}`` is any parameter of a module."""
    module = name.removesuffix(".{}")
    return re.compile(_numbered(module) + ("" if module == name else r"\.(weight|bias)"))


def _numbered(name: str) -> str:
    """``{}`` is a layer's number, without leading zeros."""
    return re.escape(name).replace(r"\{\}", "(0|[1-9][0-9]*)")
