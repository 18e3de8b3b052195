"""Pairs of sentences: from parallel files to token files, and from those to batches.

    train.en, train.de --> train.source.bin, train.target.bin --> pairs of like length, about ``batch`` tokens a step

Parallel files go line by line: a sentence, and in the other file its translation. A token file is the sentences of one
side as data.py has documents, each followed by the end token.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from cutaway.errors import Misuse, Refused
from cutaway.files import write_atomically
from cutaway.training.data import SPLITS, read_text, read_tokens, write_tokens
from cutaway.training.prepare import fingerprint
from cutaway.training.recipe import Recipe, Source
from cutaway.training.tokenizer import end_of, save_tokenizer, train_tokenizer

SIDES = ("source", "target")


@dataclass(frozen=True)
class Sentences:
    """One side of a split: ``ids`` uint16, memory-mapped, each sentence with its end token, and where each ``ends``,
    int64 (N,)."""

    ids: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, place: int) -> list[int]:
        its: list[int] = self.ids[self.ends[place - 1] if place else 0 : self.ends[place]].tolist()
        return its

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each, int64 (N,)."""
        return np.diff(self.ends, prepend=0)


@dataclass(frozen=True)
class Pairs:
    """Sentences, and the translation of each."""

    source: Sentences
    target: Sentences

    def __len__(self) -> int:
        return len(self.source)


# --- files -------------------------------------------------------------------------------------------------------


def prepare(recipe: Recipe, folder: Path) -> tuple[Tokenizer, dict[str, Pairs]]:
    """The tokenizer that both sides share, and the splits, made in ``folder`` unless they are there, from the same
    files. corpus.json, written last, says what they were made from."""
    files = {split: _files(recipe, split) for split in SPLITS}
    made_from = fingerprint(recipe, [path for its in files.values() for pair in its for path in pair])
    about = folder / "corpus.json"
    if not about.is_file() or json.loads(about.read_text())["made_from"] != made_from:
        corpus = {split: read(its) for split, its in files.items()}
        if not corpus["train"] or not corpus["valid"]:
            raise Misuse("The sources hold no pairs to train on or none to validate on.", "Name train and valid files.")
        both = (sentence for pair in corpus["train"] for sentence in pair)
        tokenizer = train_tokenizer(both, recipe.tokenizer.size, recipe.tokenizer.pattern, recipe.task)
        save_tokenizer(tokenizer, folder, recipe.window, recipe.task)
        tokenizer.encode_special_tokens = True  # a "</s>" that stands in a sentence is text, and does not end it
        for split, pairs in corpus.items():
            for side, sentences in zip(SIDES, zip(*pairs, strict=True) if pairs else ((), ()), strict=True):
                write_tokens(sentences, tokenizer, end_of(tokenizer), folder / f"{split}.{side}.bin")
        with write_atomically(about) as beside:
            beside.write_text(json.dumps({"made_from": made_from}, indent=2))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    end = end_of(tokenizer)
    return tokenizer, {
        split: Pairs(*(_sentences(folder / f"{split}.{side}.bin", end) for side in SIDES))
        for split, its in files.items()
        if its
    }


def _sentences(path: Path, end: int) -> Sentences:
    ids = read_tokens(path).ids
    return Sentences(ids, np.flatnonzero(ids == end) + 1)


def _files(recipe: Recipe, split: str) -> list[tuple[Path, Path]]:
    """The files of a split's sentences and of their translations."""
    return [_both(Path(recipe.data) / name, source) for source in recipe.sources if (name := getattr(source, split))]


def _both(place: Path, source: Source) -> tuple[Path, Path]:
    """``place``.en and ``place``.de, each perhaps with .gz behind it."""
    names = [f"{place.name}.{language}" for language in source.languages.split("-")]
    plain = [place.with_name(name) for name in names]
    first, second = (path if path.is_file() else path.with_name(f"{path.name}.gz") for path in plain)
    return first, second


def read(files: Sequence[tuple[Path, Path]]) -> list[tuple[str, str]]:
    """The pairs of files that go line by line, without those one side of which is empty. Raises Refused where one has
    more lines than the other."""
    pairs: list[tuple[str, str]] = []
    for both in files:
        source, target = (read_text(path).removesuffix("\n").split("\n") for path in both)
        if len(source) != len(target):
            raise Refused(
                f"{both[0].name} has {len(source):,} lines and {both[1].name} {len(target):,}.",
                "Give two files that go line by line.",
            )
        stripped = ((one.strip(), other.strip()) for one, other in zip(source, target, strict=True))
        pairs += [pair for pair in stripped if all(pair)]
    return pairs


# --- batches -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Order:
    """Which pairs come when: a pure function of the seed and the step, so resuming needs no state.

    An epoch lays the pairs in a row by ``lengths`` (N,), of either's longer side, those of one length in an order of
    its own; cuts the row into batches of about ``batch`` tokens; and visits these in an order of its own. ``places``:
    which pairs they are, those that fit the window. ``tokens``: how many they have on both sides.
    """

    places: np.ndarray
    lengths: np.ndarray
    tokens: int
    batch: int
    seed: int

    @classmethod
    def of(cls, pairs: Pairs, recipe: Recipe) -> Order:
        sides = np.stack([pairs.source.lengths, pairs.target.lengths])
        lengths = sides.max(0)
        places = np.flatnonzero(lengths <= recipe.window)
        if not len(places):
            raise Misuse(f"No pair of sentences fits a window of {recipe.window}.", "Make window larger.")
        if left := len(lengths) - len(places):
            print(f"{left:,} of {len(lengths):,} pairs do not fit the window and are left out.", file=sys.stderr)
        return cls(places, lengths[places], int(sides[:, places].sum()), recipe.batch, recipe.seed)

    @functools.cached_property
    def cuts(self) -> np.ndarray:
        """Where in the row a new batch begins, the first apart. Every epoch's row has the same lengths."""
        so_far = np.sort(self.lengths).cumsum()
        batches = max(1, round(so_far[-1] / self.batch))
        cuts = np.searchsorted(so_far, so_far[-1] * np.arange(1, batches) / batches)
        return np.unique(cuts[cuts > 0])

    @property
    def per_epoch(self) -> int:
        return len(self.cuts) + 1

    def pairs(self, step: int) -> np.ndarray:
        """The pairs of a step (from 0): int64 (B,)."""
        number, place = divmod(step, self.per_epoch)
        return _epoch(self, number)[place]


@functools.lru_cache(maxsize=2)
def _epoch(order: Order, number: int) -> list[np.ndarray]:
    random = np.random.Generator(np.random.PCG64([order.seed, number]))
    shuffled = random.permutation(len(order.lengths))
    row = shuffled[np.argsort(order.lengths[shuffled], kind="stable")]
    batches = np.split(order.places[row], order.cuts)
    return [batches[i] for i in random.permutation(len(batches))]
