"""A model measured here and now, in turns with the other engines that are installed.

transformers opens the model's folder as it is. For each of the others formats.py first writes it down anew, in the
format that engine has for as many bits, into a folder that is gone in the end.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cutaway import hub
from cutaway.errors import Failed, Misuse
from cutaway.families import describe
from cutaway.families.config import QUANTIZE, bits_of, read_config
from cutaway.model.spec import Mel, Seq2Seq, Transformer
from cutaway.tasks import IS

from .processes import OURS, Process, last_words, python_of, surroundings

TURNS, MOST, SPENT = 5, 25, 15.0  # so many turns at least; more, up to so many, until so many seconds are spent
PROMPT, NEW, LONG = 32, 128, 512  # tokens, where the context has room for them
PATIENCE, FEWEST = 4.0, 32  # seconds that an engine may write in a turn, unless these are fewer tokens
FORMATS = Path(__file__).with_name("formats.py")
WRITING = 12  # bytes for each parameter, of memory and of disk, that are safe to write another format with


@dataclass(frozen=True)
class Peer:
    """Another engine: its module, what brings it, and which of its formats (formats.py) it takes for what ours is kept
    in, as for float32 where that is not said; of none it opens the folder as it is."""

    module: str
    packages: str
    formats: Mapping[str, str] = field(default_factory=dict)


PEERS = {
    "transformers": Peer("transformers", "transformers"),
    "llama.cpp": Peer(
        "llama_cpp",
        "llama-cpp-python gguf",
        {"float32": "f32", "float16": "f16", "bfloat16": "bf16", "int8": "q8_0", "int4": "q4_0"},
    ),
    "CTranslate2": Peer("ctranslate2", "ctranslate2", {"float32": "float32", "int8": "int8", "int4": "int8"}),
    "OpenVINO": Peer("openvino", "openvino nncf", {"float32": "fp32", "int8": "int8", "int4": "int4"}),
}

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
    python = sys.executable if environment is None else python_of(environment)
    there = engines_of(environment)
    begin = config.get("decoder_start_token_id") or 0
    asked = Turn(described, begin if isinstance(begin, int) else 0)
    prompt, new, long = asked.sizes
    if prompt < 1 or new < 2:
        raise Misuse(f"{model} reads {described.context} tokens at most.", "Name a model with room for a text.")
    notes = _busy()
    with contextlib.ExitStack() as stack:

        def start(engine: str, its: Path = folder, **options: Any) -> tuple[Process, Measured]:
            progress(f"{engine} loads {model}")
            process = Process(engine, its, device=device, **options)
            stack.callback(process.close)
            return process, Measured(engine, **process.ready)

        ours, measured = start(OURS, dtype=dtype, quantize=quantize)
        about = ours.ask({"about": long, "source": prompt if isinstance(described, Seq2Seq) else 0})
        running = [(ours, measured)]
        beside = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cutaway-bench-")))
        for engine in _comparable(there, config, described.task, about["device"], notes):
            formats = PEERS[engine].formats
            with _or_said(notes):
                if formats:
                    _room(engine, about["parameters"], beside)
                    progress(f"{engine}: the model is written in its format")
                    kind = formats.get(measured.dtype, formats["float32"])
                    target = written(engine, kind, folder, beside, python)
                    running.append(start(engine, target, dtype=kind, threads=about["threads"], python=python))
                else:
                    same = "float32" if measured.dtype in QUANTIZE else measured.dtype
                    running.append(start(engine, dtype=same, python=python))
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
    about["bytes_a_second"] = max(one["bytes_a_second"] for one in seen)
    about["operations_a_second"] = None if quantize else max(one["operations_a_second"] for one in seen)
    notes += _left_out(there, described.task)
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
    modules = {engine: peer.module for engine, peer in PEERS.items()}
    if environment is None:
        return [engine for engine, module in modules.items() if importlib.util.find_spec(module) is not None]
    python = python_of(environment)
    if not python.is_file():
        raise Misuse(
            f"{environment} is no Python environment: there is no {python}.",
            f"Make one: python -m venv {environment}, and install transformers in it.",
        )
    look = f"import importlib.util as u, json; print(json.dumps([e for e, m in {modules}.items() if u.find_spec(m)]))"
    done = subprocess.run([python, "-P", "-c", look], capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"{python} does not run: {done.stderr.strip()[-200:]}", "Make the environment anew.")
    found: list[str] = json.loads(done.stdout)
    return found


def _comparable(there: list[str], config: dict[str, Any], task: str, device: str, notes: list[str]) -> list[str]:
    """Which of those can be given this model, where it is."""
    if bits_of(config) is not None:
        if there:
            notes.append("No other engine reads a folder of cutaway quantize: nothing is compared.")
        return []
    apart = [engine for engine in there if PEERS[engine].formats]
    if apart and (task != "continue" or device != "cpu"):
        what = "on processors" if device != "cpu" else "with models that go on with a text"
        notes.append(f"{_list(apart)} {_is(apart)} compared only {what}.")
        return [engine for engine in there if engine not in apart]
    return there


def _room(engine: str, parameters: int, beside: Path) -> None:
    """Raises Failed where there may be too little to write the model in another format."""
    for free, where in ((_memory(), "memory"), (shutil.disk_usage(beside).free, str(beside.parent))):
        if free is not None and free < WRITING * parameters:
            need = f"{WRITING * parameters / 1e9:,.1f} GB, and {free / 1e9:,.1f} are free in {where}"
            raise Failed(f"{engine} is left out: to write {parameters:,} parameters in its format may take {need}.")


def _memory() -> int | None:
    """Bytes that a new process may have, where the system tells."""
    told = Path("/proc/meminfo")
    lines = told.read_text("utf-8").splitlines() if told.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def written(engine: str, kind: str, folder: Path, beside: Path, python: str | Path) -> Path:
    """The model in one of an engine's own formats, among others ``beside`` it. Raises Failed where that can't be."""
    target = beside / f"{engine}-{kind}"
    command = [str(python), "-P", str(FORMATS), engine, kind, str(folder.absolute()), str(target)]
    done = subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", errors="replace", env=surroundings()
    )
    if done.returncode:
        raise Failed(f"{engine} is left out: {last_words(done.stderr, done.returncode)}.")
    return target


def _busy() -> list[str]:
    load, processors = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0, os.cpu_count() or 1
    busy = f"The machine has been busy, with a load of {load:.1f} on {processors} processors: read these as rough."
    return [busy] if load > processors / 2 else []


def _left_out(there: list[str], task: str) -> list[str]:
    """What is not compared because it is not there, and what is not measured."""
    apart = [engine for engine in PEERS if engine not in there and (task == "continue" or not PEERS[engine].formats)]
    packages = " ".join(PEERS[engine].packages for engine in apart)
    notes = [f"{_list(apart)} {_is(apart)} not there to compare with: pip install {packages}, or --peers FOLDER."]
    beams = ["Beams are not measured, nor what is done with a text or a sound before and after."]
    return (notes if apart else []) + (beams if task != "continue" else [])


def _list(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _is(names: list[str]) -> str:
    return "are" if len(names) > 1 else "is"


@contextlib.contextmanager
def _or_said(notes: list[str]) -> Iterator[None]:
    """An engine that stops is a note, not the end."""
    try:
        yield
    except Failed as stopped:
        notes.append(stopped.message)


def _agreeing(first: list[int], second: list[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a != b), len(first))
