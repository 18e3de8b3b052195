"""Writing files so that a crash, a full disk or kill -9 never leaves half of one behind."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def write_atomically(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; on success fsync it and rename it over ``path``.

    On any exception the partial file is removed and ``path`` is as it was. The mode is what the
    umask allows (safetensors writes 0600 whatever the umask: huggingface/safetensors issue 782).
    """
    final = Path(path)
    beside = final.with_name(f".{final.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        yield beside
        os.chmod(beside, 0o666 & ~_umask())
        sync(beside)
        os.replace(beside, final)
        sync(final.parent)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """fsync a file or a folder; folders cannot be synced on Windows, where rename is already durable."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
