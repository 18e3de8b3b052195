"""The application under test: its address, its token, its fake worker."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import httpx
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


class Served:
    """The server as a process of its own, with the fake worker; ``client`` has opened the printed address."""

    def __init__(
        self,
        page: Path,
        *options: str,
        limits: str = "",
        environment: dict[str, str] | None = None,
        opened: bool = True,
    ) -> None:
        script = (
            "import sys; from pathlib import Path; from cutaway.serve.app import serve; "
            "from cutaway.serve.limits import Limits; "
            f"sys.exit(serve({[*FAKE, *options]!r}, page=Path({str(page)!r}), browser=True, limits=Limits({limits})))"
        )
        quiet = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**quiet, "SSH_CONNECTION": "", **(environment or {})},
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        self.port = httpx.URL(self.address).port or 0
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60)
        self.cookie = self._open() if opened else ""

    def _open(self) -> str:
        answer = self.client.get(self.address)
        assert answer.status_code == 303, answer.text
        return answer.headers["set-cookie"].partition(";")[0]

    def run(self, text: str, **options: float) -> bytes:
        answer = self.client.post("/api/run", json={"model": "small", "text": text}, **options)
        answer.raise_for_status()
        return answer.content

    def worker(self) -> int:
        return int(self.run("pid"))

    def end(self, number: int) -> tuple[int, str, str]:
        """Send a signal; returns the exit code and what was written to standard output and standard error."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *error: object) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


def is_alive(pid: int) -> bool:
    """Whether a process exists and is not merely waiting to be buried."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
