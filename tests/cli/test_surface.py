"""The command line's surface, frozen: a change to any help text must be made here as well, and so be meant.

python -m tests.cli.test_surface        writes tests/cli/surface.txt anew
"""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path

import pytest

from cutaway import cli

SURFACE = Path(__file__).with_name("surface.txt")
VERBS = (
    "look serve generate next tokens run names explain heads lens compare fill classify see embed similar translate "
    "summarize transcribe models verify bench quantize train doctor"
).split()


def surface() -> str:
    """The help of every command, as a terminal of 80 columns shows it."""
    shown = []
    for words in [[], *([verb] for verb in VERBS)]:
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            assert cli.call([*words, "--help"]) == 0
        lines = [line.rstrip() for line in output.getvalue().strip().splitlines()]
        shown.append("\n".join([f"$ {' '.join(['cutaway', *words, '--help'])}", *lines, ""]))
    return "\n".join(shown)


def test_the_surface_is_as_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}.items():
        monkeypatch.setenv(name, value)
    assert surface() == SURFACE.read_text(encoding="utf-8")


def test_the_page_on_the_command_line_names_every_command_and_code() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    for verb in VERBS:
        assert f"cutaway {verb} " in page
    for code in (0, 1, 2, 3, 4, 130, 143):
        assert f"| {code} |" in page
    assert set(VERBS) == {name for name in cli.app if not name.startswith("-")}


if __name__ == "__main__":
    os.environ |= {"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}
    SURFACE.write_text(surface(), encoding="utf-8")
