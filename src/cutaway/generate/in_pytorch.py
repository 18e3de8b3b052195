"""Reading with PyTorch: the machine itself, with the keys and values of earlier tokens kept (model/cache.py).

Shapes: B texts, T tokens, V vocabulary.

A prompt is read text by text. Where several texts go on by one token each, they are one run, whoever they are: a text
that does not go on reads along and leaves nothing behind. That run has always the same shapes and asks nothing of the
host, so on a GPU it is captured as a graph and launched in one go, where launching its kernels one by one takes longer
than they do. There it also draws the texts' next tokens (in_step.py); and what goes on alone is read one step ahead of
whoever takes its tokens (``Following``), so that the GPU does not wait for the host.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cutaway.model.linear import pack
from cutaway.model.stems import TokenStem
from cutaway.model.transformer import Seq2Seq, Transformer

from .in_step import Chosen, Draw, Kind, Sent, Settings
from .sampler import Floats

if TYPE_CHECKING:
    from .engine import Logits, Turn

ROOM = 64  # tokens there is room for at first
WARM = 3  # runs before a graph is captured: libraries choose and set up in them what they do in all others
Run = Callable[[], Tensor]

log = logging.getLogger(__name__)


class InPyTorch:
    """An Engine (engine.py) of PyTorch's. An empty text takes a prompt whole, one under way ``chunk`` tokens at a time.
    ``memory`` (1, S, D): what an encoder made, for all texts."""

    @torch.inference_mode()
    def __init__(
        self,
        machine: Transformer | Seq2Seq,
        length: int,
        texts: int = 1,
        chunk: int = 1,
        memory: Tensor | None = None,
    ) -> None:
        self._machine = machine
        self._stream: Callable[..., Tensor] = machine.stream
        if isinstance(machine, Seq2Seq):
            assert memory is not None, "an encoder has read something"
            self._stream = functools.partial(machine.stream, memory=memory)
        self._texts = machine.texts(texts, length, chunk, ROOM)
        self._device = self._texts.position.device
        self._on_gpu = on_gpu(self._device)
        self._settings = Settings(texts, self._device)
        self._texts.moving = self._settings.moving
        self._drawn = torch.zeros(texts, 4, dtype=torch.float64, device=self._device)  # see Settings.draw
        self._runs: dict[Kind | None, Run] = {}  # of all texts, by what they draw
        self._room = 0  # that those were prepared with
        self.shares = all(block.attn.window is None for block in self._texts.stack.blocks)  # a window forgets

    @property
    def length(self) -> int:
        return self._texts.capacity

    @property
    def lengths(self) -> list[int]:
        return [row.length for row in self._texts.each]

    def read(self, ids: Sequence[int], text: int = 0) -> Logits:
        logits: Logits = self.together([(text, ids, False)])[0][0]
        return logits

    def together(self, turns: Sequence[Turn], prompts: Collection[int] = ()) -> list[Logits]:
        return [found for found in self.drawing(turns, {}) if not isinstance(found, Chosen)]

    @torch.inference_mode()
    def drawing(self, turns: Sequence[Turn], draws: Mapping[int, Draw]) -> list[Logits | Chosen]:
        """As ``together``; in place of logits after the last, the tokens that are drawn so of ``draws``, where the
        engine can and is certain of them."""
        draws = draws if self._on_gpu else {}  # on a processor the sampler is no further than the logits
        lengths = self.lengths
        for text, new, _ in turns:
            if not new or lengths[text] + len(new) > self.length:
                raise ValueError(f"{len(new)} tokens do not go after {lengths[text]} where {self.length} have room")
        steps = {text: new[0] for text, new, _ in turns if len(new) == 1}
        if len(steps) == 1 and not self._on_gpu:
            steps = {}  # nobody need read along
        stepped = self._stepped(steps, draws) if steps else {}
        return [
            stepped[text] if text in stepped else self._read(text, new, whole, draws.get(text))
            for text, new, whole in turns
        ]

    def following(self, draw: Draw, count: int) -> Following | None:
        """A Reader (loop.py) of the one text, for ``count`` tokens that are drawn so; None where nothing is gained."""
        return Following(self, draw, count) if self._on_gpu else None

    @torch.inference_mode()
    def begin(self, ids: Sequence[int], draw: Draw) -> Pending:
        """What is drawn after ``ids``, which the one text goes on with."""
        return self._first(self._settings, 0, ids, draw)

    @torch.inference_mode()
    def go_on(self, kind: Kind) -> Pending:
        """What is drawn after that, of which the host need not have heard."""
        logits = self._step([0], kind).clone()  # the next run's come where these are
        return Pending(Sent(self._drawn), logits, 0)

    @torch.inference_mode()
    def back(self, length: int, text: int = 0) -> None:
        self._texts.each[text].back(length)

    @torch.inference_mode()
    def copy(self, text: int, to: int, length: int) -> None:
        if length == 0:
            self._texts.clear(to)
        else:
            self._texts.copy(text, to, length)

    def grow(self, length: int) -> None:
        self._texts.grow(length)

    @torch.inference_mode()
    def reorder(self, texts: Sequence[int]) -> None:
        self._texts.reorder(torch.tensor(texts, device=self._device))

    def _read(self, text: int, ids: Sequence[int], whole: bool, draw: Draw | None) -> Logits | Chosen:
        """What is new of one text, and what comes of it."""
        if draw is None:
            return _numbers(self._whole(text, ids, whole))
        return self._first(Settings(1, self._device), text, ids, draw).take()

    def _first(self, settings: Settings, text: int, ids: Sequence[int], draw: Draw) -> Pending:
        """What is drawn after what is new of one text, by settings for one, which then are the next token's."""
        logits = self._whole(text, ids, False)
        settings.set([0], [1], [draw])
        return Pending(Sent(settings.draw(logits, draw.kind)), logits, 0)

    def _whole(self, text: int, ids: Sequence[int], whole: bool) -> Tensor:
        """What is new of one text: logits (T, V), or (1, V) after the last."""
        row = self._texts.each[text]
        size = row.chunk if row.begun else len(ids)
        parts = []
        for start in range(0, len(ids), size):
            stream = self._stream(torch.tensor([ids[start : start + size]], device=self._device), cache=row)
            parts.append(stream if whole else stream[:, -1:])
        return self._machine.logits(torch.cat(parts, 1) if whole else parts[-1])[0]

    def _stepped(self, steps: Mapping[int, int], draws: Mapping[int, Draw]) -> dict[int, Logits | Chosen]:
        """One token more of some texts, in one run of all: logits (1, V) of each, or what was drawn of them."""
        each = range(len(self._texts.each))
        asked = {text: draws[text] for text in steps if text in draws}
        self._settings.set(
            [steps.get(text, 0) for text in each], [text in steps for text in each], map(asked.get, each)
        )
        logits = self._step(steps, max((draw.kind for draw in asked.values()), default=None))
        if not asked:
            found = _numbers(logits)
            return {text: found[text : text + 1] for text in steps}
        drawn = Sent(self._drawn)
        return {
            text: Pending(drawn, logits, text).take() if text in asked else _numbers(logits[text : text + 1])
            for text in steps
        }

    def _step(self, texts: Collection[int], kind: Kind | None) -> Tensor:
        """Logits (B, V) after a token more of some texts, as the settings say."""
        each = self._texts.each
        self._texts.make_room(max(each[text].length for text in texts) + 1)
        if self._room != self._texts.room:  # a prompt may have made room too: a graph knows the memory it began with
            self._runs, self._room = {}, self._texts.room
        if kind not in self._runs:
            self._runs[kind] = self._prepared(kind)
        logits = self._runs[kind]()
        for text in texts:
            each[text].length += 1
        return logits

    def _prepared(self, kind: Kind | None) -> Run:
        """The run of all texts as it is fastest: a graph, or with matrices packed for so many vectors."""
        run = functools.partial(self._all, kind)
        if not self._on_gpu:
            pack(_matrices(self._machine), len(self._texts.each))
            return run
        moving = self._settings.moving.clone()
        self._settings.moving.zero_()
        prepared = captured(run, self._device)
        self._settings.moving.copy_(moving)
        return prepared

    def _all(self, kind: Kind | None = None) -> Tensor:
        """Logits (B, V) after one token of every text, of which their next are drawn."""
        logits = self._machine.logits(self._stream(self._settings.ids, cache=self._texts))[:, 0]
        if kind is not None:
            self._drawn.copy_(self._settings.draw(logits, kind))
        return logits


