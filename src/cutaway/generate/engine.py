"""What reads texts: a decoder with caches that stay where they are, for one text or several side by side.

engine(machine, length, texts)
  |-- in_c.py        on a processor, where its kernels are there: float32, bfloat16, or quantised
  |-- in_pytorch.py  everywhere else: a GPU, float16, no compiler, or none of its work done yet
        |-- in_step.py    on a GPU it draws the tokens too
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from cutaway.model.transformer import Seq2Seq, Transformer

from .in_c import CHUNK, in_c
from .in_pytorch import InPyTorch

Logits = npt.NDArray[np.floating[Any]]
Turn = tuple[int, Sequence[int], bool]  # a text, what is new of it, and whether logits are wanted after each token


class Engine(Protocol):
    """Texts of up to ``length`` tokens side by side, each in its place, of ``lengths`` so far. ``shares``: one may
    begin with a part of another."""

    shares: bool

    @property
    def length(self) -> int: ...

    @property
    def lengths(self) -> Sequence[int]: ...

    def read(self, ids: Sequence[int], text: int = 0) -> Logits:
        """Logits (V,) after the last of ``ids``, which follow what the text has been given so far, several of them as a
        prompt; they stand until the next call. Raises ValueError for no ids, and for more than there is room for."""
        ...

    def together(self, turns: Sequence[Turn], prompts: Collection[int] = ()) -> Sequence[Logits]:
        """Of some texts what is new: logits (T, V) each where all are wanted, else (1, V) after the last. ``prompts``:
        the texts of which this is a part of the prompt, which may be read in the weights' own precision. Raises
        ValueError for more tokens than there is room for."""
        ...

    def back(self, length: int, text: int = 0) -> None:
        """Forget what a text has been given, but for its first ``length`` tokens."""
        ...

    def copy(self, text: int, to: int, length: int) -> None:
        """Give another place the first ``length`` tokens of a text, as if it had read them itself."""
        ...

    def grow(self, length: int) -> None:
        """Room for longer texts; those that are there stay."""
        ...

    def reorder(self, texts: Sequence[int]) -> None:
        """Each place goes on with the text of another, as beams do."""
        ...


def engine(
    machine: Transformer | Seq2Seq, length: int, texts: int = 1, chunk: int = CHUNK, memory: Tensor | None = None
) -> Engine:
    """An engine for ``texts`` of up to ``length`` tokens, at most ``chunk`` of them at once in a run. ``memory``
    (1, S, D): what an encoder made, for all of them."""
    fast = in_c(machine, length, texts, chunk, memory)
    return InPyTorch(machine, length, texts, chunk, memory) if fast is None else fast
