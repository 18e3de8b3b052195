"""The weight files of a checkpoint folder: which there are, and what their headers say. No tensor is read here.

A safetensors file is 8 bytes (the header's length, little-endian), a JSON header {name: {dtype, shape, data_offsets}},
and the tensors' bytes without gaps. Everything is checked before anything is believed.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import NotFound, Refused
from .config import inside, parse_json, read_json, shown

LARGEST_HEADER = 16 * 2**20  # bytes; a shard of the largest public models has well under 1 MB
LARGEST_INDEX = 32 * 2**20
PAGE, PAGES = 4096, 64  # of each file, for the fingerprint

BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2,
    "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
FLOATING = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}  # what weights may be stored in

_AGAIN = "Download it again."


@dataclass(frozen=True)
class Stored:
    """One tensor as a file's header describes it."""

    file: Path
    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.elements * BYTES[self.dtype]


def find_files(folder: Path) -> list[Path]:
    """The safetensors files of ``folder``, one or the shards its index names.

    Raises NotFound when there are no weights, Refused when there are only pickled ones or the index is unsafe.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [inside(folder, single.name)]
    if index.is_file():
        files = [folder / name for name in shard_names(folder)]
        for file in files:
            if not file.is_file():
                raise Refused(f"{folder} lacks {file.name}, one of the {len(files)} files of its weights.", _AGAIN)
        return files
    pickled = sorted(path.name for kind in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(kind))
    if pickled:
        raise Refused(
            f"{folder} holds its weights only as {pickled[0]}, a pickle, which can run any code when opened.",
            "Use a version with model.safetensors; on the hub, look for a safetensors branch or conversion.",
        )
    raise NotFound(f"{folder} has no weights (model.safetensors).", "Download the whole checkpoint.")


def shard_names(folder: Path) -> list[str]:
    """The files, all in ``folder`` itself, that its model.safetensors.index.json names. Raises Refused otherwise."""
    index = inside(folder, "model.safetensors.index.json")
    where = read_json(index, LARGEST_INDEX).get("weight_map")
    if not isinstance(where, dict) or not where or not all(isinstance(name, str) for name in where.values()):
        raise Refused(f"{index} does not map tensors to files.", _AGAIN)
    names = sorted(set(where.values()))
    for name in names:
        if not re.fullmatch(r"[\w.-]+\.safetensors", inside(folder, name).name):
            raise Refused(f"{index} names {shown(name)}, which is no safetensors file.", _AGAIN)
    return names


def read_headers(files: list[Path]) -> dict[str, Stored]:
    """Every tensor of these files by name. Raises Refused for a damaged file or a name that stands in two."""
    tensors: dict[str, Stored] = {}
    for file in files:
        for name, stored in _read_header(file).items():
            if name in tensors:
                raise Refused(f"The tensor {name} stands in both {tensors[name].file.name} and {file.name}.", _AGAIN)
            tensors[name] = stored
    return tensors


def fingerprint(folder: Path) -> str:
    """32 hex digits for a checkpoint's config.json, its files' headers and a sample of their pages.

    Not of every byte: the same for equal files, different for another model or another training step.
    """
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for file in find_files(folder):
        header, size = _header_bytes(file), file.stat().st_size
        digest.update(len(header).to_bytes(8, "little") + header + size.to_bytes(8, "little"))
        start = 8 + len(header)
        with file.open("rb") as handle:
            for page in range(PAGES):
                handle.seek(start + page * (size - start) // PAGES)
                digest.update(handle.read(PAGE))
    return digest.hexdigest()[:32]


def _header_bytes(file: Path) -> bytes:
    size = file.stat().st_size
    with file.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if size < 8 or length > size - 8:
            raise Refused(f"{file} is cut short: {size:,} bytes do not hold its own header.", _AGAIN)
        if length > LARGEST_HEADER:
            raise Refused(f"{file} has a header of {length / 2**20:.0f} MB; a real one is far smaller.", _AGAIN)
        return handle.read(length)


def _read_header(file: Path) -> dict[str, Stored]:
    header = _header_bytes(file)
    content = parse_json(header, f"The header of {file}")
    content.pop("__metadata__", None)
    tensors, spans = {}, []
    for name, entry in content.items():
        tensors[name], span = _stored(file, name, entry)
        spans.append(span)
    expected = 0
    for begin, end in sorted(spans):
        if begin != expected:
            raise Refused(f"{file} is damaged: its tensors overlap or leave gaps.", _AGAIN)
        expected = end
    held = file.stat().st_size - 8 - len(header)
    if held != expected:
        verb = "is cut short" if held < expected else "has bytes nobody claims"
        raise Refused(f"{file} {verb}: its tensors need {expected:,} bytes, it holds {held:,}.", _AGAIN)
    return tensors


def _stored(file: Path, name: str, entry: Any) -> tuple[Stored, tuple[int, int]]:
    entry = entry if isinstance(entry, dict) else {}
    dtype, shape, span = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    sound = _naturals(shape) and _naturals(span) and len(span) == 2 and isinstance(dtype, str) and dtype in BYTES
    if not (sound and re.fullmatch(r"[!-~]{1,200}", name)):
        raise Refused(f"{file} describes the tensor {shown(name)} in a way that makes no sense.", _AGAIN)
    stored = Stored(file, dtype, tuple(shape))
    if span[1] - span[0] != stored.elements * BYTES[dtype]:
        raise Refused(f"{file} gives the tensor {shown(name)} a length that does not fit its shape.", _AGAIN)
    return stored, (span[0], span[1])


def _naturals(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)
