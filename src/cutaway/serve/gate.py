"""The one gate in front of every route: who asks, from which page, with which token, and how much.

Pure ASGI, because a gate built on ``BaseHTTPMiddleware`` hides from the routes that a client went away, and because
WebSockets pass it by. What it refuses never reaches a route; what it lets through carries the security headers.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import html
import ipaddress
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .limits import Limits
from .problem import Problem

METHODS = ("GET", "POST")


def policy(scripts: Iterable[str] = (), styles: Iterable[str] = ()) -> str:
    """The content security policy of a page that holds these inline scripts and style sheets, and no others."""

    def allowed(texts: Iterable[str]) -> str:
        digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts)
        return " ".join(["'self'", *(f"'sha256-{digest}'" for digest in digests)])

    return (
        f"default-src 'self'; script-src {allowed(scripts)}; style-src {allowed(styles)}; img-src 'self' data: blob:; "
        "media-src 'self' blob:; "
        "connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


SECURITY_HEADERS = {
    "Content-Security-Policy": policy(),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
OPEN = "Open the address printed in the terminal."
FOREIGN = "A page of another address may not ask this server."
log = logging.getLogger("cutaway.serve")


@dataclass(frozen=True)
class Door:
    """The way in for programs: paths that need no cookie, but the key where there is one.

    ``open``: paths that need no key either. ``refusal``: how these paths say no. ``names``: hosts besides our own that
    requests may be sent to; ``anywhere``: any IP address too, for only names can be another page's that points here.
    """

    prefixes: tuple[str, ...]
    open: tuple[str, ...]
    refusal: Callable[[Problem], Response]
    key: str | None = None
    names: tuple[str, ...] = ()
    anywhere: bool = False

    def leads_to(self, scope: Scope) -> bool:
        return str(scope["path"]).startswith(self.prefixes)

    def check(self, scope: Scope, headers: Headers) -> None:
        if self.key is None or scope["path"] in self.open:
            return
        scheme, _, given = (_only(headers, "authorization") or "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self.key.encode()):
            raise Problem(
                401,
                "The API key is missing or wrong.",
                "Send it as Authorization: Bearer KEY.",
                {"WWW-Authenticate": "Bearer"},
                code="invalid_api_key",
            )

    def answers_to(self, host: str, port: int) -> bool:
        name, _, its_port = host.rpartition(":")
        name = name if its_port.isdigit() else host
        if name.lower() in self.names:
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return self.anywhere and host == f"{name}:{port}"


class Gate:
    """Let through to ``app`` only what comes from our own page or from a holder of the token; refuse the rest."""

    def __init__(self, app: ASGIApp, *, port: int, token: str, limits: Limits, door: Door | None = None) -> None:
        self.app = app
        self.door = door
        self.port = port
        self.limits = limits
        self.cookie = f"cutaway-{port}"  # cookies know hosts but not ports: two servers must not share a name
        self._token = token.encode()
        names = ("127.0.0.1", "localhost", "[::1]")
        self.hosts = {f"{name}:{port}" for name in names} | (set(names) if port == 80 else set())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._refuse_websocket(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        started, status = time.perf_counter(), 0

        async def dressed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)  # the page's own policy names what stands inline in it
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        headers = Headers(scope=scope)
        try:
            self._check_address(scope, headers)
            if (entry := self._entry(scope, headers)) is not None:
                await entry(scope, receive, dressed)
                return
            if self._by_door(scope) and self.door is not None:
                self.door.check(scope, headers)
            else:
                self._check_token(headers)
            receive = await self._checked_body(scope, headers, receive)
            await self.app(scope, receive, dressed)
        except Problem as problem:
            await self._refusal(problem, headers, scope)(scope, receive, dressed)
        except _Gone:
            pass
        except Exception:
            log.exception("%s %s failed", scope["method"], _path(scope))
            if not status:
                mistake = Problem(500, "The server made a mistake.", "The terminal it runs in says which.")
                await self._refusal(mistake, headers, scope)(scope, receive, dressed)
        finally:
            took = 1000 * (time.perf_counter() - started)
            level = logging.INFO if status < 400 else logging.WARNING
            log.log(level, "%s %s %s %.0f ms", _clean(scope["method"]), _path(scope), status or "gone", took)

    async def _refuse_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        try:
            self._check_address(scope, headers)
            self._check_token(headers)
            reason = "there is no WebSocket here"
        except Problem as problem:
            reason = problem.message
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": reason})  # before the accept: a plain 403
        log.warning("WebSocket %s refused: %s", _path(scope), reason)

    def _check_address(self, scope: Scope, headers: Headers) -> None:
        """Host by name and port (a rebound DNS name has the attacker's), Origin equal to it, and no foreign page."""
        host = _only(headers, "host")
        if host is None or not (host.lower() in self.hosts or self._answers_to(host)):
            raise Problem(403, "This server answers only to its own address.", OPEN)
        ours = {f"http://{host.lower()}"} | ({f"https://{host.lower()}"} if self._answers_to(host) else set())
        if "origin" in headers and _only(headers, "origin") not in ours:
            raise Problem(403, FOREIGN)
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not _is_visit(scope, headers):
            raise Problem(403, FOREIGN)

    def _by_door(self, scope: Scope) -> bool:
        return self.door is not None and self.door.leads_to(scope)

    def _answers_to(self, host: str) -> bool:
        return self.door is not None and self.door.answers_to(host, self.port)

    def _refusal(self, problem: Problem, headers: Headers, scope: Scope) -> Response:
        if self.door is not None and self._by_door(scope):
            return self.door.refusal(problem)
        return _refusal(problem, headers, scope)

    def _entry(self, scope: Scope, headers: Headers) -> Response | None:
        """The answer to ``/?token=...``: the token moves from the address into a cookie. None: not such a request."""
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        tokens = [value for name, value in query if name == "token"]
        if scope["path"] != "/" or scope["method"] != "GET" or not tokens:
            return None
        if len(tokens) != 1 or not self._is_token(tokens[0]):
            raise _no_token()
        rest = urlencode([(name, value) for name, value in query if name != "token"])
        address = f"/?{rest}" if rest else "/"
        if headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
            response = Response(status_code=303, headers={"Location": address})
        else:
            # A link clicked in another page (a terminal in a browser). A SameSite=Strict cookie is not sent along a
            # redirect which that page began, so our own page begins the next step.
            step = f'<meta http-equiv="refresh" content="0;url={html.escape(address)}">'
            response = HTMLResponse(f"<!doctype html>{step}<title>Cutaway</title>")
        cookie = f"{self.cookie}={self._token.decode()}; Path=/; HttpOnly; SameSite=Strict"
        response.headers["Set-Cookie"] = cookie
        return response

    def _check_token(self, headers: Headers) -> None:
        for line in headers.getlist("cookie"):
            for pair in line.split(";"):
                name, _, value = pair.strip().partition("=")
                if name == self.cookie and self._is_token(value):
                    return
        raise _no_token()

    def _is_token(self, candidate: str) -> bool:
        return hmac.compare_digest(candidate.encode("utf-8", "surrogateescape"), self._token)

    async def _checked_body(self, scope: Scope, headers: Headers, receive: Receive) -> Receive:
        """Check method, type and size; the ``receive`` returned has the whole body, then waits for the client to go."""
        method = scope["method"]
        if method not in METHODS:
            raise Problem(405, f"The method {_clean(method)} is not used here.", headers={"Allow": ", ".join(METHODS)})
        if method != "POST":
            if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
                raise Problem(400, f"A {method} request has no body.", headers={"Connection": "close"})
            return receive
        kind = (_only(headers, "content-type") or "").partition(";")[0].strip().lower()
        if kind != "application/json":
            # Also what a form or a script of another page can send without asking first: never JSON.
            raise Problem(415, "A request with a body must be application/json.", headers={"Connection": "close"})
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                body = await _read(receive, headers.get("content-length"), self.limits.body_bytes)
        except TimeoutError:
            raise Problem(408, "The request's body took too long to arrive.", headers={"Connection": "close"}) from None
        return _replay(body, receive)


class _Gone(Exception):
    """The client went away while sending."""


async def _read(receive: Receive, stated: str | None, limit: int) -> bytes:
    """The whole body, refused as soon as it is known to be longer than ``limit``."""
    too_long = Problem(
        413, f"The request is longer than {limit:,} bytes.", "Send a shorter text.", headers={"Connection": "close"}
    )
    if stated is not None and (not stated.isascii() or not stated.isdigit() or len(stated) > 18 or int(stated) > limit):
        raise too_long
    chunks, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Gone
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise too_long
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


def _replay(body: bytes, receive: Receive) -> Receive:
    unread = [body]

    async def again() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        return await receive()

    return again


def _is_visit(scope: Scope, headers: Headers) -> bool:
    """A person following a link to the page itself: the only thing another page may begin."""
    return (
        scope["method"] == "GET"
        and scope["path"] == "/"
        and headers.get("sec-fetch-mode") == "navigate"
        and headers.get("sec-fetch-dest") == "document"
    )


def _no_token() -> Problem:
    return Problem(401, "This page opens only with its token.", OPEN)


def _refusal(problem: Problem, headers: Headers, scope: Scope) -> Response:
    """A sentence a person can read when a person is looking, JSON otherwise."""
    if scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
        return sentence_page(problem.status, (problem.message, problem.fix), problem.headers)
    return problem.response()


def sentence_page(status: int, sentences: Iterable[str], headers: dict[str, str] | None = None) -> Response:
    """A page of plain sentences, for when there is no other page to show."""
    body = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in sentences if sentence)
    page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Cutaway</title><h1>Cutaway</h1>{body}</html>'
    return HTMLResponse(page, status, headers)


def _only(headers: Headers, name: str) -> str | None:
    """The header's value; None when it is missing or given more than once."""
    values = headers.getlist(name)
    return values[0] if len(values) == 1 else None


def _path(scope: Scope) -> str:
    """The path for the log: no query (it may hold the token), nothing a terminal would act on."""
    return quote(scope["path"], safe="/")


def _clean(text: str) -> str:
    return "".join(letter for letter in text[:20] if letter.isalpha())
