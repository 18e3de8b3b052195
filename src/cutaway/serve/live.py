"""The page's API: the models, the state of the worker, a run, slices of a run, a vocabulary."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Coroutine
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive

from .. import hub
from . import strict
from .limits import Limits
from .problem import Problem, reply
from .supervisor import Supervisor

_RECORD = re.compile(r"[0-9a-f]{16}")
_PAIR = re.compile(r"(-?[0-9]{1,9}),(-?[0-9]{1,9})")
_CELL = re.compile(r"[A-Za-z0-9_.]+\[-?[0-9]{1,9}(,-?[0-9]{1,9}){0,3}\]")


class Live:
    """The routes under /api, answered by a Supervisor's worker."""

    def __init__(self, supervisor: Supervisor, limits: Limits) -> None:
        self.supervisor, self.limits = supervisor, limits

    def routes(self) -> list[Route]:
        return [
            Route("/api/models", self.models, methods=["GET"]),
            Route("/api/models/{id:path}/vocabulary", self.vocabulary, methods=["GET"]),
            Route("/api/offers", self.offers, methods=["GET"]),
            Route("/api/fetch", self.fetch, methods=["POST"]),
            Route("/api/fetch/cancel", self.stop_fetching, methods=["POST"]),
            Route("/api/events", self.events, methods=["GET"]),
            Route("/api/run", self.run, methods=["POST"]),
            Route("/api/load/cancel", self.stop_loading, methods=["POST"]),
            Route("/api/records/{id}/tensor", self.tensor, methods=["GET"]),
            Route("/api/records/{id}/explain", self.explain, methods=["GET"]),
            Route("/api/compare", self.compare, methods=["GET"]),
            Route("/api/records/{id}/file", self.file, methods=["GET"]),
        ]

    async def models(self, request: Request) -> Response:
        return reply(await while_listening(request, self.supervisor.listed()))

    async def vocabulary(self, request: Request) -> Response:
        model = await self.supervisor.model(request.path_params["id"])
        _, body = await while_listening(request, self.supervisor.ask("vocabulary", model=model))
        return Response(body, media_type="application/json")

    async def offers(self, request: Request) -> Response:
        return reply([{"name": offer.name, **asdict(offer)} for offer in await self._offered(request)])

    async def fetch(self, request: Request) -> Response:
        """Only what is offered can be fetched: a page cannot name any other repository."""
        model = strict.model(await request.body())
        if model not in [offer.id for offer in await self._offered(request)]:
            raise Problem(404, "This model is not on offer, or already here.", "Choose one of /api/offers.")
        self.supervisor.fetch.start(model)
        return reply({})

    async def stop_fetching(self, request: Request) -> Response:
        await self.supervisor.fetch.cancel()
        return reply({})

    async def _offered(self, request: Request) -> list[hub.Offer]:
        """The models of the hub that are offered by name and not here yet."""
        here = {model["id"] for model in await while_listening(request, self.supervisor.listed())}
        return [offer for offer in hub.OFFERS if offer.id not in here]

    async def run(self, request: Request) -> Response:
        asked = strict.run(await request.body(), self.limits)
        model = await self.supervisor.model(asked.model)
        want = [{"name": want.name, "at": want.at} for want in asked.want]
        answer, body = await while_listening(
            request,
            self.supervisor.ask("run", loaded=model, model=model, given=asked.given, want=want),
        )
        return _bytes(body, {"X-Record": answer["record"]})

    async def stop_loading(self, request: Request) -> Response:
        self.supervisor.stop_loading()
        return reply({})

    async def tensor(self, request: Request) -> Response:
        record = _record(request)
        name = strict.name(request.query_params.get("name"), self.limits)
        at = strict.index(request.query_params.get("at"))
        answer, body = await while_listening(request, self.supervisor.ask("tensor", record=record, name=name, at=at))
        return _bytes(body, {"X-Shape": ",".join(str(size) for size in answer["shape"])})

    async def explain(self, request: Request) -> Response:
        record, cell = _record(request), request.query_params.get("cell", "")
        if len(cell) > self.limits.name_characters or not _CELL.fullmatch(cell):
            raise Problem(
                400, "The request was not understood: it names no cell.", "Write one as blocks.0.attn.z[3,0,7]."
            )
        _, body = await while_listening(request, self.supervisor.ask("explain", record=record, cell=cell))
        return Response(body, media_type="application/json")

    async def compare(self, request: Request) -> Response:
        query = request.query_params
        first, second = (_record_id(query.get(which, "")) for which in ("first", "second"))
        at = _PAIR.fullmatch(query.get("at", "-1,-1"))
        if at is None:
            raise Problem(400, 'The request was not understood: "at" is not a pair of tokens.', "Write it as 3,5.")
        asked = self.supervisor.ask("compare", first=first, second=second, at=[int(at[1]), int(at[2])])
        _, body = await while_listening(request, asked)
        return Response(body, media_type="application/json")

    async def file(self, request: Request) -> Response:
        record = _record(request)
        include, weights = self._globs(request, "include"), self._globs(request, "weights")
        _, body = await while_listening(
            request, self.supervisor.ask("file", record=record, include=include, weights=weights)
        )
        return _bytes(body, {})

    def _globs(self, request: Request, what: str) -> list[str]:
        """The globs of a query's parameter, which may be given more than once or be empty."""
        globs = [glob for glob in request.query_params.getlist(what) if glob]
        if len(globs) > self.limits.wants:
            raise Problem(413, f'"{what}" is given {len(globs):,} times; at most {self.limits.wants} are answered.')
        return [strict.name(glob, self.limits) for glob in globs]

    async def events(self, request: Request) -> Response:
        events = self.supervisor.events()
        first = await anext(events)
        return EventStream(first, events)


def _record(request: Request) -> str:
    return _record_id(request.path_params["id"])


def _record_id(id: str) -> str:
    """The id of a record: 16 hexadecimal digits."""
    if not _RECORD.fullmatch(id):
        raise Problem(404, "There is no such record.", "Run the text again.")
    return id


class EventStream(StreamingResponse):
    """Server-sent events; ends when the client goes or the events do."""

    def __init__(self, first: dict[str, Any] | None, events: AsyncIterator[dict[str, Any] | None]) -> None:
        async def lines() -> AsyncIterator[bytes]:
            yield _line(first)
            async for event in events:
                yield _line(event)

        super().__init__(lines(), media_type="text/event-stream")


def _line(event: dict[str, Any] | None) -> bytes:
    return b":\n\n" if event is None else b"data: " + json.dumps(event).encode("ascii") + b"\n\n"


def _bytes(body: bytes, headers: dict[str, str]) -> Response:
    return Response(body, headers=headers, media_type="application/octet-stream")


async def while_listening(request: Request, work: Coroutine[Any, Any, Any]) -> Any:
    """Await ``work``, and cancel it the moment the client goes away."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(left(request.receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Problem(499, "The client went away.")  # nobody reads it; the log does
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.wait({working, leaving})


async def left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
