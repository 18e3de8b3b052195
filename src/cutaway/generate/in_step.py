"""A token drawn where its logits lie, in the run that made them.

Shapes: B texts, V vocabulary.

    ids -> blocks -> logits -> drawn -> the next run's ids      on a GPU, with nothing asked of the host in between
                                    \\-> the host, for the text

The rules are sampler.py's, in operations whose shapes the numbers do not decide. Sums are taken in another order than
its strict one, and so round differently: wherever that could decide, a token is not ``certain`` and the host draws.
So the tokens are the sampler's, on whatever device.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from .rules import NO_RULES, Rules
from .sampler import SPLITMIX, Floats, Sampler, rounding

EPS = torch.finfo(torch.float64).eps
ALL, NONE = 2.0, -1.0  # a share that no nucleus reaches; a weight that every token has


class Kind(IntEnum):
    """How much of the sampler a run needs: each kind does what those before it do."""

    ARGMAX = 0
    DRAW = 1
    CUT = 2


@dataclass(frozen=True)
class Draw:
    """What a token is drawn with: the one at ``step`` under ``seed`` (sampler.uniform)."""

    sampler: Sampler
    seed: int
    step: int

    @property
    def kind(self) -> Kind:
        sampler = self.sampler
        if sampler.temperature == 0:
            return Kind.ARGMAX
        return Kind.CUT if sampler.top_k or sampler.top_p is not None or sampler.min_p else Kind.DRAW


@dataclass(frozen=True)
class Chosen:
    """A token of a text, as a Step tells of it (loop.py). ``p``: None where nobody has worked it out. ``logits``: the
    (V,) it was drawn from, which a device is asked for, until the text goes on."""

    id: int
    p_drawn: float
    p: float | None
    logits: Callable[[], Floats]


def draw_of(sampler: Sampler, rules: Rules, seed: int, step: int = 0) -> Draw | None:
    """What a token can be drawn with in a run; None where it takes the text so far, which is the host's."""
    plain = rules == NO_RULES and sampler.repetition_penalty is None
    return Draw(sampler, seed, step) if plain else None


