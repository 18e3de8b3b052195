"""The worker: the one process that owns models. The server starts it, asks it one thing at a time, and may kill it.

It reads requests from its standard input and writes answers to its standard output, as frames (``wire.py``):

    to it    {"id": 7, "do": "run", ...}       {"cancel": 7}
    from it  {"id": 8, "part": {...}}            of what is written token by token ("do": "write"), before its answer
             {"beat": true}                      a step was taken that brought no part
    from it  {"id": 7, "answer": {...}} + bytes  {"id": 7, "error": {"status", "message", "fix"}}
             {"id": 7, "cancelled": true}        {"event": {"stage": ..., ...}}

When its input ends, the server is gone, however it went (kill -9 too), and the worker ends with it.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
import traceback
from collections.abc import Callable
from io import FileIO
from typing import Any, Protocol

from ..errors import CutawayError, Misuse, NotFound, Refused
from . import wire

#: How glibc treats a worker's memory. Records and answers come and go by the dozen MB, and it gives such memory back to
#: the system each time and fetches it anew, page by page, which took as long as the run itself. Kept and in large
#: pages, the answer to a keystroke on GPT-2 small's shape took 42 ms and not 49, of 64 new tokens 63 and not 84. Other
#: systems do not read this.
TUNABLES = {"hugetlb": 1, "mmap_threshold": 64 << 20, "trim_threshold": 512 << 20}
MALLOC = {"GLIBC_TUNABLES": ":".join(f"glibc.malloc.{name}={value}" for name, value in TUNABLES.items())}

Tell = Callable[[dict[str, Any]], None]
"""Sends an event to the server."""

Check = Callable[[], None]
"""Raises Cancelled when nobody waits for the answer any more; to be called between blocks and between tokens."""


class Cancelled(BaseException):
    """The client went away. Not an Exception, so that no ``except Exception`` on the way swallows it."""


class TooLarge(Misuse):
    """Understood, but more than the limits allow: a 413."""


class Reply:
    """The way back to whoever asked for what is written token by token."""

    def __init__(self, number: int, send: Callable[[dict[str, Any]], None]) -> None:
        self.number, self._send = number, send

    def part(self, part: dict[str, Any]) -> None:
        self._send({"id": self.number, "part": part})

    def end(self) -> None:
        self._send({"id": self.number, "answer": {}})

    def cancelled(self) -> None:
        self._send({"id": self.number, "cancelled": True})

    def fail(self, problem: BaseException) -> None:
        self._send({"id": self.number, "error": told(problem)})

    def beat(self) -> None:
        """Tell that what is written does not stand still, though nothing has come of it yet."""
        self._send({"beat": True})


class Engine(Protocol):
    """What answers. Each verb takes the request's fields and returns (JSON-able answer, bytes)."""

    def start(self) -> None:
        """Make ready to answer anything: import what is heavy."""

    def relist(self, check: Check) -> tuple[dict[str, Any], bytes]: ...

    def load(self, check: Check, *, model: str) -> tuple[dict[str, Any], bytes]: ...

    def run(
        self,
        check: Check,
        *,
        model: str,
        given: dict[str, Any],
        want: list[dict[str, Any]],
    ) -> tuple[dict[str, Any], bytes]: ...

    def tensor(self, check: Check, *, record: str, name: str, at: str | None) -> tuple[dict[str, Any], bytes]: ...

    def explain(self, check: Check, *, record: str, cell: str) -> tuple[dict[str, Any], bytes]: ...

    def compare(self, check: Check, *, first: str, second: str, at: list[int]) -> tuple[dict[str, Any], bytes]: ...

    def file(
        self, check: Check, *, record: str, include: list[str], weights: list[str]
    ) -> tuple[dict[str, Any], bytes]: ...

    def vocabulary(self, check: Check, *, model: str) -> tuple[dict[str, Any], bytes]: ...

    def embed(self, check: Check, *, model: str, inputs: list[Any]) -> tuple[dict[str, Any], bytes]: ...

    def rest(self) -> bool:
        """Nobody asks anything: do a little, some milliseconds, of what makes later answers quicker; False where
        nothing is left to do."""

    def write(self, reply: Reply, request: dict[str, Any]) -> None:
        """Begin to write, beside whatever else is answered; returns at once. Called on another thread."""

    def leave(self, number: int) -> None:
        """Nobody waits for that any more, if it is being written. Called on another thread."""


