"""The name of every tensor in a run, in the order the machine makes them, with its axes.

Axes: T time, S source time, H heads, K key-value heads, E head width, D width, F hidden, V vocabulary (or classes).
A record has no batch axis.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator

from ..model import spec

Axes = tuple[str, ...]

#: What one attention leaves behind, in order.
ATTENTION: tuple[tuple[str, Axes], ...] = (
    ("in", ("T", "D")),
    ("q", ("T", "H", "E")),
    ("k", ("T", "K", "E")),
    ("v", ("T", "K", "E")),
    ("q_rot", ("T", "H", "E")),
    ("k_rot", ("T", "K", "E")),
    ("scores", ("H", "T", "T")),
    ("pattern", ("H", "T", "T")),
    ("z", ("T", "H", "E")),
    ("out", ("T", "D")),
)

#: What a run stores unless told otherwise; everything else is derived from it on access.
STORED = frozenset(
    {"embed", "pos", "segment", "relative.bias", "resid_pre", "resid_mid", "resid_cross", "final"}
    | {f"{kind}.{what}" for kind in ("attn", "cross") for what in ("q_rot", "k_rot", "v", "out")}
    | {"mlp.up", "mlp.gate", "mlp.out"}
)


def names(machine: spec.Spec) -> dict[str, Axes]:
    """Every name of a run of this machine -> its axes, in the order they are made."""
    if isinstance(machine, spec.Transformer):
        found = dict(_side("", machine.stem, machine.stack, "T"))
    else:
        found = dict(_side("encoder.", machine.source, machine.encoder, "S"))
        found |= dict(_side("decoder.", machine.target, machine.decoder, "T"))
    head = machine.head
    return found | {"logits": ("V",) if head.pool == "first" else ("T", "V")}


def _side(prefix: str, stem: spec.Stem, stack: spec.Stack, time: str) -> Iterator[tuple[str, Axes]]:
    yield f"{prefix}embed", (time, "D")
    if not isinstance(stem, spec.Tokens) or stem.positions is not None:
        yield f"{prefix}pos", (time, "D")
    if isinstance(stem, spec.Tokens) and stem.segments:
        yield f"{prefix}segment", (time, "D")
    if stack.relative is not None:
        yield f"{prefix}relative.bias", ("H", time, time)
    for i, block in enumerate(stack.blocks):
        at = f"{prefix}blocks.{i}."
        yield f"{at}resid_pre", (time, "D")
        yield from ((f"{at}attn.{name}", _timed(axes, time, time)) for name, axes in ATTENTION)
        yield f"{at}resid_mid", (time, "D")
        if block.cross is not None:
            yield from ((f"{at}cross.{name}", _crossing(name, axes)) for name, axes in ATTENTION)
            yield f"{at}resid_cross", (time, "D")
        yield f"{at}mlp.in", (time, "D")
        yield from ((f"{at}mlp.{name}", (time, "F")) for name in ("up", "gate")[: 2 if block.mlp.gated else 1])
        yield f"{at}mlp.hidden", (time, "F")
        yield f"{at}mlp.out", (time, "D")
        yield f"{at}resid_post", (time, "D")
    yield f"{prefix}final", (time, "D")


def _timed(axes: Axes, queries: str, keys: str) -> Axes:
    """Rename time: the last T of a (H, T, T) is the keys'."""
    renamed = [queries if axis == "T" else axis for axis in axes]
    if axes == ("H", "T", "T"):
        renamed[-1] = keys
    return tuple(renamed)


def _crossing(name: str, axes: Axes) -> Axes:
    return _timed(axes, "S" if name in ("k", "v", "k_rot") else "T", "S")


def extent(machine: spec.Transformer, name: str, axis: str, length: int) -> int:
    """How long an axis of the tensor ``name`` is, in a run over ``length`` tokens."""
    stack = machine.stack
    whole = {"T": length, "D": stack.width, "V": machine.head.size, "stop": 2 * len(stack.blocks) + 1}
    if axis in whole:
        return whole[axis]
    its = stack.blocks[int(name.split(".")[1]) if name.startswith("blocks.") else 0]
    return {"H": its.attn.heads, "K": its.attn.kv_heads, "E": its.attn.width, "F": its.mlp.hidden}[axis]


def stored(name: str, layers: int) -> bool:
    """Is ``name`` one of those a run stores by default? Of the resid_post only the last; the rest are resid_pre."""
    place = name.removeprefix("encoder.").removeprefix("decoder.")
    if place.startswith("blocks."):
        _, index, place = place.split(".", 2)
        if place == "resid_post":
            return int(index) == layers - 1
    return place in STORED


def matching(known: Iterable[str], patterns: str | Iterable[str]) -> tuple[list[str], list[str]]:
    """The known names that match any shell-style pattern, in their order, and the patterns that match none."""
    wanted = [patterns] if isinstance(patterns, str) else list(patterns)
    known = list(known)
    hit = {name for pattern in wanted for name in fnmatch.filter(known, pattern)}
    return [name for name in known if name in hit], [p for p in wanted if not fnmatch.filter(known, p)]
