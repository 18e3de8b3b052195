"""Several generations at once, one token each in turn: what a server asks for, and the seam to a batched engine.

    batch = Batch(machine, tokenizer)
    handle = batch.submit(Request(ids))      while batch.free
    events = batch.step()                    one token, or one chunk of a prompt, of everything under way
    batch.cancel(handle)                     it takes no further step

One thread owns a Batch. A request that fails ends with an event of its own; the others do not notice.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cutaway.inputs.text import Tokenizer
from cutaway.model.cache import Cache
from cutaway.model.transformer import Transformer

from .loop import FinishReason, Generation, Text
from .rules import Rules
from .sampler import Sampler, pick_seed

SLOTS = 8  # generations at once
CHUNK = 256  # tokens of a prompt read at a time: so long the others wait
ROOM = 64  # new tokens a cache has room for at first


@dataclass(frozen=True)
class Request:
    """One text to go on with. ``ids``: at least one, and with ``max_new_tokens`` at most context + 1, for the last
    token is never read; 0 only reads. ``top``: None, or log-probabilities are wanted, of the token and of so many most
    probable ones; ``score``: of the prompt's tokens too."""

    ids: tuple[int, ...]
    sampler: Sampler = field(default_factory=Sampler)
    rules: Rules = field(default_factory=Rules)
    max_new_tokens: int = 16
    seed: int | None = None
    stop: tuple[str, ...] = ()
    eos: frozenset[int] = frozenset()
    top: int | None = None
    score: bool = False


@dataclass(frozen=True)
class Scored:
    """The log-probability of a token, of the whole vocabulary before any setting, and the most probable with theirs.
    The first token of a text has none."""

    id: int
    logprob: float | None
    top: list[tuple[int, float]]


@dataclass(frozen=True)
class Event:
    """What a step brought to one request. ``token``: the new one, with the ``text`` that became certain by it;
    ``prompt``: its scored tokens, once all of it is read; ``finish_reason`` or ``error`` on the last event."""

    handle: int
    token: int | None = None
    text: str = ""
    scored: Scored | None = None
    prompt: list[Scored] | None = None
    seed: int | None = None
    finish_reason: FinishReason | None = None
    error: BaseException | None = None


class Batch:
    """Up to ``slots`` generations of one decoder under way, each with a cache of its own."""

    def __init__(self, machine: Transformer, tokenizer: Tokenizer | None, slots: int = SLOTS) -> None:
        self._machine, self._tokenizer, self._slots = machine, tokenizer, slots
        self._handles = itertools.count(1)
        self._running: dict[int, Iterator[Event | None]] = {}

    @property
    def free(self) -> int:
        """How many more may be submitted now."""
        return self._slots - len(self._running)

    def submit(self, request: Request) -> int:
        """Take a request; the next step begins to read it. Only while ``free``."""
        assert self.free, "who submits has asked"
        handle = next(self._handles)
        self._running[handle] = self._follow(handle, request)
        return handle

    def cancel(self, handle: int) -> None:
        """Take no further step for it, and let its cache go. One that has ended already is no matter."""
        self._running.pop(handle, None)

    def step(self) -> list[Event]:
        """One token of every generation, or one chunk of its prompt."""
        events = []
        for handle, following in list(self._running.items()):
            try:
                event = next(following)
            except Exception as problem:
                event = Event(handle, error=problem)
            if event is None:
                continue
            events.append(event)
            if event.finish_reason is not None or event.error is not None:
                del self._running[handle]
        return events

    @torch.inference_mode()
    def _read(self, ids: Sequence[int], cache: Cache, whole: bool) -> Tensor:
        """Logits (T, V) in float64 after each of ``ids``, or (1, V) after the last."""
        device = next(self._machine.parameters()).device
        stream = self._machine.stream(torch.tensor([list(ids)], device=device), cache=cache)
        logits: Tensor = self._machine.logits(stream if whole else stream[:, -1:])[0]
        return logits.double().cpu()

    def _follow(self, handle: int, request: Request) -> Iterator[Event | None]:
        """Its events, one for each step; None for a step that only read on."""
        ids, top = list(request.ids), request.top or 0
        count = request.max_new_tokens
        cache = self._machine.cache(1, len(ids) + max(0, count - 1), chunk=CHUNK, room=len(ids) + ROOM)
        scored = [Scored(ids[0], None, [])]
        last = torch.empty(0)
        for begin in range(0, len(ids), CHUNK):
            logits = self._read(ids[begin : begin + CHUNK], cache, request.score)
            if request.score:
                scored += score(logits, ids[begin + 1 : begin + 1 + len(logits)], top)
            last = logits[-1]
            if begin + CHUNK < len(ids):
                yield None
        told = scored if request.score else None
        if count == 0:
            yield Event(handle, prompt=told, finish_reason="length")
            return
        unread = [last]

        def read(new: list[int]) -> Tensor:
            return unread.pop() if unread else self._read(new, cache, False)[0]

        seed = pick_seed() if request.seed is None else request.seed
        text = Text(None if self._tokenizer is None else self._tokenizer.stream(ids), request.stop)
        generation = Generation(
            read, ids, ids, count, request.sampler, request.rules, seed, text, request.eos, notes=[]
        )
        for step in generation:
            assert generation.logits is not None, "a step has been taken"
            its = None
            if request.top is not None:
                (its,) = score(torch.from_numpy(generation.logits)[None], [step.id], top)
            yield Event(handle, step.id, step.text, its, told, seed, generation.finish_reason)
            told = None


def score(logits: Tensor, ids: Sequence[int], top: int) -> list[Scored]:
    """Logits (T, V) and the token that came after each (at most T) -> their log-probabilities, and the ``top`` most
    probable tokens at each place."""
    logits = logits[: len(ids)]
    shares = logits.log_softmax(-1)
    ranked: list[list[int]] = [[] for _ in ids]
    if top:
        ranked = shares.topk(min(top, shares.shape[1])).indices.tolist()
    return [
        Scored(id, float(row[id]), [(one, float(row[one])) for one in best])
        for id, row, best in zip(ids, shares, ranked, strict=True)
    ]
