"""The shapes of OpenAI's HTTP API, a subset: requests read strictly into plain dataclasses, answers and errors built.

What would change the answer and is not done here is refused by name; what changes nothing ("user", "store": false) is
read over. https://platform.openai.com/docs/api-reference
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import cache
from typing import Any

from starlette.responses import Response

from . import strict
from .fields import (
    Among,
    Anything,
    Each,
    Either,
    Field,
    Flag,
    Number,
    Several,
    Shape,
    Text,
    Unsupported,
    Whole,
    bad,
    too_long,
)
from .limits import Limits
from .problem import Problem, reply

TOP = 20  # log-probabilities of the most probable tokens, at most
STOPS, STOP_CHARACTERS, BIASES = 4, 200, 300
ROLES = ("system", "developer", "user", "assistant", "tool")
ID = Whole(0, (1 << 31) - 1)  # of a token

_READ_OVER = {name: Field(Anything(), says="Changes nothing.") for name in (
    "user", "metadata", "service_tier", "safety_identifier", "prompt_cache_key",
)}  # fmt: skip
_REFUSED = {name: Field(Unsupported(nothing), says="Not supported.") for name, nothing in {
    "store": (False,), "suffix": ("",), "best_of": (1,), "tools": ([],), "tool_choice": ("none", "auto"),
    "functions": ([],), "function_call": ("none", "auto"), "response_format": ({"type": "text"},),
    "parallel_tool_calls": (True, False), "modalities": (["text"],), "audio": (), "prediction": (),
    "reasoning_effort": (), "verbosity": (), "web_search_options": (), "dimensions": (), "echo": (False,),
}.items()}  # fmt: skip
_NOTHING = {**_READ_OVER, **_REFUSED}
_MODEL = Field(Text(), required=True)


@cache
def completion_shape(limits: Limits) -> Shape:
    """The body of ``POST /v1/completions``."""
    prompt = Field(_inputs(limits, least=0), says="A text, token ids, or lists of these.", required=True)
    most = Field(Whole(0, limits.tokens), says="16 where nothing is said, or what the context has room for.")
    ranked = Field(Whole(0, TOP), says="Of each token, with those of so many most probable ones.")
    own = {"model": _MODEL, "prompt": prompt, "max_tokens": most, "echo": Field(Flag(), False), "logprobs": ranked}
    return Shape({**_NOTHING, **_settings(limits), **own})


@cache
def chat_shape(limits: Limits) -> Shape:
    """The body of ``POST /v1/chat/completions``."""
    text = Text(most=limits.text_characters)
    part = Shape({"type": Field(Among(("text",)), required=True), "text": Field(text, required=True)})
    content = Either("a text; images and sounds are not read here", (text, Several(part)))
    message = Shape(
        {
            "role": Field(Among(ROLES), required=True),
            "content": Field(content, required=True),
            "name": Field(text),
        }
    )
    most = Field(Whole(1, limits.tokens), says="What the context has room for, where nothing is said.")
    own = {
        "model": _MODEL,
        "messages": Field(Several(message, least=1), required=True),
        "max_completion_tokens": most,
        "max_tokens": Field(most.kind, says="The former name of max_completion_tokens."),
        "logprobs": Field(Flag(), False),
        "top_logprobs": Field(Whole(0, TOP), says='Needs "logprobs": true.'),
    }
    return Shape({**_NOTHING, **_settings(limits), **own})


@cache
def embedding_shape(limits: Limits) -> Shape:
    """The body of ``POST /v1/embeddings``."""
    inputs = Field(_inputs(limits, least=1), says="A text, token ids, or lists of these.", required=True)
    form = Field(Among(("float", "base64")), "float", says="base64: of little-endian float32.")
    return Shape({**_NOTHING, "model": _MODEL, "input": inputs, "encoding_format": form})


def _settings(limits: Limits) -> dict[str, Field]:
    """What completions and chats share."""
    stop = Text(1, STOP_CHARACTERS)
    return {
        "temperature": Field(Number(0, 2), 1.0),
        "top_p": Field(Number(0, 1, above=True)),
        "top_k": Field(Whole(0, 1 << 31)),
        "min_p": Field(Number(0, 1)),
        "repetition_penalty": Field(Number(0.01, 100)),
        "presence_penalty": Field(Number(-2, 2), 0.0),
        "frequency_penalty": Field(Number(-2, 2), 0.0),
        "logit_bias": Field(Each(Number(-100, 100), BIASES), says="By token id."),
        "n": Field(Whole(1, limits.choices), 1, says=f"Times the number of prompts at most {limits.choices}."),
        "seed": Field(Whole(-(1 << 63), (1 << 63) - 1), says="Choice i is drawn with seed + i."),
        "stop": Field(Either(f"a text or a list of at most {STOPS}", (stop, Several(stop, most=STOPS)))),
        "ignore_eos": Field(Flag(), False),
        "stream": Field(Flag(), False),
        "stream_options": Field(
            Shape(
                {"include_usage": Field(Flag(), False), "include_obfuscation": Field(Flag(), says="Changes nothing.")}
            ),
            says='Needs "stream": true.',
        ),
    }


def _inputs(limits: Limits, least: int) -> Either:
    """One text, one list of token ids, or several of these; ``least``: how long each is at least."""
    text, ids = Text(least, limits.text_characters), Several(ID, least=1)
    one = Either("a text or a list of token ids", (text, Several(ID, least)))
    return Either("a text, token ids, or a list of these", (text, ids, Several(one, 1, limits.choices)))


@dataclass(frozen=True)
class Asked:
    """A request for text. ``work``: what the worker is told (desk.py); ``usage``: a stream is to end with it."""

    model: str
    work: dict[str, Any]
    chat: bool
    texts: int  # how many are asked for
    stream: bool
    usage: bool


@dataclass(frozen=True)
class Embedding:
    """A request for vectors of ``inputs``, texts or token ids; ``packed``: as base64 of little-endian float32."""

    model: str
    inputs: list[Any]
    packed: bool


def completion(body: bytes, limits: Limits) -> Asked:
    """The checked body of ``POST /v1/completions``. Raises a 400 or 413."""
    value = completion_shape(limits).read(strict.parse(body))
    prompts = _each(value["prompt"])
    work = _work(value, limits, len(prompts)) | {"prompts": prompts, "top": value["logprobs"], "echo": value["echo"]}
    if work["max_tokens"] is None:
        work["most"] = 16
    return _asked(value, work, False, len(prompts))


def chat(body: bytes, limits: Limits) -> Asked:
    """The checked body of ``POST /v1/chat/completions``. Raises a 400 or 413."""
    value = chat_shape(limits).read(strict.parse(body))
    if value["max_completion_tokens"] is not None:
        if value["max_tokens"] is not None:
            raise bad('"max_tokens" and "max_completion_tokens" are both given; give one', "max_tokens")
        value["max_tokens"] = value["max_completion_tokens"]
    top, wanted = value["top_logprobs"], value["logprobs"]
    if top is not None and not wanted:
        raise bad('"top_logprobs" needs "logprobs": true', "top_logprobs")
    messages = [_message(one) for one in value["messages"]]
    if (characters := sum(len(one["content"]) for one in messages)) > limits.text_characters:
        raise too_long(characters, limits.text_characters, "messages")
    work = _work(value, limits, 1) | {"messages": messages, "top": (top or 0) if wanted else None, "echo": False}
    return _asked(value, work, True, 1)


def embedding(body: bytes, limits: Limits) -> Embedding:
    """The checked body of ``POST /v1/embeddings``. Raises a 400 or 413."""
    value = embedding_shape(limits).read(strict.parse(body))
    return Embedding(value["model"], _each(value["input"]), value["encoding_format"] == "base64")


def _each(inputs: Any) -> list[Any]:
    """One text, several, one list of token ids, or several: as a list of texts and lists of ids."""
    one = isinstance(inputs, str) or isinstance(inputs[0], int)
    return [inputs] if one else inputs


def _message(value: dict[str, Any]) -> dict[str, str]:
    content = value["content"]
    text = content if isinstance(content, str) else "".join(part["text"] for part in content)
    name = {} if value["name"] is None else {"name": value["name"]}
    return {"role": value["role"], "content": text, **name}


def _asked(value: dict[str, Any], work: dict[str, Any], chat: bool, prompts: int) -> Asked:
    options = value["stream_options"]
    if options is not None and not value["stream"]:
        raise bad('"stream_options" needs "stream": true', "stream_options")
    usage = options is not None and options["include_usage"]
    return Asked(value["model"], work, chat, prompts * work["n"], value["stream"], usage)


def _work(value: dict[str, Any], limits: Limits, prompts: int) -> dict[str, Any]:
    """The settings that completions and chats share."""
    n, stop = value["n"], value["stop"]
    if prompts * n > limits.choices:
        raise bad(f"{prompts * n} texts are asked for; at most {limits.choices} are written", "n")
    return {
        "n": n,
        "max_tokens": value["max_tokens"],
        "most": limits.tokens,
        "sampler": {name: value[name] for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")},
        "presence": value["presence_penalty"],
        "frequency": value["frequency_penalty"],
        "bias": value["logit_bias"] or [],
        "seed": value["seed"],
        "stop": [stop] if isinstance(stop, str) else stop or [],
        "ignore_eos": value["ignore_eos"],
    }


# --- answers ---------------------------------------------------------------------------------------------------------


def error(problem: Problem) -> dict[str, Any]:
    """``{"error": {"message", "type", "param", "code"}}``."""
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    kind = "server_error" if problem.status >= 500 else kinds.get(problem.status, "invalid_request_error")
    message = f"{problem.message} {problem.fix}".strip()
    return {"error": {"message": message, "type": kind, "param": problem.param, "code": problem.code}}


def refusal(problem: Problem) -> Response:
    return reply(error(problem), problem.status, problem.headers)


class Choice:
    """One text as it is written: parts of the worker in, the fields of a choice out."""

    def __init__(self, index: int, asked: Asked) -> None:
        self.index, self._asked = index, asked
        self.text, self.tokens, self.cached = "", 0, 0
        self.end: str | None = None
        self.seed: int | None = None
        self._content: list[dict[str, Any]] = []
        self._lists: dict[str, list[Any]] = _lists()
        self._offsets: list[int] = []

    def begin(self, text: str, offsets: list[int]) -> None:
        """The prompt's text stands before what is written."""
        self.text, self._offsets = text, offsets

    def add(self, part: dict[str, Any]) -> dict[str, Any]:
        """Take a part; returns what is new, as a chunk's choice."""
        content, lists = [], _lists()
        for scored, offset in zip(part.get("prompt", []), self._offsets, strict=False):
            _legacy(lists, scored, offset)
        if "token" in part:
            content.append(_item(part["token"]))
            _legacy(lists, part["token"], len(self.text))
        self.text += part["text"]
        self.tokens += part.get("new", 0)
        self.cached += part.get("cached", 0)
        self.end, self.seed = part.get("end"), part.get("seed", self.seed)
        self._content += content
        for name, new in lists.items():
            self._lists[name] += new
        return self._shape(part["text"], content, lists, delta=True)

    def whole(self) -> dict[str, Any]:
        return self._shape(self.text, self._content, self._lists, delta=False)

    def _shape(
        self, text: str, content: list[dict[str, Any]], lists: dict[str, list[Any]], delta: bool
    ) -> dict[str, Any]:
        wanted = self._asked.work["top"] is not None
        shape: dict[str, Any] = {"index": self.index}
        if not self._asked.chat:
            shape |= {"text": text, "logprobs": lists if wanted else None}
        else:
            logprobs = {"content": content, "refusal": None} if wanted else None
            message = {"content": text} if delta else {"role": "assistant", "content": text, "refusal": None}
            shape |= {"delta" if delta else "message": message, "logprobs": logprobs}
        seed: dict[str, int] = (
            {} if self.seed is None else {"seed": self.seed}
        )  # the one that was used: send it to get the same
        return shape | {"finish_reason": self.end} | seed


