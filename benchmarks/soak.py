"""Many requests in a row to a real server on loopback: does memory grow, do descriptors leak, how long does a run take?

    python benchmarks/soak.py [--requests 9000] [--model stories]
    python benchmarks/soak.py --api [--requests 10000] [--model stories] [--streams 32] [--tokens 200]

The page (`cutaway look`): runs of texts and of tokens, slices, refused requests and clients that leave in the middle,
in turn. The worker grows for some thousand requests, until the runs it keeps are all like these.

With --api the programs' server (`cutaway serve`): first --streams clients at once, --tokens tokens each, while another
process asks for /health all the time; what each got is compared with what the model writes alone. Then short requests:
completions, streams, vectors, refused ones and clients that leave, eight at a time.

Prints tables of samples; ends with 1 when memory or descriptors still grow at the end (memory is judged from 2,000
requests on), a text differs, or /health is late. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import multiprocessing
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

TEXT = "Once upon a time there was a little girl who lived in a house near the forest and"
WANT = ["embed", "river", "blocks.*.attn.pattern", "blocks.*.mlp.hidden", "logits.last"]  # what the page asks for
GROWTH = 4 << 10  # bytes a request may cost for good: well under one record, well over the noise of 1,000 requests
SAMPLES = 10
FULL = 40  # long runs: as many as fill what the worker keeps of past ones
API_GROWTH = 1 << 10  # as GROWTH, of requests of which nothing is kept
JUDGED = 2_000  # requests from which on the last samples tell of growth
HEALTH_MS = 50
ABREAST = 8  # short requests at a time


class Process:
    """A server as a process, and what it and its worker take."""

    process: subprocess.Popen[str]

    def processes(self) -> list[int]:
        """The server and its worker."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [self.process.pid, *map(int, children)]


class Server(Process):
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


def sample(server: Process) -> list[int]:
    """Resident bytes and open descriptors of the server, then of the worker."""
    page = os.sysconf("SC_PAGESIZE")
    found = []
    for pid in server.processes():
        found += [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page, len(os.listdir(f"/proc/{pid}/fd"))]
    return found


# --- the programs' server ---------------------------------------------------------------------------------------------


