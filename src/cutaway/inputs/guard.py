"""Calling code that reads untrusted files: `tokenizers` panics, and a panic is not an Exception.

A crafted tokenizer.json makes the Rust library panic while it loads or, worse, while it encodes. pyo3 raises that as
PanicException, which derives from BaseException, and the panic prints its trace to file descriptor 2 by itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from cutaway.errors import CutawayError, Refused

T = TypeVar("T")


def guarded(problem: str, function: Callable[[], T], seconds: float | None = None) -> T:
    """``function()``; its failure, or its running longer than ``seconds``, is Refused with ``problem`` as the sentence.

    Native code cannot be interrupted: after a timeout its thread runs on, but nobody waits for it.
    """
    if seconds is None:
        return _caught(problem, function)
    outcome: list[T] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            outcome.append(_caught(problem, function))
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if failure:
        raise failure[0]
    if not outcome:
        raise Refused(f"{problem}: it was still at work after {seconds:g} seconds.", FIX)
    return outcome[0]


FIX = "Take the file from the model's publisher again."


def _caught(problem: str, function: Callable[[], T]) -> T:
    try:
        return function()
    except CutawayError:
        raise
    except BaseException as error:
        if isinstance(error, Exception) or is_panic(error):
            raise Refused(f"{problem}: {first_line(error)}.", FIX) from error
        raise  # KeyboardInterrupt, SystemExit


def is_panic(error: BaseException) -> bool:
    return type(error).__name__ == "PanicException"


def first_line(error: BaseException) -> str:
    """What the library said, short enough for one sentence."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")[:200]


@contextlib.contextmanager
def silent_stderr() -> Iterator[None]:
    """Send file descriptor 2 nowhere for a moment, so that a caught panic does not print its trace.

    The whole process shares the descriptor: use it only around short work at load time.
    """
    with _stderr_lock:
        try:
            kept = os.dup(2)
        except OSError:  # no standard error at all
            yield
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)


_stderr_lock = threading.Lock()


def read_bytes(path: Path, limit: int) -> bytes:
    """The file, or Refused when it is longer than ``limit`` bytes."""
    if (size := path.stat().st_size) > limit:
        raise Refused(f"{path} is {size:,} bytes long; at most {limit:,} are read.", FIX)
    return path.read_bytes()


def read_text(path: Path, limit: int) -> str:
    return guarded(f"{path} is not UTF-8 text", lambda: read_bytes(path, limit).decode("utf-8"))


def read_json(path: Path, limit: int = 16 * 2**20) -> dict[str, Any]:
    """A JSON object from a file; an empty dict when there is no such file."""
    if not path.is_file():
        return {}
    text = read_text(path, limit)
    data = guarded(f"{path} is not JSON", lambda: json.loads(text))
    if not isinstance(data, dict):
        raise Refused(f"{path} holds a {type(data).__name__} where an object is expected.", FIX)
    return data
