"""The application under test: its address, its token, its fake worker."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from starlette.testclient import TestClient

from cutaway.serve.app import build
from cutaway.serve.gate import Gate
from cutaway.serve.limits import Limits
from cutaway.serve.supervisor import Supervisor

PORT, TOKEN = 7345, "the-token"
ADDRESS = f"http://127.0.0.1:{PORT}"
FAKE = (sys.executable, "-P", str(Path(__file__).with_name("fake_worker.py")))
LIMITS = replace(Limits(), body_bytes=2_000, text_characters=500, queue=2, grace_seconds=0.3, keep_alive_seconds=0.1)


def application(page: Path, limits: Limits = LIMITS, *options: str) -> Gate:
    return build(Supervisor((*FAKE, *options), limits), port=PORT, token=TOKEN, page=page)


def client_of(gate: Gate) -> TestClient:
    return TestClient(gate, base_url=ADDRESS, cookies={gate.cookie: TOKEN}, follow_redirects=False)
