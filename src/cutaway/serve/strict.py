"""Requests read strictly: what is not exactly the JSON we asked for is a 400, never a surprise further in."""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from dataclasses import dataclass
from typing import Any, NoReturn

from .limits import Limits
from .problem import Problem

_NAME = re.compile(r"[A-Za-z0-9_.*?]+")
_ENTRY = r"(-?[0-9]{1,9}|(-?[0-9]{1,9})?:(-?[0-9]{1,9})?)"
_INDEX = re.compile(rf"{_ENTRY}(,{_ENTRY}){{0,7}}")


@dataclass(frozen=True)
class Want:
    """Tensors a page asks for: a glob over names and, when ``at`` is not None, an index into each, such as "3,5:9"."""

    name: str
    at: str | None


@dataclass(frozen=True)
class Run:
    """The body of ``POST /api/run``. ``given``: one of ``text``, ``tokens``, ``image`` and ``sound`` (base64), and
    perhaps the ``target``, token ids, that a decoder has written after it."""

    model: str
    given: dict[str, Any]
    want: list[Want]


def parse(body: bytes) -> Any:
    """JSON as the standard has it: UTF-8, no NaN, no Infinity, no number beyond a double, no key twice."""
    try:
        return json.loads(
            body.decode("utf-8"), parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_no_key_twice
        )
    except RecursionError:
        raise _bad("it is nested too deeply") from None
    except UnicodeDecodeError:
        raise _bad("it is not UTF-8") from None
    except ValueError:  # also an integer of more digits than Python reads
        raise _bad("it is not JSON") from None


def run(body: bytes, limits: Limits) -> Run:
    """The checked body of ``POST /api/run``. Raises a 400, or a 413 naming the limit that was passed."""
    value = parse(body)
    inputs = {"text", "tokens", "image", "sound"}
    _keys(value, "the request", required={"model"}, optional={*inputs, "target", "want"})
    if len(inputs & value.keys()) != 1:
        raise _bad('it needs one of "text", "tokens", "image" and "sound"')
    given: dict[str, Any] = {}
    if "text" in value:
        text = given["text"] = _text(value["text"], '"text"')
        if len(text) > limits.text_characters:
            most = f"{limits.text_characters:,}"
            raise Problem(413, f"The text has {len(text):,} characters; at most {most} are read.", "Shorten it.")
    given |= {name: _tokens(value[name], f'"{name}"', limits) for name in ("tokens", "target") if name in value}
    given |= {name: _base64(value[name], f'"{name}"') for name in ("image", "sound") if name in value}
    return Run(_text(value["model"], '"model"'), given, _wants(value.get("want", []), limits))


def model(body: bytes) -> str:
    """The checked body ``{"model": id}``. Raises a 400."""
    value = parse(body)
    _keys(value, "the request", required={"model"}, optional=set())
    return _text(value["model"], '"model"')


def name(value: object, limits: Limits) -> str:
    """A tensor's name or a glob over names, as letters, digits, ``_ . * ?``."""
    value = _text(value, '"name"')
    if len(value) > limits.name_characters or not _NAME.fullmatch(value):
        raise _bad('"name" is not the name of a tensor')
    return value


def index(value: object) -> str | None:
    """An index as ``name[...]`` takes it: an integer or a slice for each axis from the left, such as "3,5:9"."""
    if value is None:
        return None
    if type(value) is int and abs(value) < 1_000_000_000:
        value = str(value)
    if not isinstance(value, str) or not _INDEX.fullmatch(value):
        raise _bad('"at" is not an index')
    return value


def _wants(value: object, limits: Limits) -> list[Want]:
    if not isinstance(value, list):
        raise _bad('"want" is not a list')
    if len(value) > limits.wants:
        raise Problem(413, f'"want" has {len(value):,} entries; at most {limits.wants} are answered.', "Ask for fewer.")
    wants = []
    for entry in value:
        _keys(entry, 'an entry of "want"', required={"name"}, optional={"at"})
        wants.append(Want(name(entry["name"], limits), index(entry.get("at"))))
    return wants


def _tokens(value: object, what: str, limits: Limits) -> list[int]:
    if not isinstance(value, list):
        raise _bad(f"{what} is not a list")
    if len(value) > limits.tokens:
        raise Problem(413, f"There are {len(value):,} tokens; at most {limits.tokens:,} are run.", "Send fewer.")
    for token in value:
        if type(token) is not int or not 0 <= token < 1 << 31:  # bool is an int to isinstance
            raise _bad(f"{what} holds something that is not a token id")
    return value


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise _bad(f"{what} is not a string")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise _bad(f"{what} holds half of a character (a lone surrogate)") from None
    return value


def _base64(value: object, what: str) -> str:
    value = _text(value, what)
    try:
        base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise _bad(f"{what} is not base64") from None
    return value


def _keys(value: object, what: str, required: set[str], optional: set[str]) -> None:
    if not isinstance(value, dict):
        raise _bad(f"{what} is not an object")
    if missing := sorted(required - value.keys()):
        raise _bad(f"{what} lacks {json.dumps(missing[0])}")
    if foreign := sorted(value.keys() - required - optional):
        raise _bad(f"{what} has a key that is not known: {json.dumps(foreign[0][:40])}")


def _no_constant(text: str) -> NoReturn:
    raise ValueError(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key given twice")
    return value


def _bad(why: str) -> Problem:
    return Problem(400, f"The request was not understood: {why}.")
