"""The command as a process: how it starts, how it ends, what it imports."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .conftest import command


@pytest.mark.skipif(os.name == "nt", reason="processor time of children is a Unix matter")
@pytest.mark.parametrize("arguments", [["--help"], ["generate", "--help"], ["--version"], ["models"]], ids=" ".join)
def test_it_answers_at_once(arguments: list[str]) -> None:
    """Under 0.4 s, counted in processor time, so that a busy machine does not fail it."""
    import resource

    def spent() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return children.ru_utime + children.ru_stime

    durations = []
    for _ in range(5):
        before = spent()
        assert command(*arguments).returncode == 0
        durations.append(spent() - before)
    assert min(durations) < 0.4


@pytest.mark.parametrize(
    "arguments", [["--help"], ["models"], ["tokens", "a"], ["next", "a", "-m", "nobody/nothing"]], ids=" ".join
)  # fmt: skip
def test_torch_is_not_imported_where_no_model_runs(arguments: list[str]) -> None:
    code = (
        "import sys, cutaway.cli\n"
        f"cutaway.cli.call({arguments!r})\n"
        "heavy = {'torch', 'transformers'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120, env=_environment())
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.skipif(os.name == "nt", reason="file names there are text, arguments cannot hold raw bytes")
def test_an_argument_that_is_not_utf8() -> None:
    done = command("tokens", b"a\xff")
    assert done.returncode == 2
    assert b"lone surrogate" in done.stderr


def test_output_is_data_and_the_rest_goes_to_standard_error() -> None:
    done = command("tokens", "a b")
    assert done.returncode == 0
    assert done.stderr == b""
    assert len(done.stdout.splitlines()) >= 2


@pytest.mark.skipif(os.name == "nt", reason="signals are a Unix matter")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted(number: signal.Signals, code: int, tmp_path: Path) -> None:
    """Waiting for standard input, it ends quietly."""
    started = subprocess.Popen(
        [sys.executable, "-m", "cutaway.cli", "tokens", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_environment(),
    )
    time.sleep(2)
    started.send_signal(number)
    out, err = started.communicate(timeout=30)
    assert started.returncode == code
    assert out == b""
    assert b"Traceback" not in err


@pytest.mark.skipif(os.name == "nt", reason="pipes close differently there")
def test_a_reader_that_goes_away() -> None:
    started = subprocess.Popen(
        [sys.executable, "-m", "cutaway.cli", "tokens", "word " * 5000],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_environment(),
    )
    assert started.stdout is not None
    assert started.stderr is not None
    started.stdout.close()
    assert started.stderr.read() == b""
    assert started.wait(60) == 0


def test_a_terminal_that_is_not_utf8() -> None:
    done = command("tokens", "é ↵", env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    assert done.returncode == 0
    assert done.stdout.isascii()


def _environment() -> dict[str, str]:
    from cutaway import cli

    return {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])}
