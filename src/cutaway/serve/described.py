"""The API as an OpenAPI 3.1 document: its requests as openai.py reads them, its answers, its refusals."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

from .. import __version__
from .fields import Shape
from .limits import Limits
from .openai import chat_shape, completion_shape, embedding_shape

Schema = dict[str, Any]

REFUSALS = {
    400: "The request was not understood, or does not fit the model.",
    401: "The API key is missing or wrong.",
    403: "The request comes from another page, or was sent to another name.",
    404: "The model is not here.",
    408: "The request arrived, or its answer was read, too slowly.",
    409: "Loading the model was stopped.",
    413: "The request, or a text in it, is too long.",
    415: "The body is not application/json.",
    422: "A file of the model is refused: its weights, or its chat template.",
    429: "Too many requests are under way.",
    500: "The server or the model made a mistake.",
    503: "The model is still being loaded, the deadline has passed, or the server is closing.",
}
AGAIN = (429, 503)  # may say Retry-After
ANY = (400, 403, 500)  # of every address
POSTED = (404, 408, 413, 415, 429, 503)  # of what has a body
ABOUT = (
    "Texts and vectors of one model, as OpenAI's API has them. What is no HTTP is answered 400, and what comes beside "
    "too many connections 503, as plain text."
)


@dataclass(frozen=True)
class Operation:
    """What an address does. ``answer``: the schema of what a 200 holds as ``kind``; ``refused``: statuses beside those
    of every address; ``body``: what a request holds, where it is posted; ``streams``: also as events."""

    summary: str
    answer: Schema
    refused: tuple[int, ...] = ()
    body: Callable[[Limits], Shape] | None = None
    streams: str = ""
    kind: str = "application/json"


def document(addresses: Iterable[str], model: str, limits: Limits, open: Collection[str] | None) -> Schema:
    """The document of a server with these addresses, for this model; ``open``: those that need no key, None: none does.
    Raises KeyError for an address that nobody has described."""
    locked = open is not None
    paths = {at: _path(at, OPERATIONS[at], model, limits, locked and at not in (open or ())) for at in addresses}
    keys = {"key": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Cutaway", "version": __version__, "description": ABOUT},
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "responses": {str(status): _refusal(status) for status in REFUSALS},
            **({"securitySchemes": keys} if locked else {}),
        },
    }


def _path(at: str, operation: Operation, model: str, limits: Limits, locked: bool) -> Schema:
    statuses = sorted({*ANY, *operation.refused, *((401,) if locked else ())})
    said: Schema = {
        "summary": operation.summary,
        "responses": {
            "200": _answer(operation),
            **{str(status): _named(str(status), "responses") for status in statuses},
        },
        **({"security": [{"key": []}]} if locked else {}),
    }
    if "{id}" in at:
        served = {"type": "string", "enum": [model]}
        said["parameters"] = [{"name": "id", "in": "path", "required": True, "schema": served}]
    if operation.body is None:
        return {"get": said}
    body = operation.body(limits).schema()
    body["properties"]["model"]["enum"] = [model]
    said["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return {"post": said}


def _answer(operation: Operation) -> Schema:
    content = {operation.kind: {"schema": operation.answer}}
    if operation.streams:
        content["text/event-stream"] = {"schema": _event(operation.streams)}
    return {"description": "The answer.", "content": content}


def _event(chunk: str) -> Schema:
    """Each event of a stream; 3.1 has no other place to say so."""
    parts = {"anyOf": [_named(chunk), _named("Error")]}
    part = {"type": "string", "contentMediaType": "application/json", "contentSchema": parts}
    told = "One event: a part of the answer, or the error that ends it; after the last part [DONE]."
    return {
        "type": "object",
        "properties": {"data": {"anyOf": [{"enum": ["[DONE]"]}, part]}},
        "required": ["data"],
        "description": told,
    }


def _refusal(status: int) -> Schema:
    after = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}} if status in AGAIN else {}
    said: Schema = {"description": REFUSALS[status], "content": {"application/json": {"schema": _named("Error")}}}
    return {**said, **({"headers": after} if after else {})}


# --- the shapes of answers -------------------------------------------------------------------------------------------


def _object(optional: Schema | None = None, /, **keys: Schema) -> Schema:
    """These keys, those that are ``optional``, and no others."""
    properties = {**keys, **(optional or {})}
    return {"type": "object", "properties": properties, "required": list(keys), "additionalProperties": False}


def _named(name: str, among: str = "schemas") -> Schema:
    return {"$ref": f"#/components/{among}/{name}"}


def _list(of: Schema) -> Schema:
    return {"type": "array", "items": of}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _only(*values: Any) -> Schema:
    return {"enum": list(values)}


TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
LOGPROB: Schema = {"type": "number", "maximum": 0}
NULL: Schema = {"type": "null"}
END = _only("stop", "length")
UNDER_WAY = _only("stop", "length", None)
SEED = {"seed": {"type": "integer", "description": "Which was used: send it to get the same."}}
BYTES = _or_null(_list({"type": "integer", "minimum": 0, "maximum": 255}))
SCORED = {"token": TEXT, "bytes": BYTES, "logprob": LOGPROB}


def _answered(kind: str, choice: Schema, optional: Schema | None = None, /, **more: Schema) -> Schema:
    choices = _list(choice)
    return _object(optional, id=TEXT, object=_only(kind), created=COUNT, model=TEXT, choices=choices, **more)


def _completion_choice(end: Schema) -> Schema:
    return _object(SEED, index=COUNT, text=TEXT, logprobs=_or_null(_named("Logprobs")), finish_reason=end)


def _chat_choice(end: Schema, **its: Schema) -> Schema:
    logprobs = _or_null(_object(content=_list(_named("Scored")), refusal=NULL))
    return _object(SEED, index=COUNT, **its, logprobs=logprobs, finish_reason=end)


SCHEMAS: Schema = {
    "Error": _object(
        error=_object(message=TEXT, type=TEXT, param=_or_null(TEXT), code=_or_null(TEXT)),
    ),
    "Model": _object({"dtype": TEXT}, id=TEXT, object=_only("model"), created=COUNT, owned_by=_only("cutaway")),
    "Usage": _object(
        prompt_tokens=COUNT,
        completion_tokens=COUNT,
        total_tokens=COUNT,
        prompt_tokens_details=_object(cached_tokens=COUNT),
    ),
    "Logprobs": _object(
        tokens=_list(TEXT),
        token_logprobs=_list(_or_null(LOGPROB)),
        top_logprobs=_list(_or_null({"type": "object", "additionalProperties": LOGPROB})),
        text_offset=_list(COUNT),
    ),
    "Scored": _object(**SCORED, top_logprobs=_list(_object(**SCORED))),
    "Completion": _answered("text_completion", _completion_choice(END), usage=_named("Usage")),
    "CompletionChunk": _answered(
        "text_completion", _completion_choice(UNDER_WAY), {"usage": _or_null(_named("Usage"))}
    ),
    "Chat": _answered(
        "chat.completion",
        _chat_choice(END, message=_object(role=_only("assistant"), content=TEXT, refusal=NULL)),
        usage=_named("Usage"),
    ),
    "ChatChunk": _answered(
        "chat.completion.chunk",
        _chat_choice(UNDER_WAY, delta=_object({"role": _only("assistant")}, content=TEXT)),
        {"usage": _or_null(_named("Usage"))},
    ),
    "Embeddings": _object(
        object=_only("list"),
        data=_list(
            _object(
                object=_only("embedding"),
                index=COUNT,
                embedding={"anyOf": [_list({"type": "number"}), {"type": "string", "contentEncoding": "base64"}]},
            )
        ),
        model=TEXT,
        usage=_object(prompt_tokens=COUNT, total_tokens=COUNT),
    ),
}

OPERATIONS = {
    "/v1/models": Operation("The one model that is served", _object(object=_only("list"), data=_list(_named("Model")))),
    "/v1/models/{id}": Operation("The one model that is served", _named("Model"), (404,)),
    "/v1/completions": Operation(
        "Texts gone on with, or scored", _named("Completion"), POSTED, completion_shape, "CompletionChunk"
    ),
    "/v1/chat/completions": Operation(
        "The next message of a conversation", _named("Chat"), (*POSTED, 422), chat_shape, "ChatChunk"
    ),
    "/v1/embeddings": Operation("Vectors of texts", _named("Embeddings"), (*POSTED, 409, 422), embedding_shape),
    "/health": Operation("The server lives", _object(status=_only("ok"))),
    "/ready": Operation("The model is loaded", _object(status=_only("ready"), model=TEXT), (503,)),
    "/version": Operation("The version", _object(version=TEXT)),
    "/metrics": Operation("Counters for Prometheus", TEXT, kind="text/plain; version=0.0.4"),
    "/openapi.json": Operation("This document", {"type": "object"}),
}
