"""Predict, sample, repeat: one loop, and three ways of reading the text at every step.

A decoder goes on with the text it was given; one behind an encoder writes what its encoder has read another text.
``plain`` reads the whole sequence anew for every token: the definition. An engine reads it once and then one token at a
time, with the keys and values of the earlier ones kept, in C or with PyTorch (engine.py). Tests hold the three equal.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cutaway.errors import Misuse
from cutaway.inputs.text import Stream, Tokenizer
from cutaway.model.quantized import rounded
from cutaway.model.transformer import Seq2Seq, Transformer
from cutaway.native.product import in_turn
from cutaway.native.threads import one_thread

from .broken import broken
from .engine import Engine, engine
from .in_pytorch import InPyTorch
from .in_step import Chosen, Draw, draw_of
from .rules import NO_RULES, Rules
from .sampler import Floats, Sampler, Trace, pick_seed, uniform
from .speculate import Ahead, Draft, LookUp, Tally

FinishReason = Literal["stop", "length", "cancelled"]
#: The ids that are new since the last call -> logits (V,) after the last of them, or what was drawn of those already.
Reader = Callable[[list[int]], Tensor | Chosen]
Machine = Transformer | Seq2Seq
GREEDY = Sampler(temperature=0)
REST = 4 * 2**20  # bytes that a processor reads while a token is drawn and shown


@dataclass(frozen=True)
class Encoded:
    """What an encoder has made of its source, (1, S, D): read once, and written from as often as one likes."""

    memory: Tensor


Source = Sequence[int] | Tensor | Encoded  # what an encoder reads: ids, or its inputs as a batch of one; or has read


@dataclass(frozen=True)
class Drawn:
    """One generated token.

    text: what it adds to the text; empty while a character is unfinished or a stop string may be beginning.
    p_drawn: the probability it was drawn with, after temperature and cuts (1 for argmax). u: the random number in
    [0, 1) that chose it.
    """

    id: int
    text: str
    p_drawn: float
    u: float


@dataclass(frozen=True)
class Step(Drawn):
    """One generated token, and what the model thought of it.

    p: the probability the model gave it, of the whole vocabulary; p_allowed: among the tokens that the rules allow.
    """

    p: float
    p_allowed: float


@dataclass(frozen=True)
class Generated:
    """A finished generation. ``tokens`` are the new ones, ``prompt`` those the model read; ``notes`` say in sentences
    what the user should know, such as a text cut to the context. ``tally``: how guessing went, if it was."""

    text: str
    tokens: list[int]
    prompt: list[int]
    seed: int
    finish_reason: FinishReason
    notes: list[str] = field(default_factory=list)
    tally: Tally | None = None


class Generation(Iterator[Step]):
    """A generation under way: iterate for its Steps, ``draw()`` its tokens, or ``finish()`` it; ``close()`` cancels it.

    prompt: the ids read, by an encoder where there is one. seed: the one used, picked if none was given. finish_reason:
    "stop" after an end-of-text token or a stop string, "length" at max_new_tokens or at the end of the context,
    "cancelled"; None while it goes on.
    """

    def __init__(
        self,
        read: Reader,
        prompt: list[int],
        begin: list[int],
        count: int,
        sampler: Sampler,
        rules: Rules,
        seed: int,
        text: Text,
        eos: Collection[int],
        notes: list[str],
        tally: Tally | None = None,
        machine: Machine | None = None,
    ) -> None:
        self.prompt = prompt
        self.seed = seed
        self.notes = notes
        self.tally = tally
        self._machine = machine  # who is asked where NaN began
        self._begin = begin
        self._sampler, self._rules, self._eos = sampler, rules, eos
        self.tokens: list[int] = []
        self.text = ""
        self._last: Chosen | None = None
        self._allowed: Floats | None = None  # (V,): what the rules made of its logits, if anything
        self.finish_reason: FinishReason | None = None
        self._steps = self._run(read, count, text)

    def draw(self) -> Drawn:
        """One token more; what the model thought of it takes another pass over the vocabulary. Raises StopIteration."""
        return next(self._steps)

    def __next__(self) -> Step:
        drawn, last = self.draw(), self._last
        assert last is not None, "a step has been taken"
        p = _probability(last.logits(), drawn.id) if last.p is None else last.p
        p_allowed = p if self._allowed is None else _probability(self._allowed, drawn.id)
        return Step(drawn.id, drawn.text, drawn.p_drawn, drawn.u, p, p_allowed)

    @property
    def logits(self) -> Floats | None:
        """The model's at the last step, (V,), before any rule."""
        return None if self._last is None else self._last.logits()

    @property
    def trace(self) -> Trace | None:
        """What the sampler did at the last step."""
        drawn_from = self.logits if self._allowed is None else self._allowed
        return None if drawn_from is None else self._sampler.trace(drawn_from, self._begin + self.tokens[:-1])

    def close(self) -> None:
        """Stop here; no further token is computed."""
        self._steps.close()
        self.finish_reason = self.finish_reason or "cancelled"

    def finish(self) -> Generated:
        """Generate what is left and return the whole."""
        for _ in self._steps:
            pass
        assert self.finish_reason is not None
        return Generated(self.text, self.tokens, self.prompt, self.seed, self.finish_reason, self.notes, self.tally)

    def _run(self, read: Reader, count: int, text: Text) -> Generator[Drawn, None, None]:
        new = self._begin
        for index in range(count):
            found = read(new)
            last = self._last = found if isinstance(found, Chosen) else self._choose(found, index, index == count - 1)
            self.tokens.append(last.id)
            new = [last.id]

            ended = last.id in self._eos
            added, stopped = text.add(None if ended else last.id, last=ended or index == count - 1)
            self.text += added
            if ended or stopped:
                self.finish_reason = "stop"
            elif index == count - 1:
                self.finish_reason = "length"
            yield Drawn(last.id, added, last.p_drawn, uniform(self.seed, index))
            if self.finish_reason is not None:
                return

    def _choose(self, predicted: Tensor, index: int, last: bool) -> Chosen:
        """The token of a step, of the model's logits (V,)."""
        logits, written = _numbers(predicted), self._begin + self.tokens
        if isinstance(self._machine, Transformer) and not logits.max() < np.inf:
            raise broken(self._machine, written)
        allowed = _allowed(logits, written, self._rules, self._eos, len(self._begin), last)
        self._allowed = None if allowed is logits else allowed
        token, p_drawn = _chosen(allowed, written, self._sampler, self.seed, index)
        return Chosen(token, p_drawn, None, lambda: logits)


