"""The bundled model beside transformers, from its files to its text: how soon it is there, and how fast it writes.

    python benchmarks/bundled.py [--model stories] [--rounds 5] [--threads 2] [--folder .peers] [--json FILE]

In each round every engine loads the model in a new process, writes its first token after a prompt of 32, and then, in
turn with the others, 128 tokens after a prompt of 32, five times. transformers comes from the environment that
benchmarks/peers.py made, else from this one. PyTorch and the engine's own modules are imported before the clock starts.
Prints medians with their ranges, and the medians of the ratios, round by round or text by text:

    load        seconds from the folder to a model that can be asked
    first       milliseconds from the first prompt after that to its first token, with all that is made on first use
    written     tokens/s, from the first to the last of a text
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from peers import FOLDER, installed

from cutaway import hub
from cutaway.bench.processes import OURS, Process, python_of

PROMPT, NEW, TEXTS = 32, 128, 5
GOALS = {"written": 5.0, "load": 0.5, "first": 0.020}


@dataclass
class Measured:
    load: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    written: list[float] = field(default_factory=list)


def one_round(contestants: dict[str, dict[str, Any]], rng: random.Random, found: dict[str, Measured]) -> None:
    with contextlib.ExitStack() as stack:
        running = {}
        for name, options in contestants.items():
            running[name] = process = Process(**options)
            stack.callback(process.close)
            found[name].load.append(process.ready["load"])
        for text in range(TEXTS + 1):
            prompt = [rng.randrange(3, 1000) for _ in range(PROMPT)]
            for name, process in running.items():
                times = process.ask({"prompt": prompt, "count": NEW if text else 1})["times"]
                if text:
                    found[name].written.append((NEW - 1) / (times[-1] - times[0]))
                else:
                    found[name].first.append(times[0])


def report(found: dict[str, Measured]) -> None:
    print(f"{'':20}{'load':>9}{'range':>17}{'first':>11}{'range':>17}{'written':>12}{'range':>17}")
    for name, it in found.items():
        cells = [
            cell(it.load, "s", 1, 3),
            cell(it.first, "ms", 1000, 1),
            cell(it.written, "/s", 1, 0),
        ]  # fmt: skip
        print(f"{name:20}" + "".join(cells))
    theirs, ours = found["transformers float32"], found[f"{OURS} float32"]
    for name, it in found.items():
        if it is not theirs:
            print(
                f"{name}: {ratio(it.written, theirs.written):.1f} times as many tokens/s as transformers, "
                f"loaded in {ratio(it.load, theirs.load):.3f} of its time, first token in "
                f"{ratio(it.first, theirs.first):.3f} of its time"
            )
    reached = {
        f"{ratio(ours.written, theirs.written):.1f} times as fast, of {GOALS['written']:.0f}":
            ratio(ours.written, theirs.written) >= GOALS["written"],
        f"loaded in {statistics.median(ours.load):.3f} s, of {GOALS['load']}":
            statistics.median(ours.load) < GOALS["load"],
        f"first token in {1000 * statistics.median(ours.first):.1f} ms, of {1000 * GOALS['first']:.0f}":
            statistics.median(ours.first) < GOALS["first"],
    }  # fmt: skip
    for goal, there in reached.items():
        print(f"  {'reached' if there else 'MISSED '}  {goal}")


def cell(turns: list[float], unit: str, times: float, digits: int) -> str:
    middle, least, most = (times * number for number in (statistics.median(turns), min(turns), max(turns)))
    return f"{middle:9.{digits}f} {unit:2}" + f"[{least:.{digits}f}, {most:.{digits}f}]".rjust(16)


def ratio(a: list[float], b: list[float]) -> float:
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="stories")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where benchmarks/peers.py put the others")
    parser.add_argument("--json", type=Path, help="write every round into this file too")
    asked = parser.parse_args()
    python = python_of(asked.folder) if "transformers" in installed(asked.folder) else sys.executable
    contestants: dict[str, dict[str, Any]] = {
        f"{OURS} float32": {"engine": OURS, "dtype": "float32"},
        f"{OURS} int8": {"engine": OURS, "quantize": "int8"},
        "transformers float32": {"engine": "transformers", "dtype": "float32", "python": python},
    }
    found, folder = {name: Measured() for name in contestants}, hub.find(asked.model)
    for turn in range(asked.rounds):
        in_turn = list(contestants.items())[:: -1 if turn % 2 else 1]
        shared = {"model": folder, "threads": asked.threads}
        one_round({name: shared | options for name, options in in_turn}, random.Random(turn), found)
    print(f"{asked.model}: {asked.rounds} rounds, {asked.threads} threads, load {os.getloadavg()[0]:.1f}")
    report(found)
    if asked.json is not None:
        rounds = {name: asdict(result) for name, result in found.items()}
        asked.json.write_text(json.dumps(rounds, indent=1) + "\n")


if __name__ == "__main__":
    main()