VERBS = ("relist", "load", "run", "tensor", "explain", "compare", "file", "vocabulary", "embed")


class Worker:
    """The loop around an engine: one thread reads, the main thread answers."""

    def __init__(self, requests: FileIO, answers: FileIO) -> None:
        self._requests, self._answers = requests, answers
        self._inbox: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._cancelled: int | None = None  # only one request is under way, so one id is enough
        self._writing = threading.Lock()

    def tell(self, event: dict[str, Any]) -> None:
        self._write({"event": event})

    def serve(self, engine: Engine) -> None:
        """Answer until the server goes away; does not return."""
        threading.Thread(target=self._read, args=(engine,), name="requests", daemon=True).start()
        try:
            engine.start()
        except BaseException as problem:
            traceback.print_exc()
            self.tell({"failed": _sentence(problem)})
            raise SystemExit(1) from None
        self.tell({"started": True})
        while True:
            while self._inbox.empty() and engine.rest():
                pass
            self._answer(engine, self._inbox.get())

    def _read(self, engine: Engine) -> None:
        with contextlib.suppress(OSError):
            while (frame := wire.read(self._requests)) is not None:
                head, _ = frame
                if "cancel" in head:
                    self._cancelled = head["cancel"]
                    engine.leave(head["cancel"])
                elif head["do"] == "write":
                    reply = Reply(head["id"], self._write)
                    try:
                        engine.write(reply, head)
                    except Exception as problem:
                        reply.fail(problem)
                else:
                    self._inbox.put(head)
        os._exit(0)  # from here no answer can reach anybody; a model may be deep in C, so do not ask it

    def _answer(self, engine: Engine, request: dict[str, Any]) -> None:
        number, verb = request.pop("id"), request.pop("do")

        def check() -> None:
            if self._cancelled == number:
                raise Cancelled

        try:
            check()
            if verb not in VERBS:
                raise ValueError(f"there is no verb {verb}")
            answer, body = getattr(engine, verb)(check, **request)
            self._write({"id": number, "answer": answer}, body)
        except Cancelled:
            self._write({"id": number, "cancelled": True})
        except BaseException as problem:  # tokenizers' PanicException is no Exception
            self._write({"id": number, "error": told(problem)})
            if type(problem).__name__ == "AcceleratorError":
                raise SystemExit(1) from None  # a device that has failed once fails every later call of its process

    def _write(self, head: dict[str, Any], body: bytes = b"") -> None:
        with self._writing:
            try:
                wire.write(self._answers, head, body)
            except BrokenPipeError:
                os._exit(0)


def serve(make_engine: Callable[[Tell], Engine]) -> None:
    """Run a worker on this process's standard input and output; what is printed meanwhile goes to standard error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal group; the server ends us
    requests, answers = FileIO(os.dup(0), "rb"), FileIO(os.dup(1), "wb")
    os.dup2(2, 1)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    worker = Worker(requests, answers)
    worker.serve(make_engine(worker.tell))


def _status(problem: CutawayError) -> int:
    statuses = ((TooLarge, 413), (Misuse, 400), (NotFound, 404), (Refused, 422))
    return next((status for kind, status in statuses if isinstance(problem, kind)), 500)


def told(problem: BaseException) -> dict[str, Any]:
    """What went wrong as the server hears it; of what nobody foresaw the terminal shows where it came from."""
    if isinstance(problem, CutawayError):
        told = {"status": _status(problem), "message": problem.message, "fix": problem.fix}
        return told | {name: value for name, value in vars(problem).items() if name in ("code", "param")}
    traceback.print_exception(problem)
    short = isinstance(problem, MemoryError) or "out of memory" in str(problem).lower()
    fix = "Use a shorter text or a smaller model." if short else "The terminal the server runs in says more."
    return {"status": 503 if short else 500, "message": _sentence(problem), "fix": fix}


def _sentence(problem: BaseException) -> str:
    """One line about an error nobody foresaw."""
    if isinstance(problem, CutawayError):
        return str(problem)
    first = str(problem).strip().splitlines()[:1]
    return f"The model failed: {type(problem).__name__}{': ' + first[0][:300] if first else ''}."
