"""The name of every tensor in a run, in the order the machine makes them, with its axes; and the index behind a name.

Axes: T time, S source time, H heads, K key-value heads, E head width, D width, F hidden, V vocabulary (or classes);
of an image C channels, Y rows, X columns of pixels; of a sound M mel bins, R frames. A record has no batch axis.
``name[3,5:9]`` takes one entry per axis from the left, as Python does.
"""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from ..errors import Misuse
from ..model import spec

Axes = tuple[str, ...]
Index = tuple[int | slice, ...]

#: What stands before the name of a weight.
WEIGHT = "weights."

#: What a head can be doing (heads.py has the definitions).
KINDS = ("previous", "first", "self", "same", "induction", "local", "broad")

#: How many tokens are named: of the logits in a file, and of a lens or a neuron. How many bins a long text is cut into.
TOP, BEST, BINS = 50, 10, 64

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
    {"image", "frames", "embed", "pos", "segment", "relative.bias", "resid_pre", "resid_mid", "resid_cross", "final"}
    | {f"{kind}.{what}" for kind in ("attn", "cross") for what in ("q_rot", "k_rot", "v", "out")}
    | {"mlp.up", "mlp.gate", "mlp.out"}
)


@functools.lru_cache(16)
def names(machine: spec.Spec) -> Mapping[str, Axes]:
    """Every name of a run of this machine -> its axes, in the order they are made."""
    if isinstance(machine, spec.Transformer):
        found = dict(_side("", machine.stem, machine.stack, "T"))
    else:
        found = dict(_side("encoder.", machine.source, machine.encoder, "S"))
        found |= dict(_side("decoder.", machine.target, machine.decoder, "T"))
    if machine.head is not None:
        time = ("T",) if every_token(machine) else ()
        if machine.head.transform is not None:
            found |= {"head.up": (*time, "D"), "head.hidden": (*time, "D")}
        found["logits"] = (*time, "V")
    return MappingProxyType(found)


@functools.lru_cache(16)
def answered(machine: spec.Spec) -> Mapping[str, Axes]:
    """Every name that a record of a run can answer -> its axes: what the machine makes, and what is read off it."""
    found = {**names(machine), **rivers(machine)}
    if every_token(machine):
        found |= {"logits.last": ("V",), "logits.top.values": ("T", "top"), "logits.top.ids": ("T", "top")}
        found["logits.rest"] = ("T",)
    return MappingProxyType(found | views(machine))


def _side(prefix: str, stem: spec.Stem, stack: spec.Stack, time: str) -> Iterator[tuple[str, Axes]]:
    if isinstance(stem, spec.Patches):
        yield f"{prefix}image", ("C", "Y", "X")
    if isinstance(stem, spec.Mel):
        yield f"{prefix}frames", ("M", "R")
        yield f"{prefix}conv1", ("D", "R")
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


def rivers(machine: spec.Spec) -> dict[str, Axes]:
    """How long the stream is at every stop: of the one stack, or of either side."""
    if isinstance(machine, spec.Transformer):
        return {"river": ("stop", "T")}
    return {"encoder.river": ("stop", "S"), "decoder.river": ("stop", "T")}


@functools.lru_cache(16)
def views(machine: spec.Spec) -> dict[str, Axes]:
    """What is read off a run on request and never stored by one: name -> axes."""
    if isinstance(machine, spec.Seq2Seq):
        found = _read_off("encoder.", machine.source, machine.encoder, "S", unembedded=False)
        found |= _read_off("decoder.", machine.target, machine.decoder, "T", unembedded=True)
    else:
        direct = every_token(machine) and head_of(machine).transform is None  # else it is no fixed direction
        found = _read_off("", machine.stem, machine.stack, "T", unembedded=direct)
    if not found or not every_token(machine):
        return found
    return found | {
        "lens.ids": ("T", "stop", "top"),
        "lens.p": ("T", "stop", "top"),
        "lens.final": ("T", "stop"),
        "lens.rank": ("T", "stop"),
    }


