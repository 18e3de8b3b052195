"""The server as a process: its address, its signals, its end, and clients that misbehave on a real socket."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from cutaway.errors import Failed, Misuse
from cutaway.serve import app
from tests.serve.served import Served, is_alive

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def soon(happens: Callable[[], bool], seconds: float = 30) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if happens():
            return True
        time.sleep(0.02)
    return False


def test_the_server_never_imports_torch() -> None:
    script = (
        "import sys; import cutaway.serve.app, cutaway.serve.supervisor, cutaway.serve.live, cutaway.serve.worker; "
        "from cutaway.serve.app import build; from cutaway.serve.supervisor import Supervisor; "
        "build(Supervisor(), port=7345, token='t'); "
        "print([name for name in ('torch', 'transformers', 'tokenizers', 'numpy') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


@linux
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_everything(page: Path, number: int, code: int) -> None:
    with Served(page) as served:
        worker = served.worker()
        ended, out, err = served.end(number)
    assert ended == code
    assert out == ""  # the address, already read, was all
    assert "Traceback" not in err
    assert not is_alive(worker)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_that_comes_at_once_is_not_lost(page: Path, number: int, code: int) -> None:
    with Served(page, opened=False) as served:
        assert served.end(number)[0] == code


@linux
def test_a_signal_under_load_ends_everything(page: Path) -> None:
    with Served(page, limits="grace_seconds=0.2") as served:
        worker = served.worker()
        with socket.create_connection(("127.0.0.1", served.port)) as running, httpx.Client(timeout=5) as listening:
            running.sendall(request(served, "POST", "/api/run", {"model": "small", "text": "deaf 100"}))
            with listening.stream(
                "GET", f"{served.client.base_url}/api/events", headers={"cookie": served.cookie}
            ) as s:
                next(s.iter_lines())
                began = time.monotonic()
                code, _, err = served.end(signal.SIGTERM)
    assert code == 143
    assert time.monotonic() - began < 40
    assert "Traceback" not in err
    assert not is_alive(worker)


@linux
def test_a_killed_server_leaves_no_worker(page: Path) -> None:
    with Served(page) as served:
        worker = served.worker()
        assert is_alive(worker)
        served.process.kill()
        assert soon(lambda: not is_alive(worker))


def test_the_token_is_in_the_address_only(page: Path) -> None:
    with Served(page) as served:
        token = httpx.URL(served.address).params["token"]
        assert len(token) >= 43  # 256 bits
        served.client.get("/nothing", params={"token": token})
        served.run("echo")
        _, out, err = served.end(signal.SIGINT)
    assert token not in out + err
    assert "POST /api/run 200" in err


def test_the_page_is_there_before_the_worker(page: Path) -> None:
    with Served(page, "--late", "100") as served:
        assert "Cutaway" in served.client.get("/").text
        assert served.client.get("/stored/once.cutaway").status_code == 200
        assert served.client.get("/api/models").json()[0]["id"] == "small"
        with served.client.stream("GET", "/api/events") as stream:
            lines = stream.iter_lines()
            assert json.loads(next(lines).removeprefix("data: "))["state"] == "starting"


def test_a_missing_page_is_a_sentence(tmp_path: Path) -> None:
    with Served(tmp_path) as served:
        answer = served.client.get("/")
        assert answer.status_code == 503
        assert "has not been built" in answer.text
        assert "has not been built" in served.end(signal.SIGINT)[2]


def test_a_client_that_leaves_frees_the_model(page: Path) -> None:
    with Served(page, limits="grace_seconds=30") as served:
        pid = served.worker()
        with socket.create_connection(("127.0.0.1", served.port)) as leaving:
            leaving.sendall(request(served, "POST", "/api/run", {"model": "small", "text": "slow 100"}))
            time.sleep(0.2)
        assert served.run("pid", timeout=40) == str(pid).encode()  # cancelled, not killed


@linux
def test_an_endless_body_is_not_kept(page: Path) -> None:
    with Served(page) as served:
        before = memory(served.process.pid)
        head = request(served, "POST", "/api/run", None, "Transfer-Encoding: chunked")
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        with socket.create_connection(("127.0.0.1", served.port)) as endless:
            endless.sendall(head)
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                for _ in range(3200):  # 200 MB
                    endless.sendall(chunk)
        assert memory(served.process.pid) - before < 20_000_000
        assert b"echo" in served.run("echo")


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHo", b"GET / HTTP/1.1\r\nX: "])
def test_headers_that_do_not_come_are_not_waited_for(page: Path, sent: bytes) -> None:
    with (
        Served(page, limits="header_seconds=0.5") as served,
        socket.create_connection(("127.0.0.1", served.port), timeout=5) as slow,
    ):
        slow.sendall(sent)
        began = time.monotonic()
        while time.monotonic() - began < 20:
            try:
                slow.sendall(b"x" if sent else b"")  # a letter now and then does not help
                slow.settimeout(0.1)
                if slow.recv(1) == b"":
                    break
            except TimeoutError:
                continue
            except (BrokenPipeError, ConnectionResetError):
                break
        else:
            pytest.fail("the connection was still open")
        assert served.client.get("/").status_code == 200


def test_websockets_get_a_plain_refusal(page: Path) -> None:
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAA"
    with Served(page) as served, socket.create_connection(("127.0.0.1", served.port), timeout=5) as link:
        link.sendall(request(served, "GET", "/api/events-socket", None, upgrade))
        assert link.recv(100).startswith(b"HTTP/1.1 404")


def test_ports() -> None:
    first = app.listen(None)
    second = app.listen(None)
    taken = first.getsockname()[1]
    assert app.FIRST_PORT <= taken < second.getsockname()[1]
    with pytest.raises(Failed, match=f"Port {taken} is in use"):
        app.listen(taken)
    first.close()
    again = app.listen(taken)  # a port given up a moment ago can be taken again
    again.close()
    second.close()
    with pytest.raises(Misuse, match="not a port"):
        app.listen(70_000)


def test_only_the_own_machine_can_reach_it() -> None:
    with app.listen(None) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
        assert listener.proto == socket.IPPROTO_TCP  # what asyncio looks at before it sets TCP_NODELAY


def test_the_tunnel_over_ssh(page: Path) -> None:
    with Served(page, environment={"SSH_CONNECTION": "10.0.0.9 51000 10.0.0.2 2222", "DISPLAY": ":0"}) as served:
        _, _, err = served.end(signal.SIGINT)
    assert f"ssh -N -L {served.port}:127.0.0.1:{served.port} -p 2222 " in err
    assert "@10.0.0.2" in err


@pytest.mark.parametrize(
    ("environment", "asked", "opens"),
    [
        ({"DISPLAY": ":0"}, True, True),
        ({"WAYLAND_DISPLAY": "wayland-0"}, True, True),
        ({"DISPLAY": ":0"}, False, False),
        ({}, True, False),
        ({"DISPLAY": ":0", "SSH_CONNECTION": "a 1 b 22"}, True, False),
    ],
)
def test_the_browser_opens_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], asked: bool, opens: bool
) -> None:
    opened = []
    monkeypatch.setattr(app.webbrowser, "open", opened.append)
    monkeypatch.setattr(app.sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SSH_CONNECTION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    app._announce("http://127.0.0.1:7345/?token=t", 7345, asked)
    assert soon(lambda: bool(opened), 2 if opens else 0.05) == opens


def test_the_first_text_travels_in_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    monkeypatch.setattr(app, "asked_for", lambda model, how: SimpleNamespace(id=model))
    monkeypatch.setattr(app, "serve", lambda command, **named: seen.update(command=command, **named) or 0)
    assert app.look("Once & <b>", model="other", browser=False) == 0
    assert seen["query"] == {"text": "Once & <b>", "model": "other"}
    assert seen["command"][-1] == "other"
    with pytest.raises(Misuse, match="4,001"):
        app.look("x" * 4001)


def request(served: Served, method: str, path: str, value: object, *headers: str) -> bytes:
    body = b"" if value is None else json.dumps(value).encode()
    lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{served.port}", f"Cookie: {served.cookie}", *headers]
    lines += ["Content-Type: application/json"] if method == "POST" else []
    lines += [f"Content-Length: {len(body)}"] if value is not None else []
    return "\r\n".join([*lines, "", ""]).encode() + body


def memory(pid: int) -> int:
    """Resident bytes of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
