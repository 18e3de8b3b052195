"""One life of the worker, seen from the server: start it, call it, cancel a call, end it, hear that it ended."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import subprocess
from asyncio.subprocess import Process
from collections.abc import Callable, Sequence
from typing import Any

from . import wire
from .problem import Problem
from .worker import MALLOC

Answer = tuple[dict[str, Any], bytes]


class Ended(Exception):
    """The worker's process is gone; the text is a sentence about how."""


class WorkerProcess:
    """A running worker. ``started`` is done when it can answer; ``how`` is None while it lives.

    ``loaded``: the models it holds, the one loaded last at the end.
    """

    def __init__(self, process: Process, hear: Callable[[dict[str, Any]], None], at_end: Callable[[], None]) -> None:
        self.loaded: list[str] = []
        self.came_up = False
        self.started: asyncio.Future[None] = _future()
        self.how: str | None = None
        self.heard = asyncio.get_running_loop().time()  # when it last told of what it writes
        self._process, self._hear_event, self._at_end = process, hear, at_end
        self._numbers = itertools.count(1)
        self._calls: dict[int, asyncio.Future[Answer]] = {}
        self._hearers: dict[int, Callable[[dict[str, Any]], None]] = {}  # of the parts of calls
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(
        cls, command: Sequence[str], hear: Callable[[dict[str, Any]], None], at_end: Callable[[], None]
    ) -> WorkerProcess:
        """``hear`` is given the worker's events; ``at_end`` is called once it has ended, however."""
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            limit=wire.PIPE_BYTES,
            env=MALLOC | os.environ,
        )
        for number in (0, 1):
            pipe = process._transport.get_pipe_transport(number)  # type: ignore[attr-defined]
            wire.widen(pipe.get_extra_info("pipe").fileno())
        return cls(process, hear, at_end)

    @property
    def pid(self) -> int:
        return self._process.pid

    def call(
        self, request: dict[str, Any], hear: Callable[[dict[str, Any]], None] | None = None
    ) -> tuple[int, asyncio.Future[Answer]]:
        """Send a request. Its future gives the answer, or raises Problem or Ended, or is cancelled after ``cancel``;
        ``hear`` is given the parts that come before."""
        number, answer = next(self._numbers), _future()
        if self.how is not None:
            answer.set_exception(Ended(self.how))
        else:
            self._calls[number] = answer
            if hear is not None:
                self._hearers[number] = hear
            self._write({"id": number, **request})
        return number, answer

    def cancel(self, number: int) -> None:
        """Ask the worker to stop; it may take its time, or not listen at all."""
        self._write({"cancel": number})

    def fail(self, how: str) -> None:
        """Kill it, for the reason told; whoever waits for it hears that."""
        self.how = self.how or how
        self._kill()

    async def end(self, patience: float = 0) -> None:
        """Close its input, which a living worker takes as the end; kill it when it has not gone after ``patience``."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._process.wait()
        self._kill()
        await asyncio.wait([self._reading])

    def _kill(self) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def _read(self) -> None:
        """Sort what the worker says until it ends; then tell everyone who waits."""
        assert self._process.stdout is not None
        take = self._process.stdout.readexactly
        try:
            while True:
                head_length, body_length = wire.HEADER.unpack(await take(wire.HEADER.size))
                head, body = json.loads(await take(head_length)), await take(body_length)
                if "event" in head:
                    self._hear(head["event"])
                elif "beat" in head:
                    self.heard = asyncio.get_running_loop().time()
                elif "part" in head:
                    self.heard = asyncio.get_running_loop().time()
                    if (hear := self._hearers.get(head["id"])) is not None:
                        hear(head["part"])
                elif (answer := self._calls.pop(head["id"], None)) is not None:
                    self._hearers.pop(head["id"], None)
                    _settle(answer, head, body)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except Exception as problem:  # a process that wrote over its own memory may say anything
            self.fail(f"The process that runs the model spoke nonsense ({type(problem).__name__}) and was ended.")
        code = await self._process.wait()
        self.how = self.how or f"The process that runs the model {_how(code)}."
        waiting: list[asyncio.Future[Any]] = [self.started, *self._calls.values()]
        for one in waiting:
            if not one.done():
                one.set_exception(Ended(self.how))
        self._calls.clear()
        self._hearers.clear()
        self._at_end()

    def _hear(self, event: dict[str, Any]) -> None:
        if "started" in event:
            self.came_up = True
            if not self.started.done():
                self.started.set_result(None)
        elif "loaded" in event:
            self.loaded = event["loaded"]
        elif "failed" in event:
            self.how = event["failed"]
        else:
            self._hear_event(event)

    def _write(self, head: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        if not self._process.stdin.is_closing():
            self._process.stdin.write(wire.pack(head))


def _settle(answer: asyncio.Future[Answer], head: dict[str, Any], body: bytes) -> None:
    if answer.done():
        return
    if "error" in head:
        error = head["error"]
        more = {"param": error.get("param"), "code": error.get("code")}
        answer.set_exception(Problem(error["status"], error["message"], error["fix"], **more))
    elif "cancelled" in head:
        answer.cancel()
    else:
        answer.set_result((head["answer"], body))


def _future() -> asyncio.Future[Any]:
    """A future whose failure may go unread: whoever waited for it may have left."""
    future = asyncio.get_running_loop().create_future()
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
    return future


def _how(code: int) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