def _lists() -> dict[str, list[Any]]:
    return {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}


def _legacy(lists: dict[str, list[Any]], scored: list[Any], offset: int) -> None:
    """Log-probabilities as completions have them: lists side by side; the token itself is always among the top."""
    text, _, logprob, ranked = scored
    top: dict[str, float] = {}
    for other, _, its in ranked:
        top.setdefault(other, its)
    if logprob is not None:
        top.setdefault(text, logprob)
    lists["tokens"].append(text)
    lists["token_logprobs"].append(logprob)
    lists["top_logprobs"].append(None if logprob is None else top)
    lists["text_offset"].append(offset)


def _item(scored: list[Any]) -> dict[str, Any]:
    """As chats have them."""
    text, raw, logprob, top = scored
    ranked = [{"token": text, "bytes": raw, "logprob": logprob} for text, raw, logprob in top]
    return {"token": text, "bytes": raw, "logprob": logprob, "top_logprobs": ranked}


def usage(read: int, written: int, cached: int) -> dict[str, Any]:
    """``cached``: how many of the tokens read had been read before."""
    return {
        "prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written,
        "prompt_tokens_details": {"cached_tokens": cached},
    }  # fmt: skip


def vector(row: bytes, packed: bool) -> str | list[float]:
    """A row of little-endian float32, as base64 or as numbers."""
    if packed:
        return base64.b64encode(row).decode()
    return list(memoryview(row).cast("f"))
