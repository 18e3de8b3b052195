"""From logits to one token: a list of named steps, each of which says what went in, what it cut and the mass it left.

Order: repetition penalty, temperature, top-k, top-p, min-p, softmax; then one draw. Everything is float64 over the
whole vocabulary, sums run left to right, and ties go to the lower token id, so that the page (web/src/sampler.ts)
and every device take the same decisions. tests/golden/sampler.json holds both to the same numbers.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cutaway.errors import Failed, Misuse

Floats = npt.NDArray[np.float64]

BLOCK = 256  # weights that are summed together

ARGMAX = "argmax: the most probable token is taken, nothing is left to chance"


@dataclass(frozen=True)
class SamplerStep:
    """One step as it was taken. A token is *in* while its logit is above minus infinity; cutting sets it there.

    ``mass`` is the share of the entering distribution (its softmax) held by the tokens that stay: 1 when none is cut.
    """

    name: str
    setting: float | None
    tokens_in: int
    cut: int
    mass: float
    note: str = ""

    @property
    def tokens_left(self) -> int:
        return self.tokens_in - self.cut

    def to_dict(self) -> dict[str, Any]:
        """The step as JSON holds it."""
        return {
            "name": self.name, "setting": self.setting, "tokens_in": self.tokens_in, "cut": self.cut,
            "mass": self.mass, "note": self.note,
        }  # fmt: skip


@dataclass(frozen=True)
class Trace:
    """What the sampler did with one row of logits: its steps in order, and the probabilities (V,) it draws from."""

    steps: tuple[SamplerStep, ...]
    probabilities: Floats

    def to_dict(self, top: int = 50) -> dict[str, Any]:
        """The steps, and the ``top`` most probable tokens with the exact rest, as JSON holds them."""
        most = self.top(top)
        return {
            "steps": [step.to_dict() for step in self.steps],
            "top": [{"id": i, "p": p} for i, p in most],
            "rest": max(0.0, 1.0 - math.fsum(p for _, p in most)),
        }

    def top(self, count: int) -> list[tuple[int, float]]:
        """The ``count`` most probable tokens as (id, probability), ties by lower id."""
        ids = np.flatnonzero(largest(self.probabilities, count))
        ids = ids[np.argsort(-self.probabilities[ids], kind="stable")]
        return [(int(i), float(self.probabilities[i])) for i in ids]


@dataclass(frozen=True)
class Sampler:
    """The settings of a draw; ``None`` leaves a step out.

    temperature: logits are divided by it; 0 takes the most probable token. There is no upper bound.
    top_k: keep the k most probable tokens; 0 keeps all.
    top_p: keep the smallest set of most probable tokens whose mass is at least p (Holtzman et al. 2019, "nucleus").
    min_p: keep the tokens at least min_p times as probable as the most probable one.
    repetition_penalty: divide the positive logits of tokens already in the text by it and multiply the negative ones
    (Keskar et al. 2019, CTRL).
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None

    def __post_init__(self) -> None:
        _require(self.temperature, "temperature", lambda t: t >= 0, "0 or more; 0 takes the most probable token")
        _require(self.top_p, "top_p", lambda p: 0 < p <= 1, "above 0 and at most 1; 1 keeps every token")
        _require(self.min_p, "min_p", lambda p: 0 <= p <= 1, "from 0 to 1; 0 keeps every token")
        _require(self.repetition_penalty, "repetition_penalty", lambda r: r > 0, "above 0; 1 changes nothing")
        _require(self.top_k, "top_k", lambda k: k >= 0 and k == int(k), "a whole number; 0 keeps every token")

    def trace(self, logits: Any, previous: Iterable[int] = ()) -> Trace:
        """Every step on ``logits`` (V,), a tensor or an array; ``previous`` are the ids already in the text.

        Raises Failed when the logits hold NaN or infinity, or no finite value at all.
        """
        everything = _checked(logits)
        ids = np.flatnonzero(everything > -np.inf)
        left = everything[ids]  # (n,): the logits of the tokens still in, in id order; each cut shortens it
        steps = []
        if self.repetition_penalty is not None:
            left = penalise(left, _members(previous, everything.size)[ids], self.repetition_penalty)
            steps.append(SamplerStep("repetition penalty", self.repetition_penalty, left.size, 0, 1.0))
        if self.temperature != 0:
            left = divide(left, self.temperature)
            steps.append(SamplerStep("temperature", self.temperature, left.size, 0, 1.0))
        weights = _weights(left)  # the largest is exactly 1, and stays
        total = _total(weights)
        for name, setting, keep, note in self._cuts():
            stays = keep(left, weights)
            size, before = left.size, total
            if not stays.all():
                ids, left, weights = ids[stays], left[stays], weights[stays]
                total = _total(weights)
            steps.append(SamplerStep(name, setting, size, size - left.size, float(total / before), note))
        steps.append(SamplerStep("softmax", None, left.size, 0, 1.0))
        probabilities = np.zeros_like(everything)
        probabilities[ids] = weights / total
        return Trace(tuple(steps), probabilities)

    def choose(self, logits: Any, previous: Iterable[int], seed: int, step: int) -> tuple[int, float]:
        """The token ``draw`` takes of the trace's probabilities, and its own, without a trace: a quarter of the time.

        Raises Failed as ``trace`` does.
        """
        left = _checked(logits)
        if self.repetition_penalty is not None:
            left = penalise(left, _members(previous, left.size), self.repetition_penalty)
        if self.temperature != 0:
            left = divide(left, self.temperature)
        weights, ids = _weights(left), None  # None: each its own
        for _, _, keep, _ in self._cuts():
            stays = keep(left, weights)
            if not stays.all():
                ids = np.flatnonzero(stays) if ids is None else ids[stays]
                left, weights = left[stays], weights[stays]
        place = _first_above(weights, uniform(seed, step))
        if place is None:
            probabilities = self.trace(logits, previous).probabilities
            token, _ = draw(probabilities, seed, step)
            return token, float(probabilities[token])
        return int(place if ids is None else ids[place]), float(weights[place] / weights.sum())

    def _cuts(self) -> Iterator[tuple[str, float, Cut, str]]:
        if self.temperature == 0:
            yield "temperature", 0.0, lambda logits, _: largest(logits, 1), ARGMAX
        if top_k := self.top_k:
            yield "top-k", top_k, lambda logits, _: largest(logits, top_k), ""
        if (top_p := self.top_p) is not None:
            yield "top-p", top_p, lambda _, weights: nucleus(weights, top_p), ""
        if (min_p := self.min_p) is not None:
            yield "min-p", min_p, lambda _, weights: weights >= min_p, ""


