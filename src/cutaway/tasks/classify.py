"""Classes of a text: what a classifier's head makes of the position it reads, as probabilities by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from ..model.transformer import Transformer
from ..native.product import in_turn


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


def problem(config: Mapping[str, Any], size: int) -> Literal["one class", "classes", "numbers"]:
    """What a classifier's logits say: which one class it is, of each class whether it is, or numbers as they are."""
    stated = config.get("problem_type")
    if stated == "regression" or (stated is None and size == 1):
        return "numbers"
    return "classes" if stated == "multi_label_classification" else "one class"


@torch.no_grad()
def classify(machine: Transformer, ids: list[int], config: Mapping[str, Any], notes: list[str]) -> Classified:
    """Run ``ids`` through a classifier; ``config`` names the classes and says whether they exclude each other."""
    read = torch.tensor([ids], device=next(machine.parameters()).device)
    with in_turn(machine, read):
        return named(machine(read)[0], config, ids, notes)


def named(logits: Tensor, config: Mapping[str, Any], ids: list[int], notes: list[str]) -> Classified:
    """Logits (V,) as classes by name, the most probable first."""
    logits = logits.double().cpu()
    what = problem(config, len(logits))
    shares: list[float | None]
    if what == "numbers":
        shares = [None] * len(logits)
    else:
        shares = (logits.softmax(0) if what == "one class" else logits.sigmoid()).tolist()
    names = label_names(config, len(logits))
    labels = [Label(name, x, p) for name, x, p in zip(names, logits.tolist(), shares, strict=True)]
    labels.sort(key=lambda label: -label.logit)
    return Classified(labels, what == "one class", ids, notes)
