"""A model measured here and now, in turns with whatever else can open its folder."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cutaway import hub
from cutaway.errors import Failed, Misuse
from cutaway.families import describe
from cutaway.families.config import read_config
from cutaway.model.spec import Mel, Seq2Seq, Transformer
from cutaway.tasks import IS

from .processes import OURS, Process, python_of

TURNS, MOST, SPENT = 5, 25, 15.0  # so many turns at least; more, up to so many, until so many seconds are spent
PROMPT, NEW, LONG = 32, 128, 512  # tokens, where the context has room for them
PATIENCE, FEWEST = 4.0, 32  # seconds that an engine may write in a turn, unless these are fewer tokens
#: Engines -> their modules. Only the first opens a folder of safetensors as it is.
PEERS = {"transformers": "transformers", "llama.cpp": "llama_cpp", "CTranslate2": "ctranslate2", "OpenVINO": "openvino"}
PEER = "transformers"

Progress = Callable[[str], None]


@dataclass
class Measured:
    """One engine's turns. ``written``, ``read``: tokens a second, of a text that is written and of a prompt; ``first``:
    seconds from a prompt to the first token; ``same``: how many tokens were ours before the first that was not."""

    engine: str
    version: str
    dtype: str
    imports: float
    load: float
    written: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    read: list[float] = field(default_factory=list)
    same: list[int] = field(default_factory=list)
    memory: int = 0


@dataclass(frozen=True)
class Bench:
    """``prompt``, ``new``, ``long``: tokens read before a text, written, and of the prompt that is read for its own
    sake; behind an encoder the tokens, or moments of a sound, that it reads. ``about``: the model
    (worker.Cutaway.about), and the most that the machine was seen to do between the turns: bytes it reads a second, and
    operations in a product of matrices, None where the model's have fewer bits. ``engines``: ours first. ``notes``:
    sentences. ``task``: what the model does."""

    model: str
    prompt: int
    new: int
    long: int
    about: Mapping[str, Any]
    engines: list[Measured]
    notes: list[str]
    task: str = "continue"

    @property
    def bandwidth(self) -> float:
        """The share of the memory's speed at which every weight is read once for each token written, and every key and
        value of what an encoder made."""
        read: float = self.about["bytes_of_a_token"] / self.about["bytes_a_second"]
        return read * statistics.median(self.engines[0].written)

    @property
    def arithmetic(self) -> float | None:
        """The share of a large matrix product's speed at which a prompt's matrices are multiplied; None where there is
        nothing to hold it against."""
        peak, asked = self.about["operations_a_second"], self.about["operations_of_a_prompt"]
        return None if peak is None else asked / self.long * statistics.median(self.engines[0].read) / peak

    def ratios(self, peer: Measured) -> dict[str, float]:
        """How many times as fast ours is, as the median over the turns."""
        pairs = {what: zip(getattr(self.engines[0], what), getattr(peer, what), strict=True) for what in RATES}
        return {what: statistics.median(a / b for a, b in both) for what, both in pairs.items()}

    def to_json(self) -> dict[str, Any]:
        ratios = {peer.engine: self.ratios(peer) for peer in self.engines[1:]}
        return asdict(self) | {"bandwidth": self.bandwidth, "arithmetic": self.arithmetic, "ratios": ratios}


RATES = ("written", "read")


def bench(
    model: str,
    quantize: str | None = None,
    dtype: str | None = None,
    device: str | None = None,
    environment: Path | None = None,
    progress: Progress = lambda doing: None,
) -> Bench:
    """Measure ``model``, beside the engines of this environment or of another. Raises Misuse for a model that writes
    no text, and for an ``environment`` that is none; Failed where Cutaway itself stops."""
    folder = hub.find(model)
    config = read_config(folder)
    _, described, _ = describe(config)
    if not isinstance(described, Seq2Seq) and described.task != "continue":
        raise Misuse(
            f"{model} {IS[described.task]}, and only models that write a text are measured.",
            "Name one of those: cutaway models lists them.",
        )
    there = engines_of(environment)
    begin = config.get("decoder_start_token_id") or 0
    asked = Turn(described, begin if isinstance(begin, int) else 0)
    prompt, new, long = asked.sizes
    if prompt < 1 or new < 2:
        raise Misuse(f"{model} reads {described.context} tokens at most.", "Name a model with room for a text.")
    notes = _busy()
    with contextlib.ExitStack() as stack:

        def start(engine: str, **options: Any) -> tuple[Process, Measured]:
            progress(f"{engine} loads {model}")
            process = Process(engine, folder, device=device, **options)
            stack.callback(process.close)
            return process, Measured(engine, **process.ready)

        ours, measured = start(OURS, dtype=dtype, quantize=quantize)
        running = [(ours, measured)]
        if PEER in there:
            python = sys.executable if environment is None else python_of(environment)
            with _or_said(notes):
                running.append(start(PEER, dtype="float32" if quantize else measured.dtype, python=python))
        machine = Process("machine", folder, dtype=None if quantize else measured.dtype, device=device)
        stack.callback(machine.close)
        seen: list[dict[str, float]] = []

        def between(turn: int) -> None:
            if turn <= TURNS:
                progress("the machine itself")
                seen.append(machine.ask({"limits": True}))

        new = _turns(running, asked, between, notes, progress)
        for process, result in running:
            result.memory = process.ask({"memory": True})["bytes"]
        about = ours.ask({"about": long, "source": prompt if isinstance(described, Seq2Seq) else 0})
    about["bytes_a_second"] = max(one["bytes_a_second"] for one in seen)
    about["operations_a_second"] = None if quantize else max(one["operations_a_second"] for one in seen)
    notes += _needed(there, described.task)
    return Bench(model, prompt, new, long, about, [result for _, result in running], notes, described.task)


class Turn:
    """What is asked in a turn, of random tokens or sounds: to write a text, and to read. ``sizes``: how many tokens, or
    moments of a sound, are read before, written, and read for their own sake. ``begin``: with which token a decoder
    behind an encoder begins."""

    def __init__(self, described: Transformer | Seq2Seq, begin: int) -> None:
        self._described, self._begin, self._rng = described, begin, random.Random(0)
        context, source = described.context, described.stem
        prompt, long = min(PROMPT, context // 4), min(LONG, context - 1)
        if isinstance(source, Mel):  # a window, whatever is in it
            prompt = long = source.length
        behind = isinstance(described, Seq2Seq)
        self.sizes = prompt, min(NEW, context - (1 if behind else prompt)), long

    def questions(self) -> list[dict[str, Any]]:
        """What is to be continued, then what is to be read."""
        return [self._question(count) for count in (self.sizes[0], self.sizes[2])]

    def _question(self, count: int) -> dict[str, Any]:
        source = self._described.stem
        if isinstance(source, Mel):
            return {"prompt": [self._begin], "sound": [self._rng.randrange(2**31), source.bins, 2 * source.length]}
        ids = [self._rng.randrange(self._described.vocabulary) for _ in range(count)]
        return {"prompt": [self._begin], "source": ids} if isinstance(self._described, Seq2Seq) else {"prompt": ids}


def _turns(
    running: list[tuple[Process, Measured]],
    asked: Turn,
    between: Callable[[int], None],
    notes: list[str],
    progress: Progress,
) -> int:
    """Fill in what the engines' turns take, and return how many tokens are written in each; an engine that stops, other
    than ours, is left out of ``running``, and said."""
    _, new, long = asked.sizes
    begun = time.monotonic()
    for turn in range(MOST + 1):
        if turn > TURNS and time.monotonic() - begun > SPENT:
            break
        text, much = asked.questions()
        rates, tokens = [], {}
        for process, result in running[:: 1 if turn % 2 else -1]:
            progress(f"turn {turn}: {result.engine}" if turn else f"{result.engine} warms up")
            with contextlib.nullcontext() if result.engine == OURS else _or_said(notes):
                count = new if turn else min(new, FEWEST)
                written, read = process.ask(text | {"count": count}), process.ask(much | {"count": 1})
                rate = (count - 1) / (written["times"][-1] - written["times"][0])
                tokens[result.engine] = written["tokens"]
                rates.append(rate)
                if turn:
                    result.written.append(rate)
                    result.first.append(written["times"][0])
                    result.read.append(long / read["times"][0])
        between(turn)
        running[:] = [(process, result) for process, result in running if result.engine in tokens]
        if not turn:
            new = min(new, max(FEWEST, int(PATIENCE * min(rates))))
            continue
        for _, result in running:
            result.same.append(_agreeing(tokens[OURS], tokens[result.engine]))
    return new


def engines_of(environment: Path | None) -> list[str]:
    """Which engines can be imported here, or in another environment. Raises Misuse where that is none."""
    if environment is None:
        return [engine for engine, module in PEERS.items() if importlib.util.find_spec(module) is not None]
    python = python_of(environment)
    if not python.is_file():
        raise Misuse(
            f"{environment} is no Python environment: there is no {python}.",
            f"Make one: python -m venv {environment}, and install transformers in it.",
        )
    look = f"import importlib.util as u, json; print(json.dumps([e for e, m in {PEERS!r}.items() if u.find_spec(m)]))"
    done = subprocess.run([python, "-P", "-c", look], capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"{python} does not run: {done.stderr.strip()[-200:]}", "Make the environment anew.")
    found: list[str] = json.loads(done.stdout)
    return found


def _busy() -> list[str]:
    load, processors = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0, os.cpu_count() or 1
    busy = f"The machine has been busy, with a load of {load:.1f} on {processors} processors: read these as rough."
    return [busy] if load > processors / 2 else []


def _needed(there: list[str], task: str) -> list[str]:
    """What would have to be there to compare with more, and what is not measured."""
    missing = [] if PEER in there else [f"There is no {PEER} to compare with: pip install {PEER}, or --peers FOLDER."]
    if task != "continue":
        return [*missing, "Beams are not measured, nor what is done with a text or a sound before and after."]
    return [
        *missing,
        "llama.cpp, CTranslate2 and OpenVINO open only files of their own formats; benchmarks/generate.py in Cutaway's "
        "repository writes those and compares with them.",
    ]


@contextlib.contextmanager
def _or_said(notes: list[str]) -> Iterator[None]:
    """An engine that stops is a note, not the end."""
    try:
        yield
    except Failed as stopped:
        notes.append(stopped.message)


def _agreeing(first: list[int], second: list[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a != b), len(first))
