"""Classes of a text: what a classifier's head makes of its first position, as probabilities by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..model.transformer import Transformer


@dataclass(frozen=True)
class Label:
    """One class: its name, its logit, and its probability; None where the model estimates a number instead."""

    name: str
    logit: float
    p: float | None


@dataclass(frozen=True)
class Classified:
    """The classes of one text or image, most probable first.

    ``exclusive``: probabilities add up to 1 (softmax); else each class is a yes or no of its own (sigmoid).
    ``tokens`` are those that were read, none of an image.
    """

    labels: list[Label]
    exclusive: bool
    tokens: list[int] = field(repr=False)
    notes: list[str] = field(default_factory=list, repr=False)


def label_names(config: Mapping[str, Any], size: int) -> list[str]:
    """config.json's names of the classes; LABEL_0, LABEL_1, ... where it has none, as the reference does."""
    named = config.get("id2label")
    named = named if isinstance(named, dict) else {}
    return [str(named.get(str(i), f"LABEL_{i}")) for i in range(size)]


@torch.no_grad()
def classify(machine: Transformer, ids: list[int], config: Mapping[str, Any], notes: list[str]) -> Classified:
    """Run ``ids`` through a classifier; ``config`` names the classes and says whether they exclude each other."""
    device = next(machine.parameters()).device
    return named(machine(torch.tensor([ids], device=device))[0], config, ids, notes)


def named(logits: Tensor, config: Mapping[str, Any], ids: list[int], notes: list[str]) -> Classified:
    """Logits (V,) as classes by name, the most probable first."""
    logits, problem = logits.double().cpu(), config.get("problem_type")
    shares: list[float | None]
    if problem == "regression" or (problem is None and len(logits) == 1):
        shares = [None] * len(logits)
    elif problem == "multi_label_classification":
        shares = logits.sigmoid().tolist()
    else:
        shares = logits.softmax(0).tolist()
    names = label_names(config, len(logits))
    labels = [Label(name, x, p) for name, x, p in zip(names, logits.tolist(), shares, strict=True)]
    labels.sort(key=lambda label: -label.logit)
    exclusive = problem != "multi_label_classification" and shares[0] is not None
    return Classified(labels, exclusive, ids, notes)
