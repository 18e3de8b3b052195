"""Reading ahead: guess the next tokens, read them all in one run, and have the logits ready if they come.

Speculative decoding (Leviathan et al. 2023, Chen et al. 2023) accepts a guess by chance and draws again from what is
left when it does not. Here nothing is decided anew: the loop draws every token as it always does, from the model's own
distribution under all rules, with the random number that belongs to that step. A guess only says which tokens are read
before they are drawn. So the distribution is that of plain generation, and the same seed gives the same text, with any
guesses or none.

Two ways of guessing: what followed when the last tokens were read before (prompt look-up, Saxena 2023), and a smaller
model, which draws with the very random number the large one will use (common random numbers; Daliri et al. 2024,
"Coupling without communication and drafter-invariant speculative decoding", compare such couplings). Where nothing is
left to chance the two differ only where their favourites do. Where much is, draws by cumulated probability differ more
often than the distributions do: that is the price of a text that does not depend on who guessed.

Reading many tokens in one run may round otherwise than one by one. A quantised machine's rows do not see each other in
the engine: there the text is the same to the last bit. In float32 logits move by 1e-6 of the largest, and a token falls
otherwise only where two are that close.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from cutaway.inputs.text import Tokenizer

MOST = 16  # guesses at once
PAIR, LONGEST = 2, 4  # tokens that must have been read before for what followed to be a guess; the most compared
SEVERAL, ROW = 0.05, 0.08  # what a run of several tokens takes longer than one of one, and more for each, of its time
FADING = 0.99  # how much of what was learned about guesses is left after a token


class Rewindable(Protocol):
    """A text as a model reads it."""

    room: int  # the most tokens it holds

    def read(self, ids: Sequence[int], whole: bool) -> Tensor:
        """Logits (T, V) after each of ``ids`` where ``whole``, else (1, V) after the last."""
        ...

    def back(self, length: int) -> None:
        """Forget all but the first ``length`` tokens."""
        ...


Guess = Callable[[list[int], int], list[int]]  # the text so far, how many at most -> what may come next


@dataclass
class Tally:
    """How guessing went. ``proposed`` tokens were read ahead, ``accepted`` of them came; ``runs`` of the model made the
    text, its prompt counted as one."""

    proposed: int = 0
    accepted: int = 0
    runs: int = 0


class Ahead:
    """A Reader that reads guesses along with what it is given. ``cost``: of a guess, in runs of the model."""

    def __init__(self, text: Rewindable, guess: Guess, cost: float = 0.0) -> None:
        self.tally = Tally()
        self._text, self._guess, self._cost = text, guess, cost
        self._ids: list[int] = []  # what was asked for so far
        self._ahead: list[int] = []  # guesses that were read and have not come yet
        self._logits: Tensor | None = None  # (T, V): after the last token that came, and after each of them
        self._hits = self._tries = 0.0

    def __call__(self, new: list[int]) -> Tensor:
        """Logits (V,) after the last of ``new``, which follow what was given before."""
        self._ids += new
        if self._ahead and _came(self._ahead[0], new):
            self._ahead = self._ahead[1:]
            self.tally.accepted += 1
            self._learn(hit=True)
        else:
            if self._ahead:
                self._learn(hit=False)
            self._read(new)
        assert self._logits is not None, "it has been read"
        logits, self._logits = self._logits[0], self._logits[1:]
        return logits

    def _read(self, new: list[int]) -> None:
        self._text.back(len(self._ids) - len(new))
        first = not self.tally.runs
        most = 0 if first else min(worth(self.rate, self._cost, MOST), self._text.room - len(self._ids))
        self._ahead = self._guess(self._ids, most) if most > 0 else []
        self._hits, self._tries = self._hits * FADING, self._tries * FADING
        self._logits = self._text.read([*new, *self._ahead], whole=bool(self._ahead))
        self.tally.runs += 1
        self.tally.proposed += len(self._ahead)

    def _learn(self, hit: bool) -> None:
        self._hits, self._tries = self._hits + hit, self._tries + 1

    @property
    def rate(self) -> float:
        """The share of guesses that come, as far as is known; two of three where nothing is."""
        return (self._hits + 2) / (self._tries + 3)


def _came(guess: int, new: list[int]) -> bool:
    """Is the token that was drawn the one that was read ahead?"""
    return new == [guess]


def worth(rate: float, cost: float, most: int) -> int:
    """How many guesses bring the most tokens in a time, where each comes with probability ``rate`` if those before it
    came, and takes ``cost`` to make, in runs of one token, beside what it takes to read."""
    best, found, tokens = 1.0, 0, 1.0
    for count in range(1, most + 1):
        tokens += rate**count
        pays = tokens / (1 + SEVERAL + count * (ROW + cost))
        if pays > best:
            best, found = pays, count
    return found


def differing(own: Tokenizer | None, its: Tokenizer | None, own_size: int, its_size: int) -> str | None:
    """What is not the same about the tokens of two models, said of the second; None where all is."""
    if own is None or its is None:
        return None if own_size == its_size else f"it has {its_size:,} tokens where {own_size:,} are known"
    if own.size != its.size:
        return f"its tokenizer has {its.size:,} tokens, not {own.size:,}"
    for mine, theirs in zip(own.pieces(range(own.size)), its.pieces(range(own.size)), strict=True):
        if (mine.text, mine.bytes, mine.special) != (theirs.text, theirs.bytes, theirs.special):
            return f'its token {mine.id} is "{theirs.text}", not "{mine.text}"'
    return None


# --- two ways of guessing --------------------------------------------------------------------------------------------


class LookUp:
    """What followed when the last tokens were read before: the longest run of them, ``PAIR`` to ``LONGEST``; the last
    time it was there."""

    def __init__(self) -> None:
        self._seen = 0
        self._after: dict[tuple[int, ...], int] = {}  # some tokens in a row -> the place after their last occurrence

    def __call__(self, ids: list[int], most: int) -> list[int]:
        for place in range(self._seen + 1, len(ids)):  # what ends the text has nothing after it yet
            for size in range(PAIR, min(LONGEST, place) + 1):
                self._after[tuple(ids[place - size : place])] = place
        self._seen = max(self._seen, len(ids) - 1)
        for size in range(min(LONGEST, len(ids)), PAIR - 1, -1):
            if (after := self._after.get(tuple(ids[-size:]))) is not None:
                return _continued(ids, after, most)
        return []


def _continued(ids: list[int], place: int, most: int) -> list[int]:
    """``most`` tokens from ``place`` on, going on with those just guessed where the text ends."""
    text = list(ids)
    for at in range(place, place + most):
        text.append(text[at])
    return text[len(ids) :]


class Draft:
    """A smaller model writes on, and what it writes is the guess. ``choose``: logits (V,) and the text so far -> the
    token it draws, or None where it has nothing to say. ``vocabulary``: how many tokens it can read."""

    def __init__(self, text: Rewindable, vocabulary: int, choose: Callable[[Tensor, list[int]], int | None]) -> None:
        self._text, self._vocabulary, self._choose = text, vocabulary, choose
        self._read: list[int] = []  # what the draft has read
        self._sure = 0  # tokens of it that cannot have been guesses

    def __call__(self, ids: list[int], most: int) -> list[int]:
        most = min(most, self._text.room - len(ids) + 1)  # the last guess is not read
        if most <= 0 or max(ids[self._sure :]) >= self._vocabulary:
            return []
        kept = self._sure
        while kept < min(len(self._read), len(ids) - 1) and self._read[kept] == ids[kept]:
            kept += 1
        self._text.back(kept)
        new, guesses = ids[kept:], list[int]()
        for _ in range(most):
            guess = self._choose(self._text.read(new, whole=False)[-1], ids + guesses)
            if guess is None:
                break
            guesses.append(guess)
            new = [guess]
        self._sure, self._read = len(ids) - 1, ids + guesses[: most - 1]
        return guesses
