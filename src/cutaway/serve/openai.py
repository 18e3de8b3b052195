"""The shapes of OpenAI's HTTP API, a subset: requests read strictly into plain dataclasses, answers and errors built.

What would change the answer and is not done here is refused by name; what changes nothing ("user", "store": false) is
read over. https://platform.openai.com/docs/api-reference
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from . import strict
from .limits import Limits
from .problem import Problem, reply

TOP = 20  # log-probabilities of the most probable tokens, at most
STOPS, STOP_CHARACTERS, BIASES = 4, 200, 300
ROLES = ("system", "developer", "user", "assistant", "tool")

_NOTHING: dict[str, tuple[Any, ...]] = {  # values that ask for nothing; None does so everywhere
    "user": (), "metadata": (), "service_tier": (), "safety_identifier": (), "prompt_cache_key": (),
    "store": (False,), "suffix": ("",), "best_of": (1,), "tools": ([],), "tool_choice": ("none", "auto"),
    "functions": ([],), "function_call": ("none", "auto"), "response_format": ({"type": "text"},),
    "parallel_tool_calls": (True, False), "modalities": (["text"],), "audio": (), "prediction": (),
    "reasoning_effort": (), "verbosity": (), "web_search_options": (), "dimensions": (), "echo": (False,),
}  # fmt: skip
_READ_OVER = {"user", "metadata", "service_tier", "safety_identifier", "prompt_cache_key"}
_BOTH = {
    "model", "max_tokens", "temperature", "top_p", "n", "stream", "stream_options", "stop", "seed",
    "presence_penalty", "frequency_penalty", "logit_bias", "logprobs", "top_k", "min_p", "repetition_penalty",
    "ignore_eos",
}  # fmt: skip
_COMPLETION = {"prompt", "echo", *_BOTH}
_CHAT = {"messages", "top_logprobs", "max_completion_tokens", *_BOTH}
_EMBEDDING = {"model", "input", "encoding_format"}


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
    value = _object(body, _COMPLETION, {"model", "prompt"})
    prompts = _inputs(value["prompt"], "prompt", limits)
    top = _whole(value, "logprobs", 0, TOP)
    work = _work(value, limits, len(prompts), least=0) | {"prompts": prompts, "top": top}
    work["echo"] = bool(_flag(value, "echo"))
    if work["max_tokens"] is None:
        work["most"] = 16
    return _asked(value, work, False, len(prompts))


def chat(body: bytes, limits: Limits) -> Asked:
    """The checked body of ``POST /v1/chat/completions``. Raises a 400 or 413."""
    value = _object(body, _CHAT, {"model", "messages"})
    if "max_completion_tokens" in value:
        if "max_tokens" in value:
            raise _bad('"max_tokens" and "max_completion_tokens" are both given; give one', "max_tokens")
        value["max_tokens"] = value.pop("max_completion_tokens")
    top, wanted = _whole(value, "top_logprobs", 0, TOP), _flag(value, "logprobs")
    if top is not None and not wanted:
        raise _bad('"top_logprobs" needs "logprobs": true', "top_logprobs")
    work = _work(value, limits, 1, least=1)
    work |= {"messages": _messages(value["messages"], limits), "top": (top or 0) if wanted else None, "echo": False}
    return _asked(value, work, True, 1)


def embedding(body: bytes, limits: Limits) -> Embedding:
    """The checked body of ``POST /v1/embeddings``. Raises a 400 or 413."""
    value = _object(body, _EMBEDDING, {"model", "input"})
    form = value.get("encoding_format", "float")
    if form not in ("float", "base64"):
        raise _bad('"encoding_format" is neither "float" nor "base64"', "encoding_format")
    inputs = _inputs(value["input"], "input", limits)
    if any(not one for one in inputs):
        raise _bad('"input" holds an empty text', "input")
    return Embedding(_text(value["model"], "model"), inputs, form == "base64")


def _asked(value: dict[str, Any], work: dict[str, Any], chat: bool, prompts: int) -> Asked:
    stream = bool(_flag(value, "stream"))
    options = value.get("stream_options") or {}
    if not isinstance(options, dict) or options.keys() - {"include_usage", "include_obfuscation"}:
        raise _bad('"stream_options" is not an object of "include_usage"', "stream_options")
    if options and not stream:
        raise _bad('"stream_options" needs "stream": true', "stream_options")
    usage = bool(_flag(options, "include_usage"))
    return Asked(_text(value["model"], "model"), work, chat, prompts * work["n"], stream, usage)


def _work(value: dict[str, Any], limits: Limits, prompts: int, least: int) -> dict[str, Any]:
    """The settings that completions and chats share."""
    n = _whole(value, "n", 1, limits.choices) or 1
    if prompts * n > limits.choices:
        raise _bad(f"{prompts * n} texts are asked for; at most {limits.choices} are written", "n")
    top_p = _number(value, "top_p", 0, 1)
    if top_p == 0:
        raise _bad('"top_p" is 0; give a number above 0, at most 1', "top_p")
    repetition = _number(value, "repetition_penalty", 0.01, 100)
    temperature = _number(value, "temperature", 0, 2)
    seed = _whole(value, "seed", -(1 << 63), (1 << 63) - 1)
    return {
        "n": n,
        "max_tokens": _whole(value, "max_tokens", least, limits.tokens),
        "most": limits.tokens,
        "sampler": {
            "temperature": 1.0 if temperature is None else temperature,
            "top_k": _whole(value, "top_k", 0, 1 << 31),
            "top_p": top_p,
            "min_p": _number(value, "min_p", 0, 1),
            "repetition_penalty": repetition,
        },
        "presence": _number(value, "presence_penalty", -2, 2) or 0.0,
        "frequency": _number(value, "frequency_penalty", -2, 2) or 0.0,
        "bias": _bias(value.get("logit_bias")),
        "seed": seed,
        "stop": _stop(value.get("stop")),
        "ignore_eos": bool(_flag(value, "ignore_eos")),
    }


def _object(body: bytes, known: set[str], required: set[str]) -> dict[str, Any]:
    """The body's keys that ask for something; null does not."""
    value = strict.parse(body)
    if not isinstance(value, dict):
        raise _bad("it is not a JSON object", None)
    asks = {}
    for key, content in value.items():
        if key in known:
            if content is not None:
                asks[key] = content
        elif key not in _NOTHING:
            raise _bad(f'the key "{_short(key)}" is not known', _short(key))
        elif content is not None and key not in _READ_OVER and content not in _NOTHING[key]:
            raise Problem(
                400, f'"{key}" is not supported here.', "Leave it out.", param=key, code="unsupported_parameter"
            )
    if missing := sorted(required - asks.keys()):
        raise _bad(f'it lacks "{missing[0]}"', missing[0])
    return asks


