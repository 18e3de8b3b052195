"""Showing the work: terms, what is made of them step by step, and the whole as an Explanation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ...model.block import ACTIVATIONS


@dataclass(frozen=True)
class Factor:
    """A number by name: a cell of the record, ``weights.name[i,j]``, or the cosine or sine of a position's angle."""

    cell: str
    value: float


@dataclass(frozen=True)
class Term:
    """Its factors multiplied, squared or exponentiated: see :attr:`Explanation.term`."""

    factors: tuple[Factor, ...]
    value: float


@dataclass(frozen=True)
class Step:
    """What happens to the number x found so far; ``by`` is the other number, ``cell`` its name where it has one.

    subtract    before the terms: ``by`` is taken from each number that is then squared or exponentiated
    sum, mean   of the terms' values; copy, lookup: the only term as it is; masked: there are none, x is 0
    add         x + by
    scale       x * by, one number for the whole vector; multiply: one of its own for each cell
    root        the square root of x
    divide      by / x
    softcap     by * tanh(x / by)
    activation  the function ``label`` names, of x
    """

    op: str
    by: float | None
    cell: str | None
    label: str | None
    value: float


@dataclass(frozen=True)
class Explanation:
    """How one cell was computed. ``term``: what a term makes of its factors: "product", "square", "exp", "value".

    The steps combine the terms in order; the last one's value is ``total``. ``value`` is what the record holds, and
    ``difference`` is total - value.
    """

    cell: str
    value: float
    rule: str
    terms: list[Term]
    term: str
    steps: list[Step]
    total: float
    difference: float

    def to_json(self) -> dict[str, Any]:
        """Plain data; numbers that are not finite as "-inf", "inf" and "nan"."""
        told: dict[str, Any] = _plain(self)
        return told


def _plain(value: Any) -> Any:
    if isinstance(value, Explanation | Term | Factor | Step):
        return {name: _plain(part) for name, part in vars(value).items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


@dataclass
class Work:
    """Terms, and the steps that have made one number of them so far."""

    term: str
    terms: list[Term]
    steps: list[Step]

    @property
    def x(self) -> float:
        return self.steps[-1].value

    def step(
        self, op: str, value: float, by: float | None = None, cell: str | None = None, label: str | None = None
    ) -> Work:
        self.steps.append(Step(op, by, cell, label, value))
        return self

    def sum(self) -> Work:
        return self.step("sum", sum(term.value for term in self.terms))

    def mean(self, label: str) -> Work:
        count = len(self.terms)
        return self.step("mean", sum(term.value for term in self.terms) / count, count, label=label)

    def add(self, by: float, label: str) -> Work:
        return self.step("add", self.x + by, by, label=label)

    def plus(self, factor: Factor | None, label: str = "bias") -> Work:
        if factor is None:
            return self
        return self.step("add", self.x + factor.value, factor.value, factor.cell, label)

    def scale(self, by: float, label: str) -> Work:
        return self if by == 1 else self.step("scale", self.x * by, by, label=label)

    def times(self, factor: Factor, label: str) -> Work:
        return self.step("multiply", self.x * factor.value, factor.value, factor.cell, label)

    def root(self) -> Work:
        return self.step("root", math.sqrt(self.x))

    def into(self, by: float, cell: str, label: str) -> Work:
        return self.step("divide", by / self.x, by, cell, label)

    def softcap(self, cap: float | None) -> Work:
        return self if cap is None else self.step("softcap", cap * math.tanh(self.x / cap), cap)

    def activate(self, name: str) -> Work:
        return self.step("activation", float(ACTIVATIONS[name](torch.tensor(self.x, dtype=torch.double))), label=name)


def products(*columns: Iterable[Factor]) -> Work:
    """Σ a·b, one term for each pair."""
    terms = [Term(factors, math.prod(f.value for f in factors)) for factors in zip(*columns, strict=True)]
    return Work("product", terms, []).sum()


def total(factors: Iterable[Factor]) -> Work:
    """Σ a."""
    return Work("value", [Term((factor,), factor.value) for factor in factors], []).sum()


def squares(factors: Sequence[Factor], minus: float = 0.0) -> Work:
    """(a - minus)², not yet added up: a norm takes their mean, a length their sum."""
    return Work("square", [Term((factor,), (factor.value - minus) ** 2) for factor in factors], [])


def read(factor: Factor, op: str, label: str | None = None) -> Work:
    """The number as it stands elsewhere."""
    return Work("value", [Term((factor,), factor.value)], []).step(op, factor.value, label=label)
