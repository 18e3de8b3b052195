"""A Record as one file, run.cutaway: safetensors any reader can open, its story in one JSON string of the metadata."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from .. import __version__
from ..errors import Misuse, NotFound, Refused
from ..files import write_atomically
from ..model import spec
from .names import WEIGHT, every_token, matching
from .record import ModelCard, Record, tops

FORMAT = 1
NORMS = ("pre", "post", "stream", "norm", "q_norm", "k_norm")


def save(
    record: Record, path: str | os.PathLike[str], include: str | Iterable[str], weights: str | Iterable[str]
) -> None:
    tensors, metadata = contents(record, include, weights)
    with write_atomically(path) as beside:
        safetensors.torch.save_file(tensors, beside, metadata)


def to_bytes(record: Record, include: str | Iterable[str] = (), weights: str | Iterable[str] = ()) -> bytes:
    """The same file, in memory: what the server sends."""
    return safetensors.torch.save(*contents(record, include, weights))


def contents(
    record: Record, include: str | Iterable[str], weights: str | Iterable[str]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    known = record.names()
    taken, none = matching(record.weights, weights)
    if none:
        raise Misuse(f"No weight at hand matches {none[0]!r}.", "record.weight_names() lists them, after weights.")
    norms = [name for name in record.weights if name.split(".")[-2] in NORMS]
    numbers = {name: record[name] for name in (*record.tensors, *record.matching(include))}
    if "logits.last" in known:
        numbers["logits.last"] = record["logits.last"]
    if "logits" in known and every_token(record.spec):
        numbers |= tops(record["logits"])
    elif "logits" in known:
        numbers["logits"] = record["logits"]
    numbers |= {WEIGHT + name: record.weights[name] for name in (*norms, *taken)}
    return pack(record, numbers, vocabulary=record.vocabulary())


def pack(record: Record, numbers: dict[str, Tensor], **more: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors ready for safetensors, and the metadata that tells their story."""
    story = {"format": FORMAT, "version": __version__, **record.description(), **more}
    story["axes"] = {name: record.axes(name) for name in numbers}
    return (
        _apart(numbers),
        {"cutaway": json.dumps(story, ensure_ascii=True, allow_nan=False)},
    )


def _apart(numbers: dict[str, Tensor]) -> dict[str, Tensor]:
    """As safetensors takes them: whole, here, and no two of them in the same memory."""
    found: dict[str, Tensor] = {}
    taken = set()
    for name, x in numbers.items():
        here = x.detach().cpu().contiguous()
        memory = here.untyped_storage().data_ptr()
        found[name] = here.clone() if memory in taken else here
        taken.add(memory)
    return found


def open(path: str | os.PathLike[str]) -> Record:
    """A saved Record, with no network and no model.

    What needs weights the file did not bring says so when asked for. Raises NotFound when there is no such file and
    Refused when it is not a record, is damaged, or was written by a newer Cutaway.
    """
    path = Path(path)
    if not path.is_file():
        raise NotFound(f"There is no file {path}.")
    try:
        with safetensors.safe_open(path, "pt") as file:
            story = json.loads((file.metadata() or {}).get("cutaway", "null"))
            # Copies: a mapped file may be cut short later, and unaligned memory moves a product's last bit.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise Refused(
            f"{path} cannot be read as a .cutaway file: {error}.", "It may be cut short; save it again."
        ) from None
    return _record(path, story, tensors)


def _record(path: Path, story: Any, tensors: dict[str, Tensor]) -> Record:
    if not isinstance(story, dict) or "format" not in story:
        raise Refused(f"{path} is a safetensors file but holds no Cutaway record.", "record.save() writes one.")
    if story["format"] != FORMAT:
        raise Refused(f"{path} has record format {story['format']!r}, this Cutaway reads {FORMAT}.", "Update Cutaway.")
    try:
        weights = {name.removeprefix(WEIGHT): x for name, x in tensors.items() if name.startswith(WEIGHT)}
        record = Record(
            model=ModelCard(**story["model"]),
            spec=spec.from_json(story["spec"]),
            tokens=[int(token) for token in story["tokens"]],
            tensors={name: x for name, x in tensors.items() if not name.startswith(WEIGHT)},
            weights=weights,
            text=story["text"],
            pieces=list(story["pieces"]),
            settings=dict(story["settings"]),
            edits=list(story["edits"]),
            source=[int(token) for token in story.get("source", [])],
            source_pieces=list(story.get("source_pieces", [])),
            vocabulary=_words(story.get("vocabulary", [])),
        )
        for name, tensor in record.tensors.items():
            if len(record.axes(name)) != tensor.ndim:
                raise ValueError(f"{name} has {tensor.ndim} axes, not {len(record.axes(name))}")
    except (KeyError, TypeError, ValueError, Misuse) as error:
        raise Refused(f"{path} tells an impossible story: {error}.") from None
    return record


def _words(vocabulary: Any) -> Callable[[], list[str]]:
    """What a file says of the text of every token. Raises ValueError where that is no list of texts."""
    if not isinstance(vocabulary, list) or not all(isinstance(word, str) for word in vocabulary):
        raise ValueError("its vocabulary is no list of texts")
    return lambda: vocabulary
