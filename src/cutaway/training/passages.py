"""Labelled texts: either a label on each, or files of one label each, cut into passages.

[[sources]] label, files --> documents --> one typography --> passages of so many words --> as many of each label
"""

from __future__ import annotations

import collections
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cutaway.errors import Misuse, Refused
from cutaway.training.clean import clean_text
from cutaway.training.data import SPLITS, documents, held_out, read_text, without_repeats
from cutaway.training.recipe import Recipe, Source

#: How corpora that were cut into words are typed: " , " and " @-@ " and " = Heading = "; and what is meant.
SPACED_OUT = (
    (re.compile(r" ?@(\W)@ ?"), r"\1"),
    (re.compile(r'(?<!\S)" ([^"]*) "(?!\S)'), r'"\1"'),
    (re.compile(r"(?<!\S)=(?!\S)"), ""),
    (re.compile(r" +(?=[,.;:!?)%]|'(?:s|re|ve|ll|d|m)\b)|(?<=[(]) +"), ""),
)


@dataclass
class Labelled:
    """Texts, and the number of each one's label."""

    texts: list[str] = field(default_factory=list)
    classes: list[int] = field(default_factory=list)


def read(recipe: Recipe) -> tuple[dict[str, Labelled], list[str]]:
    """The splits of the recipe's sources, and the labels' names by number, in the order of their sources.

    Of passages each split has as many of each label as of the rarest, so that a guess is right once in so many. Raises
    Misuse where there is nothing to train on or to validate on, or only one label.
    """
    folder = Path(recipe.data)
    found = _passages([source for source in recipe.sources if source.label], folder, recipe.passage)
    for split, label, text in _lines([source for source in recipe.sources if not source.label], folder):
        found[split].setdefault(label, []).append(text)
    names = list(dict.fromkeys(label for split in SPLITS for label in found[split]))
    if len(names) < 2:
        raise Misuse("The sources have fewer than two labels.", "Give each source its own, or each text.")
    splits: dict[str, Labelled] = {}
    for split, by_label in found.items():
        its = Labelled()
        for label, texts in by_label.items():
            its.texts += texts
            its.classes += [names.index(label)] * len(texts)
        if its.texts:
            splits[split] = its
    if not {"train", "valid"} <= set(splits):
        raise Misuse(
            "The sources hold no texts to train on or none to validate on.",
            "Name a train file, and valid or hold_out; every label needs its own.",
        )
    return splits, names


def _passages(sources: Sequence[Source], folder: Path, words: int) -> dict[str, dict[str, list[str]]]:
    """split -> label -> passages. No training document repeats one that is held out, whatever its label."""
    dropped: collections.Counter[str] = collections.Counter()
    whole: list[dict[str, list[str]]] = []
    for source in sources:
        whole.append({split: [] for split in SPLITS})
        for split, document in documents(source, folder, dropped):
            whole[-1][split].append(document)
    seen: set[int] = set()
    for split in ("test", "valid", "train"):
        for its in whole:
            its[split] = list(without_repeats(its[split], seen, dropped))
    found: dict[str, dict[str, list[str]]] = {split: {} for split in SPLITS}
    for source, its in zip(sources, whole, strict=True):
        for split, passages in _of_source(source, its, words).items():
            found[split].setdefault(source.label, []).extend(passages)
    return {split: _balanced(by_label) for split, by_label in found.items()}


def _of_source(source: Source, its: dict[str, list[str]], words: int) -> dict[str, list[str]]:
    """Its passages by split. Where stories are not held out by title, the last passages are, for what has no file."""
    found = {split: [passage for text in texts for passage in cut(text, words)] for split, texts in its.items()}
    share = 0 if source.format == "stories" else round(len(found["train"]) * source.hold_out)
    for split in ("test", "valid"):
        if share and not getattr(source, split):
            found["train"], found[split] = found["train"][:-share], found["train"][-share:]
    return found


def cut(text: str, length: int) -> list[str]:
    """Passages of ``length`` words, in one typography; what is left in the end is none."""
    words = plain(text).split()
    return [" ".join(words[i : i + length]) for i in range(0, len(words) - length + 1, length)]


def plain(text: str) -> str:
    """In one typography, so that no class is told by how its files were typed."""
    lines = []
    for line in map(clean_text, text.split("\n")):
        for typed, meant in SPACED_OUT:
            line = typed.sub(meant, line)
        lines.append(line)
    return " ".join(lines)


def _balanced(by_label: dict[str, list[str]]) -> dict[str, list[str]]:
    """As many of each label as of the rarest, evenly spread."""
    least = min((len(texts) for texts in by_label.values()), default=0)
    spread = {label: np.linspace(0, len(texts) - 1, least).astype(int) for label, texts in by_label.items()}
    return {label: [texts[place] for place in spread[label]] for label, texts in by_label.items() if least}


def _lines(sources: Sequence[Source], folder: Path) -> Iterator[tuple[str, str, str]]:
    """(split, label, text) for each line of "labelled" files; ``hold_out`` as stories have it, by the text."""
    for source in sources:
        for split in SPLITS:
            if name := getattr(source, split):
                for number, line in enumerate(read_text(folder / name).splitlines(), 1):
                    label, text = _line(line, f"{folder / name}, line {number}")
                    yield held_out(text, source.hold_out) or split, label, text


def _line(line: str, where: str) -> tuple[str, str]:
    try:
        found = json.loads(line)
        label, text = str(found["label"]), found["text"]
        if isinstance(text, str) and text.strip():
            return label, text
        reason = "it has no text"
    except (ValueError, KeyError, TypeError) as error:
        reason = repr(error)
    raise Refused(f"{where} is no labelled text: {reason}.", 'Write {"text": "...", "label": "..."}.')
