"""`cutaway look`: the server a person opens in a browser. This process never imports torch (worker.py does)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import getpass
import ipaddress
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from urllib.parse import urlencode

import h11
import uvicorn
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..errors import Failed, Misuse
from .gate import Door, Gate
from .limits import Limits
from .live import Live
from .models import AS_IT_IS, How, asked_for
from .openai import refusal
from .problem import Problem
from .static import Page
from .supervisor import COMMAND, Supervisor
from .v1 import OPEN, PREFIXES, V1

PAGE = Path(__file__).resolve().parents[1] / "page"
FIRST_PORT, PORTS, API_PORT = 7345, 50, 8000
TEXT_IN_ADDRESS = 4_000  # characters; browsers and terminals cut longer addresses
log = logging.getLogger("cutaway.serve")


@dataclass(frozen=True)
class Api:
    """The OpenAI-compatible API beside the page: for the model of this id, where, with which key."""

    model: str
    host: str = "127.0.0.1"
    key: str | None = None
    names: tuple[str, ...] = ()
    metrics: bool = False


def build(
    supervisor: Supervisor,
    *,
    port: int,
    token: str,
    page: Path = PAGE,
    limits: Limits | None = None,
    api: Api | None = None,
) -> Gate:
    """The whole application, behind its gate. Its lifespan starts and stops the supervisor's worker."""
    limits = limits or supervisor.limits

    @contextlib.asynccontextmanager
    async def lifespan(app: Router) -> AsyncIterator[None]:
        supervisor.start()
        try:
            yield
        finally:
            await supervisor.stop()

    # A bare router: what a route raises, the gate answers. Redirected slashes would make an address of the request.
    v1 = [] if api is None else V1(supervisor, limits, api.metrics, OPEN if api.key else None).routes()
    routes = [*v1, *Live(supervisor, limits).routes(), Route("/{path:path}", Page(page).answer, methods=["GET"])]
    door = None
    if api is not None:
        near = _is_loopback(api.host)
        names = tuple(name.lower() for name in (*api.names, *(() if near else (api.host,))))
        door = Door(PREFIXES, OPEN, refusal, api.key, names, anywhere=not near)
    app = Router(routes, redirect_slashes=False, default=_nowhere, lifespan=lifespan)
    return Gate(app, port=port, token=token, limits=limits, door=door)


async def _nowhere(scope: Scope, receive: Receive, send: Send) -> None:
    """What no route takes: a path with a line break, which Starlette's patterns do not match."""
    raise Problem(404, "There is nothing at this address.")


def look(
    text: str | None = None,
    model: str | None = None,
    port: int | None = None,
    browser: bool = True,
    how: How = AS_IT_IS,
) -> int:
    """Serve the page until interrupted; returns the exit code (130 after Ctrl-C, 143 after SIGTERM).

    The address goes to standard output, everything else to standard error. ``port=None`` takes the first free port from
    7345 on; a fixed one that is taken raises Failed. ``model`` is a name or path (raises NotFound, Refused or Failed);
    the page opens with it, loaded as ``how`` says, and with ``text``.
    """
    if text is not None and len(text) > TEXT_IN_ADDRESS:
        raise Misuse(
            f"The text has {len(text):,} characters; an address holds at most {TEXT_IN_ADDRESS:,}.",
            "Start without it and paste it into the page.",
        )
    if model is None:
        if how != AS_IT_IS:
            raise Misuse("quantize, dtype and device are about the model that is named.", "Name one with --model.")
        return serve(COMMAND, query={"text": text}, port=port, browser=browser)
    asked = asked_for(model, how)  # fetched, or refused in one sentence, before anything is served
    return serve((*COMMAND, model, *how.words()), query={"text": text, "model": asked.id}, port=port, browser=browser)


def serve_api(
    model: str,
    host: str = "127.0.0.1",
    port: int = API_PORT,
    key: str | None = None,
    names: Sequence[str] = (),
    metrics: bool = False,
    how: How = AS_IT_IS,
) -> int:
    """Serve the page and the OpenAI-compatible API for one model until interrupted; returns the exit code, as ``look``.

    Both addresses go to standard output. Without a ``key`` only this machine may ask: Misuse for another ``host``.
    """
    if key is not None and not (key.isascii() and key.isprintable() and key.strip() and " " not in key):
        raise Misuse("The API key is empty or has other than plain characters.", "Use letters, digits and signs.")
    if key is None and not _is_loopback(host):
        raise Misuse(
            f"Without an API key only this machine may ask, and {host} is open to others.",
            "Give a key with --api-key or CUTAWAY_API_KEY, or leave --host out.",
        )
    asked = asked_for(model, how)
    api = Api(asked.id, host, key, tuple(names), metrics)
    return serve((*COMMAND, model, "--keep", *how.words()), query={"model": asked.id}, port=port, api=api)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def serve(
    command: Sequence[str],
    *,
    query: dict[str, str | None] | None = None,
    port: int | None = None,
    browser: bool = False,
    page: Path = PAGE,
    limits: Limits | None = None,
    api: Api | None = None,
) -> int:
    """Serve with the worker that ``command`` starts; see ``look``."""
    _log_to_stderr()
    limits = limits or Limits()
    listener = listen(port, "127.0.0.1" if api is None else api.host)
    port = listener.getsockname()[1]
    token = secrets.token_urlsafe(32)
    shown = "127.0.0.1" if api is None or api.host in ("0.0.0.0", "::", "localhost") else api.host
    base = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/"
    address = f"{base}?" + urlencode(
        {"token": token, **{name: value for name, value in (query or {}).items() if value is not None}}
    )
    supervisor = Supervisor(command, limits, None if api is None else api.model)
    server = _Server(build(supervisor, port=port, token=token, page=page, api=api), supervisor, limits)
    if not (page / "index.html").is_file():
        log.warning("The page has not been built: run `make setup`.")
    with _remembered_signals(server) as signals:
        if api is not None:
            print(f"{base}v1", flush=True)
        _announce(address, port, browser)
        server.run(sockets=[listener])
    return 128 + signals[0] if signals else 0


