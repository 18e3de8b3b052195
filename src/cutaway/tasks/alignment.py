"""When each word was said: the cross-attention of the heads that follow the sound, walked through by dynamic time
warping.

    decoder reads what it has written --> cross-attention (A, N, S) --> normalised, smoothed, mean (N, S)
      --> the path from corner to corner along which most is attended --> the moment at which each token begins

Shapes: A heads that follow the sound, N tokens, S moments of 20 ms.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from ..errors import Refused
from ..generate.loop import Encoded
from ..generate.manner import Speech
from ..model.tap import record
from ..model.transformer import Seq2Seq
from ..native.product import in_turn

Floats = np.ndarray[Any, np.dtype[np.float64]]
SPACELESS = {"zh", "ja", "th", "lo", "my", "yue"}  # languages that put no spaces between words
_JOINS_NEXT = "\"'“¡¿([{-"
_JOINS_LAST = "\"'.。,，!！?？:：”)]}、"


def token_times(
    machine: Seq2Seq, heard: Encoded, prompt: list[int], tokens: list[int], speech: Speech, steps: int, timed: bool
) -> list[tuple[int, int]]:
    """When each of ``tokens``, written behind ``prompt``, begins and ends, in moments of a window of ``steps``.

    A token begins where the one before it, which asks for it, begins to listen. A first token that is a time begins
    with the window, and is not asked for.
    """
    first = len(prompt) - (not timed)
    attended = cross_attention(machine, heard, [*prompt, *tokens][:-1], speech)[:, first:, :steps]
    begins = [0] if timed else []
    if attended.shape[1]:
        begins += moments(aligned(attended.double().cpu().numpy(), speech.median))
    return list(zip(begins, [*begins[1:], steps], strict=True))


@torch.no_grad()
def cross_attention(machine: Seq2Seq, heard: Encoded, ids: list[int], speech: Speech) -> Tensor:
    """What the heads that follow the sound attend to while ``ids`` are read: (A, T, S).

    Without a word from the checkpoint they are all heads of the second half of the blocks, as the reference has it.
    """
    blocks = machine.spec.decoder.blocks
    heads = speech.alignment or [
        (block, head) for block in range(len(blocks) // 2, len(blocks)) for head in range(blocks[block].attn.heads)
    ]
    if not all(block < len(blocks) and head < blocks[block].attn.heads for block, head in heads):
        raise Refused(
            f"alignment_heads names heads beyond the decoder's {len(blocks)} blocks of {blocks[0].attn.heads} heads.",
            "Correct the checkpoint's generation_config.json.",
        )
    names = {block: f"decoder.blocks.{block}.cross.pattern" for block, _ in heads}
    read = torch.tensor([ids], device=heard.memory.device)
    with in_turn(machine, read), record(machine, set(names.values()).__contains__) as tape:
        machine.stream(read, heard.memory)
    return torch.stack([tape.tensors[names[block]][head] for block, head in heads])


def aligned(attended: Floats, median: int) -> Floats:
    """(A, N, S) -> (N, S): at each moment compared with other tokens, a median over time, the mean of the heads."""
    spread = attended.std(1, keepdims=True)
    compared = (attended - attended.mean(1, keepdims=True)) / np.maximum(spread, 1e-12)
    beside = median // 2
    if attended.shape[-1] > beside:
        mirrored = np.pad(compared, ((0, 0), (0, 0), (beside, beside)), mode="reflect")
        compared = np.median(sliding_window_view(mirrored, median, axis=-1), axis=-1)
    return np.asarray(compared.mean(0))


def moments(matrix: Floats) -> list[int]:
    """The column in which the best path through (N, S) enters each row."""
    entered = dict(reversed(_path(-matrix)))  # the first column of each row
    return [entered[row] for row in range(len(matrix))]


def _path(cost: Floats) -> list[tuple[int, int]]:
    """The cheapest way through (N, S) from the first corner to the last, one cell at a time, none back (dynamic time
    warping, Sakoe & Chiba 1978). Cells of one anti-diagonal do not depend on each other, and are reckoned at once."""
    rows, columns = cost.shape
    came = np.zeros((rows + 1, columns + 1), np.int8)  # 0: from both before, 1: from the row before, 2: the column
    came[0, :], came[:, 0] = 2, 1
    before = np.full(rows + 1, np.inf)  # of the last diagonal but one, and of the last, by row
    last = before.copy()
    before[0] = 0
    for diagonal in range(2, rows + columns + 1):
        row = np.arange(max(1, diagonal - columns), min(rows, diagonal - 1) + 1)
        both, up, left = before[row - 1], last[row - 1], last[row]
        diagonally, upward = (both < up) & (both < left), (up < both) & (up < left)
        now = np.full(rows + 1, np.inf)
        now[row] = cost[row - 1, diagonal - row - 1] + np.where(diagonally, both, np.where(upward, up, left))
        came[row, diagonal - row] = np.where(diagonally, 0, np.where(upward, 1, 2))
        before, last = last, now
    way, row_at, column_at = [], rows, columns
    while row_at > 0 or column_at > 0:
        way.append((row_at - 1, column_at - 1))
        step = int(came[row_at, column_at])
        row_at, column_at = row_at - (step != 2), column_at - (step != 1)
    return way[::-1]


# --- tokens to words -------------------------------------------------------------------------------------------------

Group = tuple[str, list[int]]  # a text, and the places of its tokens


def grouped(pieces: Sequence[str], spaced: bool) -> list[list[int]]:
    """The places of tokens that make a word together, given the text that each adds.

    A word begins with a space, or where the language has none with every character; marks join the word beside them.
    """
    groups = _merged([(piece, [i]) for i, piece in enumerate(pieces)], lambda last, _: not last)  # half a character
    groups = _merged(groups, lambda _, after: spaced and not _begins(after))
    groups = _merged(groups, lambda last, _: last.startswith(" ") and last.strip() in _JOINS_NEXT)
    groups = _merged(groups, lambda last, after: not last.endswith(" ") and after in _JOINS_LAST)
    return [places for _, places in groups]


def _begins(text: str) -> bool:
    """Does a word begin with this?"""
    return text.startswith(" ") or text.strip() in string.punctuation


def _merged(groups: list[Group], joins: Callable[[str, str], bool]) -> list[Group]:
    """Neighbours made one wherever ``joins``, asked about the texts of two of them, says so."""
    merged: list[Group] = []
    last = ""
    for text, places in groups:
        if merged and joins(last, text):
            merged[-1] = (merged[-1][0] + text, [*merged[-1][1], *places])
        else:
            merged.append((text, places))
        last = text
    return merged
