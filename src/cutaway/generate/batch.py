"""Several generations at once, one token each in turn: what a server asks for.

    batch = Batch(machine, tokenizer)
    handle = batch.submit(Request(ids))      while batch.free
    events = batch.step()                    one token, or one chunk of a prompt, of everything under way
    batch.cancel(handle)                     it takes no further step

What two texts begin with is read once. A place keeps what was read there until another text needs the place, and a
text that begins alike begins with a copy of that; one that begins like another whose prompt is being read waits for it.

One thread owns a Batch. A request that fails ends with an event of its own; the others do not notice.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from cutaway.inputs.text import Tokenizer
from cutaway.model.cache import in_common
from cutaway.model.transformer import Transformer
from cutaway.native.threads import one_thread

from .engine import Engine, Logits, engine
from .in_c import in_c
from .in_pytorch import InPyTorch
from .in_step import Chosen, Draw, draw_of
from .loop import FinishReason, Generation, Text
from .rules import Rules
from .sampler import Sampler, pick_seed

SLOTS = 8  # generations at once
CHUNK = 256  # tokens of prompts read at a time: so long the others wait
ROOM = 64  # tokens a text may have at first
SHARED = 16  # fewer tokens are sooner read again than waited for


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
    once all of the prompt is read, ``prompt``: its scored tokens, and ``cached``: how many had been read before;
    ``finish_reason`` or ``error`` on the last event."""

    handle: int
    token: int | None = None
    text: str = ""
    scored: Scored | None = None
    prompt: list[Scored] | None = None
    cached: int = 0
    seed: int | None = None
    finish_reason: FinishReason | None = None
    error: BaseException | None = None


class Batch:
    """Up to ``slots`` generations of one decoder under way. A step reads what is new of all of them in one run."""

    def __init__(self, machine: Transformer, tokenizer: Tokenizer | None, slots: int = SLOTS) -> None:
        self._machine, self._tokenizer, self._slots = machine, tokenizer, slots
        self._handles = itertools.count(1)
        self._running: dict[int, _Writing] = {}
        self._left = [0] * slots  # when each place was left, counted in texts
        self._begin(engine(machine, ROOM, texts=slots, chunk=CHUNK + slots))

    def _begin(self, engine: Engine) -> None:
        self._engine = engine
        self._held: list[list[int]] = [[] for _ in range(self._slots)]  # what has been read in each place

    @property
    def free(self) -> int:
        """How many more may be submitted now."""
        return self._slots - len(self._running)

    def submit(self, request: Request) -> int:
        """Take a request; the next step begins to read it. Only while ``free``."""
        assert self.free, "who submits has asked"
        if not self._running and isinstance(self._engine, InPyTorch):  # the kernels in C may be there by now
            fast = in_c(self._machine, ROOM, texts=self._slots, chunk=CHUNK + self._slots)
            if fast is not None:
                self._begin(fast)
        handle = next(self._handles)
        self._running[handle] = _Writing(handle, request, self._machine, self._tokenizer)
        return handle

    def cancel(self, handle: int) -> None:
        """Take no further step for it, and let its slot go. One that has ended already is no matter."""
        if (writing := self._running.pop(handle, None)) is not None:
            writing.end()
            if writing.slot is not None:
                self._left[writing.slot] = next(self._handles)

    def step(self) -> list[Event]:
        """One token of every generation, and up to one chunk of prompts."""
        placed = [one for one in self._running.values() if one.slot is not None or self._place(one)]
        prompts = sorted((one for one in placed if one.reading), key=lambda one: one.left)
        shares, room = dict[int, int](), CHUNK
        for others, one in zip(range(len(prompts), 0, -1), prompts, strict=True):
            shares[one.handle] = room // others  # the same for each; what a short one leaves is for the longer ones
            room -= min(one.left, shares[one.handle])
        turns = [(one, one.slot, one.wants(shares.get(one.handle, 1))) for one in placed]
        return self._read([(one, slot, ids) for one, slot, ids in turns if slot is not None and ids])

    def _read(self, turns: list[tuple[_Writing, int, list[int]]]) -> list[Event]:
        """What is new of some, each in its place, in one run."""
        events = []
        for (writing, slot, ids), found in zip(turns, self._found(turns), strict=True):
            self._held[slot].extend(ids)
            event = writing.take(
                ids, found if isinstance(found, Chosen) else torch.from_numpy(found.astype(np.float64))
            )
            if event is None:
                continue
            events.append(event)
            if event.finish_reason is not None or event.error is not None:
                self.cancel(writing.handle)
        return events

    def _found(self, turns: list[tuple[_Writing, int, list[int]]]) -> Sequence[Logits | Chosen]:
        """What the engine makes of what is new."""
        its = [(slot, ids, writing.scores) for writing, slot, ids in turns]
        if isinstance(self._engine, InPyTorch):
            draws = {slot: draw for writing, slot, ids in turns if (draw := writing.draw_after(ids)) is not None}
            return self._engine.drawing(its, draws)
        return self._engine.together(its, {slot for writing, slot, _ in turns if writing.reads_a_prompt})

    def _place(self, writing: _Writing) -> bool:
        """Give it a place, with what it shares with the one that shares most; False: it waits for one to read more."""
        ids, most = writing.request.ids, writing.may_share if self._engine.shares else 0
        begun = [one for one in self._running.values() if one.slot is not None]
        shared = [in_common(held, ids[:most]) for held in self._held]
        cached = max(shared)
        coming = max((in_common(one.request.ids, ids[:most]) for one in begun if one.reading), default=0)
        if coming >= cached + SHARED:
            return False
        free = set(range(self._slots)) - {one.slot for one in begun}
        source = min((place for place in range(self._slots) if shared[place] == cached), key=lambda at: at not in free)
        cached = cached if cached >= SHARED else 0
        slot = source if cached and source in free else min(free, key=lambda at: (self._left[at], at))
        length = len(ids) + max(0, writing.request.max_new_tokens - 1)
        if length > self._engine.length:
            self._engine.grow(max(length, 2 * self._engine.length))
        self._engine.copy(source, slot, cached)
        self._held[slot] = list(ids[:cached])
        writing.begin(slot, cached)
        return True


