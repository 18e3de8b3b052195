"""Recordings of single words, read from a tar archive, and which of them are held out."""

from __future__ import annotations

import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cutaway.errors import Misuse, NotFound, Refused
from cutaway.inputs import audio
from cutaway.inputs.audio import Samples
from cutaway.training.data import SPLITS
from cutaway.training.recipe import Recipe, Sounds

NAME = re.compile(r"(?:.*/)?(?P<label>[^_/]+)_(?P<speaker>[^_/]+)_(?P<index>\d{1,9})\.wav", re.DOTALL)
LARGEST_RECORDING = 2**24  # bytes
MOST_RECORDINGS = 200_000


@dataclass(frozen=True)
class Recording:
    """One word, said once by one speaker. ``samples`` (N,), 16,000 a second."""

    word: str
    speaker: str
    index: int
    samples: Samples


def read(recipe: Recipe) -> dict[str, list[Recording]]:
    """The splits of the recipe's sources. Of what is named as train, recordings of a low index are the test, some more
    are for validation; where a speaker is left out, all of that one's are the test, and nobody else's.

    Raises Misuse where there is nothing to train on or to validate on.
    """
    found: dict[str, list[Recording]] = {split: [] for split in SPLITS}
    for source in recipe.sources:
        for split in SPLITS:
            if name := getattr(source, split):
                for its in recordings(Path(recipe.data) / name, recipe.sounds.words):
                    found[_split(its, recipe.sounds) if split == "train" else split].append(its)
    if recipe.sounds.leave_out:
        found["test"] = [its for its in found["test"] if its.speaker == recipe.sounds.leave_out]
        if not found["test"]:
            raise Misuse(f"There is no recording of a speaker {recipe.sounds.leave_out}.", "Correct sounds.leave_out.")
    if not found["train"] or not found["valid"]:
        raise Misuse(
            "The sources hold no recordings to train on or none to validate on.",
            "Name a train file, and valid or sounds.valid_below.",
        )
    return {split: its for split, its in found.items() if its}


def _split(its: Recording, how: Sounds) -> str:
    if its.speaker == how.leave_out or its.index < how.test_below:
        return "test"
    return "valid" if its.index < how.valid_below else "train"


def recordings(path: Path, words: dict[str, str]) -> list[Recording]:
    """What is in a tar archive of WAV files named {label}_{speaker}_{index}.wav, in the order of their names.

    ``words``: what a label means, where that is not the word itself. Raises NotFound where there is no archive, Refused
    for one that is damaged or holds none.
    """
    if not path.is_file():
        raise NotFound(f"No training data at {path}.", "Say where the data folder is: data=/path/to/folder.")
    try:
        found = sorted(_unpacked(path), key=lambda pair: (pair[0]["label"], pair[0]["speaker"], int(pair[0]["index"])))
    except (tarfile.TarError, zlib.error, OSError, EOFError) as error:
        raise Refused(f"{path} is damaged: {error}.", "Fetch the file again.") from error
    if not found:
        raise Refused(f"{path} holds no recordings.", "Name them {label}_{speaker}_{index}.wav.")
    return [
        Recording(words.get(its["label"], its["label"]), its["speaker"], int(its["index"]), audio.open(content)[0][:])
        for its, content in found
    ]


def _unpacked(path: Path) -> Iterator[tuple[re.Match[str], bytes]]:
    with tarfile.open(path) as archive:
        count = 0
        for member in archive:
            its = NAME.fullmatch(member.name)
            if its is None or not member.isfile():
                continue
            count += 1
            if member.size > LARGEST_RECORDING or count > MOST_RECORDINGS:
                raise Refused(
                    f"{path} holds more than is read: {MOST_RECORDINGS:,} recordings of {LARGEST_RECORDING:,} bytes.",
                    "Split it.",
                )
            content = archive.extractfile(member)
            assert content is not None, "it is a file"
            yield its, content.read()
