"""The OpenAI-compatible API: /v1/models, /v1/completions, /v1/chat/completions, /v1/embeddings; and what watches it:
/health, /ready, /version, /metrics; and what it is described by: /openapi.json."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from .. import __version__
from . import described, openai
from .limits import Limits
from .live import left, while_listening
from .problem import Full, Problem, reply
from .supervisor import Supervisor, Writing

PREFIXES = ("/v1/", "/health", "/ready", "/version", "/metrics", "/openapi.json")
OPEN = ("/health", "/ready")  # what watches a server has no key, and they tell nothing else
GROUP = 8_192  # characters or tokens of texts that are embedded at a time, so that others get their turn
EVENTS = {"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}  # a proxy is not to keep them back


class V1:
    """The routes; one model is served, the supervisor's."""

    def __init__(
        self, supervisor: Supervisor, limits: Limits, metrics: bool = False, open: Collection[str] | None = None
    ) -> None:
        """``open``: the addresses that need no key; None: none needs one."""
        self.supervisor, self.limits, self.metrics, self.open = supervisor, limits, metrics, open
        self.model = supervisor.served or ""
        self.created = int(time.time())
        self.counts: Counter[str] = Counter()

    def routes(self) -> list[Route]:
        nothing = [Route(f"{prefix}{{path:path}}", self.nothing, methods=["GET", "POST"]) for prefix in PREFIXES]
        return [*self.answered(), *nothing]

    def answered(self) -> list[Route]:
        watching = [Route("/metrics", self.told, methods=["GET"])] if self.metrics else []
        return [
            Route("/v1/models", self.models, methods=["GET"]),
            Route("/v1/models/{id:path}", self.one, methods=["GET"]),
            Route("/v1/completions", self.completions, methods=["POST"]),
            Route("/v1/chat/completions", self.chats, methods=["POST"]),
            Route("/v1/embeddings", self.embeddings, methods=["POST"]),
            Route("/health", self.health, methods=["GET"]),
            Route("/ready", self.ready, methods=["GET"]),
            Route("/version", self.version, methods=["GET"]),
            Route("/openapi.json", self.described, methods=["GET"]),
            *watching,
        ]

    async def nothing(self, request: Request) -> Response:
        """An address that is none, or one that is asked with the other method."""
        for route in self.answered():
            if route.matches(request.scope)[0] is Match.PARTIAL:
                method = "POST" if request.method == "GET" else "GET"
                raise Problem(405, f"{_address(route)} is asked with {method}.", headers={"Allow": method})
        raise Problem(404, "There is nothing at this address.", "docs/serving.md lists what is.")

    async def health(self, request: Request) -> Response:
        """The server answers; it says nothing of the model."""
        return reply({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        if self.supervisor.ready:
            return reply({"status": "ready", "model": self.model})
        raise Problem(503, "The model is not loaded yet.", headers={"Retry-After": "5"})

    async def version(self, request: Request) -> Response:
        return reply({"version": __version__})

    async def described(self, request: Request) -> Response:
        addresses = map(_address, self.answered())
        return reply(described.document(addresses, self.model, self.limits, self.open))

    async def told(self, request: Request) -> Response:
        """Counters in the text format of Prometheus."""
        lines = []
        for name, kind, value in (
            ("requests_total", "counter", self.counts["requests"]),
            ("prompt_tokens_total", "counter", self.counts["read"]),
            ("completion_tokens_total", "counter", self.counts["written"]),
            ("requests_under_way", "gauge", len(self.supervisor.writings)),
            ("ready", "gauge", int(self.supervisor.ready)),
        ):
            lines += [f"# TYPE cutaway_{name} {kind}", f"cutaway_{name} {value}"]
        return Response("\n".join([*lines, ""]), media_type="text/plain; version=0.0.4")

    async def models(self, request: Request) -> Response:
        return reply({"object": "list", "data": [self._model()]})

    async def one(self, request: Request) -> Response:
        self._check(request.path_params["id"])
        return reply(self._model())

    def _model(self) -> dict[str, Any]:
        shape = {"id": self.model, "object": "model", "created": self.created, "owned_by": "cutaway"}
        listed = (one for one in self.supervisor.models if one["id"] == self.model)
        dtype = next(listed, {}).get("dtype")  # not known before the worker has looked
        return shape | ({} if dtype is None else {"dtype": dtype})

    def _check(self, model: str) -> None:
        if model != self.model:
            raise Problem(
                404,
                "There is no such model here.",
                f"This server has {self.model}.",
                param="model",
                code="model_not_found",
            )

    async def completions(self, request: Request) -> Response:
        return await self._write(request, openai.completion(await request.body(), self.limits))

    async def chats(self, request: Request) -> Response:
        return await self._write(request, openai.chat(await request.body(), self.limits))

    async def _write(self, request: Request, asked: openai.Asked) -> Response:
        self._check(asked.model)
        self.counts["requests"] += 1
        writing = self.supervisor.write({"model": asked.model, **asked.work})
        try:
            # Only what the worker has accepted begins a stream: what it refuses has a status of its own.
            first = await while_listening(request, writing.part())
            answer = Answer(self, asked, first)
            if asked.stream:
                return Streamed(answer.chunks(writing), writing, self.limits)
            return reply(await while_listening(request, answer.whole(writing)))
        except BaseException:
            writing.close()
            raise

    async def embeddings(self, request: Request) -> Response:
        asked = openai.embedding(await request.body(), self.limits)
        self._check(asked.model)
        self.counts["requests"] += 1
        rows, read = await while_listening(request, self._embed(asked))
        self.counts["read"] += read
        data = [
            {"object": "embedding", "index": index, "embedding": openai.vector(row, asked.packed)}
            for index, row in enumerate(rows)
        ]
        told = {"prompt_tokens": read, "total_tokens": read}
        return reply({"object": "list", "data": data, "model": asked.model, "usage": told})

    async def _embed(self, asked: openai.Embedding) -> tuple[list[bytes], int]:
        rows, read, waiting = [], 0, list(asked.inputs)
        while waiting:
            group = [waiting.pop(0)]
            while waiting and sum(map(len, group)) + len(waiting[0]) <= GROUP:
                group.append(waiting.pop(0))
            if self.supervisor.crowded:
                raise Full(f"{self.limits.queue} requests already wait for the model.")
            told, body = await self.supervisor.ask("embed", loaded=asked.model, model=asked.model, inputs=group)
            size = 4 * told["shape"][1]
            rows += [body[at : at + size] for at in range(0, len(body), size)]
            read += told["tokens"]
        return rows, read


class Answer:
    """The answer to one request for text, in whole or in chunks, as the worker's parts come."""

    def __init__(self, v1: V1, asked: openai.Asked, first: dict[str, Any]) -> None:
        self._v1, self._asked, self._read = v1, asked, sum(first["read"])
        self._choices = [openai.Choice(index, asked) for index in range(asked.texts)]
        for choice in self._choices if "texts" in first else []:
            place = choice.index // asked.work["n"]
            choice.begin(first["texts"][place], first["offsets"][place])
        v1.counts["read"] += self._read
        prefix, kind = ("chatcmpl", "chat.completion") if asked.chat else ("cmpl", "text_completion")
        self._head = {"id": f"{prefix}-{secrets.token_hex(12)}", "object": kind, "created": int(time.time()),
                      "model": asked.model}  # fmt: skip

    async def whole(self, writing: Writing) -> dict[str, Any]:
        while (part := await writing.part()) is not None:
            self._add(part)
        writing.close()
        return {**self._head, "choices": [choice.whole() for choice in self._choices], "usage": self._usage()}

    async def chunks(self, writing: Writing) -> AsyncIterator[dict[str, Any]]:
        head = {**self._head, "object": "chat.completion.chunk"} if self._asked.chat else self._head
        head |= {"usage": None} if self._asked.usage else {}
        for choice in self._choices:
            if self._asked.chat:
                delta = {"role": "assistant", "content": ""}
                first: dict[str, Any] = {"index": choice.index, "delta": delta, "logprobs": None}
                yield {**head, "choices": [first | {"finish_reason": None}]}
            elif choice.text:
                first = {"index": choice.index, "text": choice.text, "logprobs": None, "finish_reason": None}
                yield {**head, "choices": [first]}
        while (part := await writing.part()) is not None:
            yield {**head, "choices": [self._add(part)]}
        if self._asked.usage:
            yield {**head, "choices": [], "usage": self._usage()}

    def _add(self, part: dict[str, Any]) -> dict[str, Any]:
        self._v1.counts["written"] += part.get("new", 0)
        return self._choices[part["i"]].add(part)

    def _usage(self) -> dict[str, Any]:
        """A prompt's tokens count as cached where none of its choices has read them."""
        n, written = self._asked.work["n"], sum(choice.tokens for choice in self._choices)
        cached = [choice.cached for choice in self._choices]
        return openai.usage(self._read, written, sum(min(cached[at : at + n]) for at in range(0, len(cached), n)))


class Streamed(Response):
    """Chunks as server-sent events, with signs of life in between; ends, and has the worker stop, when the client
    goes. An error after the first event is an event itself."""

    def __init__(self, chunks: AsyncIterator[dict[str, Any]], writing: Writing, limits: Limits) -> None:
        super().__init__(headers=EVENTS)
        del self.headers["content-length"]
        self._chunks, self._writing, self._limits = chunks, writing, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending, leaving = asyncio.ensure_future(self._send(send)), asyncio.ensure_future(left(receive))
        try:
            await asyncio.wait(
                {sending, leaving}, timeout=self._limits.write_seconds + 5, return_when=asyncio.FIRST_COMPLETED
            )
            if sending.done():
                sending.result()
        finally:
            self._writing.close()
            sending.cancel()
            leaving.cancel()
            await asyncio.wait({sending, leaving})

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})

        async def body(line: bytes, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": line, "more_body": more})

        try:
            coming: asyncio.Future[Any] | None = None
            while True:
                coming = coming or asyncio.ensure_future(anext(self._chunks, None))
                done, _ = await asyncio.wait({coming}, timeout=self._limits.keep_alive_seconds)
                if not done:
                    await body(b":\n\n")
                    continue
                if (chunk := coming.result()) is None:
                    break
                coming = None
                await body(_event(chunk))
            await body(b"data: [DONE]\n\n", more=False)
        except Problem as problem:
            await body(_event(openai.error(problem)), more=False)
        finally:
            if coming is not None:
                coming.cancel()


def _address(route: Route) -> str:
    """As it is said: /v1/models/{id}."""
    return route.path.replace(":path}", "}")


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n\n"