def _read_off(prefix: str, stem: spec.Stem, stack: spec.Stack, time: str, unembedded: bool) -> dict[str, Axes]:
    """Those of one stack; ``unembedded``: what its neurons add goes straight to the logits."""
    found: dict[str, Axes] = {f"{prefix}alike": ("stop", time, time)}
    for i, block in enumerate(stack.blocks):
        attn, mlp = f"{prefix}blocks.{i}.attn", f"{prefix}blocks.{i}.mlp"
        if isinstance(stem, spec.Tokens):  # what a head does is told by the tokens it reads
            found |= {f"{attn}.kinds": ("H", "kind"), f"{attn}.even": ("kind",)}
        found |= {f"{attn}.mean": (time, time), f"{attn}.max": (time, time)}
        found |= {f"{attn}.coarse": ("H", "bin", "bin"), f"{mlp}.strength": (time, "F")}
        if block.cross is not None:
            found |= {f"{prefix}blocks.{i}.cross.{how}": (time, "S") for how in ("mean", "max")}
        if unembedded:
            found |= {f"{mlp}.{way}.{what}": ("F", "top") for way in WAYS for what in ("ids", "values")}
    return found


WAYS = ("promotes", "demotes")

#: The axes of weights, by the end of their names (of a bias: the first); HE is all heads' numbers side by side.
WEIGHTS: dict[str, Axes] = {
    "q.weight": ("HE", "D"), "k.weight": ("KE", "D"), "v.weight": ("KE", "D"), "o.weight": ("D", "HE"),
    "up.weight": ("F", "D"), "gate.weight": ("F", "D"), "down.weight": ("D", "F"),
    "tokens.weight": ("V", "D"), "out.weight": ("V", "D"),
}  # fmt: skip


def weight_axes(name: str, dimensions: int) -> Axes:
    """The axes of a weight; those this table does not know are numbered."""
    module, _, kind = name.rpartition(".")
    known = WEIGHTS.get(f"{module.rpartition('.')[2]}.weight", ("D",) if dimensions == 1 else ())
    axes = known[:1] if kind == "bias" else known
    return axes if len(axes) == dimensions else tuple(str(i) for i in range(dimensions))


def stack_of(machine: spec.Spec, name: str) -> spec.Stack:
    """The stack a tensor belongs to."""
    if isinstance(machine, spec.Transformer):
        return machine.stack
    return machine.encoder if name.startswith("encoder.") else machine.decoder


@functools.lru_cache(32)
def stops(stack: spec.Stack) -> tuple[str, ...]:
    """Where a river is measured: before and after each attention (of a decoder that reads an encoder: after each of
    the two), and at the end."""
    found: list[str] = []
    for i, block in enumerate(stack.blocks):
        found += [f"blocks.{i}.resid_pre", f"blocks.{i}.resid_mid"]
        found += [f"blocks.{i}.resid_cross"] if block.cross is not None else []
    return (*found, f"blocks.{len(stack.blocks) - 1}.resid_post")


def head_of(machine: spec.Spec) -> spec.Head:
    """What makes logits of the stream. Raises Misuse for a model that makes none."""
    if machine.head is None:
        raise Misuse("This model has no head, and so no logits: its result is the stream itself.")
    return machine.head


def every_token(machine: spec.Spec) -> bool:
    """Are there logits at every token, rather than at one position or none?"""
    return machine.head is not None and machine.head.pool is None


def read_at(machine: spec.Spec, length: int) -> int:
    """Which of ``length`` positions a head that pools reads; of two the first."""
    return length - 1 if head_of(machine).pool == "last" else 0


def extent(machine: spec.Spec, name: str, axis: str, length: int, source: int = 0) -> int:
    """How long an axis of the tensor ``name`` is, in a run over ``length`` tokens, of which an encoder-decoder reads
    ``source`` others."""
    stack, size = stack_of(machine, name), 0 if machine.head is None else machine.head.size
    if axis == "stop":
        return len(stops(stack))
    whole = {
        "T": length, "S": source, "D": stack.width, "V": size, "kind": len(KINDS),
        "top": min(TOP if name.startswith("logits.") else BEST, size),
        "bin": min(BINS, source if name.startswith("encoder.") else length),
    }  # fmt: skip
    if isinstance(stem := machine.stem, spec.Patches):
        whole |= {"C": stem.channels, "Y": stem.image, "X": stem.image}
    if isinstance(stem, spec.Mel):
        heard = source or stem.length
        whole |= {"M": stem.bins, "R": 2 * heard, "S": heard}
    if axis in whole:
        return whole[axis]
    its = stack.blocks[int(name.partition("blocks.")[2].partition(".")[0]) if "blocks." in name else 0]
    attn = its.cross if ".cross." in name and its.cross is not None else its.attn
    return {"H": attn.heads, "K": attn.kv_heads, "E": attn.width, "F": its.mlp.hidden}[axis]


