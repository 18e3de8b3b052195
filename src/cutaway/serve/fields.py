"""What a request may hold, said once: each kind of value reads itself strictly, and says what it reads as a schema.

Shape({"n": Field(Whole(1, 64), 1)}).read({"n": 0})      a Problem: "n" is not a whole number from 1 to 64
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Protocol

from .problem import Problem


class Kind(Protocol):
    """A kind of value. ``noun``: what a value of it is called where one is missed."""

    @property
    def noun(self) -> str: ...

    def fits(self, value: Any) -> bool:
        """Is it this kind of JSON, whatever its bounds?"""

    def read(self, value: Any, name: str) -> Any:
        """The value as it is used; ``name``: where it stands. Raises a 400 or 413."""

    def schema(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Text:
    """A text of so many characters."""

    least: int = 0
    most: int | None = None
    noun = "a text"

    def fits(self, value: Any) -> bool:
        return isinstance(value, str)

    def read(self, value: Any, name: str) -> str:
        if not self.fits(value):
            raise _missed(self, name)
        if len(value) < self.least:
            raise bad(f'"{name}" is an empty text', name)
        if self.most is not None and len(value) > self.most:
            raise too_long(len(value), self.most, name)
        try:
            value.encode()
        except UnicodeEncodeError:
            raise bad(f'"{name}" holds half of a character (a lone surrogate)', name) from None
        return str(value)

    def schema(self) -> dict[str, Any]:
        return {"type": "string", **_given(minLength=self.least or None, maxLength=self.most)}


@dataclass(frozen=True)
class Whole:
    """A whole number in these bounds; JSON tells 4.0 and 4 apart no more than a schema does."""

    least: int
    most: int

    @property
    def noun(self) -> str:
        return f"a whole number from {self.least:,} to {self.most:,}"

    def fits(self, value: Any) -> bool:
        return type(value) is int or (type(value) is float and value.is_integer())  # bool is an int to isinstance

    def read(self, value: Any, name: str) -> int:
        if not self.fits(value) or not self.least <= value <= self.most:
            raise _missed(self, name)
        return int(value)

    def schema(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": self.least, "maximum": self.most}


@dataclass(frozen=True)
class Number:
    """A number in these bounds; ``above``: not the lower one itself."""

    least: float
    most: float
    above: bool = False

    @property
    def noun(self) -> str:
        return f"a number {'above' if self.above else 'from'} {self.least:g} to {self.most:g}"

    def fits(self, value: Any) -> bool:
        return type(value) in (int, float)

    def read(self, value: Any, name: str) -> float:
        if not self.fits(value) or not self.least <= value <= self.most or (self.above and value == self.least):
            raise _missed(self, name)
        return float(value)

    def schema(self) -> dict[str, Any]:
        return {"type": "number", "exclusiveMinimum" if self.above else "minimum": self.least, "maximum": self.most}


@dataclass(frozen=True)
class Flag:
    noun = "true or false"

    def fits(self, value: Any) -> bool:
        return type(value) is bool

    def read(self, value: Any, name: str) -> bool:
        if not self.fits(value):
            raise _missed(self, name)
        return bool(value)

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}


@dataclass(frozen=True)
class Among:
    """One of a few values."""

    values: tuple[Any, ...]

    @property
    def noun(self) -> str:
        return f"one of {', '.join(map(str, self.values))}"

    def fits(self, value: Any) -> bool:
        return any(one == value and (type(one) is bool) == (type(value) is bool) for one in self.values)

    def read(self, value: Any, name: str) -> Any:
        if not self.fits(value):
            raise _missed(self, name)
        return value

    def schema(self) -> dict[str, Any]:
        return {"enum": list(self.values)}


@dataclass(frozen=True)
class Several:
    """A list of so many of one kind."""

    kind: Kind
    least: int = 0
    most: int | None = None
    noun = "a list"

    def fits(self, value: Any) -> bool:
        return isinstance(value, list) and all(map(self.kind.fits, value))

    def read(self, value: Any, name: str) -> list[Any]:
        if not isinstance(value, list):
            raise _missed(self, name)
        if len(value) < self.least:
            raise bad(f'"{name}" is an empty list', name)
        if self.most is not None and len(value) > self.most:
            raise bad(f'"{name}" has {len(value):,} entries; at most {self.most} are read', name)
        its = f"{name}[]"
        return [self.kind.read(one, its) for one in value]

    def schema(self) -> dict[str, Any]:
        bounds = _given(minItems=self.least or None, maxItems=self.most)
        return {"type": "array", "items": self.kind.schema(), **bounds}


@dataclass(frozen=True)
class Each:
    """An object of at most so many numbers by whole numbers of at most nine digits, read as pairs."""

    kind: Number
    most: int

    @property
    def noun(self) -> str:
        return f"an object of at most {self.most} token ids"

    def fits(self, value: Any) -> bool:
        return isinstance(value, dict)

    def read(self, value: Any, name: str) -> list[list[float]]:
        if not self.fits(value) or len(value) > self.most:
            raise _missed(self, name)
        if not all(re.fullmatch("[0-9]{1,9}", key) for key in value):
            raise bad(f'a key of "{name}" is not a token id', name)
        return [[int(key), self.kind.read(one, f"{name}.{key}")] for key, one in value.items()]

    def schema(self) -> dict[str, Any]:
        keys = {"pattern": "^[0-9]{1,9}$"}
        numbers = self.kind.schema()
        return {"type": "object", "maxProperties": self.most, "propertyNames": keys, "additionalProperties": numbers}


@dataclass(frozen=True)
class Either:
    """The first of several kinds that fits."""

    noun: str
    kinds: tuple[Kind, ...]

    def fits(self, value: Any) -> bool:
        return any(kind.fits(value) for kind in self.kinds)

    def read(self, value: Any, name: str) -> Any:
        if not self.fits(value):
            raise _missed(self, name)
        return next(kind for kind in self.kinds if kind.fits(value)).read(value, name)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [kind.schema() for kind in self.kinds]}


@dataclass(frozen=True)
class Anything:
    """What changes nothing: read over."""

    noun = "anything"

    def fits(self, value: Any) -> bool:
        return True

    def read(self, value: Any, name: str) -> None:
        return None

    def schema(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class Unsupported:
    """What would change the answer and is not done here; ``nothing``: the values that ask for nothing, beside null."""

    nothing: tuple[Any, ...] = ()
    noun = "supported here"

    def fits(self, value: Any) -> bool:
        return Among(self.nothing).fits(value)

    def read(self, value: Any, name: str) -> None:
        if not self.fits(value):
            raise Problem(
                400, f'"{name}" is not supported here.', "Leave it out.", param=name, code="unsupported_parameter"
            )

    def schema(self) -> dict[str, Any]:
        return {"enum": [*self.nothing, None]}


@dataclass(frozen=True)
class Field:
    """A key of an object: its kind, and what it is where nothing is said; ``says``: what the kind does not."""

    kind: Kind
    default: Any = None
    says: str = ""
    required: bool = False

    def schema(self) -> dict[str, Any]:
        kind = self.kind.schema()
        if not self.required and not isinstance(self.kind, (Anything, Unsupported)):  # they have null among theirs
            kind = {"anyOf": [kind, {"type": "null"}]}
        return {**kind, **_given(default=self.default, description=self.says or None)}


@dataclass(frozen=True)
class Shape:
    """An object of these keys and no others; null is as if the key were not there."""

    fields: dict[str, Field]
    noun = "a JSON object"

    def fits(self, value: Any) -> bool:
        return isinstance(value, dict)

    def read(self, value: Any, name: str = "") -> dict[str, Any]:
        """Every key, with what it is where nothing is said."""
        if not self.fits(value):
            raise _missed(self, name)
        own = f"{name}." if name else ""
        for key in value:
            if key not in self.fields:
                raise bad(f'the key "{own}{_short(key)}" is not known', name or _short(key))
        found = {}
        for key, field in self.fields.items():
            if value.get(key) is not None:
                found[key] = field.kind.read(value[key], own + key)
            elif field.required:
                raise bad(f'{_called(name)} lacks "{key}"', name or key)
            else:
                found[key] = field.default
        return found

    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": {name: field.schema() for name, field in self.fields.items()},
            "required": [name for name, field in self.fields.items() if field.required],
            "additionalProperties": False,
        }


def bad(why: str, name: str | None) -> Problem:
    """A 400; its ``param`` is the key of the request that ``name`` begins with."""
    return Problem(400, f"The request was not understood: {why}.", param=_key(name))


def too_long(characters: int, most: int, name: str) -> Problem:
    """A 413."""
    said = f'"{name}" has {characters:,} characters; at most {most:,} are read.'
    return Problem(413, said, "Shorten it.", param=_key(name))


def _key(name: str | None) -> str | None:
    return re.split(r"[.\[]", name)[0] if name else None


def _missed(kind: Kind, name: str) -> Problem:
    return bad(f"{_called(name)} is not {kind.noun}", name)


def _called(name: str) -> str:
    return f'"{name}"' if name else "it"


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _short(key: str) -> str:
    return key[:40].encode("ascii", "backslashreplace").decode()
