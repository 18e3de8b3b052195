"""Who gets in: PRACTICE of local servers that were broken into, one test for each way."""

from __future__ import annotations

import logging
import re
from dataclasses import replace

import anyio
import pytest
from starlette.routing import Route
from starlette.testclient import TestClient

from cutaway.serve.gate import METHODS, Gate
from tests.serve.served import ADDRESS, LIMITS, PORT, TOKEN, application

JSON = {"content-type": "application/json"}


def every_route(gate: Gate) -> list[tuple[str, str]]:
    """(method, path) of everything the application answers, and some it does not."""
    found = []
    for route in gate.app.routes:
        assert isinstance(route, Route), "a mount or a WebSocket route would need its own line here"
        path = route.path.replace("{path:path}", "stored/once.cutaway")
        path = path.replace("{id}", "small").replace("{id:path}", "small")
        found += [(method, path) for method in sorted(route.methods) if method in METHODS]
    assert {path for _, path in found} >= {"/api/run", "/api/events", "/api/models", "/stored/once.cutaway"}
    return [
        *found,
        ("GET", "/"),
        ("GET", "/nowhere"),
        ("DELETE", "/api/run"),
        ("HEAD", "/"),
        ("OPTIONS", "/api/run"),
        ("TRACE", "/"),
    ]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"cookie": f"cutaway-{PORT}=wrong"}, 401),
        ({"cookie": f"cutaway-{PORT + 1}={TOKEN}"}, 401),
        ({"cookie": f"cutaway-{PORT}={TOKEN}x"}, 401),
        ({"cookie": f"cutaway-{PORT}=\xff\xfe"}, 401),
        ({"authorization": f"Bearer {TOKEN}"}, 401),
    ],
)
def test_every_route_refuses_without_the_token(gate: Gate, stranger: TestClient, headers: dict, status: int) -> None:
    headers = {name: value.encode("latin-1") for name, value in headers.items()}
    for method, path in every_route(gate):
        answer = stranger.request(
            method, path, headers={**headers, **JSON}, content=b"{}" if method == "POST" else None
        )
        assert answer.status_code == status, (method, path)
        assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "host",
    ["evil.com", f"evil.com:{PORT}", f"127.0.0.1.evil.com:{PORT}", f"localhost.evil.com:{PORT}", "127.0.0.1",
     f"127.0.0.1:{PORT + 1}", f"127.0.0.1:{PORT}0", f"127.0.0.2:{PORT}", f"0.0.0.0:{PORT}", f"[::1]:{PORT}.evil.com",
     f"evil@127.0.0.1:{PORT}", f"127.0.0.1:{PORT}/", f" 127.0.0.1:{PORT}x", "", f"2130706433:{PORT}", f"[::]:{PORT}"],
)  # fmt: skip
def test_every_route_refuses_a_foreign_host(gate: Gate, client: TestClient, host: str) -> None:
    for method, path in every_route(gate):
        assert client.request(method, path, headers={"host": host}).status_code == 403, (method, path)


@pytest.mark.parametrize("host", [f"127.0.0.1:{PORT}", f"localhost:{PORT}", f"LOCALHOST:{PORT}", f"[::1]:{PORT}"])
def test_our_own_hosts_are_let_in(client: TestClient, host: str) -> None:
    assert client.get("/", headers={"host": host, "origin": f"http://{host.lower()}"}).status_code == 200


@pytest.mark.parametrize(
    "origin",
    ["null", "http://evil.com", f"http://127.0.0.1:{PORT}.evil.com", f"https://127.0.0.1:{PORT}", "http://127.0.0.1",
     f"http://localhost:{PORT}", f"http://127.0.0.1:{PORT}/", "", f"http://127.0.0.1:{PORT + 1}"],
)  # fmt: skip
def test_every_route_refuses_a_foreign_origin(gate: Gate, client: TestClient, origin: str) -> None:
    for method, path in every_route(gate):
        assert client.request(method, path, headers={"origin": origin}).status_code == 403, (method, path)


