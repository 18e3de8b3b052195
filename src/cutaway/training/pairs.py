"""Learning to translate: a sentence is read whole, and its translation told token by token (Vaswani et al. 2017).

Shapes: B pairs, S and T tokens of the longest source and target, M targets' tokens in all, D width, V vocabulary.

    sources (B, S) --> encoder --> memory (B, S, D)
                                        |
    targets, from the start token --> decoder --> stream (B, T, D) --> where a token follows (M, V)
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from cutaway.errors import Misuse, Refused
from cutaway.families import describe
from cutaway.files import write_atomically
from cutaway.generate.beam import beam_search
from cutaway.generate.manner import manner_of
from cutaway.model import spec
from cutaway.model.transformer import Seq2Seq
from cutaway.training.data import SPLITS, read_text, read_tokens, write_tokens
from cutaway.training.objective import Measured, by_measure
from cutaway.training.prepare import fingerprint
from cutaway.training.recipe import Recipe, Source
from cutaway.training.text import copy_tokenizer
from cutaway.training.tokenizer import end_of, save_tokenizer, train_tokenizer

SIDES = ("source", "target")
SEARCH = {"num_beams": 4, "length_penalty": 0.6}  # how the model asks to be decoded (Vaswani et al. 2017, section 6.1)
SHOWN = 64  # pairs that are looked at together when nothing is learned


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


class Translate:
    """The objective of pairs: cross-entropy of each token of a translation behind all before it, in nats."""

    unit = "tokens"
    stored = torch.bfloat16

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe, self.folder = recipe, folder
        self.tokenizer, self.splits = prepare(recipe, folder)
        self.config = _complete(recipe, self.tokenizer)
        self.order = Order.of(self.splits["train"], recipe)
        self.per_step = self.order.tokens // self.order.per_epoch

    def loss(self, model: nn.Module, step: int) -> Tensor:
        logits, following = self._tell(model, "train", self.order.pairs(step))
        return F.cross_entropy(logits, following, label_smoothing=self.recipe.smoothing)

    def place(self, step: int) -> str:
        return f"pairs {self.order.pairs(step).tolist()}"

    def validate(self, model: nn.Module) -> dict[str, float]:
        return self._nats("valid", model, self.recipe.validate_windows)

    def measure(self, model: nn.Module) -> tuple[Measured, list[list[int]]]:
        """Loss and BLEU of all of valid and test; sentences have no classes."""
        found = {
            split: self._nats(split, model) | self._bleu(split, model) for split in self.splits if split != "train"
        }
        return by_measure(found), []

    @torch.no_grad()
    def _nats(self, split: str, model: nn.Module, limit: int | None = None) -> dict[str, float]:
        """The loss without smoothing, over all pairs or ``limit`` of them, evenly spread."""
        model.eval()
        count = len(self.splits[split])
        places = np.unique(np.linspace(0, count - 1, min(limit or count, count)).astype(np.int64))
        places = places[np.argsort(self.splits[split].target.lengths[places], kind="stable")]
        loss, tokens = 0.0, 0
        for i in range(0, len(places), SHOWN):
            logits, following = self._tell(model, split, places[i : i + SHOWN])
            loss += F.cross_entropy(logits, following, reduction="sum").item()
            tokens += len(following)
        return {"nats_per_token": loss / tokens}

    def _bleu(self, split: str, model: nn.Module) -> dict[str, float]:
        """BLEU (Papineni et al. 2002) as sacrebleu has it by default; nothing where that is not installed."""
        try:
            import sacrebleu
        except ImportError:
            print("BLEU is not measured: sacrebleu is not installed.", file=sys.stderr)
            return {}
        told = [self.tokenizer.decode(ids) for ids in self.translations(split, model)]
        target = self.splits[split].target
        true = [self.tokenizer.decode(target[place]) for place in range(len(target))]
        return {"bleu": sacrebleu.corpus_bleu(told, [true]).score}

    def translations(self, split: str, model: nn.Module) -> list[list[int]]:
        """The tokens of the best translation found of each sentence, as the saved model asks to be decoded."""
        assert isinstance(model, Seq2Seq), "_complete has asked"
        model.eval()
        manner = manner_of(self.recipe.folder / "model", self.config, self.config["vocab_size"])
        source = self.splits[split].source
        return [
            beam_search(
                model,
                [manner.start],
                source=self._fitting(source[place]),
                beams=manner.beams,
                max_new_tokens=manner.max_new_tokens or self.recipe.window,
                eos=manner.eos,
                length_penalty=manner.length_penalty,
                early_stopping=manner.early_stopping,
                rules=manner.rules,
            )[0].tokens
            for place in range(len(source))
        ]

    def _tell(self, model: nn.Module, split: str, places: np.ndarray) -> tuple[Tensor, Tensor]:
        """What the model makes of what follows in the translations, (M, V), and what does follow, (M)."""
        assert isinstance(model, Seq2Seq), "_complete has asked"
        its, start = self.splits[split], self.config["decoder_start_token_id"]
        sources, present = padded([self._fitting(its.source[place]) for place in places])
        told = [self._fitting(its.target[place]) for place in places]
        following, follows = padded(told)
        before, _ = padded([[start, *ids[:-1]] for ids in told])
        stream = model.stream(before, model.encode(sources, present), present)
        return model.logits(stream[follows][None])[0], following[follows]

    def _fitting(self, ids: list[int]) -> list[int]:
        """A sentence that is too long loses its end, and keeps its end token."""
        return ids if len(ids) <= self.recipe.window else [*ids[: self.recipe.window - 1], ids[-1]]

    def export(self, folder: Path) -> None:
        named = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
        generation = SEARCH | {
            "max_length": self.recipe.window,
            "bad_words_ids": [[self.config["pad_token_id"]]],
            **{name: self.config[name] for name in named if name in self.config},
        }
        with write_atomically(folder / "generation_config.json") as beside:
            beside.write_text(json.dumps(generation, indent=2) + "\n")
        copy_tokenizer(self.folder, folder)


def padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Rows of ids as one table (B, T), filled up with zeros, and where they are, (B, T)."""
    lengths = torch.tensor([len(row) for row in rows])
    table = pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    return table, torch.arange(table.shape[1])[None] < lengths[:, None]


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
        source, target = ([line.strip() for line in read_text(path).splitlines()] for path in both)
        if len(source) != len(target):
            raise Refused(
                f"{both[0].name} has {len(source):,} lines and {both[1].name} {len(target):,}.",
                "Give two files that go line by line.",
            )
        pairs += [pair for pair in zip(source, target, strict=True) if all(pair)]
    return pairs


def _complete(recipe: Recipe, tokenizer: Tokenizer) -> dict[str, Any]:
    """The recipe's [model] as a whole config.json. The decoder starts from the padding, as Marian's does."""
    end, pad = end_of(tokenizer), tokenizer.token_to_id("<pad>")
    ids = {"eos_token_id": end, "forced_eos_token_id": end, "pad_token_id": pad, "decoder_start_token_id": pad}
    config = {**recipe.model, "vocab_size": tokenizer.get_vocab_size(), **ids}
    described = describe(config)[1]
    if not isinstance(described, spec.Seq2Seq) or not isinstance(described.source, spec.Tokens):
        raise Misuse("[model] describes no model that translates.", 'Write model_type = "marian" there.')
    if recipe.window > described.context:
        raise Misuse(
            f"A window of {recipe.window} exceeds the model's {described.context} positions.", "Make window smaller."
        )
    return config
