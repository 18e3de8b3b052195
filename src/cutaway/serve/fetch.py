"""Downloads of offered models: one at a time, each in a process of its own that may be killed at any moment.

Run as ``python -m cutaway.serve.fetch MODEL`` it is that process. It writes lines of JSON to its standard output,
``{"bytes", "total"}`` at most four times a second and at the end ``{"done": true}`` or ``{"error": sentence}``, and
ends when its standard input does: then the server is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from .. import hub
from ..errors import CutawayError
from .problem import Problem

COMMAND = (sys.executable, "-P", "-m", "cutaway.serve.fetch")
TELL_SECONDS = 0.25

News = dict[str, Any]
"""``model``, ``bytes``, ``total``, and at the end ``done`` or ``error``."""


class Fetch:
    """The download under way, if there is one. ``tell`` hears how far it is, and None when it was cancelled."""

    def __init__(
        self,
        tell: Callable[[News | None], None],
        landed: Callable[[], Awaitable[None]],
        command: Sequence[str] = COMMAND,
    ) -> None:
        """``landed`` is awaited when a model is there, before that is told."""
        self._tell, self._landed, self._command = tell, landed, command
        self._model: str | None = None
        self._task: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._stopped = False

    def start(self, model: str) -> None:
        """Begin, or go on with, the download of ``model``. Raises Problem while another is under way."""
        if self._task is not None and not self._task.done():
            if self._model == model:
                return
            raise Problem(409, f"{self._model} is being fetched.", "Wait for it, or stop it.")
        self._model, self._stopped = model, False
        news: News = {"model": model, "bytes": 0, "total": None}
        self._tell(news)
        self._task = asyncio.create_task(self._run(news))

    async def cancel(self) -> None:
        """End the download; what has come is kept, and gone on with the next time. Also dismisses one that is over."""
        self._stopped = True
        self._kill()
        if self._task is not None:
            await asyncio.wait([self._task])
        self._tell(None)

    async def _run(self, news: News) -> None:
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, news["model"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        except OSError as problem:
            self._tell({**news, "error": f"The download cannot be started: {problem}."})
            return
        if self._stopped:
            self._kill()
        assert self._process.stdout is not None
        last: News = {}
        async for line in self._process.stdout:
            if line.endswith(b"\n"):  # a killed process may leave half of one
                last = json.loads(line)
            if "bytes" in last:
                news = {**news, **last}
                self._tell(news)
        code = await self._process.wait()
        self._process = None
        if self._stopped:
            return
        if "done" in last:
            await self._landed()
        elif "error" not in last:
            last = {"error": f"The download ended with exit code {code}. Start it again."}
        self._tell({**news, **last})

    def _kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()


def child(model: str) -> None:
    """Download ``model``, saying on standard output how far it is; what is printed meanwhile goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    threading.Thread(target=_end_with_the_server, daemon=True).start()
    told = 0.0

    def say(**news: Any) -> None:
        answers.write(json.dumps(news) + "\n")

    def progress(bytes: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told > TELL_SECONDS or bytes == total:
            told = time.monotonic()
            say(bytes=bytes, total=total)

    try:
        hub.fetch(model, progress)
        say(done=True)
    except CutawayError as problem:
        say(error=str(problem))


def _end_with_the_server() -> None:
    while os.read(0, 1024):
        pass
    os._exit(1)


if __name__ == "__main__":
    child(sys.argv[1])
