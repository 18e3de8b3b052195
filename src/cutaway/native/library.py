"""kernels.c as a library: compiled by the machine's own compiler on first use, and kept in the user's cache.

One C ABI and no header of PyTorch: what was compiled serves any version of it. The file's name is a hash of the source,
the compiler, its flags and the processor, so that a home folder can be shared between machines.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from .program import STRUCTS, CBatch, COp

SOURCE = Path(__file__).parent / "kernels.c"
# No -ffast-math: NaN must stay NaN, and rounding by a large number must not be "simplified" away. A product and a sum
# are one instruction wherever they can be (gcc tuned for some processors has it so in one tile and not in another), or
# a row would not be the same alone and among others.
FLAGS = ("-O3", "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native", "-ffp-contract=fast",
         "--param=avoid-fma-max-bits=0", "-fno-math-errno", "-fno-trapping-math", "-std=gnu11", "-shared", "-fPIC",
         "-pthread")  # fmt: skip
PATIENCE = 120  # seconds for a compiler on a slow machine

_lock = threading.Lock()


class Unavailable(Exception):
    """There is no library, for the reason it says."""


@functools.cache
def load() -> Library:
    """The library, compiled if it has not been. Raises Unavailable."""
    path = compiled()
    try:
        return Library(ctypes.CDLL(str(path)))
    except OSError as error:
        raise Unavailable(f"{path} cannot be loaded: {error}") from None


def compiled() -> Path:
    """The library's file, compiled if it is not there. Raises Unavailable."""
    if not _supported():
        raise Unavailable(f"no kernels are compiled on {platform.system()}")
    with _lock:
        path = _file()
        if not path.is_file():
            _compile(path)
    return path


def ready() -> Library | None:
    """The library where it is there by now. The first call that finds none has it compiled by a process of its own:
    nobody waits for it, and it is there the next time."""
    if _supported() and not _file().is_file():
        if _compiler() is not None:
            _begin()
        return None
    try:
        return load()
    except Unavailable:
        return None


@functools.cache
def _begin() -> None:
    with contextlib.suppress(OSError):
        subprocess.Popen(
            [sys.executable, "-P", "-m", __name__], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip


def told() -> str:
    """One line for people: is there a library, will there be one, or why not."""
    if _supported() and not _file().is_file() and _compiler() is not None:
        return f"compiled on first use, by {_compiler()}"
    try:
        load()
    except Unavailable as reason:
        return f"none, so PyTorch writes texts, more slowly: {reason}"
    return str(_file())


class Library:
    """What kernels.c offers. A pool of threads walks through a program's operations together; one run at a time."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        sizes = (ctypes.c_int64 * len(STRUCTS))()
        library.cutaway_sizes(sizes)
        if list(sizes) != [ctypes.sizeof(struct) for struct in STRUCTS]:
            raise Unavailable("the library was compiled of another source")
        library.cutaway_pool.restype = ctypes.c_void_p
        library.cutaway_run.argtypes = [ctypes.c_void_p, ctypes.POINTER(COp), ctypes.c_int64, ctypes.POINTER(CBatch)]
        library.cutaway_run.restype = None
        self.halves = bool(library.cutaway_halves())  # prompts are rounded where they meet bfloat16
        self._pools: dict[tuple[int, int], int] = {}
        self._turn = threading.Lock()

    def run(self, ops: ctypes.Array[COp], batch: CBatch, threads: int) -> None:
        with self._turn:
            self._library.cutaway_run(self._pool(threads), ops, len(ops), ctypes.byref(batch))

    def _pool(self, threads: int) -> int:
        """A fork has no threads but its own: each process makes its pools itself."""
        key = os.getpid(), threads
        if key not in self._pools:
            self._pools[key] = self._library.cutaway_pool(threads)
        return self._pools[key]


def _supported() -> bool:
    return platform.system() in ("Linux", "Darwin")


def _compiler() -> str | None:
    return os.environ.get("CC") or next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)


@functools.cache
def _file() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    told = "\0".join([SOURCE.read_text("utf-8"), str(_compiler()), *FLAGS, platform.machine(), _processor()])
    return cache / "cutaway" / f"kernels-{hashlib.sha256(told.encode()).hexdigest()[:20]}.so"


def _processor() -> str:
    """What it can do, where the system tells: -march=native means another thing elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _compile(path: Path) -> None:
    if (compiler := _compiler()) is None:
        raise Unavailable("there is no C compiler (cc, gcc or clang)")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / path.name
            command = [*compiler.split(), *FLAGS, "-o", str(made), str(SOURCE), "-lm"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
            if done.returncode:
                raise Unavailable(f"{compiler} did not compile the kernels: {done.stderr.strip()[-300:]}")
            made.replace(path)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"the kernels could not be compiled: {error}") from None


if __name__ == "__main__":
    with contextlib.suppress(Unavailable):
        load()
