"""Learning to tell classes of texts apart: another model, with a head of its own on it, learns on labelled texts.

Shapes: B texts, T tokens, V classes.

    texts --> tokens, framed, padded (B, T) --> stem and stack as they were learned before --> a new head (B, V)
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cutaway import hub
from cutaway.inputs.text import Tokenizer
from cutaway.training.confusion import told
from cutaway.training.data import Order
from cutaway.training.objective import Told, of_held_out
from cutaway.training.padding import padded
from cutaway.training.passages import read
from cutaway.training.recipe import Recipe
from cutaway.training.start import TOKENIZER_FILES, described_by, read_start, with_classes

SHOWN = 64  # texts that are looked at together when nothing is learned


class Classify:
    """The objective of labelled texts: cross-entropy of the class."""

    unit = "texts"
    stored = torch.float32

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.start = recipe, hub.find(recipe.start)
        before, tokenizer = read_start(self.start), Tokenizer.open(self.start)
        texts, names = read(recipe)
        self.config = with_classes(before, names, tokenizer)
        self.classes = list(self.config["id2label"].values())
        longest = min(recipe.window, described_by(self.config).context)
        self.splits = {split: Encoded(its.texts, its.classes, tokenizer, longest) for split, its in texts.items()}
        self.per_step = recipe.batch
        self.order = Order(len(self.splits["train"].ids), recipe.batch, recipe.seed)

    def loss(self, model: nn.Module, step: int) -> Tensor:
        ids, present, classes = self.splits["train"].batch(self.order.places(step).tolist())
        return F.cross_entropy(model(ids, present), classes)

    def place(self, step: int) -> str:
        return f"texts {self.order.places(step).tolist()}"

    def validate(self, model: nn.Module) -> dict[str, float]:
        return self._measures("valid", model)[0]

    def measure(self, model: nn.Module) -> Told:
        """Loss and accuracy on all of valid and test, and the table of what was taken for what in the test."""
        return of_held_out(self.splits, lambda split: self._measures(split, model))

    @torch.no_grad()
    def _measures(self, split: str, model: nn.Module) -> tuple[dict[str, float], list[list[int]]]:
        model.eval()
        its = self.splits[split]
        batches = (its.batch(places) for places in its.by_length(SHOWN))
        return told((model(ids, present), classes) for ids, present, classes in batches)

    def export(self, folder: Path) -> None:
        for name in TOKENIZER_FILES:
            if (self.start / name).is_file():
                shutil.copyfile(self.start / name, folder / name)


class Encoded:
    """Texts as token ids, at most ``longest`` of each, too long a text without its end; and the class of each."""

    def __init__(self, texts: Sequence[str], classes: Sequence[int], tokenizer: Tokenizer, longest: int) -> None:
        self.ids = [_cut(tokenizer.encode(text), tokenizer.frame[1], longest) for text in texts]
        self.classes = torch.tensor(classes)

    def batch(self, places: Sequence[int]) -> tuple[Tensor, Tensor | None, Tensor]:
        """Ids (B, T), which of them are no padding, (B, T) or None where all are, and the classes (B)."""
        ids, present = padded([self.ids[place] for place in places])
        return ids, None if present.all() else present, self.classes[torch.tensor(places)]

    def by_length(self, count: int) -> Iterable[list[int]]:
        """All places, ``count`` at a time, those of texts alike in length together."""
        places = sorted(range(len(self.ids)), key=lambda place: len(self.ids[place]))
        return (places[i : i + count] for i in range(0, len(places), count))


def _cut(ids: list[int], after: list[int], longest: int) -> list[int]:
    """As ``Model.classify`` has it: what frames a text stays."""
    return ids if len(ids) <= longest else ids[: longest - len(after)] + after