class _Writing:
    """One request: first its prompt is read, chunk by chunk, then it is gone on with."""

    def __init__(self, handle: int, request: Request, machine: Transformer, tokenizer: Tokenizer | None) -> None:
        self.handle, self.request = handle, request
        self.slot: int | None = None  # none yet
        self._machine, self._tokenizer = machine, tokenizer
        self._left, self._cached = list(request.ids), 0
        self._scored = [Scored(request.ids[0], None, [])]
        self._unread: list[Tensor | Chosen] = []
        self._seed = pick_seed() if request.seed is None else request.seed
        self._generation: Generation | None = None

    def begin(self, slot: int, cached: int) -> None:
        """It has a place, in which the first ``cached`` tokens are already."""
        self.slot, self._cached, self._left = slot, cached, self._left[cached:]

    @property
    def may_share(self) -> int:
        """How many of its tokens another may have read: not those after which logits are wanted."""
        return 0 if self.request.score else len(self.request.ids) - 1

    @property
    def left(self) -> int:
        """How much of its prompt is not read yet."""
        return len(self._left)

    @property
    def reading(self) -> bool:
        return self._generation is None

    @property
    def scores(self) -> bool:
        """Are logits wanted after each token that is read, and not only after the last?"""
        return self.reading and self.request.score

    @property
    def reads_a_prompt(self) -> bool:
        """Is what it reads a prompt to the engine, as a whole, whatever is left of it? One token is a step."""
        return self.reading and not self.scores and len(self.request.ids) > 1

    def end(self) -> None:
        """Let go of what it read with. A generator in the middle holds itself: its tensors would stay until the oldest
        garbage is collected, thousands of requests later."""
        if self._generation is not None:
            self._generation.close()

    def wants(self, room: int) -> list[int]:
        """The tokens to read next, ``room`` at most of a prompt."""
        return self._left[:room] if self._generation is None else [self._generation.tokens[-1]]

    def draw_after(self, ids: list[int]) -> Draw | None:
        """What the token after ``ids`` can be drawn with as soon as they are read; None where none is, or by the host
        alone."""
        request = self.request
        if self._generation is not None:
            return draw_of(request.sampler, request.rules, self._seed, len(self._generation.tokens))
        ends = len(ids) == self.left and request.max_new_tokens > 0 and not request.score
        return draw_of(request.sampler, request.rules, self._seed) if ends else None

    def take(self, ids: list[int], found: Tensor | Chosen) -> Event | None:
        """Logits after ``ids``, float64, (T, V) or (1, V), or the token -> what they brought; None while the prompt
        goes on."""
        try:
            return self._take(ids, found)
        except Exception as problem:
            return Event(self.handle, error=problem)

    def _take(self, ids: list[int], found: Tensor | Chosen) -> Event | None:
        request, told, top = self.request, None, self.request.top or 0
        cached = self._cached if self.reading else 0
        if self.reading:
            self._left = self._left[len(ids) :]
            place = len(request.ids) - len(self._left)
            if request.score:
                assert not isinstance(found, Chosen), "logits are wanted"
                self._scored += score(found, request.ids[place - len(ids) + 1 : place + 1], top)
            if self._left:
                assert not isinstance(found, Chosen), "nothing is drawn in the middle of a prompt"
                return None
            told = self._scored if request.score else None
            if request.max_new_tokens == 0:
                return Event(self.handle, prompt=told, cached=cached, finish_reason="length")
            self._generation = self._begin()
        generation = self._generation
        assert generation is not None, "the prompt has been read"
        self._unread.append(found if isinstance(found, Chosen) else found[-1])
        step = generation.draw()
        its = None
        if request.top is not None:
            assert generation.logits is not None, "a step has been taken"
            (its,) = score(torch.from_numpy(generation.logits)[None], [step.id], top)
        return Event(self.handle, step.id, step.text, its, told, cached, generation.seed, generation.finish_reason)

    def _begin(self) -> Generation:
        request, ids, unread = self.request, list(self.request.ids), self._unread  # no self: it would be a cycle
        text = Text(None if self._tokenizer is None else self._tokenizer.stream(ids), request.stop)
        return Generation(
            lambda new: unread.pop(),
            ids, ids, request.max_new_tokens, request.sampler, request.rules, self._seed, text, request.eos, notes=[],
            machine=self._machine,
        )  # fmt: skip


def score(logits: Tensor, ids: Sequence[int], top: int) -> list[Scored]:
    """Logits (T, V) and the token that came after each (at most T) -> their log-probabilities, and the ``top`` most
    probable tokens at each place."""
    logits = logits[: len(ids)]
    ranked: list[list[int]] = [[] for _ in ids]
    with one_thread() if len(ids) == 1 else contextlib.nullcontext():
        shares = logits.log_softmax(-1)
        if top:
            ranked = shares.topk(min(top, shares.shape[1])).indices.tolist()
    return [
        Scored(id, float(row[id]), [(one, float(row[one])) for one in best])
        for id, row, best in zip(ids, shares, ranked, strict=True)
    ]
