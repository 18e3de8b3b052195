"""An engine's process: started, asked, and stopped while others work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cutaway.errors import CutawayError, Failed, Misuse, NotFound, Refused

OURS = "cutaway"
WORKER = Path(__file__).with_name("worker.py")


def python_of(environment: Path) -> Path:
    """The Python of a virtual environment."""
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def surroundings(threads: int = 0) -> dict[str, str]:
    """The environment of an engine's process. CTranslate2 leaves AVX-512 aside on AMD's processors unless told."""
    variables = {**os.environ, "HF_HUB_OFFLINE": "1"}
    if threads:
        variables["OMP_NUM_THREADS"] = str(threads)
    processor = Path("/proc/cpuinfo")
    if processor.is_file() and "avx512vl" in processor.read_text("utf-8"):
        variables["CT2_FORCE_CPU_ISA"] = "AVX512"
    return variables


class Process:
    """An engine with a model. It is stopped whenever it is not asked: idle threads of some engines spin for a while.

    ``ready``: what it said when the model was loaded. ``threads`` 0: as many as it takes. Raises what
    Cutaway raises when it loads, and Failed, here and whenever it is asked, where it has ended.
    """

    def __init__(
        self, engine: str, model: Path, dtype: str | None = None, quantize: str | None = None,
        device: str | None = None, threads: int = 0, python: str | Path = sys.executable,
    ) -> None:  # fmt: skip
        self.engine = engine
        asked = json.dumps({"dtype": dtype, "quantize": quantize, "device": device})
        command = [str(python), "-P", str(WORKER), engine, str(model), str(threads), asked]
        self.errors = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True, encoding="utf-8",
            env=surroundings(threads),
        )  # fmt: skip
        try:
            self.ready: Mapping[str, Any] = self._answer()
        except BaseException:
            self.close()
            raise

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._signal("SIGCONT")
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise self._ended() from None
        return self._answer()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self.errors.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        self._signal("SIGSTOP")
        answer: dict[str, Any] = json.loads(line)
        if refused := answer.get("refused"):
            kinds: dict[int, type[CutawayError]] = {kind.exit_code: kind for kind in (Misuse, NotFound, Refused)}
            raise kinds.get(refused["exit_code"], Failed)(refused["message"], refused["fix"])
        return answer

    def _ended(self) -> Failed:
        self.errors.seek(0)
        return Failed(f"{self.engine} stopped: {last_words(self.errors.read(), self._process.wait())}.")

    def _signal(self, name: str) -> None:
        if hasattr(signal, name):  # Windows has neither
            self._process.send_signal(getattr(signal, name))


def last_words(errors: str, code: int) -> str:
    """How a process ended, as it said itself if it could: the first sentence of its last line."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    if code >= 0 and lines:
        return lines[-1].partition(". ")[0].rstrip(".")
    if code >= 0:
        return f"it ended with {code}"
    if -code == getattr(signal, "SIGKILL", None):
        return "it was killed; perhaps memory has run out"
    return f"it crashed ({signal.Signals(-code).name})"
