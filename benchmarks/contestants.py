"""The engines that are compared, each in a process of its own (cutaway.bench)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from peers import installed

from cutaway.bench import measure
from cutaway.bench.measure import PEERS
from cutaway.bench.processes import OURS, Process, python_of
from cutaway.errors import Failed

DTYPES = {"fp32": "float32", "int8": "int8", "int4": "int4"}


@dataclass(frozen=True)
class Contestant:
    """``format``: one of its engine's own; empty where the saved folder itself is read."""

    engine: str
    precision: str
    format: str = ""

    @property
    def name(self) -> str:
        return f"{self.engine} {self.format or self.precision}"


def _all() -> list[Contestant]:
    found = []
    for precision, dtype in DTYPES.items():
        found.append(Contestant(OURS, precision))
        for engine, peer in PEERS.items():
            if peer.formats:
                found.append(Contestant(engine, precision, peer.formats[dtype]))
            elif precision == "fp32":
                found.append(Contestant(engine, precision))
    return [one for one in found if (one.engine, one.precision) != ("CTranslate2", "int4")]  # which has but 8


CONTESTANTS = _all()


def present(wanted: list[Contestant], environment: Path) -> list[Contestant]:
    """Those that can take part; a sentence about each that cannot."""
    there, taking = installed(environment), []
    if not there:
        print(f"There are no peers in {environment}: python benchmarks/peers.py brings them.")
    for contestant in wanted:
        if contestant.engine != OURS and not set(PEERS[contestant.engine].packages.split()) <= there.keys():
            if there:
                print(f"{contestant.name} does not take part: it is not installed in {environment}.")
        else:
            taking.append(contestant)
    return taking


def written(contestant: Contestant, folder: Path, models: Path, environment: Path) -> Path:
    """What a contestant reads: ``folder``, or that in its own format, written if it is not among ``models`` yet."""
    if not contestant.format:
        return folder
    target = models / f"{contestant.engine}-{contestant.format}"
    if not target.exists():
        models.mkdir(parents=True, exist_ok=True)
        print(f"writing {models.name}/{target.name}", file=sys.stderr, flush=True)
        measure.written(contestant.engine, contestant.format, folder, models, python_of(environment))
    return target


class Worker:
    """A contestant's process."""

    def __init__(self, contestant: Contestant, model: Path, environment: Path, threads: int) -> None:
        self.contestant = contestant
        python = sys.executable if contestant.engine == OURS else python_of(environment)
        if contestant.engine == OURS and contestant.precision != "fp32":
            kept = {"quantize": contestant.precision}
        else:
            kept = {"dtype": contestant.format or DTYPES[contestant.precision]}
        self._process = Process(contestant.engine, model, threads=threads, python=python, **kept)
        self.ready = self._process.ready
        self.ask, self.close = self._process.ask, self._process.close


@contextmanager
def workers(
    taking: list[Contestant], folder: Path, models: Path, environment: Path, threads: int
) -> Iterator[list[Worker]]:
    """One for each contestant, its model written first: ``folder`` is the saved one, ``models`` where formats go."""
    started: list[Worker] = []
    try:
        brought = [written(contestant, folder, models, environment) for contestant in taking]
        for contestant, model in zip(taking, brought, strict=True):
            started.append(Worker(contestant, model, environment, threads))
        yield started
    except Failed as stopped:
        raise SystemExit(str(stopped)) from None
    finally:
        for worker in started:
            worker.close()
