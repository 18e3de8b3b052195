"""cutaway bench: what it counts, what it prints, how it says no, and that it leaves no process behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cutaway.bench import limits, measure, report
from cutaway.bench.measure import Bench, Measured
from cutaway.bench.processes import OURS, Process
from cutaway.errors import Failed, Misuse
from tests.families.making import make
from tests.tasks.speech import write
from tests.tasks.test_rewrite import T5

ABOUT = {
    "family": "llama", "parameters": 1_000_000, "dtype": "float32", "device": "cpu", "device_name": None, "threads": 2,
    "engine": "C", "bytes_of_a_token": 4_000_000, "bytes_a_second": 2e9, "operations_of_a_prompt": 1e9,
    "operations_a_second": 1e11,
}  # fmt: skip


def measured(engine: str, rate: float) -> Measured:
    return Measured(
        engine, "1.0", "float32", 1.0, 0.25, [rate, 2 * rate, rate], [0.01] * 3, [rate] * 3, [8, 8, 7], 2**20
    )


@pytest.fixture(autouse=True)
def one_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "MOST", 1)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine allows, of less memory."""
    monkeypatch.setattr(limits, "READ", 2**20)
    monkeypatch.setattr(limits, "TRIES", 1)


def test_a_model_is_measured_beside_transformers(cutaway: Any, tiny: Path) -> None:
    code, out, _ = cutaway("bench", tiny, "--json")
    assert code == 0
    document = json.loads(out)
    ours, theirs = document["engines"]
    assert (ours["engine"], theirs["engine"]) == (OURS, "transformers")
    assert (document["prompt"], document["new"], document["long"]) == (8, 24, 31)  # its context is 32
    for engine in (ours, theirs):
        assert len(engine["written"]) == len(engine["read"]) == len(engine["first"]) == 1
        assert min(engine["written"] + engine["read"] + engine["first"]) > 0
        assert engine["memory"] > 2**20
        assert engine["load"] > 0
    assert ours["same"] == [24]
    assert document["ratios"]["transformers"]["written"] == pytest.approx(ours["written"][0] / theirs["written"][0])
    assert document["about"]["bytes_a_second"] > document["about"]["bytes_of_a_token"] > 0


def test_the_report_says_what_the_machine_allows() -> None:
    bench = Bench("some", 8, 24, 31, ABOUT, [measured(OURS, 100), measured("transformers", 50)], [])
    assert bench.bandwidth == pytest.approx(100 * 4e6 / 2e9)
    assert bench.arithmetic == pytest.approx(100 * 1e9 / 31 / 1e11)
    assert bench.ratios(bench.engines[1]) == {"written": 2.0, "read": 2.0}
    told = "\n".join(report.lines(bench))
    assert "20.0%  each token reads 4.0 MB of weights; 2.0 GB/s are read here" in told
    assert "3.2%" in told
    assert "Cutaway writes 2.00 times as fast as transformers and reads 2.00 times as fast" in told


@pytest.mark.parametrize(
    ("kind", "sizes", "how"),
    [("t5", [10, 39, 39], []), ("whisper", [30, 31, 30], []), ("whisper", [30, 31, 30], ["--quantize", "int8"])],
)
def test_a_decoder_behind_an_encoder_is_measured_too(
    cutaway: Any, kind: str, sizes: list[int], how: list[str], tmp_path: Path
) -> None:
    """After a source, or a whole window of sound, and beside transformers, whose tokens are the same."""
    folder = make(tmp_path, T5) if kind == "t5" else write(tmp_path, 1)
    code, out, err = cutaway("bench", folder, "--json", *how)
    assert code == 0
    assert "Beams are not measured" in err
    assert "llama.cpp" not in err
    document = json.loads(out)
    ours, theirs = document["engines"]
    assert [document[name] for name in ("prompt", "new", "long")] == sizes
    assert how or ours["same"] == [sizes[1]]
    for engine in (ours, theirs):
        assert min(engine["written"] + engine["read"] + engine["first"]) > 0
    assert document["about"]["bytes_of_a_token"] > 0
    assert (document["arithmetic"] is None) == bool(how)


def test_what_an_encoder_reads_is_said_so() -> None:
    for task, read in (("rewrite", "after a source of 8"), ("transcribe", "after a sound of 8")):
        told = "\n".join(report.lines(Bench("some", 8, 24, 31, ABOUT, [measured(OURS, 100)], [], task)))
        assert read in told
        assert "each token reads 4.0 MB of weights and of what the encoder made; 2.0 GB/s are read here" in told
    assert "moments/s, a sound of 31" in told


