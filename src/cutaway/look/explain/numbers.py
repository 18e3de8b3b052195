"""Finding the numbers: of the run and of the model, by name, and what several rules do with them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...errors import Misuse
from ...model import spec as specs
from .. import names as naming
from .work import Factor, Work, products, read, squares, total

if TYPE_CHECKING:
    from ..record import Record

ALL = None  # in an index: every place along that axis
STEMS = {"": "stem", "encoder.": "source", "decoder.": "target"}


def name_of(name: str, index: Sequence[int | str]) -> str:
    return f"{name}[{','.join(map(str, index))}]"


@dataclass(frozen=True)
class At:
    """The cell that is asked about, and every other number of the run and the model, in float64."""

    record: Record
    name: str
    index: tuple[int, ...]

    @property
    def machine(self) -> specs.Spec:
        return self.record.spec

    @property
    def read_by_head(self) -> int:
        """Which position a head that pools reads."""
        return naming.read_at(self.machine, self.record.length)

    @property
    def side(self) -> str:
        """ "encoder." or "decoder." of a machine that has both, else nothing; the head belongs to the decoder."""
        if isinstance(self.machine, specs.Transformer):
            return ""
        return "encoder." if self.name.startswith("encoder.") else "decoder."

    @property
    def stem(self) -> specs.Stem:
        if isinstance(self.machine, specs.Transformer):
            return self.machine.stem
        return self.machine.source if self.side == "encoder." else self.machine.target

    @property
    def stack(self) -> specs.Stack:
        return naming.stack_of(self.machine, self.name)

    @property
    def layer(self) -> int:
        return int(self.name.removeprefix(self.side).split(".")[1])

    @property
    def block(self) -> specs.Block:
        return self.stack.blocks[self.layer]

    @property
    def branch(self) -> str:
        """ "attn", "cross" or "mlp"."""
        return self.name.split(".")[-2]

    @property
    def attn(self) -> specs.Attention:
        """The attention of the cell: over its own stack, or over what the encoder made."""
        return self.block.cross if self.branch == "cross" and self.block.cross is not None else self.block.attn

    def here(self, name: str) -> str:
        """ "embed" -> "decoder.embed", on the side of the cell."""
        return f"{self.side}{name}"

    def own(self, name: str) -> str:
        """ "attn.q" -> "decoder.blocks.3.attn.q", in the block of the cell."""
        return self.here(f"blocks.{self.layer}.{name}")

    def stem_module(self, name: str) -> str:
        """ "tokens" -> "target.tokens", among the weights."""
        return f"{STEMS[self.side]}.{name}"

    def stack_module(self, name: str) -> str:
        """ "norm" -> "decoder.norm", among the weights."""
        return f"{self.side or 'stack.'}{name}"

    def block_module(self, name: str) -> str:
        """ "attn.q" -> "decoder.blocks.3.attn.q", among the weights."""
        return self.stack_module(f"blocks.{self.layer}.{name}")

    def tensor(self, name: str, *index: int | None) -> Tensor:
        """The numbers of a tensor, or of a weight, at ``index``; only those are computed where that saves work."""
        if name.startswith(naming.WEIGHT):
            self._check_weight(name)
        entries = [":" if i is ALL else i for i in index]
        return self.record[name_of(name, entries)].detach().cpu().double()

    def cells(self, name: str, *index: int | None) -> list[Factor]:
        """Each number of ``tensor(name, *index)`` with its name."""
        x = self.tensor(name, *index)
        sizes = iter(x.shape)
        places = itertools.product(*(range(next(sizes)) if i is ALL else (i,) for i in index))
        return [Factor(name_of(name, place), value) for place, value in zip(places, x.flatten().tolist(), strict=True)]

    def cell(self, name: str, *index: int) -> Factor:
        return self.cells(name, *index)[0]

    def weights(self, name: str, *index: int | None) -> list[Factor]:
        return self.cells(f"weights.{name}", *index)

    def weight(self, name: str, *index: int) -> Factor:
        return self.weights(name, *index)[0]

    def _check_weight(self, name: str) -> None:
        if name not in self.record:
            plain = name.removeprefix(naming.WEIGHT)
            raise Misuse(
                f"{self.name} is computed with {name}, which this record did not bring along.",
                f'Save it with record.save(path, weights="{plain}"), or load the model and run it.',
            )

    # What several rules share: a row of a matrix times a vector, and a norm.

    def projected(self, matrix: str, row: int, bias: bool, vector: list[Factor]) -> Work:
        """Σ W[row,i]·x[i] + b[row]"""
        work = products(vector, self.weights(f"{matrix}.weight", row, ALL))
        return work.plus(self.weight(f"{matrix}.bias", row) if bias else None)

    def image(self, matrix: str, rows: slice, bias: bool, vector: Tensor) -> Tensor:
        """W[rows] x + b[rows]: a whole vector, for a norm that needs all of it."""
        y = self.tensor(f"weights.{matrix}.weight", ALL, ALL)[rows] @ vector.flatten()
        return y + self.tensor(f"weights.{matrix}.bias", ALL)[rows] if bias else y

    def normed(self, x: list[Factor], i: int, norm: specs.Norm | None, weights: str) -> Work:
        """x[i] / √(mean(x²) + eps) · weight[i]; LayerNorm takes the mean from every x first and adds bias[i]"""
        if norm is None:
            return read(x[i], "copy", "no norm stands here")
        layer = norm.kind == "layer"
        mean = sum(factor.value for factor in x) / len(x) if layer else 0.0
        work = squares(x, mean)
        if layer:
            work.step("subtract", mean, mean, label=f"the mean of all {len(x)}")
        work.mean("variance: the mean of the squares" if layer else "mean of the squares").add(norm.eps, "eps").root()
        work.into(x[i].value - mean, x[i].cell, "this one, less the mean" if layer else "this one")
        return self._weighted(work, i, norm, weights)

    def settled(self, work: Work, x: Tensor, i: int, norm: specs.Norm | None, weights: str) -> Work:
        """The same norm, where ``work`` has x[i] but the vector x itself has no name in the record"""
        if norm is None:
            return work
        if norm.kind == "layer":
            mean = float(x.mean())
            work.add(-mean, f"minus the mean of all {len(x)}")
            x = x - mean
        work.scale(1 / math.sqrt(float((x * x).mean()) + norm.eps), f"1 / √(mean square of all {len(x)} + eps)")
        return self._weighted(work, i, norm, weights)

    def _weighted(self, work: Work, i: int, norm: specs.Norm, weights: str) -> Work:
        work.times(self.weight(f"{weights}.weight", i), "the norm's weight")
        return work.plus(self.weight(f"{weights}.bias", i) if norm.kind == "layer" else None, "the norm's bias")

    def added(self, parts: Sequence[str], norm: specs.Norm | None, weights: str) -> Work:
        """Σ parts[t,d], normalised where a norm stands on the stream"""
        t, d = self.index
        whole = torch.stack([self.tensor(part, t, ALL) for part in parts]).sum(0)
        return self.settled(total(self.cell(part, t, d) for part in parts), whole, d, norm, weights)

    def leaving(self, matrix: str, source: str, running: tuple[None, ...], bias: bool) -> Work:
        """What a branch adds to the stream: a row of its last matrix times what it made, and the post norm."""
        t, d = self.index
        last, made = self.block_module(f"{self.branch}.{matrix}"), self.own(f"{self.branch}.{source}")
        work = self.projected(last, d, bias, self.cells(made, t, *running))
        if "post" not in self.block.slots:
            return work
        y = self.image(last, slice(None), bias, self.tensor(made, t, *running))
        return self.settled(work, y, d, self.block.norm, self.block_module(f"{self.branch}.post"))
