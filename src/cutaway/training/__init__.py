"""Training: recipes, data, the loop, checkpoints. Importing this does not import torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cutaway.training.recipe import names, resolve

__all__ = ["Result", "names", "resolve", "train"]


@dataclass(frozen=True)
class Result:
    """What a run came to: how many of what ``unit`` names it has ``seen`` (tokens, images), and what was measured, by
    measure and split, of the model as saved in ``model``: ``measured["nats_per_token"]["valid"]``.

    ``confusion``, of a model that tells classes apart: how many of each true one (row) it took for which (column)
    in the test; ``classes`` are their names, and ``picture`` the file that shows it.
    """

    run: Path
    model: Path
    parameters: int
    steps: int
    seen: int
    unit: str
    seconds: float
    measured: dict[str, dict[str, float]]
    confusion: list[list[int]] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    picture: Path | None = None

    def lines(self) -> list[str]:
        """What was measured in words, a line for each split."""
        splits = {split: None for its in self.measured.values() for split in its}
        return [f"{split}: {in_words({name: its[split] for name, its in self.measured.items()})}" for split in splits]


def in_words(measures: Mapping[str, float]) -> str:
    """{"nats_per_token": 3.8538} -> "3.8538 nats per token"."""
    return ", ".join(f"{value:.4f} {name.replace('_', ' ')}" for name, value in measures.items())


def train(recipe: str, overrides: Sequence[str] = ()) -> Result:
    """Train by a recipe (a name, or the path of a .toml file) changed by ``key=value`` overrides.

    A run interrupted earlier goes on where it stood, to the same weights. Ctrl-C and SIGTERM finish the step, save and
    raise SystemExit(130 or 143).
    """
    resolved = resolve(recipe, overrides)  # a wrong key or value is said before torch is imported
    from cutaway.training.loop import run

    return run(resolved)
