"""The worker's second thread: requests of the API are written here, several at once, beside what the page asks.

    request -> a pool of threads: template, tokens, limits -> the desk's thread: Batch.step(), and parts go out

What the desk holds is bounded by the server, which counts the requests under way. A free place goes to the request with
the fewest texts under way, and one place is kept for a request that has none while another has several: so one of many
texts does not keep out the others.
"""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from ..api import Model, checked_tokens
from ..errors import Misuse, NotFound
from ..generate.batch import SLOTS, Batch, Event, Request, Scored
from ..generate.rules import Leanings, Rules
from ..generate.sampler import Sampler
from ..model.transformer import Transformer
from ..tasks import ASKED, IS
from .worker import Reply

SPARE = 1  # places beside those that are filled
PREPARING = 4  # threads; a template is a process of its own and takes a third of a second


class TooLong(Misuse):
    """More tokens than the model's context holds."""

    code = "context_length_exceeded"

    def __init__(self, message: str, fix: str, param: str) -> None:
        super().__init__(message, fix)
        self.code, self.param = TooLong.code, param


@dataclass
class Ticket:
    """A request: its texts that wait, as (index, Request), and those under way, handle -> index."""

    reply: Reply
    waiting: deque[tuple[int, Request]] = field(default_factory=deque)
    running: dict[int, int] = field(default_factory=dict)
    left: bool = False