class Pending:
    """What was drawn of one of the texts in a run that may be under way still."""

    def __init__(self, sent: Sent, logits: Tensor, text: int) -> None:
        self._sent, self._logits, self._text = sent, logits, text

    def take(self) -> Logits | Chosen:
        """The token; the logits (1, V) it was drawn from, where the host is to draw."""
        token, p_drawn, p, certain = self._sent.rows[self._text]
        return Chosen(int(token), p_drawn, p, self._exactly) if certain else self._here()

    @property
    def token(self) -> int:
        """The one the device goes on with, certain or not."""
        return int(self._sent.rows[self._text][0])

    def _here(self) -> Logits:
        return _numbers(self._logits[self._text : self._text + 1])

    def _exactly(self) -> Floats:
        return self._here()[0].astype(np.float64)


class Following:
    """A Reader (loop.py) of an engine's one text that is one step ahead: while the host makes text of a token, the GPU
    reads it. Where the host draws another than the GPU has, that one is read after all."""

    def __init__(self, engine: InPyTorch, draw: Draw, count: int) -> None:
        self._engine, self._draw, self._count = engine, draw, count
        self._given = 0  # tokens
        self._last = -1  # as the GPU has drawn it
        self._ahead: Pending | None = None  # what the GPU draws after that

    def __call__(self, ids: Sequence[int]) -> Logits | Chosen:
        engine, draw = self._engine, self._draw
        now, self._ahead = self._ahead, None
        if now is None or ids != [self._last]:
            if now is not None:
                engine.back(engine.lengths[0] - 1)
            now = engine.begin(ids, dataclasses.replace(draw, step=self._given))
        self._given += 1
        if self._given < self._count:
            self._ahead = engine.go_on(draw.kind)
        found, self._last = now.take(), now.token
        return found