def test_what_a_token_reads_behind_an_encoder(tmp_path: Path) -> None:
    """No matrix that makes keys and values of a source; these themselves."""
    from cutaway.api import load

    machine: Any = load(write(tmp_path)).machine
    across = [part.weight.numel() for block in machine.decoder.blocks for part in (block.cross.k, block.cross.v)]
    blocks = sum(p.numel() for p in machine.decoder.parameters() if p.dim() > 1) - sum(across)
    head = machine.target.tokens.weight.numel()
    assert limits.bytes_of_a_token(machine, 30) == 4 * (blocks + head + 2 * 2 * 30 * 32)
    encoder = sum(p.numel() for p in machine.encoder.parameters() if p.dim() > 1) + sum(across)
    heard = 2 * machine.source.conv1.weight.numel() + machine.source.conv2.weight.numel()
    assert limits.operations_of_a_prompt(machine, 30) == 2 * (30 * (encoder + heard) + blocks + head)


def test_a_share_without_a_peak_is_left_out() -> None:
    about = ABOUT | {"dtype": "int8", "operations_a_second": None}
    bench = Bench("some", 8, 24, 31, about, [measured(OURS, 100)], [])
    assert bench.arithmetic is None
    assert "not said" in "\n".join(report.lines(bench))
    assert bench.to_json()["ratios"] == {}


def test_what_a_token_reads(tiny: Path, small: None) -> None:
    from cutaway.api import load

    machine: Any = load(tiny).machine
    stack = sum(p.numel() for p in machine.stack.parameters() if p.dim() > 1)
    head = machine.stem.tokens.weight.numel()
    assert limits.bytes_of_a_token(machine) == 4 * (stack + head)
    assert limits.operations_of_a_prompt(machine, 10) == 2 * (10 * stack + head)
    fewer: Any = load(tiny, quantize="int8").machine
    assert limits.operations_of_a_prompt(fewer, 10) == 2 * (10 * stack + head)
    packed = [getattr(inner, "packed", None) for part in (fewer.stack, fewer.head) for inner in part.modules()]
    assert limits.bytes_of_a_token(fewer) == sum(tensor.numel() for tensor in packed if tensor is not None)
    assert limits.bytes_a_second() > 0
    assert limits.operations_a_second() > 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["words"], 2, "words fills in what is masked in a text, and only models that write a text are measured."),
        (["digits"], 2, "digits tells what an image shows"),
        (["nobody/nothing"], 3, "nobody/nothing"),
        (["stories", "--peers", "nowhere"], 2, "nowhere is no Python environment"),
        (["stories", "--quantize", "int3"], 2, "Matrices are kept in int8 or int4, not in 'int3'."),
        (["stories", "--quantize", "int8", "--dtype", "bfloat16"], 2, "What is not quantised stays in float32."),
    ],
)
def test_it_says_no(cutaway: Any, arguments: list[str], code: int, said: str) -> None:
    found = cutaway("bench", *arguments)
    assert (found.code, found.out) == (code, "")
    assert said in found.err


def test_an_engine_that_stops_is_said_and_left_out(tiny: Path) -> None:
    """A folder that the reference cannot open."""
    running: list[Any] = []
    notes: list[str] = []
    with measure._or_said(notes):
        running.append(Process("transformers", tiny.parent / "nothing"))
    assert running == []
    assert notes[0].startswith("transformers stopped: ")


@pytest.mark.skipif(os.name == "nt", reason="signals are a Unix matter")
@pytest.mark.parametrize(
    ("name", "says"), [("SIGKILL", "perhaps memory has run out"), ("SIGSEGV", r"crashed \(SIGSEGV\)")]
)
def test_a_process_that_was_killed_or_fell_over(tiny: Path, name: str, says: str) -> None:
    process = Process(OURS, tiny)
    try:
        process._signal(name)
        process._signal("SIGCONT")
        with pytest.raises(Failed, match=says):
            process.ask({"memory": True})
    finally:
        process.close()


def test_another_environment_must_be_one(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="is no Python environment"):
        measure.engines_of(tmp_path)
    assert "transformers" in measure.engines_of(Path(sys.prefix))


@pytest.mark.skipif(os.name == "nt", reason="signals are a Unix matter")
def test_it_stops_when_interrupted_and_leaves_no_process(tiny: Path) -> None:
    started = subprocess.Popen(
        [sys.executable, "-m", "cutaway.cli", "bench", str(tiny)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True, env={**os.environ, "PYTHONPATH": str(Path(limits.__file__).parents[2])},
    )  # fmt: skip
    time.sleep(4)
    started.send_signal(signal.SIGINT)
    out, err = started.communicate(timeout=30)
    assert (started.returncode, out) == (130, b"")
    assert b"Traceback" not in err
    with pytest.raises(ProcessLookupError):
        os.killpg(started.pid, 0)
