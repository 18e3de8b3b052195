"""A folder of a quantised model: model.safetensors with what `model.quantized` makes of each matrix, under our own
names, and config.json with a "quantization_config" that other programs do not know, so that they refuse it.

    stack.blocks.0.attn.q.packed   U8, (P, G, 544 or 288)      everything else, such as .bias: F32

It is written beside, and given its name when it is whole. checkpoint.open reads it again.
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from ..errors import Failed, Misuse
from ..files import sync, write_atomically
from .config import PACKED, inside

#: Where an encoder and its decoder share an embedding it is there under the first name, and stands for both.
SHARED = ("source.tokens.packed", "target.tokens.packed")


def check(folder: Path) -> None:
    """Raises Misuse where no quantised model can be written: over something, or in a folder that is not there."""
    if folder.is_symlink() or (folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))):
        raise Misuse(f"{folder} is there already, and not empty.", "Name a folder that is not.")
    if not folder.absolute().parent.is_dir():
        raise Misuse(f"There is no folder {folder.parent} to write {folder.name} in.", "Make it first.")
    if not os.access(folder.absolute().parent, os.W_OK):
        raise Failed(f"{folder.parent} cannot be written to.", "Choose another folder.")


def write(
    machine: nn.Module, bits: int, config: dict[str, object], whole: Path, files: Iterable[str], folder: Path
) -> None:
    """Write a machine that is quantised to ``bits`` as ``folder``, with copies of ``files`` of ``whole``, the folder it
    came from: its tokenizer, its license. Raises as ``check`` does, and Failed when it cannot be written."""
    check(folder)
    final = folder.absolute()
    beside = final.with_name(f".{final.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        beside.mkdir()
        for name in files:
            if name != "config.json" and not name.endswith(".index.json"):
                file, copy = whole / name, beside / name
                copy.parent.mkdir(exist_ok=True)
                with write_atomically(copy) as path:
                    shutil.copyfile(inside(file.parent, file.name), path)
        with write_atomically(beside / "model.safetensors") as path:
            each = itertools.chain(machine.named_parameters(), machine.named_buffers())  # what two places share once
            save_file({name: tensor.detach().contiguous() for name, tensor in each}, path)
        kept = {key: value for key, value in config.items() if key not in ("dtype", "torch_dtype")}
        with write_atomically(beside / "config.json") as path:
            said = {**kept, "dtype": "float32", "quantization_config": PACKED[bits]}
            path.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
        if final.is_dir():
            final.rmdir()  # an empty one; on Windows a folder cannot take its place
        beside.rename(final)
        sync(final.parent)
    except (SafetensorError, OSError) as error:
        raise Failed(f"{folder} could not be written: {error}.", "Make room, or choose another folder.") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
