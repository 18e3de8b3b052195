"""What a server of programs outlives: clients that never read, steps that hang or fail, its own end."""

from __future__ import annotations

import json
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from cutaway import hub
from tests.serve.test_app import linux, memory
from tests.serve.test_openai import GOOD, TEXT, Server, until

pytestmark = pytest.mark.skipif(not hub.bundled(), reason="no model is bundled in this checkout")

STANDING = f"app.COMMAND = {(sys.executable, '-P', str(Path(__file__).with_name('standing_worker.py')))!r}"
LONG = {**GOOD, "max_tokens": 400, "ignore_eos": True, "stream": True}


@contextmanager
def serving(limits: str = "", before: str = "") -> Iterator[Server]:
    server = Server("stories", limits=limits, before=before)
    try:
        yield server
    finally:
        server.end()


def begin(server: Server, **value: object) -> socket.socket:
    """A client that sends a request, reads its first bytes and then nothing more."""
    body = json.dumps(value)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(30)
    client.connect(("127.0.0.1", server.port))
    head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Type: application/json\r\n"
    client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
    assert client.recv(12) == b"HTTP/1.1 200"
    return client


def closed(client: socket.socket) -> bool:
    """Whether the server has closed the connection, once all that is under way is read. Raises TimeoutError."""
    with client:
        while True:
            try:
                if not client.recv(1 << 20):
                    return True
            except ConnectionResetError:
                return True


def events(server: Server, **value: object) -> list[dict | str]:
    """What a stream says, to its end. httpx raises where that does not come as it should."""
    with server.http.stream("POST", "/v1/completions", json=value) as answer:
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


@linux
def test_a_client_that_never_reads_is_let_go_and_stalls_nobody() -> None:
    with serving("read_seconds=1, keep_alive_seconds=1, parts=512") as server:
        events(server, **{**LONG, "max_tokens": 2, "n": 8, "logprobs": 20})
        before = memory(server.process.pid)
        silent = [begin(server, **{**LONG, "n": 60, "logprobs": 20}) for _ in range(3)]
        started = time.monotonic()
        assert events(server, **{**LONG, "max_tokens": 20})[-1] == "[DONE]"
        assert time.monotonic() - started < 20
        until(lambda: server.metric("requests_under_way") == 0)
        assert memory(server.process.pid) - before < 150e6  # three times 512 parts, and what sends them
        assert all(closed(client) for client in silent)
        assert server.post("completions", **GOOD).status_code == 200


def test_one_that_reads_slowly_gets_all_of_it() -> None:
    with serving("read_seconds=1") as server:
        client = begin(server, **{**LONG, "n": 4, "max_tokens": 100, "logprobs": 20})
        read, end = b"", time.monotonic() + 4
        while time.monotonic() < end:  # never silent for a second
            read += client.recv(20_000)
            time.sleep(0.05)
        while not read.endswith(b"0\r\n\r\n"):
            read += client.recv(1 << 20)
        assert b"data: [DONE]" in read
        client.close()


def test_the_end_comes_in_time_and_streams_hear_of_it() -> None:
    with serving("grace_seconds=0.3") as server:
        many = {**LONG, "n": 60, "max_tokens": 40}
        with ThreadPoolExecutor(4) as pool:
            streams = [pool.submit(events, server, **many) for _ in range(2)]
            whole = pool.submit(server.post, "completions", **{**many, "stream": False})
            until(lambda: server.metric("requests_under_way") == 3)
            silent = begin(server, **{**many, "logprobs": 20})
            until(lambda: server.metric("completion_tokens_total") > 1000)  # each has its turn by then
            started = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(15) == 143
            assert time.monotonic() - started < 10
            for stream in streams:
                *written, last = stream.result()
                assert written
                assert last["error"]["message"].startswith("The server is closing.")  # type: ignore[index]
            assert whole.result().status_code == 503
        assert closed(silent)


def test_a_step_that_hangs_ends_its_process_and_the_next_one_writes() -> None:
    with serving("step_seconds=2", STANDING) as server:
        ready = threading.Event()

        def stream() -> list[dict | str]:
            with server.http.stream("POST", "/v1/completions", json={**LONG, "n": 60}) as answer:
                lines = []
                for line in answer.iter_lines():
                    ready.set()
                    lines += [json.loads(line[6:])] if line.startswith("data: {") else []
            return lines

        with ThreadPoolExecutor(2) as pool:
            under_way = pool.submit(stream)
            assert ready.wait(30)
            started = time.monotonic()
            hanging = server.post("completions", **{**GOOD, "prompt": [5, 7]})
            assert 1.5 < time.monotonic() - started < 10
            assert hanging.status_code == 503
            assert hanging.headers["retry-after"]
            assert "Nothing was written for 2 seconds" in hanging.json()["error"]["message"]
            assert under_way.result()[-1]["error"]["type"] == "server_error"  # type: ignore[call-overload, index]
        assert server.http.get("/health").status_code == 200
        until(lambda: server.http.get("/ready").status_code == 200)
        assert server.post("completions", **GOOD).status_code == 200


def test_a_silence_with_nothing_to_write_is_no_standstill() -> None:
    with serving("step_seconds=1") as server:
        time.sleep(2.5)
        assert server.http.get("/ready").status_code == 200
        assert server.post("completions", **GOOD).status_code == 200


def test_a_step_that_fails_is_told_and_the_next_process_writes() -> None:
    with serving(before=STANDING) as server:
        failed = server.post("completions", **{**GOOD, "prompt": [5, 8]})
        assert failed.status_code == 500
        assert "the step failed" in failed.json()["error"]["message"]
        until(lambda: server.post("completions", **GOOD).status_code == 200)


def test_embeddings_under_load_are_told_to_come_back() -> None:
    with serving("queue=2") as server:

        def embed(_: int) -> httpx.Response:
            return server.post("embeddings", model="stories", input=[f"{TEXT} " * 60] * 40)

        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(embed, range(16)))
        assert {answer.status_code for answer in answers} == {200, 429}
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["type"] == "rate_limit_error"
