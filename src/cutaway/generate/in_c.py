"""The fast way of reading: a decoder as a list of operations in C, with caches that stay where they are.

In float32 it differs from PyTorch by rounding alone (1e-6 of the largest logit). In bfloat16 only the weights are that:
what they make stays float32, where PyTorch rounds it at every step; and where the processor multiplies bfloat16 itself,
what of a prompt meets the matrices of the blocks is rounded to it (0.2 % of the largest logit). With a quantised
machine it differs by what is lost where inputs of its matrices take 8 bits (about a percent). There each row's
arithmetic is its own: the same text gives the same bits alone, in pieces of any size, and among others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cutaway.model.quantized import rounded
from cutaway.model.transformer import Seq2Seq, Transformer
from cutaway.native import library
from cutaway.native.program import KINDS, PANEL, Program
from cutaway.native.threads import one_thread

if TYPE_CHECKING:
    from .engine import Turn

CHUNK = 256  # tokens of a prompt that are read at once
#: So few products and sums are one thread's: others would be waited for at each operation, on busy cores for long.
ALONE = 2**22


def in_c(
    machine: Transformer | Seq2Seq, length: int, texts: int, chunk: int, memory: Tensor | None = None
) -> InC | None:
    """The engine, if it is for this machine, and if it is here by now."""
    if not _suits(machine) or library.ready() is None:
        return None
    return InC(machine, length, texts, chunk, memory)


def _suits(machine: Transformer | Seq2Seq) -> bool:
    """A decoder in float32 or bfloat16, or quantised, on a processor."""
    decodes = isinstance(machine, Seq2Seq) or (isinstance(machine, Transformer) and machine.spec.task == "continue")
    if not decodes:
        return False
    return all(tensor.device.type == "cpu" and tensor.dtype in KINDS for tensor in machine.parameters())


class InC:
    """An Engine (engine.py) in C. At most ``chunk`` tokens are read in one run. ``memory`` (B or 1, S, D): what an
    encoder made, for each text or for all."""

    shares = True  # no window forgets

    def __init__(
        self,
        machine: Transformer | Seq2Seq,
        length: int,
        texts: int = 1,
        chunk: int = CHUNK,
        memory: Tensor | None = None,
    ) -> None:
        self._library = library.load()  # raises Unavailable
        self._machine, self._rows, self._memory = machine, chunk, memory
        self._program = self._written_down(texts, length)
        self._threads = torch.get_num_threads()
        self.lengths = [0] * texts
        self.length = length

    def read(self, ids: Sequence[int], text: int = 0) -> npt.NDArray[np.float32]:
        if not ids or self.lengths[text] + len(ids) > self.length:
            raise ValueError(f"{len(ids)} tokens do not go after {self.lengths[text]} where {self.length} have room")
        rows = self._program.rows
        for start in range(0, len(ids), rows):
            part = ids[start : start + rows]
            begun = self.lengths[text]
            wanted = [len(part) - 1] if start + rows >= len(ids) else []
            prompts = len(part) if len(ids) > 1 else 0
            logits = self._run(part, range(begun, begun + len(part)), [text] * len(part), wanted, prompts)
            self.lengths[text] += len(part)
        return logits[0]

    def together(self, turns: Sequence[Turn], prompts: Collection[int] = ()) -> list[npt.NDArray[np.float32]]:
        ids: list[int] = []
        positions: list[int] = []
        texts: list[int] = []
        wanted: list[int] = []
        found: dict[int, slice] = {}  # of each text, its rows of the logits
        of_prompts = 0
        for text, new, whole in sorted(turns, key=lambda turn: turn[0] not in prompts):
            begun = self.lengths[text]
            if not new or begun + len(new) > self.length or len(ids) + len(new) > self._program.rows:
                raise ValueError(f"{len(new)} tokens do not go after {begun} of text {text}, or not into this run")
            wanted += range(len(ids) if whole else len(ids) + len(new) - 1, len(ids) + len(new))
            ids += new
            positions += range(begun, begun + len(new))
            texts += [text] * len(new)
            found[text] = slice(len(wanted) - (len(new) if whole else 1), len(wanted))
            of_prompts += len(new) if text in prompts else 0
        logits = self._run(ids, positions, texts, wanted, of_prompts) if ids else np.empty((0, 0), np.float32)
        for text, new, _ in turns:
            self.lengths[text] += len(new)
        return [logits[found[text]] for text, _, _ in turns]

    def back(self, length: int, text: int = 0) -> None:
        self.lengths[text] = min(length, self.lengths[text])

    @one_thread()
    def copy(self, text: int, to: int, length: int) -> None:
        if to != text:
            panels = -(-length // PANEL) * PANEL
            for cache in self._program.caches:
                cache[to, :, :panels] = cache[text, :, :panels]
        self.lengths[to] = length

    def grow(self, length: int) -> None:
        before, texts = self._program, len(self.lengths)
        self._program = self._written_down(texts, length)
        self.length = length
        for old, new in zip(before.caches, self._program.caches, strict=True):
            for text, filled in enumerate(self.lengths):
                panels = -(-filled // PANEL) * PANEL
                new[text, :, :panels] = old[text, :, :panels]

    def _written_down(self, texts: int, length: int) -> Program:
        with rounded():  # keys and values of what an encoder made are made here
            return Program(self._machine, texts, length, min(self._rows, texts * length), self._memory)

    def reorder(self, texts: Sequence[int]) -> None:
        filled = max(self.lengths)
        panels = -(-filled // PANEL) * PANEL
        rows = torch.tensor(texts)
        for cache in self._program.caches:
            held = cache[:, :, :panels]
            held.copy_(held.index_select(0, rows))
        self.lengths = [self.lengths[text] for text in texts]

    def _run(
        self,
        ids: Sequence[int],
        positions: Iterable[int],
        texts: Iterable[int],
        wanted: Sequence[int],
        prompts: int,
    ) -> npt.NDArray[np.float32]:
        batch = self._program.fill(ids, positions, texts, wanted, prompts)
        few = batch.rows * self._program.numbers < ALONE
        self._library.run(self._program.ops, batch, 1 if few else self._threads)
        return self._program.logits[: len(wanted)].numpy()