_ENTRY = re.compile(r"(-?[0-9]{1,9})|(-?[0-9]{1,9})?:(-?[0-9]{1,9})?")


def split(name: str) -> tuple[str, Index]:
    """``"embed[3,5:9]"`` -> ``("embed", (3, slice(5, 9)))``. Raises Misuse for what is no index."""
    plain, bracket, inside = name.partition("[")
    if not bracket:
        return name, ()
    entries = [_ENTRY.fullmatch(entry.strip()) for entry in inside.removesuffix("]").split(",")]
    if not inside.endswith("]") or None in entries:
        raise Misuse(f"{name!r} ends in no index.", f"Write one as in {plain}[3] or {plain}[3,5:9].")
    return plain, tuple(_entry(*entry.groups()) for entry in entries if entry is not None)


def _entry(one: str | None, start: str | None, stop: str | None) -> int | slice:
    if one is not None:
        return int(one)
    return slice(None if start is None else int(start), None if stop is None else int(stop))


def selected(name: str, index: Index, axes: Axes, shape: Sequence[int]) -> list[int]:
    """How many entries an index takes of each axis, an integer being 1. Raises Misuse for one that has none."""
    if len(index) > len(axes):
        raise Misuse(f"{name} has more entries than axes: {', '.join(axes)}.")
    counts = list(shape)
    for i, (entry, axis) in enumerate(zip(index, axes, strict=False)):
        size = shape[i]
        counts[i] = len(range(size)[entry]) if isinstance(entry, slice) else int(-size <= entry < size)
        if counts[i] == 0:
            what = "out of range" if isinstance(entry, int) else "empty"
            raise Misuse(f"{name} is {what}: axis {axis} has {size} entries.")
    return counts


def kept(index: Index, of: Sequence[str] | Sequence[int]) -> list[int]:
    """Which axes remain: those not taken by an integer."""
    return [i for i in range(len(of)) if not (i < len(index) and isinstance(index[i], int))]


def parted(index: Index, leading: int) -> tuple[list[slice], Index]:
    """The first entries as slices, to compute just those, and the index that then takes what was asked."""
    first = [slice(i, i + 1 or None) if isinstance(i, int) else i for i in index[:leading]]
    rest = tuple(0 if isinstance(i, int) else slice(None) for i in index[:leading])
    return first + [slice(None)] * (leading - len(first)), rest + index[leading:]


def stored(name: str, machine: spec.Spec) -> bool:
    """Is ``name`` one of those a run stores by default? Of a stack's resid_post only the last; the rest are
    resid_pre."""
    place = name.removeprefix("encoder.").removeprefix("decoder.")
    if place.startswith("blocks."):
        _, index, place = place.split(".", 2)
        if place == "resid_post":
            return int(index) == len(stack_of(machine, name).blocks) - 1
    return place in STORED


@functools.lru_cache(16)
def all_stored(machine: spec.Spec) -> frozenset[str]:
    """The names that a run stores by default."""
    return frozenset(name for name in names(machine) if stored(name, machine))


def matching(known: Iterable[str], patterns: str | Iterable[str]) -> tuple[list[str], list[str]]:
    """The known names that match any shell-style pattern, in their order, and the patterns that match none."""
    wanted = [patterns] if isinstance(patterns, str) else list(patterns)
    known = list(known)
    hit = {name for pattern in wanted for name in fnmatch.filter(known, pattern)}
    return [name for name in known if name in hit], [p for p in wanted if not fnmatch.filter(known, p)]
