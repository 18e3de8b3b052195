"""From story files to memory-mapped token ids, and from those to batches.

A document is a story or a chapter, its paragraphs joined by single newlines. A token file is the documents of one
split one after another as little-endian uint16, each followed by the end-of-text token.
"""

from __future__ import annotations

import collections
import functools
import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cutaway.errors import Misuse, NotFound, Refused
from cutaway.files import write_atomically
from cutaway.training.clean import clean_book, clean_text

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

    from cutaway.training.recipe import Source

REMAKE = "Delete its folder and train again; it will be made anew."
SPLITS = ("train", "valid", "test")
Corpus = dict[str, list[str]]


def read_corpus(sources: Sequence[Source], folder: Path) -> tuple[Corpus, collections.Counter[str]]:
    """The documents of each split, and the characters left out by reason.

    No training document repeats one of the held-out splits or an earlier one: the same tale stands in several books.
    """
    corpus: Corpus = {split: [] for split in SPLITS}
    dropped: collections.Counter[str] = collections.Counter()
    for source in sources:
        for split, document in _documents(source, folder, dropped):
            corpus[split].append(document)
    seen: set[int] = set()
    for split in ("test", "valid", "train"):
        corpus[split] = list(_without_repeats(corpus[split], seen, dropped))
    if not corpus["train"] or not corpus["valid"]:
        raise Misuse("The sources hold no text to train on or none to validate on.", "Name a train and a valid file.")
    return corpus, dropped


def _documents(source: Source, folder: Path, dropped: collections.Counter[str]) -> Iterator[tuple[str, str]]:
    for split in SPLITS:
        if not (name := getattr(source, split)):
            continue
        text = read_text(folder / name)
        if source.format == "books":  # a paragraph a line, an empty line between books
            for book in text.split("\n\n"):
                yield from ((split, chapter) for chapter in clean_book(book.split("\n"), dropped))
        elif source.format == "stories":  # a JSON object a line, with "sections" or "pages"
            for number, line in enumerate(text.splitlines(), 1):
                title, paragraphs, licence = _story(line, f"{folder / name}, line {number}")
                if source.without_licence and source.without_licence in licence:
                    dropped["licence"] += len(line)
                    continue
                document = "\n".join(p for p in map(clean_text, paragraphs) if p)
                yield _held_out(title, source.hold_out) or split, document
        else:  # plain text, documents between end-of-text marks
            yield from ((split, part.strip("\n")) for part in text.split("<|endoftext|>") if part.strip())


def _story(line: str, where: str) -> tuple[str, list[str], str]:
    """Title, paragraphs and licence of one line of a "stories" file."""
    try:
        story = json.loads(line)
        parts = story["sections"] if "sections" in story else story["pages"]
        return story["title"], "\n".join(parts).split("\n"), story.get("license", "")
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(f"{where} is not a story: {error!r}.", 'Write {"title": ..., "pages": [...]}.') from None


def _held_out(title: str, share: float) -> str | None:
    """The split of a story whose source has one file for all: ``share`` of the titles each to valid and to test."""
    place = zlib.crc32(title.encode()) / 2**32
    return "valid" if place < share else "test" if place < 2 * share else None


def read_text(path: Path) -> str:
    """What stands in a file, unpacked where it ends in .gz. Raises NotFound, or Refused for one that is damaged."""
    if not path.is_file():
        raise NotFound(f"No training data at {path}.", "Say where the data folder is: data=/path/to/folder.")
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return raw.decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise Refused(f"{path} is damaged: {error}.", "Fetch the file again; text must be UTF-8.") from error


def _without_repeats(documents: Iterable[str], seen: set[int], dropped: collections.Counter[str]) -> Iterator[str]:
    """Documents fewer than a fifth of whose runs of eight words are in ``seen``, to which theirs are added."""
    for document in documents:
        words = document.lower().split()
        runs = {zlib.crc32(" ".join(words[i : i + 8]).encode()) for i in range(max(1, len(words) - 7))}
        if len(runs & seen) > 0.2 * len(runs):
            dropped["repeats"] += len(document)
        else:
            yield document
        seen |= runs