def generate(
    model: Machine,
    ids: Sequence[int],
    *,
    source: Source | None = None,
    sampler: Sampler | None = None,
    rules: Rules | None = None,
    max_new_tokens: int = 100,
    seed: int | None = None,
    stop: str | Sequence[str] = (),
    eos: Collection[int] = (),
    tokenizer: Tokenizer | None = None,
    cached: bool = True,
    draft: Transformer | Literal["prompt"] | None = None,
) -> Generation:
    """Continue ``ids`` by up to ``max_new_tokens``, ending early at a token of ``eos`` or where ``stop`` is written.

    A prompt longer than the model's context is cut to its end (see fit), which the notes say; generation ends with the
    context. Without a tokenizer there is no text, and no stop strings. The same seed gives the same tokens.

    A decoder behind an encoder begins with ``ids`` what its encoder makes of ``source``, and writes a text of its own.

    ``draft``: a decoder of the same tokens, or "prompt", the text itself, guesses what comes and is read ahead of
    (speculate.py); the text is the same.
    """
    if not ids:
        raise Misuse("There is nothing to continue: the text is empty.", "Write at least one character.")
    if type(max_new_tokens) is not int or max_new_tokens < 1:
        raise Misuse(f"max_new_tokens is {max_new_tokens!r}.", "Give a whole number, 1 or more.")
    context = model.spec.context
    prompt, notes = fit(ids, context, max_new_tokens, None if tokenizer is None else tokenizer.bos)
    shown = prompt if source is None else [] if isinstance(source, Tensor | Encoded) else list(source)
    text = Text(None if tokenizer is None else tokenizer.stream(prompt if source is None else ()), stop)
    count = min(max_new_tokens, context - len(prompt) + 1)  # the last token is never read
    if isinstance(model, Seq2Seq):
        assert source is not None, "an encoder has something to read"
        source = encode(model, source)
    memory = memory_of(source)
    length = len(prompt) + count - 1
    used = pick_seed() if seed is None else seed
    sampler, rules = sampler or Sampler(), rules or Rules()
    tally = None
    if draft is not None:

        def choose(logits: Tensor, written: list[int]) -> int | None:
            """What the loop would draw at that step if these were the model's logits; nothing follows an end."""
            if written[-1] in eos and len(written) > len(prompt):
                return None
            index = len(written) - len(prompt)
            allowed = _allowed(_numbers(logits), written, rules, eos, len(prompt), last=index == count - 1)
            token = _chosen(allowed, written, sampler, used, index)[0]
            return token if token < model.spec.vocabulary else None

        ahead = _ahead(model, draft, choose, length, memory)
        read: Reader = ahead
        tally = ahead.tally
    elif cached:
        read = _cached(engine(model, length, memory=memory), draw_of(sampler, rules, used), count)
    else:
        read = _plain(predictor(model, source))
    return Generation(read, shown, prompt, count, sampler, rules, used, text, eos, notes, tally, model)