def on_gpu(device: torch.device) -> bool:
    """Does what is launched there go on by itself?"""
    return device.type == "cuda"


def captured(run: Run, device: torch.device) -> Run:
    """``run`` as a graph, launched in one go; as it is where it can't be captured, or where the graph finds other
    numbers. It is run a few times here, which must leave nothing behind."""
    try:
        graph, found = _captured(run, device)
        graph.replay()
        if not torch.allclose(found, run(), rtol=0.02, atol=0.02 * float(found.abs().max()), equal_nan=True):
            raise RuntimeError("the graph finds other numbers")
    except RuntimeError as reason:
        log.warning("Texts are written without a graph of the GPU's, more slowly: %s", reason)
        return run

    def replay() -> Tensor:
        graph.replay()
        return found

    return replay


def _captured(run: Run, device: torch.device) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    """A graph, and where its result lies after a replay. Other threads may go on with the GPU meanwhile."""
    with torch.cuda.device(device):
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM):
                run()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            found = run()
    return graph, found


def _matrices(machine: Transformer | Seq2Seq) -> Iterator[Tensor]:
    """The weights that every step reads: those of the decoder's blocks, and of what makes logits of their stream."""
    decoder, tokens = (
        (machine.decoder, machine.target) if isinstance(machine, Seq2Seq) else (machine.stack, machine.stem)
    )
    yield from decoder.parameters()
    if machine.head is not None:
        yield from machine.head.parameters()
        if machine.head.head.tied and isinstance(tokens, TokenStem):
            yield from tokens.tokens.parameters()  # of a quantised one there are none


def _numbers(logits: Tensor) -> Logits:
    """Float32, or float64 where it is that."""
    exact = logits if logits.dtype is torch.float64 else logits.float()
    found: Logits = exact.cpu().numpy()
    return found
