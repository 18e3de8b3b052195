"""Reading with PyTorch: the machine itself, with the keys and values of earlier tokens kept (model/cache.py).

Shapes: B texts, T tokens, V vocabulary.

A prompt is read text by text. Where several texts go on by one token each, they are one run, whoever they are: a text
that does not go on reads along and leaves nothing behind. That run has always the same shapes and asks nothing of the
host, so on a GPU it is captured as a graph and launched in one go, where launching its kernels one by one takes longer
than they do.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cutaway.model.linear import pack
from cutaway.model.stems import TokenStem
from cutaway.model.transformer import Seq2Seq, Transformer

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
        self._ids = torch.zeros(texts, 1, dtype=torch.long, device=self._device)
        self._on_gpu = self._device.type == "cuda"
        self._run, self._room = self._all, 0  # the run of all texts, and the room that it was prepared with
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

    @torch.inference_mode()
    def together(self, turns: Sequence[Turn], prompts: Collection[int] = ()) -> list[Logits]:
        lengths = self.lengths
        for text, new, _ in turns:
            if not new or lengths[text] + len(new) > self.length:
                raise ValueError(f"{len(new)} tokens do not go after {lengths[text]} where {self.length} have room")
        steps = {text: new[0] for text, new, _ in turns if len(new) == 1}
        if len(steps) == 1 and not self._on_gpu:
            steps = {}  # nobody need read along
        stepped = self._step(steps) if steps else {}
        return [stepped[text] if text in stepped else self._whole(text, new, all_) for text, new, all_ in turns]

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

    def _whole(self, text: int, ids: Sequence[int], whole: bool) -> Logits:
        """What is new of one text: logits (T, V), or (1, V) after the last."""
        row = self._texts.each[text]
        size = row.chunk if row.begun else len(ids)
        parts = []
        for start in range(0, len(ids), size):
            stream = self._stream(torch.tensor([ids[start : start + size]], device=self._device), cache=row)
            parts.append(stream if whole else stream[:, -1:])
        return _numbers(self._machine.logits(torch.cat(parts, 1) if whole else parts[-1])[0])

    def _step(self, steps: dict[int, int]) -> dict[int, Logits]:
        """One token more of some texts, in one run of all: logits (1, V) of each."""
        each = self._texts.each
        self._texts.make_room(max(each[text].length for text in steps) + 1)
        if self._room != self._texts.room:  # a prompt may have made room too: a graph knows the memory it began with
            self._run, self._room = self._prepared(), self._texts.room
        ids, moving = [0] * len(each), [0] * len(each)
        for text, token in steps.items():
            ids[text], moving[text] = token, 1
        self._ids.copy_(torch.tensor(ids)[:, None])
        self._texts.moving.copy_(torch.tensor(moving))
        logits = _numbers(self._run())
        for text in steps:
            each[text].length += 1
        return {text: logits[text : text + 1] for text in steps}

    def _prepared(self) -> Run:
        """The run of all texts as it is fastest: a graph, or with matrices packed for so many vectors."""
        if not self._on_gpu:
            pack(_matrices(self._machine), len(self._texts.each))
            return self._all
        self._texts.moving.zero_()
        return captured(self._all, self._device)

    def _all(self) -> Tensor:
        """Logits (B, V) after one token of every text."""
        return self._machine.logits(self._stream(self._ids, cache=self._texts))[:, 0]


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