class Settings:
    """What each of B texts is drawn with, where its logits lie: each a column of one of two tensors.

    ids (B, 1): what a run reads; moving (B,): 1 where it goes on, else 0. After the run both ids and steps are the next
    one's.
    """

    def __init__(self, texts: int, device: torch.device) -> None:
        self._whole = torch.zeros(texts, 5, dtype=torch.long, device=device)
        self._parts = torch.zeros(texts, 3, dtype=torch.float64, device=device)
        self.ids = self._whole[:, :1]
        _, self.moving, self.seed, self.step, self.top_k = self._whole.unbind(1)
        self.temperature, self.top_p, self.min_p = self._parts.unbind(1)

    def set(self, ids: Iterable[int], moving: Iterable[int], draws: Iterable[Draw | None]) -> None:
        """For the next run, of every text; None: what is drawn of that one is of no interest."""
        rows = [_row(draw) for draw in draws]
        whole = [[id, moves, *row[0]] for id, moves, row in zip(ids, moving, rows, strict=True)]
        self._whole.copy_(torch.tensor(whole))
        self._parts.copy_(torch.tensor([row[1] for row in rows], dtype=torch.float64))

    def draw(self, logits: Tensor, kind: Kind) -> Tensor:
        """Of logits (B, V) what is drawn: (B, 4), its columns the token, the probability it was drawn with, the one
        that the model gave it, and whether it is certain."""
        logits = logits.double()
        largest = logits.amax(-1, keepdim=True)
        below = logits - largest
        places = torch.arange(logits.shape[1], device=logits.device)
        token = torch.where(below == 0, places, len(places) - 1).amin(-1)  # of equals the first; torch.argmax: any
        p_drawn, certain = torch.ones_like(largest[:, 0]), largest[:, 0].isfinite()
        if kind > Kind.ARGMAX:
            drawn, its_p, sure = self._drawn(below, kind)
            argmax = self.temperature == 0
            token, p_drawn = torch.where(argmax, token, drawn), torch.where(argmax, p_drawn, its_p)
            certain = certain & (sure | argmax)
        weights = below.exp()
        p = weights.gather(1, token[:, None])[:, 0] / weights.sum(-1)
        moves = self.moving == 1
        self.ids.copy_(torch.where(moves, token, self.ids[:, 0])[:, None])
        self.step.add_(self.moving)
        return torch.stack([token.double(), p_drawn, p, certain.double()], 1)

    def _drawn(self, below: Tensor, kind: Kind) -> tuple[Tensor, Tensor, Tensor]:
        """The first token whose sum from the left is above u times the total, its probability, and whether it is."""
        values = below / torch.where(self.temperature == 0, 1, self.temperature)[:, None] + 0.0  # of zeros one kind
        weights, sure = values.exp(), torch.ones_like(self.temperature, dtype=torch.bool)
        if kind is Kind.CUT:
            weights, sure = self._cut(values, weights)
        sums = weights.cumsum(-1)
        total, slack = sums[:, -1:], rounding(sums.shape[1]) * sums[:, -1:]
        target = uniform(self.seed, self.step)[:, None] * total
        place = (sums <= target).sum(-1)
        near = (sums <= target - slack).sum(-1) != (sums <= target + slack).sum(-1)
        token = place.clamp(max=sums.shape[1] - 1)
        return token, (weights.gather(1, token[:, None]) / total)[:, 0], sure & ~near

    def _cut(self, values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """The weights (B, V) with those cut away at 0, and whether they are the ones."""
        ranked, order = values.sort(dim=-1, descending=True, stable=True)  # of equals the lower token first
        by_rank = weights.gather(1, order)
        rank = torch.arange(values.shape[1], device=values.device)
        inside = rank < torch.where(self.top_k == 0, len(rank), self.top_k)[:, None]

        sums = torch.where(inside, by_rank, 0).cumsum(-1)
        slack, share = rounding(len(rank)) * sums[:, -1:], self.top_p[:, None] * sums[:, -1:]
        count = (sums < share).sum(-1, keepdim=True) + 1
        near = (sums < share - slack).sum(-1, keepdim=True) + 1 != (sums < share + slack).sum(-1, keepdim=True) + 1
        kept = inside & (rank < count) & (by_rank >= self.min_p[:, None])

        # Unequal values can have equal weights, of which the sampler keeps the lower tokens first.
        last, first = (count - 1).clamp(max=len(rank) - 1), count.clamp(max=len(rank) - 1)
        alike = (by_rank.gather(1, last) <= by_rank.gather(1, first)) & (
            ranked.gather(1, last) != ranked.gather(1, first)
        )
        close = ((by_rank - self.min_p[:, None]).abs() <= 4 * EPS * self.min_p[:, None]).any(-1)
        sure = ~(near | alike)[:, 0] & ~close
        return torch.zeros_like(weights).scatter(1, order, torch.where(kept, by_rank, 0)), sure


class Sent:
    """Numbers on their way to the host, who need not wait for what the device does after."""

    def __init__(self, numbers: Tensor) -> None:
        self._here = torch.empty_like(numbers, device="cpu", pin_memory=numbers.is_cuda)
        self._here.copy_(numbers, non_blocking=True)
        self._arrived = torch.cuda.Event() if numbers.is_cuda else None
        if self._arrived is not None:
            self._arrived.record(torch.cuda.current_stream(numbers.device))

    @functools.cached_property
    def rows(self) -> list[list[float]]:
        """They, as soon as they are here."""
        if self._arrived is not None:
            self._arrived.synchronize()
        rows: list[list[float]] = self._here.tolist()
        return rows


def uniform(seed: Tensor, step: Tensor) -> Tensor:
    """The sampler's random number of (seed, step), each (B,). Sums and products of 64 bits wrap round there and
    here."""
    z = seed + _signed(SPLITMIX[0]) * (step + 1)
    z = (z ^ _right(z, 30)) * _signed(SPLITMIX[1])
    z = (z ^ _right(z, 27)) * _signed(SPLITMIX[2])
    return _right(z ^ _right(z, 31), 11).double() / 2**53


def _right(z: Tensor, bits: int) -> Tensor:
    """Shifted to the right, with zeros coming in."""
    return (z >> bits) & (2 ** (64 - bits) - 1)


def _signed(number: int) -> int:
    """The last 64 bits of a number as PyTorch holds them."""
    number &= 2**64 - 1
    return number - 2**64 if number >= 2**63 else number


def _row(draw: Draw | None) -> tuple[list[int], list[float]]:
    """Seed, step and top-k; temperature, top-p and min-p."""
    if draw is None:
        return [0, 0, 0], [0.0, ALL, NONE]
    sampler = draw.sampler
    top_p = ALL if sampler.top_p is None or sampler.top_p >= 1 else sampler.top_p
    return [_signed(draw.seed), draw.step, sampler.top_k or 0], [sampler.temperature, top_p, sampler.min_p or NONE]
