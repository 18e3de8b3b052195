"""The engines that are compared, each in a process of its own (cutaway.bench.processes)."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from peers import installed

import cutaway
from cutaway.bench.processes import OURS, Process, python_of
from cutaway.errors import Failed

HERE = Path(__file__).resolve().parent
PACKAGES = {"llama.cpp": "llama-cpp-python", "CTranslate2": "ctranslate2", "OpenVINO": "openvino"}


@dataclass(frozen=True)
class Contestant:
    """``format``: one of benchmarks/formats.py; empty where the saved folder itself is read."""

    engine: str
    precision: str
    format: str = ""

    @property
    def name(self) -> str:
        return f"{self.engine} {self.format.partition('-')[2] or self.precision}"


CONTESTANTS = [
    Contestant(OURS, "fp32"),
    Contestant("transformers", "fp32"),
    Contestant("llama.cpp", "fp32", "gguf-f32"),
    Contestant("CTranslate2", "fp32", "ctranslate2-float32"),
    Contestant("OpenVINO", "fp32", "openvino-fp32"),
    Contestant(OURS, "int8"),
    Contestant("llama.cpp", "int8", "gguf-q8_0"),
    Contestant("CTranslate2", "int8", "ctranslate2-int8"),
    Contestant("OpenVINO", "int8", "openvino-int8"),
    Contestant(OURS, "int4"),
    Contestant("llama.cpp", "int4", "gguf-q4_0"),
    Contestant("OpenVINO", "int4", "openvino-int4"),
]


def present(wanted: list[Contestant], environment: Path) -> list[Contestant]:
    """Those that can take part; a sentence about each that cannot."""
    there, taking = installed(environment), []
    if not there:
        print(f"There are no peers in {environment}: python benchmarks/peers.py brings them.")
    for contestant in wanted:
        if contestant.engine != OURS and PACKAGES.get(contestant.engine, contestant.engine) not in there:
            if there:
                print(f"{contestant.name} does not take part: it is not installed in {environment}.")
        elif contestant.engine == OURS and contestant.precision != "fp32" and not quantizes():
            print(f"{contestant.name} does not take part: cutaway.load knows no quantize= yet.")
        else:
            taking.append(contestant)
    return taking


def quantizes() -> bool:
    return "quantize" in inspect.signature(cutaway.load).parameters


def write(environment: Path, what: str, source: Path | str, target: Path) -> None:
    """A model in one of the peers' formats, if it is not there yet."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    print(f"writing {target.parent.name}/{target.name}", file=sys.stderr, flush=True)
    python = python_of(environment) if python_of(environment).exists() else sys.executable
    command = [str(python), str(HERE / "formats.py"), what, str(source), str(target)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise SystemExit(f"{done.stdout}\n{what} could not be written; the lines above say why.")


class Worker:
    """A contestant's process."""

    def __init__(self, contestant: Contestant, model: Path, environment: Path, threads: int) -> None:
        self.contestant = contestant
        python = sys.executable if contestant.engine == OURS else python_of(environment)
        kept = {"dtype": "float32"} if contestant.precision == "fp32" else {"quantize": contestant.precision}
        self._process = Process(
            contestant.engine, model, threads=threads, python=python, script=HERE / "engines.py", **kept
        )
        self.ready = self._process.ready
        self.ask, self.close = self._process.ask, self._process.close


@contextmanager
def workers(
    taking: list[Contestant], folder: Path, models: Path, environment: Path, threads: int
) -> Iterator[list[Worker]]:
    """One for each contestant, its model written first: ``folder`` is the saved one, ``models`` where formats go."""
    for contestant in taking:
        if contestant.format:
            write(environment, contestant.format, folder, models / contestant.format)
    started: list[Worker] = []
    try:
        for contestant in taking:
            model = models / contestant.format if contestant.format else folder
            started.append(Worker(contestant, model, environment, threads))
        yield started
    except Failed as stopped:
        raise SystemExit(str(stopped)) from None
    finally:
        for worker in started:
            worker.close()