def test_a_foreign_page_may_only_send_people_to_the_first_page(client: TestClient) -> None:
    navigation = {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    for site in ("cross-site", "same-site"):  # same-site: another port of this machine
        foreign = {"sec-fetch-site": site}
        assert client.get("/", headers={**foreign, **navigation}).status_code == 200
        assert client.get("/", headers={**foreign, **navigation, "sec-fetch-dest": "iframe"}).status_code == 403
        assert client.get("/api/models", headers={**foreign, **navigation}).status_code == 403
        assert client.get("/stored/once.cutaway", headers={**foreign, "sec-fetch-mode": "no-cors"}).status_code == 403


def test_duplicated_hosts_and_origins_are_refused(gate: Gate) -> None:
    ours = (b"host", f"127.0.0.1:{PORT}".encode())
    cookie = (b"cookie", f"{gate.cookie}={TOKEN}".encode())
    assert status_of(gate, [ours, cookie]) == 200
    assert status_of(gate, [ours, ours, cookie]) == 403
    assert status_of(gate, [cookie]) == 403
    assert status_of(gate, [ours, cookie, (b"origin", ADDRESS.encode()), (b"origin", b"http://evil.com")]) == 403


def test_websockets_are_refused_after_the_same_checks(gate: Gate) -> None:
    good = [(b"host", f"127.0.0.1:{PORT}".encode()), (b"cookie", f"{gate.cookie}={TOKEN}".encode())]
    reasons = {}
    for what, headers in {
        "token": good[:1],
        "host": [(b"host", b"evil.com"), good[1]],
        "origin": [*good, (b"origin", b"http://evil.com")],
        "none": good,
    }.items():
        messages = talk(gate, {"type": "websocket", "path": "/api/events", "query_string": b"", "headers": headers})
        assert [message["type"] for message in messages] == ["websocket.close"]
        reasons[what] = messages[0]["reason"]
    assert len(set(reasons.values())) == 4


def test_the_printed_address_sets_a_cookie_and_drops_its_token(stranger: TestClient) -> None:
    answer = stranger.get("/", params={"token": TOKEN, "text": "Once upon & a <b>?"})
    assert answer.status_code == 303
    assert answer.headers["location"] == "/?text=Once+upon+%26+a+%3Cb%3E%3F"
    assert answer.headers["set-cookie"] == f"cutaway-{PORT}={TOKEN}; Path=/; HttpOnly; SameSite=Strict"
    assert stranger.get("/", params={"token": TOKEN}).headers["location"] == "/"
    stranger.cookies.clear()


def test_the_printed_address_clicked_in_another_page(stranger: TestClient) -> None:
    """A redirect would arrive without the SameSite=Strict cookie it has just set."""
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    answer = stranger.get("/", params={"token": TOKEN, "text": '"><script>'}, headers=headers)
    assert answer.status_code == 200
    assert 'content="0;url=/?text=%22%3E%3Cscript%3E"' in answer.text
    assert "HttpOnly" in answer.headers["set-cookie"]
    stranger.cookies.clear()


@pytest.mark.parametrize("query", ["token=", "token=wrong", f"token={TOKEN}&token={TOKEN}", "token=%ff%00"])
def test_a_wrong_token_is_refused_even_with_the_cookie(client: TestClient, query: str) -> None:
    assert client.get(f"/?{query}").status_code == 401


def test_the_token_opens_only_the_first_page(stranger: TestClient) -> None:
    assert stranger.get("/api/models", params={"token": TOKEN}).status_code == 401
    assert stranger.post("/", params={"token": TOKEN}, json={}).status_code == 401


def test_no_cookie_is_explained_to_a_person(stranger: TestClient) -> None:
    answer = stranger.get("/", headers={"accept": "text/html,*/*"})
    assert answer.status_code == 401
    assert answer.headers["content-type"].startswith("text/html")
    assert "Open the address printed in the terminal." in answer.text


def test_the_token_is_never_logged(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("cutaway.serve")
    log.propagate = True
    with caplog.at_level(logging.DEBUG, "cutaway.serve"):
        client.get(f"/?token={TOKEN}&text=private")
        client.get(f"/api/models?token={TOKEN}")
        client.get("/%1b[2J%0anew line")
    assert len(caplog.records) == 3
    assert TOKEN not in caplog.text
    assert "private" not in caplog.text
    assert "\x1b" not in caplog.text
    assert "%1B%5B2J%0Anew" in caplog.text


def test_every_answer_carries_the_security_headers(gate: Gate, client: TestClient, stranger: TestClient) -> None:
    answers = [client.get("/"), client.get("/nowhere"), client.get("/api/models"), stranger.get("/"),
               client.get("/", headers={"host": "evil"}), client.post("/api/run", json={})]  # fmt: skip
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "unsafe" not in policy
        assert re.match(r"default-src 'self'; script-src 'self'( 'sha256-[^']+')?; style-src 'self'[ ;]", policy)
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "cache-control" in answer.headers
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert "server" not in answer.headers


def test_methods(client: TestClient) -> None:
    for method in ("HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"):
        assert client.request(method, "/api/run").status_code == 405
    assert client.get("/api/run").status_code == 404  # not a file of the page
    assert client.post("/api/models", json={}).status_code == 405
    assert client.head("/").status_code == 405


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "application/jsonx"],
)
def test_only_json_is_read(client: TestClient, kind: str) -> None:
    """The other kinds are what a page of another address can send without being asked first."""
    answer = client.post("/api/run", content=b'{"model":"small","text":"echo"}', headers={"content-type": kind})
    assert answer.status_code == 415


