"""Many requests in a row to a real server on loopback: does memory grow, do descriptors leak, how long does a run take?

    python benchmarks/soak.py [--requests 9000] [--model stories]

Runs of texts and of tokens, slices, refused requests and clients that leave in the middle, in turn. Prints a table of
samples and the medians; ends with 1 when memory or descriptors still grow at the end. Linux only. The worker grows for
some thousand requests, until the runs it keeps are all like these.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

TEXT = "Once upon a time there was a little girl who lived in a house near the forest and"
WANT = ["embed", "river", "blocks.*.attn.pattern", "blocks.*.mlp.hidden", "logits.last"]  # what the page asks for
GROWTH = 4 << 10  # bytes a request may cost for good: well under one record, well over the noise of 1,000 requests
SAMPLES = 10
FULL = 40  # long runs: as many as fill what the worker keeps of past ones


class Server:
    """`cutaway look` as a process, and a client that has opened its address."""

    def __init__(self, model: str) -> None:
        script = f"from cutaway.serve.app import look; raise SystemExit(look(model={model!r}, browser=False))"
        self.process = subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout is not None
        address = urlsplit(self.process.stdout.readline().strip())
        self.host, self.model = address.netloc, model
        self.connection = http.client.HTTPConnection(self.host, timeout=120)
        _, headers, _ = self.ask("GET", f"/?{address.query}")
        self.cookie = headers["set-cookie"].partition(";")[0]

    def ask(self, method: str, path: str, value: Any = None) -> tuple[int, Any, bytes]:
        self.connection.request(method, path, None if value is None else json.dumps(value), self.headers())
        answer = self.connection.getresponse()
        return answer.status, answer.headers, answer.read()

    def headers(self) -> dict[str, str]:
        return {"Content-Type": "application/json", "Cookie": getattr(self, "cookie", "")}

    def leave(self) -> None:
        """Begin a long run and go away."""
        body = json.dumps({"model": self.model, "tokens": [5] * 500, "want": []})
        head = "".join(f"{name}: {value}\r\n" for name, value in self.headers().items())
        with socket.create_connection(self.connection.sock.getpeername()) as leaving:
            head = f"POST /api/run HTTP/1.1\r\nHost: {self.host}\r\n{head}Content-Length: {len(body)}\r\n\r\n"
            leaving.sendall((head + body).encode())

    def processes(self) -> list[int]:
        """The server and its worker."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [self.process.pid, *map(int, children)]


def run(server: Server, number: int) -> float:
    """The page's main call, on 16 tokens; milliseconds from the first byte sent to the last received."""
    tokens = [5 + (number + 7 * place) % 1000 for place in range(16)]
    began = time.perf_counter()
    status, _, _ = server.ask("POST", "/api/run", request(server, tokens=tokens))
    took = 1000 * (time.perf_counter() - began)
    assert status == 200, status
    return took


def others(server: Server, number: int) -> None:
    """What else happens to a server."""
    status, headers, _ = server.ask("POST", "/api/run", request(server, text=TEXT[: 20 + number % 60]))
    assert status == 200, status
    record = headers["x-record"]
    status, _, _ = server.ask("GET", f"/api/records/{record}/tensor?name=blocks.0.attn.pattern&at=0")
    assert status == 200, status
    status, _, _ = server.ask("POST", "/api/run", request(server, tokens=[10**9]))
    assert status == 400, status
    assert server.ask("GET", "/")[0] in (200, 503)
    if number % 5 == 0:
        server.leave()


def request(server: Server, **what: Any) -> dict[str, Any]:
    return {"model": server.model, **what, "want": [{"name": name, "at": None} for name in WANT]}


def sample(server: Server) -> list[int]:
    """Resident bytes and open descriptors of the server, then of the worker."""
    page = os.sysconf("SC_PAGESIZE")
    found = []
    for pid in server.processes():
        found += [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page, len(os.listdir(f"/proc/{pid}/fd"))]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=9000)
    parser.add_argument("--model", default="stories")
    options = parser.parse_args()
    server = Server(options.model)
    try:
        samples, took = [], []
        rounds = max(SAMPLES, options.requests // 5)
        for number in range(FULL):
            server.ask("POST", "/api/run", {"model": server.model, "tokens": [5 + number] * 500, "want": []})
        print(f"{'requests':>9}{'server MB':>11}{'fds':>5}{'worker MB':>11}{'fds':>5}{'run ms':>8}")
        for number in range(rounds):
            took.append(run(server, number))
            others(server, number)
            if (number + 1) % (rounds // SAMPLES) == 0:
                server.ask("GET", "/api/models")
                samples.append((5 * (number + 1), sample(server)))
                at, (rss, fds, worker_rss, worker_fds) = samples[-1]
                recent = statistics.median(took[-(rounds // SAMPLES) :])
                memory = f"{at:>9}{rss / 1e6:>11.1f}{fds:>5}{worker_rss / 1e6:>11.1f}{worker_fds:>5}"
                print(f"{memory}{recent:>8.1f}", flush=True)
    finally:
        server.process.send_signal(signal.SIGINT)
        code = server.process.wait(timeout=20)
    took.sort()
    print(f"run of 16 tokens: median {statistics.median(took):.1f} ms, p95 {took[int(0.95 * len(took))]:.1f} ms")
    return judge(samples, code)


def judge(samples: list[tuple[int, list[int]]], code: int) -> int:
    """0 when the last samples show no growth and the server ended as asked."""
    last = samples[-4:]
    requests = last[-1][0] - last[0][0]
    slopes = [(last[-1][1][place] - last[0][1][place]) / requests for place in (0, 2)]
    descriptors = [max(s[place] for _, s in last) - min(s[place] for _, s in last) for place in (1, 3)]
    print(f"growth per request: server {slopes[0]:.0f} bytes, worker {slopes[1]:.0f} bytes; descriptors {descriptors}")
    steady = max(slopes) < GROWTH and max(descriptors) <= 2 and code == 130
    print("steady" if steady else "NOT steady")
    return 0 if steady else 1


if __name__ == "__main__":
    sys.exit(main())
