"""The programs in examples/ run as they stand, with the bundled model and no network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def output_of(example: str, *words: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, str(ROOT / "examples" / example), *words]
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_tested() -> None:
    tested = set(re.findall(r'output_of\("(\w+\.py)"', Path(__file__).read_text()))
    assert {path.name for path in EXAMPLES} == tested


def test_next_word() -> None:
    lines = output_of("next_word.py", "Once", "upon", "a").splitlines()
    assert lines[0] == "Once upon a ..."
    assert "time" in lines[1]  # a model of stories that does not know this has learned nothing
    assert sum(float(line.split("%")[0]) for line in lines[1:]) == pytest.approx(100, abs=0.1)


def test_what_counts_in_it() -> None:
    seen, *rows = output_of("what_counts_in_it.py").splitlines()
    assert re.fullmatch(r"It sees 7, at \d+\.\d+%\.", seen)
    falls = [[float(number) for number in row.split()] for row in rows]
    assert [len(row) for row in falls] == [7] * 7
    assert min(map(min, falls)) < -0.5  # a stroke counts
    assert all(abs(row[0]) < 0.5 for row in falls)  # the dark edge does not


def test_tell_a_story() -> None:
    first, second = (output_of("tell_a_story.py", "The", "fox") for _ in range(2))
    assert first == second
    assert first.startswith("The fox")
    assert len(first.split()) > 20


def test_look_inside() -> None:
    printed = output_of("look_inside.py")
    assert "head 0:" in printed
    assert "equal when opened again: True" in printed


def test_why_this_number() -> None:
    lines = output_of("why_this_number.py").splitlines()
    assert "logits[7," in lines[0]
    assert all(float(line.rpartition("off by ")[2]) < 1e-5 for line in lines[:-1])
    assert "weights.stem.tokens.weight[" in lines[-1]