Mask = npt.NDArray[np.bool_]
Cut = Callable[[Floats, Floats], Mask]  # the logits still in and their weights, both (n,) -> which of them stay


# --- the steps, on the tokens still in, in id order ------------------------------------------------------------------


def penalise(logits: Floats, seen: Mask, penalty: float) -> Floats:
    """Make the tokens marked in ``seen`` less likely, each once, however often it occurs in the text."""
    return np.where(seen, np.where(logits < 0, logits * penalty, logits / penalty), logits)


def divide(logits: Floats, temperature: float) -> Floats:
    """Above 1 the distribution flattens, below 1 it sharpens.

    The largest logit is taken off first (softmax does not see it), so that no temperature, however small, overflows.
    """
    with np.errstate(over="ignore"):
        return (logits - logits.max()) / temperature


def largest(values: Floats, count: int) -> Mask:
    """Mark the ``count`` largest values; of equal ones the lower ids."""
    if count >= values.size:
        return np.ones(values.size, dtype=np.bool_)
    return _down_to(np.partition(values, values.size - count)[values.size - count], values, count)


def _down_to(least: np.float64, values: Floats, count: int) -> Mask:
    """Mark the ``count`` largest values, of which ``least`` is the smallest."""
    marked = values > least
    equals = np.flatnonzero(values == least)
    marked[equals[: count - np.count_nonzero(marked)]] = True
    return marked


def nucleus(weights: Floats, p: float) -> Mask:
    """Mark the smallest set of largest weights that holds at least the share p of their sum."""
    if p >= 1:
        return np.ones(weights.size, dtype=np.bool_)
    total = weights.sum()
    slack = rounding(weights.size) * total
    # All those below this weight hold less than 1 - p together: the set lies among the others, which are sorted sooner.
    least = ((1 - p) * total - slack) / weights.size
    ranked = np.sort(weights[weights >= least])[::-1]
    sums = np.cumsum(ranked)
    count = int(np.searchsorted(sums, p * total - slack)) + 1
    if count != int(np.searchsorted(sums, p * total + slack)) + 1 or count > sums.size:  # rounding may decide
        ranked = np.sort(weights)[::-1]
        reached = np.cumsum(ranked) >= p * _total(weights)
        count = int(np.argmax(reached)) + 1 if reached.any() else weights.size
    return _down_to(ranked[count - 1], weights, count)