class Api(Process):
    """`cutaway serve` as a process, its model loaded."""

    def __init__(self, model: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.model = model
        script = f"from cutaway.serve.app import serve_api; raise SystemExit(serve_api({model!r}, port={self.port}))"
        self.process = subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True
        )
        end = time.monotonic() + 120
        while not self.ready():
            assert time.monotonic() < end, "the server did not come up"
            time.sleep(0.1)

    def ready(self) -> bool:
        try:
            return self.ask("GET", "/ready")[0] == 200
        except OSError:
            return False

    def ask(self, method: str, path: str, value: Any = None) -> tuple[int, bytes]:
        """On a connection of its own, as most clients come."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        headers = {"Content-Type": "application/json"}
        connection.request(method, path, None if value is None else json.dumps(value), headers)
        answer = connection.getresponse()
        with contextlib.closing(connection):
            return answer.status, answer.read()

    def complete(self, **asked: Any) -> str:
        status, body = self.ask("POST", "/v1/completions", {"model": self.model, **asked})
        assert status == 200, body
        if not asked.get("stream"):
            return json.loads(body)["choices"][0]["text"]
        lines = [line.removeprefix(b"data: ") for line in body.split(b"\n\n") if line]
        assert lines[-1] == b"[DONE]", lines[-1]
        return "".join(json.loads(line)["choices"][0]["text"] for line in lines[:-1])

    def leave(self) -> None:
        body = json.dumps({"model": self.model, "prompt": TEXT, "max_tokens": 400, "stream": True})
        head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nContent-Type: application/json\r\n"
        with socket.create_connection(("127.0.0.1", self.port)) as leaving:
            leaving.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
            leaving.recv(100)


def probe(port: int, until: Any, took: Any) -> None:
    """Ask for /health until told to end: a process of its own, so that what the other clients do costs it nothing."""
    found = []
    while not until.is_set():
        began = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/health")
        assert connection.getresponse().status == 200
        connection.close()
        found.append((began, 1000 * (time.monotonic() - began)))
        time.sleep(0.01)
    took.put(found)


def streams(server: Api, count: int, tokens: int) -> bool:
    """Many clients at once, each with a seed and a length of prompt of its own. Is all as it should be?"""
    import cutaway

    asked = [{"prompt": TEXT[: 20 + 2 * i], "max_tokens": tokens, "seed": i} for i in range(count)]
    spawning = multiprocessing.get_context("spawn")
    until, took = spawning.Event(), spawning.Queue()
    probing = spawning.Process(target=probe, args=(server.port, until, took))
    probing.start()
    time.sleep(1)
    with ThreadPoolExecutor(count) as pool:
        began = time.monotonic()
        texts = list(pool.map(lambda one: server.complete(**one, stream=True), asked))
        ended = time.monotonic()
    until.set()
    health = sorted(took for at, took in took.get(timeout=60) if began < at < ended)
    probing.join()
    model = cutaway.load(server.model)
    alone = [
        model.generate(one["prompt"], max_new_tokens=tokens, seed=one["seed"]).text  # type: ignore[union-attr]
        for one in asked
    ]
    same = sum(one == other for one, other in zip(texts, alone, strict=True))
    p95 = health[int(0.95 * len(health))]
    rate = count * tokens / (ended - began)
    print(f"{count} streams of {tokens} tokens: {rate:,.0f} tokens/s, {same} of {count} as alone")
    print(
        f"/health meanwhile, {len(health)} times: median {statistics.median(health):.1f} ms, p95 {p95:.1f} ms, "
        f"longest {health[-1]:.1f} ms",
        flush=True,
    )
    return same == count and p95 < HEALTH_MS


def short(server: Api, number: int) -> None:
    """One short request of those that programs send."""
    prompt, kind = TEXT[: 20 + number % 60], number % 10
    if kind < 5:
        server.complete(prompt=prompt, max_tokens=8, seed=number)
    elif kind < 7:
        server.complete(prompt=prompt, max_tokens=8, seed=number, stream=True)
    elif kind == 7:
        server.complete(prompt=[prompt, "Once"], max_tokens=2, n=2, logprobs=3, echo=True)
    elif kind == 8:
        status, body = server.ask("POST", "/v1/embeddings", {"model": server.model, "input": prompt})
        assert status == 200, body
    elif number % 20 == 9:
        assert server.ask("POST", "/v1/completions", {"model": server.model, "prompt": [10**9]})[0] == 400
    else:
        server.leave()


def soak_api(model: str, requests: int, clients: int, tokens: int) -> int:
    server = Api(model)
    try:
        good = streams(server, clients, tokens)
        samples = []
        print(f"{'requests':>9}{'server MB':>11}{'fds':>5}{'worker MB':>11}{'fds':>5}{'each ms':>9}")
        with ThreadPoolExecutor(ABREAST) as pool:
            for part in range(SAMPLES):
                first, last = part * requests // SAMPLES, (part + 1) * requests // SAMPLES
                began = time.perf_counter()
                list(pool.map(lambda number: short(server, number), range(first, last)))
                each = 1000 * (time.perf_counter() - began) / (last - first)
                time.sleep(0.5)  # those that left are gone
                samples.append((last, sample(server)))
                rss, fds, worker_rss, worker_fds = samples[-1][1]
                print(
                    f"{last:>9}{rss / 1e6:>11.1f}{fds:>5}{worker_rss / 1e6:>11.1f}{worker_fds:>5}{each:>9.1f}",
                    flush=True,
                )
    finally:
        server.process.send_signal(signal.SIGINT)
        code = server.process.wait(timeout=20)
    steady = judge(samples, code, API_GROWTH if requests >= JUDGED else sys.maxsize)
    return steady if good else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--api", action="store_true", help="the programs' server, not the page's")
    parser.add_argument("--requests", type=int, help="9,000, or 10,000 of --api")
    parser.add_argument("--model", default="stories")
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=200, help="of each stream")
    options = parser.parse_args()
    if options.api:
        return soak_api(options.model, options.requests or 10_000, options.streams, options.tokens)
    return soak_page(options.model, options.requests or 9_000)


def soak_page(model: str, requests: int) -> int:
    server = Server(model)
    try:
        samples, took = [], []
        rounds = max(SAMPLES, requests // 5)
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


def judge(samples: list[tuple[int, list[int]]], code: int, growth: int = GROWTH) -> int:
    """0 when the last samples show no growth and the server ended as asked."""
    last = samples[-4:]
    requests = last[-1][0] - last[0][0]
    slopes = [(last[-1][1][place] - last[0][1][place]) / requests for place in (0, 2)]
    descriptors = [max(s[place] for _, s in last) - min(s[place] for _, s in last) for place in (1, 3)]
    print(f"growth per request: server {slopes[0]:.0f} bytes, worker {slopes[1]:.0f} bytes; descriptors {descriptors}")
    steady = max(slopes) < growth and max(descriptors) <= 2 and code == 130
    print("steady" if steady else "NOT steady")
    return 0 if steady else 1


if __name__ == "__main__":
    sys.exit(main())