# --- token files -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tokens:
    """One split: ``ids`` uint16 (N,), memory-mapped, and the UTF-8 bytes of the text they spell."""

    ids: np.ndarray
    bytes: int

    def bits_per_byte(self, nats_per_token: float) -> float:
        return nats_per_token * len(self.ids) / (np.log(2) * self.bytes)


def write_tokens(documents: Sequence[str], tokenizer: Tokenizer, end: int, path: Path) -> None:
    """Encode documents into ``path``, and what is in it into ``path`` with the ending .json."""
    if tokenizer.get_vocab_size() > 2**16:
        raise Misuse("Token files are uint16: at most 65,536 entries.", "Choose a smaller tokenizer.size.")
    digest, count = hashlib.sha256(), 0
    with write_atomically(path) as beside, open(beside, "wb") as file:
        for start in range(0, len(documents), 256):
            for encoding in tokenizer.encode_batch(documents[start : start + 256], add_special_tokens=False):
                ids = np.array([*encoding.ids, end], dtype="<u2")
                file.write(ids.tobytes())
                digest.update(ids.tobytes())
                count += len(ids)
    about = {
        "documents": len(documents),
        "tokens": count,
        "bytes": sum(len(document.encode()) for document in documents),
        "sha256": digest.hexdigest(),
    }
    with write_atomically(path.with_suffix(".json")) as beside:
        beside.write_text(json.dumps(about, indent=2) + "\n")


def read_tokens(path: Path) -> Tokens:
    """The token file at ``path``; its length is checked against its description."""
    try:
        about = json.loads(path.with_suffix(".json").read_text())
        ids = np.memmap(path, dtype="<u2", mode="r")
    except (OSError, ValueError) as error:
        raise Refused(f"The token file {path} cannot be read: {error}.", REMAKE) from error
    if len(ids) != about["tokens"]:
        raise Refused(f"{path} has {len(ids)} tokens instead of {about['tokens']}.", REMAKE)
    return Tokens(ids, about["bytes"])


# --- batches -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sampler:
    """Which window of the token file comes when: a pure function of the seed and the step, so resuming needs no state.

    An epoch cuts the file into windows of ``window`` + 1 tokens that share one token with their neighbour, from an
    offset of its own, and visits them in an order of its own. Batches run on from one epoch into the next.
    """

    tokens: int
    window: int
    batch: int
    seed: int

    def __post_init__(self) -> None:
        if self.per_epoch < 1:
            raise Misuse(
                f"{self.tokens} tokens of text are too few for windows of {self.window}.", "Add text or shorten window."
            )

    @property
    def per_epoch(self) -> int:
        return (self.tokens - self.window) // self.window  # one window's length is left for the offset

    def starts(self, step: int) -> np.ndarray:
        """Where the windows of a step (from 0) start: int64 (batch,)."""
        places = (divmod(place, self.per_epoch) for place in range(step * self.batch, (step + 1) * self.batch))
        return np.array([_epoch(self, number)[place] for number, place in places])


@functools.lru_cache(maxsize=2)
def _epoch(sampler: Sampler, number: int) -> np.ndarray:
    """Where the windows of an epoch start, in order: int64 (per_epoch,)."""
    random = np.random.Generator(np.random.PCG64([sampler.seed, number]))
    return int(random.integers(sampler.window)) + sampler.window * random.permutation(sampler.per_epoch)


def windows(ids: np.ndarray, starts: np.ndarray, length: int) -> torch.Tensor:
    """Copies of ``length`` tokens from each start: int64 (B, length)."""
    import torch

    return torch.from_numpy(np.stack([ids[start : start + length] for start in starts]).astype(np.int64))