# --- the draw --------------------------------------------------------------------------------------------------------


def draw(probabilities: Any, seed: int, step: int) -> tuple[int, float]:
    """The token drawn at ``step`` under ``seed``, and the random number u in [0, 1) that chose it.

    Probabilities are cumulated in token-id order; the first token whose sum is above u × total is drawn.
    """
    cumulated = np.cumsum(np.asarray(probabilities, dtype=np.float64))
    u = uniform(seed, step)
    index = int(np.searchsorted(cumulated, u * cumulated[-1], side="right"))
    # u × total may round up to the total itself; then the last token with any probability is meant.
    last = int(np.searchsorted(cumulated, cumulated[-1], side="left"))
    return min(index, last), u


def uniform(seed: int, step: int) -> float:
    """53 bits of a hash of (seed, step), as a number in [0, 1): splitmix64's finaliser (Steele et al. 2014)."""
    z = (seed + SPLITMIX[0] * (step + 1)) & _64_BITS
    z = ((z ^ (z >> 30)) * SPLITMIX[1]) & _64_BITS
    z = ((z ^ (z >> 27)) * SPLITMIX[2]) & _64_BITS
    z ^= z >> 31
    return (z >> 11) / 2**53


def pick_seed() -> int:
    """A seed from the system's randomness, short enough to read aloud; whoever picks one shows it."""
    return secrets.randbits(32)


_64_BITS = 2**64 - 1
SPLITMIX = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


# --- arithmetic shared by the steps ----------------------------------------------------------------------------------


def _weights(logits: Floats) -> Floats:
    """exp(logit - largest): the softmax before it is divided by its sum."""
    highest = logits.max()
    return np.exp(logits - highest if highest else logits)


def _total(weights: Floats) -> np.float64:
    """The sum, strictly left to right: np.sum adds pairwise, and the page could not repeat its rounding."""
    total: np.float64 = np.cumsum(weights)[-1]
    return total


def rounding(size: int) -> float:
    """More, of their sum, than two sums of so many weights can differ by: taken in other orders, or of each divided by
    the total."""
    return 2 * size * float(np.finfo(np.float64).eps)


def _first_above(weights: Floats, u: float) -> int | None:
    """The first place where the sum from the left exceeds u × total; None where it may depend on how sums are rounded.

    Sums of blocks lead to the block that is summed one by one: a strict sum waits for each addition.
    """
    sums = np.cumsum(np.add.reduceat(weights, np.arange(0, weights.size, BLOCK)))
    target, slack = u * sums[-1], rounding(weights.size) * sums[-1]
    block = min(int(np.searchsorted(sums, target, side="right")), sums.size - 1)
    before = sums[block - 1] if block else 0.0
    inner = before + np.cumsum(weights[block * BLOCK : (block + 1) * BLOCK])
    place = int(np.searchsorted(inner, target + slack, side="right"))
    below = inner[place - 1] if place else before
    if place == inner.size or below > target - slack:
        return None
    return block * BLOCK + place


def _members(ids: Iterable[int], size: int) -> Mask:
    """(size,) true at every id of ``ids``."""
    marked = np.zeros(size, dtype=np.bool_)
    for i in set(ids):
        if not 0 <= i < size:
            raise Misuse(f"Token {i} is not one of the {size} in the vocabulary.")
        marked[i] = True
    return marked


def _checked(logits: Any) -> Floats:
    if hasattr(logits, "detach"):  # a torch tensor, of any dtype and device
        logits = logits.detach().double().cpu().numpy()
    values = np.asarray(logits, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise Misuse(f"Logits of shape {values.shape} cannot be sampled.", "Give one row: the logits of one position.")
    if math.isfinite(values.max()):  # NaN would be the largest
        return values
    if bad := int(np.count_nonzero(np.isnan(values) | (values == np.inf))):
        raise Failed(
            f"The model returned NaN or infinity for {bad} of its {values.size} logits, so no token can be drawn.",
            "The weights or the arithmetic are broken: check the file, or load the model with dtype=float32.",
        )
    raise Failed("Every logit is minus infinity: there is no token to draw.", "Check the weights or the edit made.")


def _require(value: float | None, name: str, holds: Callable[[float], bool], range_: str) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise Misuse(f"{name} is {value!r}, which is not a number.", f"Give {range_}.")
    if not math.isfinite(value) or not holds(value):
        raise Misuse(f"{name} is {value}.", f"Give {range_}.")
