"""Two runs side by side: where their tokens part, how far apart their streams run, what that does to the next token.

Axes: stop (2 per block, and the end: the stops of ``river``), D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import Misuse
from . import names
from .record import Record

CHANGES = 12


@dataclass(frozen=True)
class Change:
    """One token of the vocabulary, and its probability in either run (temperature 1, nothing cut)."""

    id: int
    first: float
    second: float


@dataclass(frozen=True)
class Comparison:
    """What ``compare`` found. A part that cannot be compared is None, and ``notes`` say why."""

    #: The first position at which the tokens read differ (where one text begins the other: its length); None: the same.
    parts_at: int | None
    #: The two tokens whose streams are compared.
    at: tuple[int, int]
    #: Cosine of the angle between the two streams at each stop: 1 is the same direction.
    cosine: list[float] | None
    #: Length of their difference, in units of their mean length.
    distance: list[float] | None
    #: Kullback-Leibler divergence of the second prediction from the first, in nats: 0 is the same prediction.
    divergence: float | None
    #: Half the summed difference of probabilities: the share of the mass that would have to move.
    moved: float | None
    #: The tokens whose probability differs most, the largest difference first.
    changes: list[Change] | None
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@torch.no_grad()
def compare(first: Record, second: Record, at: tuple[int, int] = (-1, -1)) -> Comparison:
    """Compare two runs at one token of each (negative: from the end). Raises Misuse for a token that is not there.

    Two texts on one model, two models on one text, one text run twice with an edit: what can be compared is.
    """
    here, there = _token(first, at[0]), _token(second, at[1])
    notes: list[str] = []
    ours, theirs = _streams(first, here), _streams(second, there)
    cosine = distance = None
    if ours.shape == theirs.shape:
        lengths = ours.norm(dim=-1), theirs.norm(dim=-1)
        cosine = ((ours * theirs).sum(-1) / (lengths[0] * lengths[1])).tolist()
        distance = ((ours - theirs).norm(dim=-1) / ((lengths[0] + lengths[1]) / 2)).tolist()
    else:
        notes.append("The two models are not of one shape: their streams cannot be compared number by number.")
    divergence = moved = changes = None
    log_p, log_q = _prediction(first, here), _prediction(second, there)
    if log_p is None or log_q is None:
        notes.append("Not both models have a distribution over tokens or classes: none are compared.")
    elif len(log_p) == len(log_q):
        p, q = log_p.exp(), log_q.exp()
        divergence = float((p * (log_p - log_q)).sum())
        moved = float((p - q).abs().sum() / 2)
        order = (p - q).abs().argsort(descending=True, stable=True)[:CHANGES].tolist()
        changes = [Change(i, float(p[i]), float(q[i])) for i in order if p[i] != q[i]]
    else:
        notes.append("The two models have different vocabularies: their predictions cannot be compared token by token.")
    parts_at = _parting(first.source or first.tokens, second.source or second.tokens)
    return Comparison(parts_at, (here, there), cosine, distance, divergence, moved, changes, notes)


def _parting(ours: list[int], theirs: list[int]) -> int | None:
    if ours == theirs:
        return None
    pairs = zip(ours, theirs, strict=False)
    return next((t for t, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))


def _token(record: Record, at: int) -> int:
    length = record.length
    if not -length <= at < length:
        raise Misuse(f"There is no token {at}: the run has {length}.")
    return at % length


def _streams(record: Record, token: int) -> Tensor:
    """(stop, D): the residual stream of one token at every stop."""
    return torch.stack([record[f"{stop}[{token}]"].double() for stop in record.stops()])


def _prediction(record: Record, token: int) -> Tensor | None:
    """(V): the log-probabilities that stand at a token, or of a text's classes; None where there are none."""
    if record.spec.head is None or record.settings.get("exclusive") is False:
        return None
    if not names.every_token(record.spec):
        return record["logits"].double().log_softmax(-1)
    last = token == record.length - 1
    return (record["logits.last"] if last else record[f"logits[{token}]"]).double().log_softmax(-1)