def _inputs(value: Any, name: str, limits: Limits) -> list[Any]:
    """One text, several, one list of token ids, or several: as a list of texts and lists of ids."""
    one = isinstance(value, str) or (isinstance(value, list) and value and all(type(id) is int for id in value))
    inputs = [value] if one else value
    if not isinstance(inputs, list) or not inputs:
        raise _bad(f'"{name}" is no text, no list of texts and no token ids', name)
    if len(inputs) > limits.choices:
        raise _bad(f'"{name}" has {len(inputs):,} entries; at most {limits.choices} are read', name)
    for entry in inputs:
        if isinstance(entry, str):
            if len(_text(entry, name)) > limits.text_characters:
                raise _too_long(len(entry), limits, name)
        elif not isinstance(entry, list) or not all(type(id) is int and 0 <= id < 1 << 31 for id in entry):
            raise _bad(f'"{name}" holds something that is neither a text nor a list of token ids', name)
    return inputs


def _messages(value: Any, limits: Limits) -> list[dict[str, str]]:
    if not isinstance(value, list) or not value:
        raise _bad('"messages" is not a list of at least one message', "messages")
    messages, characters = [], 0
    for message in value:
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise _bad(f'a message has no "role" of {", ".join(ROLES)}', "messages")
        unknown = sorted(key for key in message if key not in ("role", "content", "name") and message[key] is not None)
        if unknown:
            raise _bad(f'"{_short(unknown[0])}" of a message is not supported here', "messages")
        content = message.get("content")
        parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
        if not all(isinstance(part, dict) and part.keys() == {"type", "text"} for part in parts):
            raise _bad('the "content" of a message is not a text; images and sounds are not read here', "messages")
        text = "".join(_text(part["text"], "messages") for part in parts)
        characters += len(text)
        name = {"name": _text(message["name"], "messages")} if message.get("name") is not None else {}
        messages.append({"role": message["role"], "content": text, **name})
    if characters > limits.text_characters:
        raise _too_long(characters, limits, "messages")
    return messages


def _stop(value: Any) -> list[str]:
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > STOPS:
        raise _bad(f'"stop" is not a text or a list of at most {STOPS}', "stop")
    if not all(0 < len(_text(one, "stop")) <= STOP_CHARACTERS for one in stops):
        raise _bad(f'a text of "stop" has not 1 to {STOP_CHARACTERS} characters', "stop")
    return stops


def _bias(value: Any) -> list[list[float]]:
    if value is None:
        return []
    if not isinstance(value, dict) or len(value) > BIASES:
        raise _bad(f'"logit_bias" is not an object of at most {BIASES} token ids', "logit_bias")
    if not all(key.isascii() and key.isdigit() and len(key) < 10 for key in value):
        raise _bad('a key of "logit_bias" is not a token id', "logit_bias")
    return [[int(key), _number(value, key, -100, 100, "logit_bias") or 0.0] for key in value]


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise _bad(f'"{name}" is not a text', name)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _bad(f'"{name}" holds half of a character (a lone surrogate)', name) from None
    return value


def _whole(value: dict[str, Any], name: str, least: int, most: int) -> int | None:
    number = value.get(name)
    if number is not None and (type(number) is not int or not least <= number <= most):
        raise _bad(f'"{name}" is not a whole number from {least:,} to {most:,}', name)
    return number


def _number(value: dict[str, Any], name: str, least: float, most: float, param: str | None = None) -> float | None:
    number = value.get(name)
    if number is None:
        return None
    if type(number) not in (int, float) or not least <= number <= most:
        raise _bad(f'"{param or name}" is not a number from {least:g} to {most:g}', param or name)
    return float(number)


def _flag(value: dict[str, Any], name: str) -> bool | None:
    flag = value.get(name)
    if flag is not None and type(flag) is not bool:
        raise _bad(f'"{name}" is neither true nor false', name)
    return flag


def _short(key: str) -> str:
    return key[:40].encode("ascii", "backslashreplace").decode()


def _bad(why: str, param: str | None) -> Problem:
    return Problem(400, f"The request was not understood: {why}.", param=param)


def _too_long(characters: int, limits: Limits, param: str) -> Problem:
    most = f"{limits.text_characters:,}"
    return Problem(413, f"The text has {characters:,} characters; at most {most} are read.", "Shorten it.", param=param)


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
