"""Beam search: follow the ``beams`` most probable continuations side by side and keep the best that finish.

Same decisions as `transformers`, token for token: scores are float32 sums of log-probabilities, and a finished
continuation of n new tokens is ranked by its score / n ** length_penalty (Wu et al. 2016).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cutaway.errors import Misuse
from cutaway.model.transformer import Seq2Seq
from cutaway.native.threads import one_thread

from .engine import Engine, engine
from .in_pytorch import InPyTorch
from .loop import FinishReason, Machine, Source, encode, fit, memory_of
from .rules import Rules

MAX_BEAMS = 64
EarlyStopping = bool | Literal["never"]


@dataclass(frozen=True)
class Beam:
    """A finished continuation: its new tokens and its score, the sum of log-probabilities over n ** length_penalty."""

    tokens: list[int]
    score: float
    finish_reason: FinishReason


@torch.inference_mode()
def beam_search(
    model: Machine,
    ids: Sequence[int],
    *,
    source: Source | None = None,
    beams: int,
    max_new_tokens: int = 100,
    eos: Collection[int] = (),
    length_penalty: float = 1.0,
    early_stopping: EarlyStopping = False,
    rules: Rules | None = None,
) -> list[Beam]:
    """The best finished continuations of ``ids``, best first, at most ``beams`` of them; of a decoder behind an encoder
    that reads ``source``, what it writes behind ``ids``.

    length_penalty above 0 favours longer ones, below 0 shorter ones. The search ends at max_new_tokens, or with the
    context, or when no running continuation seems to beat the worst of ``beams`` finished ones: were it to end now, or
    (early_stopping "never") were it to go on as well to the end; with early_stopping True it ends when there are
    ``beams`` finished ones.
    """
    if type(beams) is not int or not 1 <= beams <= MAX_BEAMS:
        raise Misuse(f"beams is {beams!r}.", f"Give a whole number from 1 to {MAX_BEAMS}.")
    if type(max_new_tokens) is not int or max_new_tokens < 1:
        raise Misuse(f"max_new_tokens is {max_new_tokens!r}.", "Give a whole number, 1 or more.")
    if not isinstance(length_penalty, int | float) or not math.isfinite(length_penalty):
        raise Misuse(f"length_penalty is {length_penalty!r}.", "Give a number; 1 weighs by length, 0 does not.")
    if not ids:
        raise Misuse("There is nothing to continue: the text is empty.", "Write at least one character.")
    prompt, _ = fit(ids, model.spec.context, max_new_tokens)
    limit = min(max_new_tokens, model.spec.context - len(prompt) + 1)
    length = len(prompt) + limit - 1
    if isinstance(model, Seq2Seq) and source is not None:
        source = encode(model, source)
    reads = engine(model, length, beams, memory=memory_of(source))
    with contextlib.nullcontext() if isinstance(reads, InPyTorch) else one_thread():
        return _search(reads, prompt, limit, beams, set(eos), length_penalty, early_stopping, rules or Rules())


def _search(
    reads: Engine,
    prompt: list[int],
    limit: int,
    beams: int,
    eos: set[int],
    length_penalty: float,
    early_stopping: EarlyStopping,
    rules: Rules,
) -> list[Beam]:
    scores = torch.full((beams, 1), -1e9)
    scores[0] = 0  # all beams begin alike: only the first may branch
    running: list[list[int]] = [[] for _ in range(beams)]
    finished: list[Beam] = []
    # Enough candidates that ``beams`` of them go on even if every end-of-text token ranks first in every beam.
    candidates = max(2, 1 + len(eos)) * beams

    for length in range(1, limit + 1):
        predicted = _read(reads, prompt, running).log_softmax(-1)  # (beams, V)
        written = [prompt + tokens for tokens in running]
        total = (scores + rules(predicted, written, eos, len(prompt), last=length == limit)).flatten()
        best, where = total.topk(min(candidates, total.numel()))
        going_on: list[tuple[Tensor, int, list[int]]] = []  # score, the beam it comes from, its tokens
        for rank, (score, place) in enumerate(zip(best, where.tolist(), strict=True)):
            beam, token = divmod(place, predicted.shape[1])
            tokens = [*running[beam], token]
            if token in eos or length == limit:
                if rank < beams:
                    reason: FinishReason = "stop" if token in eos else "length"
                    finished.append(Beam(tokens, float(score / length**length_penalty), reason))
            elif len(going_on) < beams:
                going_on.append((score, beam, tokens))
        finished = sorted(finished, key=lambda beam: -beam.score)[:beams]
        if len(going_on) < beams:
            break
        if len(finished) == beams:
            reach = limit if early_stopping == "never" and length_penalty > 0 else length
            if early_stopping is True or float(going_on[0][0] / reach**length_penalty) <= finished[-1].score:
                break
        running = [tokens for _, _, tokens in going_on]
        scores = torch.stack([score for score, _, _ in going_on])[:, None]
        reads.reorder([beam for _, beam, _ in going_on])
    return finished


def _read(reads: Engine, prompt: list[int], running: list[list[int]]) -> Tensor:
    """Logits (beams, V) after what is new of each beam. What all begin with is read once."""
    if reads.lengths[0] == 0:
        logits = torch.from_numpy(reads.read(prompt)).float()
        reads.reorder([0] * len(running))
        return logits.expand(len(running), -1)
    rows = reads.together([(beam, tokens[-1:], False) for beam, tokens in enumerate(running)])
    return torch.from_numpy(np.concatenate(rows)).float()