class Desk:
    """Writes with one model. ``take`` and ``leave`` may be called on any thread, and return at once."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._tickets: dict[int, Ticket] = {}  # by number: until the last word has been sent
        self._ready: queue.SimpleQueue[Ticket | None] = queue.SimpleQueue()  # None: somebody has left
        self._pool = ThreadPoolExecutor(PREPARING, "prepare")
        self._open: deque[Ticket] = deque()
        if isinstance(model.machine, Transformer):
            self._batch = Batch(model.machine, model.tokenizer, SLOTS + SPARE)
            threading.Thread(target=self._work, name="desk", daemon=True).start()

    def take(self, reply: Reply, request: dict[str, Any]) -> None:
        """Write what is asked for; its parts go to ``reply``, then its end."""
        if self._model.spec.task != "continue":
            task = self._model.spec.task
            raise Misuse(
                f"{self._model.card.name} {IS[task]}; it does not continue texts.",
                f"Ask it on the command line or in Python, with {ASKED[task]}.",
            )
        ticket = self._tickets[reply.number] = Ticket(reply)
        self._pool.submit(self._prepare, ticket, request)

    def leave(self, number: int) -> None:
        """Nobody waits for that request any more: within one step it is gone."""
        if (ticket := self._tickets.get(number)) is not None:
            ticket.left = True
            self._ready.put(None)

    # --- before it is written, on a thread of the pool

    def _prepare(self, ticket: Ticket, request: dict[str, Any]) -> None:
        try:
            prompts = self._prompts(request)
            ticket.waiting.extend(self._requests(prompts, request))
            ticket.reply.part({"read": [len(ids) for ids in prompts], **self._echo(prompts, request)})
        except BaseException as problem:  # tokenizers' PanicException is no Exception
            del self._tickets[ticket.reply.number]
            ticket.reply.fail(problem)
        else:
            self._ready.put(ticket)

    def _prompts(self, request: dict[str, Any]) -> list[list[int]]:
        model = self._model
        if "messages" in request:
            if model.tokenizer is None:
                raise Misuse(f"{model.card.name} came without a tokenizer.", "Send token ids to /v1/completions.")
            try:
                return [model.tokenizer.chat(request["messages"])]
            except NotFound:
                raise Misuse(
                    f"{model.card.name} has no chat template: it was not made for conversations.",
                    "Send a text to /v1/completions instead.",
                ) from None
        prompts = []
        for one in request["prompts"]:
            ids = model.tokens(one) if isinstance(one, str) else checked_tokens(one, model.spec.vocabulary)
            if not ids:
                raise Misuse("A prompt is empty: there is nothing to continue.", "Write at least one character.")
            prompts.append(ids)
        return prompts

    def _requests(self, prompts: list[list[int]], request: dict[str, Any]) -> list[tuple[int, Request]]:
        count, n, most = request["max_tokens"], request["n"], request["most"]
        size = self._model.spec.vocabulary
        checked_tokens([token for token, _ in request["bias"]], size)
        leanings = Leanings(
            bias=tuple((token, added) for token, added in request["bias"]),
            presence=request["presence"],
            frequency=request["frequency"],
        )
        made = []
        for place, ids in enumerate(prompts):
            room = self._model.context - len(ids) + 1  # the last token is never read
            if len(ids) > self._model.context or (count is not None and count > room):
                asked = "" if count is None else f", and {count:,} more are asked for"
                raise TooLong(
                    f"The prompt has {len(ids):,} tokens{asked}; {self._model.card.name} reads at most "
                    f"{self._model.context:,}.",
                    "Shorten it, or ask for fewer.",
                    "max_tokens" if len(ids) <= self._model.context else "prompt",
                )
            for choice in range(n):
                made.append(
                    (
                        place * n + choice,
                        Request(
                            tuple(ids),
                            Sampler(**request["sampler"]),
                            Rules() if leanings == Leanings() else leanings,
                            min(room, most) if count is None else count,
                            None if request["seed"] is None else request["seed"] + choice,
                            tuple(request["stop"]),
                            frozenset() if request["ignore_eos"] else self._model.eos,
                            request["top"],
                            request["echo"] and request["top"] is not None,
                        ),
                    )
                )
        return made

    def _echo(self, prompts: list[list[int]], request: dict[str, Any]) -> dict[str, Any]:
        """The prompts' own texts, and where in them each token begins."""
        if not request["echo"]:
            return {}
        texts, offsets = [], []
        for given, ids in zip(request["prompts"], prompts, strict=True):
            stream, text, begins = None if self._model.tokenizer is None else self._model.tokenizer.stream(), "", []
            for id in ids:
                begins.append(len(text))
                text += "" if stream is None else stream.push(id)
            text += "" if stream is None else stream.flush()
            texts.append(given if isinstance(given, str) else text)
            offsets.append(begins)
        return {"texts": texts, "offsets": offsets}

    # --- while it is written, on the desk's own thread

    def _work(self) -> None:
        try:
            while True:
                self._hear()
                self._fill()
                events = self._batch.step()
                for event in events:
                    self._tell(event)
                if not events and self._open:
                    self._open[0].reply.beat()
        except BaseException as problem:
            # What a text meets by itself ends that text (Event.error); this is the batch's, whose state nobody knows.
            for ticket in self._open:
                ticket.reply.fail(problem)
            os._exit(1)  # the server starts another process

    def _hear(self) -> None:
        """Take what has come and drop what was left; wait where there is nothing to do."""
        while True:
            try:
                ticket = self._ready.get(block=not self._open)
            except queue.Empty:
                break
            if ticket is not None:
                self._open.append(ticket)
        for ticket in [ticket for ticket in self._open if ticket.left]:
            self._drop(ticket)
            ticket.reply.cancelled()

    def _drop(self, ticket: Ticket) -> None:
        for handle in ticket.running:
            self._batch.cancel(handle)
        self._open.remove(ticket)
        del self._tickets[ticket.reply.number]

    def _fill(self) -> None:
        """Give places to texts that wait, as long as there is one for the next."""
        while (ticket := self._next()) is not None:
            index, request = ticket.waiting.popleft()
            ticket.running[self._batch.submit(request)] = index
            self._open.remove(ticket)
            self._open.append(ticket)

    def _next(self) -> Ticket | None:
        """Of the requests with texts that wait, the one with the fewest under way, and of those the one whose turn was
        longest ago; None where there is no place for it."""
        ticket = min((one for one in self._open if one.waiting), key=lambda one: len(one.running), default=None)
        if ticket is None or self._batch.free > SPARE:
            return ticket
        kept_out = not ticket.running and any(len(one.running) > 1 for one in self._open)
        return ticket if kept_out and self._batch.free else None

    def _tell(self, event: Event) -> None:
        ticket = next(one for one in self._open if event.handle in one.running)
        if event.error is not None:
            self._drop(ticket)
            ticket.reply.fail(event.error)
            return
        part: dict[str, Any] = {"i": ticket.running[event.handle], "text": event.text}
        part |= {} if event.token is None else {"new": 1}
        part |= {} if event.scored is None else {"token": self._shown(event.scored)}
        part |= {} if event.prompt is None else {"prompt": [self._shown(one) for one in event.prompt]}
        part |= {"cached": event.cached} if event.cached else {}
        if event.finish_reason is not None:
            part |= {"end": event.finish_reason, "seed": event.seed}
            del ticket.running[event.handle]
        ticket.reply.part(part)
        if not ticket.running and not ticket.waiting:
            self._drop(ticket)
            ticket.reply.end()

    def _shown(self, scored: Scored) -> list[Any]:
        top = [[*self._spelt(id), logprob] for id, logprob in scored.top]
        return [*self._spelt(scored.id), scored.logprob, top]

    def _spelt(self, id: int) -> tuple[str, list[int] | None]:
        """A token's text and bytes; one that is part of a character is spelt as OpenAI does, bytes:\\xe2\\x80."""
        texts = self._model.tokenizer
        if texts is None:
            return f"token_id:{id}", None
        raw = texts.pieces([id])[0].bytes
        if raw is None:
            text = texts.decode([id], special=True)
            return text, list(text.encode())
        try:
            return raw.decode(), list(raw)
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw), list(raw)
