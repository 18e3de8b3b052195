"""A short form of `make soak`: many streams at once, then many short requests, of the real server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cutaway import hub
from tests.serve.test_app import linux

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "soak.py"


@linux
@pytest.mark.skipif(not hub.bundled(), reason="no model is bundled in this checkout")
def test_streams_are_as_alone_health_is_answered_and_nothing_leaks() -> None:
    command = [sys.executable, str(SCRIPT), "--api", "--requests", "200"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=os.environ)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "32 of 32 as alone" in done.stdout
    assert done.stdout.endswith("steady\n")
