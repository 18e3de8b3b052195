"""Training from scratch: recipes, data, the loop, checkpoints. Importing this does not import torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cutaway.training.recipe import names, resolve

__all__ = ["Result", "names", "resolve", "train"]


@dataclass(frozen=True)
class Result:
    """What a run came to. ``nats`` per token and ``bits`` per byte, by split, of the model as saved in ``model``."""

    run: Path
    model: Path
    parameters: int
    steps: int
    tokens: int
    seconds: float
    nats: dict[str, float]
    bits: dict[str, float]


def train(recipe: str, overrides: Sequence[str] = ()) -> Result:
    """Train by a recipe (a name, or the path of a .toml file) changed by ``key=value`` overrides.

    A run interrupted earlier goes on where it stood, to the same weights. Ctrl-C and SIGTERM finish the step, save and
    raise SystemExit(130 or 143).
    """
    resolved = resolve(recipe, overrides)  # a wrong key or value is said before torch is imported
    from cutaway.training.loop import run

    return run(resolved)
