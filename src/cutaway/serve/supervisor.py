"""The server's side of the worker: one request at a time, a bounded number waiting, and a new process for a dead one.

A request belongs to the coroutine that awaits it. When that is cancelled (the client went away, or its time is over), a
waiting request never starts, and a running one is asked to stop; past a grace period its process is killed and another
started.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from .fetch import Fetch, News
from .limits import Limits
from .problem import Busy, Full, Problem
from .process import Answer, Ended, WorkerProcess

# -P: the folder a person happens to stand in must not lend us its json.py.
COMMAND = (sys.executable, "-P", "-m", "cutaway.serve")
EVENTS_KEPT = 32
BUSY_AFTER = 0.15  # seconds; shorter runs do not flicker on the page
log = logging.getLogger("cutaway.serve")


class _Job:
    def __init__(self, model: str | None, request: dict[str, Any]) -> None:
        self.model = model  # what has to be loaded first; None: nothing
        self.request = request
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def fail(self, problem: Problem) -> None:
        if not self.answer.done():
            self.answer.set_exception(problem)


class Writing:
    """What the worker writes token by token, part after part. Whoever has one closes it."""

    def __init__(
        self,
        process: WorkerProcess,
        request: dict[str, Any],
        limits: Limits,
        at_end: Callable[[Writing], None] = lambda _: None,
    ) -> None:
        self._process, self._limits, self._at_end = process, limits, at_end
        self._parts: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._late = asyncio.get_running_loop().time() + limits.write_seconds
        self._problem: Problem | None = None
        self._number, self._answer = process.call(request, self._hear)
        self._answer.add_done_callback(lambda _: self._parts.put_nowait(None))

    async def part(self) -> dict[str, Any] | None:
        """The next part; None after the last. Raises Problem."""
        try:
            part = await asyncio.wait_for(self._parts.get(), self._late - asyncio.get_running_loop().time())
        except TimeoutError:
            late = f"The request took longer than {self._limits.write_seconds:g} seconds."
            # The official client would send the same again.
            raise Problem(503, late, "Ask for fewer tokens.", {"X-Should-Retry": "false"}) from None
        if self._problem is not None:
            raise self._problem
        if part is None:
            if self._answer.cancelled():
                raise Problem(499, "The request was cancelled.")
            try:
                self._answer.result()
            except Ended as ended:
                raise _again(str(ended)) from None
        return part

    def fail(self, problem: Problem) -> None:
        self._problem = problem
        self._parts.put_nowait(None)

    def close(self) -> None:
        """Have the worker stop, if it has not ended; within one step it does."""
        if not self._answer.done():
            self._process.cancel(self._number)
        self._at_end(self)

    def _hear(self, part: dict[str, Any]) -> None:
        if self._parts.qsize() < self._limits.parts:
            self._parts.put_nowait(part)
        elif self._problem is None:
            self.close()
            self.fail(Problem(408, "The answer was read too slowly.", "Read it as it comes."))


class Supervisor:
    """Owns the worker. ``models`` is the server's own list; ``state`` is what /api/events said last."""

    def __init__(
        self, command: Sequence[str] = COMMAND, limits: Limits | None = None, served: str | None = None
    ) -> None:
        """``served``: the id of a model that is to be loaded at any time."""
        self.command, self.limits, self.served = tuple(command), limits or Limits(), served
        self.writings: set[Writing] = set()
        self.models: list[dict[str, Any]] = []
        self.state: dict[str, Any] = {"state": "starting", "stage": "starting the worker", "message": ""}
        self.process: WorkerProcess | None = None
        self.fetch = Fetch(self._hear_fetch, self._relist)
        self._fetched: dict[str, News] = {}  # what /api/events says beside the state
        self._listed = asyncio.Event()
        self._listeners: set[asyncio.Queue[dict[str, Any] | None]] = set()
        self._waiting: deque[_Job] = deque()
        self._job: _Job | None = None  # the one under way
        self._news = asyncio.Event()  # a job has come, or the worker has gone
        self._working: asyncio.Task[None] | None = None
        self._loading: tuple[str, int] | None = None  # the model that is being loaded, and the number of that call
        self._wish: str | None = None  # the model a new worker loads before anybody asks
        self._closing = False

    def start(self) -> None:
        """Start the worker, and have the first model of its list loaded, in the background."""
        self._working = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """End the worker and every listener."""
        self.close()
        await self.fetch.cancel()
        if self._working:
            self._working.cancel()
            await asyncio.wait([self._working])

    def close(self) -> None:
        """Take nothing more, let the event streams end, and give the run under way its grace to end too."""
        self._closing = True
        for job in self._waiting:
            job.fail(_closing())
        if self._job is not None:
            asyncio.get_running_loop().call_later(self.limits.grace_seconds, self._job.fail, _closing())
        for writing in self.writings:
            asyncio.get_running_loop().call_later(self.limits.grace_seconds, writing.fail, _closing())
        for listener in self._listeners:
            _put(listener, None)

    @property
    def ready(self) -> bool:
        """Is the served model loaded? Where it is not, it is loaded."""
        process = self.process
        if process is not None and process.how is None and self.served in process.loaded:
            return True
        up = process is not None and process.came_up and not self._closing
        asked = {job.model for job in (self._job, *self._waiting) if job is not None}
        if up and self._loading is None and self.served not in asked:
            job = _Job(self.served, {"do": "relist"})
            job.answer.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._waiting.append(job)
            self._news.set()
        return False

    @property
    def crowded(self) -> bool:
        """Do as many wait for the model as may?"""
        self._waiting = deque(job for job in self._waiting if not job.answer.done())
        return len(self._waiting) >= self.limits.queue

    def write(self, request: dict[str, Any]) -> Writing:
        """Have the served model write, beside what ``ask`` asks. Raises Problem. Whoever asked closes it."""
        if self._closing:
            raise _closing()
        if len(self.writings) >= self.limits.requests:
            raise Full(f"{self.limits.requests} requests are already under way.")
        if not self.ready or self.process is None:
            raise Busy("The model is still being loaded.", "Try again when it is there.", after=5)
        if not self.writings:
            self.process.heard = asyncio.get_running_loop().time()  # its silence before was no standstill
        writing = Writing(self.process, {"do": "write", **request}, self.limits, self.writings.discard)
        self.writings.add(writing)
        return writing

    async def listed(self) -> list[dict[str, Any]]:
        """The models there are, as soon as the worker has said so."""
        try:
            async with asyncio.timeout(self.limits.run_seconds):
                await self._listed.wait()
        except TimeoutError:
            raise Busy("The list of models is not there yet.") from None
        return self.models

    async def model(self, name: str) -> str:
        """``name``, when it is the id of a model in our list; 404 otherwise. A path is never an id."""
        if not any(model["id"] == name for model in await self.listed()):
            raise Problem(404, "There is no such model here.", "Choose one of /api/models.")
        return name

    async def ask(self, verb: str, *, loaded: str | None = None, **fields: Any) -> Answer:
        """One request to the worker, the model ``loaded`` loaded first. Raises Problem.

        To cancel the request, cancel the caller.
        """
        if self._closing:
            raise _closing()
        if self.crowded:
            raise Busy(f"{self.limits.queue} requests already wait for the model.")
        job = _Job(loaded, {"do": verb, **fields})
        self._waiting.append(job)
        self._news.set()
        self._reconsider()
        try:
            async with asyncio.timeout(self.limits.run_seconds):
                return await job.answer
        except TimeoutError:
            if self.state["state"] == "starting":
                raise Busy("The model is still being loaded.", "Try again when it is there.", after=5) from None
            late = f"The model took longer than {self.limits.run_seconds:g} seconds."
            raise Busy(late, "Use a shorter text.") from None
        finally:
            self._reconsider()

    def stop_loading(self) -> None:
        """Give up the load under way, if there is one."""
        if self._loading is not None and self.process is not None:
            self.process.cancel(self._loading[1])

    def _reconsider(self) -> None:
        """A load that nobody waits for is given up when somebody waits for another model."""
        if self._loading is not None:
            asked = {job.model for job in (self._job, *self._waiting) if job is not None and not job.answer.done()}
            if asked - {None} and self._loading[0] not in asked:
                self.stop_loading()

    async def events(self) -> AsyncIterator[dict[str, Any] | None]:
        """The state now, then every change; None after a silence, to keep the connection alive."""
        if len(self._listeners) >= self.limits.streams:
            raise Busy(f"{self.limits.streams} pages already listen.", "Close one of them.", after=10)
        listener: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(EVENTS_KEPT)
        self._listeners.add(listener)
        try:
            yield self.state
            while not self._closing:
                try:
                    async with asyncio.timeout(self.limits.keep_alive_seconds):
                        event = await listener.get()
                except TimeoutError:
                    yield None
                    continue
                if event is not None:
                    yield event
        finally:
            self._listeners.discard(listener)

    async def _work(self) -> None:
        """Worker after worker: start one, load what is wished for, serve until it ends."""
        while True:
            self._tell("starting", "starting the worker")
            try:
                process = self.process = await WorkerProcess.start(self.command, self._hear, self._news.set)
            except OSError as problem:
                self._tell("failed", message=f"The process that runs the model cannot be started: {problem}.")
                await self._asked_again()
                continue
            watching = asyncio.create_task(self._watch(process))
            try:
                await process.started
                await self._preload(process)
                await self._serve_all(process)
            except Ended as ended:
                log.warning("%s", ended)
                self._tell("failed", message=str(ended))
            finally:
                watching.cancel()
                await process.end(patience=1 if self._closing else 0)
            self._loading = None
            # The model used last; not one it died loading: what killed it once is not loaded unasked.
            self._wish = process.loaded[-1] if process.loaded else None
            if self.served in process.loaded:
                self._wish = self.served
            if not process.came_up:
                await self._asked_again()

    async def _watch(self, process: WorkerProcess) -> None:
        """End the process when what it writes stands still: only its end frees those who wait for it."""
        seconds = self.limits.step_seconds
        while process.how is None:
            await asyncio.sleep(seconds / 8)
            if self.writings and asyncio.get_running_loop().time() - process.heard > seconds:
                process.fail(f"Nothing was written for {seconds:g} seconds, so the process that writes was ended.")

    async def _asked_again(self) -> None:
        """A worker that never came up would be started for ever: answer who waits, then wait for somebody to ask."""
        while self._waiting:
            self._waiting.popleft().fail(_again(self.state["message"]))
        while not self._waiting:
            self._news.clear()
            await self._news.wait()

    async def _preload(self, process: WorkerProcess) -> None:
        with contextlib.suppress(Problem):  # already told as the state
            await self._load(process, self._wish)
        if not process.loaded and self.state["state"] != "failed":
            self._ready(process)

    async def _serve_all(self, process: WorkerProcess) -> None:
        while True:
            while not self._waiting:
                if process.how is not None:
                    raise Ended(process.how)
                self._news.clear()
                await self._news.wait()
            job = self._job = self._waiting.popleft()
            if job.answer.done():
                continue
            try:
                await self._load(process, job.model)
                await self._serve(process, job)
            except Problem as problem:
                job.fail(problem)
            except Ended as ended:
                job.fail(_again(str(ended)))
                raise
            finally:
                self._job = None

    async def _load(self, process: WorkerProcess, model: str | None) -> None:
        """Have ``model`` loaded. A load is everybody's: no single client's going cancels it."""
        if model is None:
            return
        if model in process.loaded:
            process.loaded.append(process.loaded.pop(process.loaded.index(model)))
            if self.state.get("model") != model:
                self._ready(process)
            return
        self._tell("starting", f"loading {model}")
        number, reply = process.call({"do": "load", "model": model})
        self._loading = model, number
        await asyncio.wait({reply}, timeout=self.limits.load_seconds)
        self._loading = None
        if not reply.done():
            raise Ended(f"Loading {model} took longer than {self.limits.load_seconds:g} seconds.")
        if reply.cancelled():
            self._ready(process)
            raise Problem(409, f"Loading {model} was stopped.", "Choose it again, or another.")
        try:
            reply.result()
        except Problem as problem:
            log.warning("%s could not be loaded: %s", model, problem.message)
            self._tell("failed", f"loading {model}", f"{problem.message} {problem.fix}".strip())
            raise
        self._ready(process)

    async def _serve(self, process: WorkerProcess, job: _Job) -> None:
        if job.answer.done():
            return
        number, reply = process.call(job.request)
        busy = asyncio.get_running_loop().call_later(BUSY_AFTER, self._tell, "busy", "running")
        try:
            await asyncio.wait({reply, job.answer}, return_when=asyncio.FIRST_COMPLETED)
            if not reply.done():
                process.cancel(number)
                await asyncio.wait({reply}, timeout=self.limits.grace_seconds)
            if not reply.done():
                raise Ended("A run that nobody waited for did not stop, so its process was ended.")
            if not job.answer.done():
                job.answer.set_result(reply.result())
        finally:
            busy.cancel()
            if self.state["state"] == "busy":
                self._ready(process)

    def _hear(self, event: dict[str, Any]) -> None:
        """An event of the worker: its list of models, or a stage it has reached."""
        if "models" in event:
            self.models = event["models"]
            if not self._listed.is_set() and self.models:
                self._wish = self.models[0]["id"]
            self._listed.set()
        else:
            self._tell("starting", event["stage"], event.get("message", ""))

    async def _relist(self) -> None:
        """Have the worker look again which models there are; one that starts anew does so by itself."""
        job = _Job(None, {"do": "relist"})
        if self._closing:
            return
        self._waiting.append(job)
        self._news.set()
        with contextlib.suppress(Problem):
            await job.answer

    def _hear_fetch(self, news: News | None) -> None:
        self._fetched = {} if news is None else {"fetch": news}
        self._spread({key: value for key, value in self.state.items() if key != "fetch"})

    def _ready(self, process: WorkerProcess) -> None:
        self._tell("ready", model=process.loaded[-1] if process.loaded else None, loaded=process.loaded[::-1])

    def _tell(self, state: str, stage: str = "", message: str = "", **more: Any) -> None:
        self._spread({"state": state, "stage": stage, "message": message, **more})

    def _spread(self, state: dict[str, Any]) -> None:
        self.state = state | self._fetched
        for listener in self._listeners:
            _put(listener, self.state)


def _again(why: str) -> Problem:
    return Problem(503, why, "Try again in a moment.", {"Retry-After": "1"})


def _closing() -> Busy:
    return Busy("The server is closing.", "Start it again.")


def _put(listener: asyncio.Queue[dict[str, Any] | None], event: dict[str, Any] | None) -> None:
    """Hand over an event; a page too slow to read loses the oldest."""
    if listener.full():
        listener.get_nowait()
    listener.put_nowait(event)
