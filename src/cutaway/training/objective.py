"""What a model is taught: a recipe's ``task`` says which objective, and the loop asks it for everything else.

recipe, data --> objective --- loss(model, step) -----> the loop takes a step
                         \\-- validate, measure ------> how good it is, on the way and in the end
                          \\- config, export ---------> what stands beside the weights
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from cutaway.training.recipe import Recipe

Measured = dict[str, dict[str, float]]
"""measure -> split -> number: ``measured["accuracy"]["test"]``."""
Told = tuple[Measured, list[list[int]]]
"""What was measured, and how many of each true class (row) were taken for which (column) in the test."""


class Objective(Protocol):
    """``config``: the whole config.json of the model to be trained. ``unit``: what is counted, ``per_step`` of them in
    each step. ``stored``: the dtype its weights are saved in. ``classes``: what is taken for each other."""

    config: dict[str, Any]
    unit: str
    per_step: int
    stored: torch.dtype
    classes: list[str]

    def loss(self, model: nn.Module, step: int) -> Tensor:
        """The mean loss over the batch of a step (from 0), which is a function of the recipe's seed and the step."""

    def place(self, step: int) -> str:
        """Where in the data the batch of a step is, for a message."""

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Measures of some of the held-out data, quickly."""

    def measure(self, model: nn.Module) -> Told:
        """Measures of all held-out data; and, of classes, how many of each true one (row) were taken for which
        (column) in the test."""

    def export(self, folder: Path) -> None:
        """Write what the model needs beside config.json and its weights."""


def by_measure(found: dict[str, dict[str, float]]) -> Measured:
    """``found``: split -> measure -> number."""
    return {name: {split: its[name] for split, its in found.items()} for name in found["valid"]}


def of_held_out(splits: Iterable[str], measures: Callable[[str], tuple[dict[str, float], list[list[int]]]]) -> Told:
    """What ``measures`` says of every split that is not learned from, and the table it makes of the test."""
    found = {split: measures(split) for split in splits if split != "train"}
    measured = by_measure({split: numbers for split, (numbers, _) in found.items()})
    return measured, found["test"][1] if "test" in found else []


def objective(recipe: Recipe, folder: Path) -> Objective:
    """The objective of the recipe's task. ``folder``: where prepared data may be kept."""
    if recipe.task == "see":
        from cutaway.training.images import See

        return See(recipe)
    if recipe.task == "classify":
        from cutaway.training.classes import Classify

        return Classify(recipe)
    if recipe.task == "translate":
        from cutaway.training.pairs import Translate

        return Translate(recipe, folder)
    if recipe.task == "transcribe":
        from cutaway.training.sounds import Transcribe

        return Transcribe(recipe, folder)
    from cutaway.training.masked import Fill
    from cutaway.training.text import Continue

    return Fill(recipe, folder) if recipe.task == "fill" else Continue(recipe, folder)