def fit(ids: Sequence[int], context: int, new_tokens: int = 0, bos: int | None = None) -> tuple[list[int], list[str]]:
    """The ids the model will read, and a sentence when they are not all of them.

    Too long a text keeps its end, and its beginning-of-text token where it has one; ``new_tokens`` that are to follow
    get their room, up to half the context.
    """
    if len(ids) <= context:
        return list(ids), []
    room = max(1, min(new_tokens, context // 2))
    keep = context + 1 - room
    begins = bos is not None and ids[0] == bos and keep > 1
    kept = [*ids[:1], *ids[-(keep - 1) :]] if begins else list(ids[-keep:])
    first = "its beginning-of-text token and " if begins else ""
    leaves = f", which leaves room for {room} more" if new_tokens else ""
    return kept, [
        f"The text has {len(ids)} tokens and the model reads at most {context}: kept {first}the last "
        f"{keep - begins}{leaves}."
    ]


def _numbers(predicted: Tensor) -> Floats:
    """Logits (V,) as float64. In NumPy: PyTorch's threads stay awake for a while after each of its operations, beside
    the engine's."""
    predicted = predicted.cpu()
    if predicted.dtype not in (torch.float32, torch.float64):
        predicted = predicted.float()
    found: Floats = predicted.numpy().astype(np.float64, copy=False)
    return found


def _allowed(logits: Floats, written: list[int], rules: Rules, eos: Collection[int], start: int, last: bool) -> Floats:
    """What the rules make of logits (V,)."""
    if rules == NO_RULES:
        return logits
    with one_thread():
        allowed: Floats = rules(torch.from_numpy(logits)[None], [written], eos, start, last)[0].numpy()
    return allowed


def _chosen(allowed: Floats, written: list[int], sampler: Sampler, seed: int, index: int) -> tuple[int, float]:
    """The token of a step, and the probability it was drawn with.

    Where nothing is left to chance no sampler is needed to find it.
    """
    if sampler == GREEDY and math.isfinite(allowed[best := int(allowed.argmax())]):
        return best, 1.0
    return sampler.choose(allowed, written, seed, index)


# --- reading ---------------------------------------------------------------------------------------------------------


Predict = Callable[[list[list[int]]], Tensor]


@torch.no_grad()
def encode(model: Seq2Seq, source: Source) -> Encoded:
    """What the encoder makes of its ``source``, if it has not read it yet. A quantised one may round what its matrices
    read, as its decoder does."""
    if isinstance(source, Encoded):
        return source
    device = next(model.parameters()).device
    read = source if isinstance(source, Tensor) else torch.tensor([source], device=device)
    with rounded(), in_turn(model, read):
        return Encoded(model.encode(read))


def memory_of(source: Source | None) -> Tensor | None:
    """What an encoder has made, (1, S, D); None where there is none."""
    return source.memory if isinstance(source, Encoded) else None


def predictor(model: Machine, source: Source | None = None) -> Predict:
    """A function of B rows of ids of one length to logits (B, V) after the last of each; the head runs on that position
    only. An encoder reads its ``source`` here, once."""
    device = next(model.parameters()).device
    stream: Callable[..., Tensor] = model.stream
    if isinstance(model, Seq2Seq):
        assert source is not None, "an encoder has something to read"
        stream = functools.partial(model.stream, memory=encode(model, source).memory)

    @torch.no_grad()
    def predict(rows: list[list[int]]) -> Tensor:
        return model.logits(stream(torch.tensor(rows, device=device))[:, -1:])[:, 0]

    return predict


def _plain(predict: Predict) -> Reader:
    """Read everything at every step."""
    ids: list[int] = []

    def read(new: list[int]) -> Tensor:
        ids.extend(new)
        return predict([ids])[0]

    return read


def _cached(engine: Engine, draw: Draw | None, count: int) -> Reader:
    """Read what is new; where the engine can, ``count`` tokens are drawn there."""
    following = engine.following(draw, count) if isinstance(engine, InPyTorch) and draw is not None else None
    if following is None:
        return lambda new: torch.from_numpy(engine.read(new))

    def read(new: list[int]) -> Tensor | Chosen:
        found = following(new)
        return found if isinstance(found, Chosen) else torch.from_numpy(found[-1])

    return read


# --- reading ahead ---------------------------------------------------------------------------------------------------


def _ahead(
    model: Machine,
    draft: Transformer | Literal["prompt"],
    choose: Callable[[Tensor, list[int]], int | None],
    length: int,
    memory: Tensor | None,
) -> Ahead:
    """A reader of ``model`` that reads along what ``draft`` guesses."""
    text = _OneText(engine(model, length, memory=memory))
    if isinstance(draft, str):
        return Ahead(text, LookUp())
    its = _OneText(engine(draft, min(length, draft.spec.context)))
    return Ahead(text, Draft(its, draft.spec.vocabulary, choose), _size(draft) / _size(model))


class _OneText:
    """One text of an engine, which may be taken back (speculate.Rewindable)."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self.room = engine, engine.length

    def read(self, ids: Sequence[int], whole: bool) -> Tensor:
        if whole:
            return torch.from_numpy(self._engine.together([(0, ids, True)])[0])
        return torch.from_numpy(self._engine.read(ids))[None]

    def back(self, length: int) -> None:
        self._engine.back(length)


def _size(model: Machine) -> int:
    """Bytes that are read for a token, and those that could be in the time that the rest of a step takes."""
    return REST + sum(tensor.nbytes for tensor in itertools.chain(model.parameters(), model.buffers()))


def _probability(logits: Floats, token: int) -> float:
    """Softmax over the whole vocabulary, at one token."""
    largest = logits.max()
    return math.exp(logits[token] - largest) / float(np.exp(logits - largest).sum())


# --- text as it becomes certain --------------------------------------------------------------------------------------


class Text:
    """Tokens in, text out, cut at the first stop string, which may begin in one token and end in another."""

    def __init__(self, stream: Stream | None, stop: str | Sequence[str]) -> None:
        self._stream = stream
        self._stop = [stop] if isinstance(stop, str) else list(stop)
        self._held = ""  # may be the beginning of a stop string
        if not all(isinstance(s, str) and s for s in self._stop):
            raise Misuse("A stop string is empty or not a string.", "Give one string or several, each not empty.")
        if self._stop and stream is None:
            raise Misuse("Stop strings need text, and this model has no tokenizer.", "Leave stop out.")

    def add(self, token: int | None, last: bool) -> tuple[str, bool]:
        """The text that is certain after ``token`` (None adds nothing), and whether a stop string was reached."""
        if self._stream is None:
            return "", False
        text = self._held + (self._stream.push(token) if token is not None else "")
        if last:
            text += self._stream.flush()
        if found := [at for string in self._stop if (at := text.find(string)) >= 0]:
            return text[: min(found)], True
        held = 0 if last else max((_overlap(text, string) for string in self._stop), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held], False


def _overlap(text: str, string: str) -> int:
    """How many characters at the end of ``text`` are a beginning of ``string``."""
    longest = min(len(text), len(string) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(string[:n])), 0)