def listen(port: int | None, host: str = "127.0.0.1") -> socket.socket:
    """A listening socket on ``host``: at ``port``, or at the first free one from FIRST_PORT on. Raises Failed."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in [port] if port is not None else range(FIRST_PORT, FIRST_PORT + PORTS):
        # The protocol named: only then does asyncio turn Nagle's delay off, which else adds 40 ms to each small answer.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        if os.name == "posix":  # elsewhere this option lets two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, candidate))
            listener.listen(128)
            return listener
        except OSError as problem:
            listener.close()
            if isinstance(problem, socket.gaierror) or problem.errno == errno.EADDRNOTAVAIL:
                raise Misuse(f"{host} is no address of this machine.", "Give one that is, or 0.0.0.0.") from None
            if problem.errno == errno.EACCES:
                raise Failed(f"This user may not listen on port {candidate}.", "Choose one from 1024 on.") from None
            if problem.errno != errno.EADDRINUSE:
                raise
        except OverflowError:
            listener.close()
            raise Misuse(f"{candidate} is not a port.", "Choose one from 1024 to 65535.") from None
    if port is not None:
        raise Failed(f"Port {port} is in use.", "Choose another, or leave --port out.")
    raise Failed(f"Every port from {FIRST_PORT} to {FIRST_PORT + PORTS - 1} is in use.", "Give one with --port.")


class _Server(uvicorn.Server):
    """uvicorn with our limits; at its end the event streams end first, which would else hold it open."""

    def __init__(self, app: Gate, supervisor: Supervisor, limits: Limits) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="asyncio",
                http=_punctual(limits.header_seconds, limits.read_seconds),
                ws="none",
                lifespan="on",
                log_config=None,
                log_level="warning",
                access_log=False,  # it would log the token
                proxy_headers=False,  # or any local process could say who is asking
                server_header=False,
                limit_concurrency=limits.connections,
                timeout_graceful_shutdown=round(limits.grace_seconds) + 2,
                h11_max_incomplete_event_size=32_768,
            )
        )
        self._supervisor = supervisor

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._supervisor.close()
        await super().shutdown(sockets)


def _punctual(seconds: float, patience: float) -> type[H11Protocol]:
    """uvicorn's HTTP/1.1, closing a connection whose request headers take longer than ``seconds`` to arrive, or whose
    client has not read for ``patience`` what waits for it."""

    class Punctual(H11Protocol):
        _late: asyncio.TimerHandle | None = None
        _unread: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._rest()
            self._has_read()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            # Not close(), which would wait for the rest to be read.
            self._unread = asyncio.get_running_loop().call_later(patience, self.transport.abort)

        def resume_writing(self) -> None:
            self._has_read()
            super().resume_writing()

        def _has_read(self) -> None:
            if self._unread is not None:
                self._unread.cancel()
                self._unread = None

        def _watch(self) -> None:
            if self.conn.their_state is not h11.IDLE:
                self._rest()
            elif self._late is None:
                self._late = asyncio.get_running_loop().call_later(seconds, self.transport.close)

        def _rest(self) -> None:
            if self._late is not None:
                self._late.cancel()
                self._late = None

    return Punctual


def _announce(address: str, port: int, browser: bool) -> None:
    """Print the address; over SSH, how to reach it; and open it where there is a browser to open it in."""
    print(address, flush=True)
    if connection := os.environ.get("SSH_CONNECTION", "").split():
        there, ssh_port = connection[2:4] if len(connection) == 4 else ("this-machine", "22")
        option = "" if ssh_port == "22" else f"-p {ssh_port} "
        print(
            "On your own machine, first run:\n"
            f"  ssh -N -L {port}:127.0.0.1:{port} {option}{getpass.getuser()}@{there}\n"
            "then open the address above there.",
            file=sys.stderr,
        )
    elif browser and _has_display():
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
    print("Ctrl-C ends it.", file=sys.stderr, flush=True)


def _has_display() -> bool:
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False


@contextlib.contextmanager
def _remembered_signals(server: uvicorn.Server) -> Iterator[list[int]]:
    """uvicorn ends cleanly on a signal, then raises it again for whoever was there before: we remember it.

    One that comes before uvicorn listens for it ends the server too.
    """
    seen: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        server.should_exit = True

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