def test_json_with_a_charset_is_json(client: TestClient) -> None:
    headers = {"content-type": "Application/JSON; charset=utf-8"}
    assert client.post("/api/run", content=b'{"model":"small","text":"echo"}', headers=headers).status_code == 200


def test_a_long_body_is_refused_before_it_is_read(gate: Gate) -> None:
    head = [(b"host", f"127.0.0.1:{PORT}".encode()), (b"cookie", f"{gate.cookie}={TOKEN}".encode()),
            (b"content-type", b"application/json")]  # fmt: skip
    stated = [*head, (b"content-length", str(LIMITS.body_bytes + 1).encode())]
    assert status_of(gate, stated, method="POST", body=[]) == 413
    assert status_of(gate, [*head, (b"content-length", b"9" * 5000)], method="POST", body=[]) == 413
    chunks = [b"x" * 500] * 1000
    assert status_of(gate, head, method="POST", body=chunks) == 413
    assert len(chunks) == 1000 - 5  # of 2,000 bytes allowed: refused at the fifth chunk, the rest never read


def test_a_body_that_does_not_come_is_not_waited_for(page) -> None:
    gate = application(page, replace(LIMITS, body_seconds=0.05))
    head = [(b"host", f"127.0.0.1:{PORT}".encode()), (b"cookie", f"{gate.cookie}={TOKEN}".encode()),
            (b"content-type", b"application/json")]  # fmt: skip
    assert status_of(gate, head, method="POST", body=None) == 408


def test_a_get_has_no_body(client: TestClient) -> None:
    assert client.request("GET", "/api/models", content=b"x").status_code == 400


def status_of(gate: Gate, headers: list, *, method: str = "GET", body: list[bytes] | None = ()) -> int:
    scope = {"type": "http", "method": method, "path": "/" if method == "GET" else "/api/run", "query_string": b"",
             "headers": headers, "raw_path": b"/"}  # fmt: skip
    messages = talk(gate, scope, body)
    return next(message["status"] for message in messages if message["type"] == "http.response.start")


def talk(gate: Gate, scope: dict, body: list[bytes] | None = ()) -> list[dict]:
    """Speak ASGI to the gate directly. ``body``: the request's chunks, taken out as they are read; None: silence."""
    sent = []

    async def receive() -> dict:
        if scope["type"] == "websocket":
            return {"type": "websocket.connect"}
        if body is None:
            await anyio.sleep(10)
        if body:
            return {"type": "http.request", "body": body.pop(), "more_body": True}
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict) -> None:
        sent.append(message)

    async def run() -> None:
        await gate(scope, receive, send)

    anyio.run(run)
    return sent
