"""Keys and values already computed, so that one more token costs one more token.

Shapes: B batch, K key-value heads, T new tokens, S slots, E head width.

    Cache   B sequences of one length: a text, or the beams of one
    Texts   B texts, each of a length of its own: row by row, or one token of each at once

A layer's cache is a ring of S slots; position p lies in slot p mod S. A full cache has a slot for every position and
never wraps; a sliding window needs only window + chunk - 1 slots (chunk: the most tokens written at once), because
no query reads further back. Positions are tensors: a Python int would be compiled into the graph, once per value.
A cache may begin with less room than it is made for, and double it as it fills: what is not there is neither read nor
moved about.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from . import spec


def in_common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two texts begin with alike: so many need not be read again."""
    most = min(len(first), len(second))
    return next(itertools.compress(itertools.count(), map(operator.ne, first, second)), most)


class LayerCache:
    """One layer's keys and values, (B, K, S, E) each."""

    def __init__(self, k: Tensor, v: Tensor) -> None:
        self.k, self.v = k, v

    @classmethod
    def empty(
        cls, batch: int, attn: spec.Attention, slots: int, dtype: torch.dtype, device: torch.device
    ) -> LayerCache:
        k = torch.zeros(batch, attn.kv_heads, slots, attn.width, dtype=dtype, device=device)
        return cls(k, torch.zeros_like(k))

    @property
    def slots(self) -> int:
        return self.k.shape[2]

    def write(self, k: Tensor, v: Tensor, positions: Tensor) -> None:
        """Store new keys and values (B, K, T, E) of positions (T,) or (B, T); only the newest S of them when there are
        more."""
        k, v, positions = k[:, :, -self.slots :], v[:, :, -self.slots :], positions[..., -self.slots :]
        where = positions % self.slots
        if where.dim() == 2:
            each = where[:, None, :, None].expand_as(k)
            self.k.scatter_(2, each, k)
            self.v.scatter_(2, each, v)
        else:
            self.k.index_copy_(2, where, k)
            self.v.index_copy_(2, where, v)

    def reorder(self, rows: Tensor, filled: int) -> None:
        """Keep these batch rows, in that order, of the first ``filled`` slots."""
        for held in (self.k[:, :, :filled], self.v[:, :, :filled]):
            held.copy_(held.index_select(0, rows))

    def grow(self, slots: int) -> None:
        """Room for more, before anything has wrapped round."""
        more = (0, 0, 0, slots - self.slots)
        self.k, self.v = F.pad(self.k, more), F.pad(self.v, more)


class CrossCache:
    """Keys and values of an encoder's output, (B, K, S, E) each, computed once and read at every step.

    Beams that all read one output share its row, (1, K, S, E).
    """

    def __init__(self) -> None:
        self.k: Tensor | None = None
        self.v: Tensor | None = None

    def reorder(self, rows: Tensor) -> None:
        if self.k is not None and self.v is not None and len(self.k) > 1:
            self.k, self.v = self.k.index_select(0, rows), self.v.index_select(0, rows)


class Cache:
    """A stack's caches, one object per layer, and how many tokens they hold.

    ``length`` is counted on the host, for people; ``position`` is the same number as a tensor, for the model.
    ``rings``: slots -> the position each slot holds (-1: empty), shared by the layers with that many slots.
    ``room``: how many tokens there is room for at first; None: for all ``length`` of them.
    """

    def __init__(
        self,
        stack: spec.Stack,
        batch: int,
        length: int,
        dtype: torch.dtype,
        device: torch.device,
        chunk: int = 1,
        room: int | None = None,
    ) -> None:
        self.stack = stack
        self.capacity = length
        self.room = length if room is None else min(room, length)
        self.chunk = chunk
        self.length = 0
        apart = self._apart(batch)
        self.position = torch.zeros(apart, dtype=torch.long, device=device)
        self.layers = [
            LayerCache.empty(batch, block.attn, self._slots(block.attn), dtype, device) for block in stack.blocks
        ]
        self.cross = [CrossCache() for _ in stack.blocks]
        self.rings = {layer.slots: torch.full((*apart, layer.slots), -1, device=device) for layer in self.layers}

    def _apart(self, batch: int) -> tuple[int, ...]:
        """The shape of what each text has of its own: all are at the same position here."""
        return ()

    def _slots(self, attn: spec.Attention) -> int:
        return _slots(attn, self.room, self.chunk)

    @property
    def begun(self) -> bool:
        """Is there anything for the next tokens to read? Else they read only each other."""
        return self.length > 0

    def next_positions(self, count: int) -> Tensor:
        """Positions (T,) of the next ``count`` tokens. Raises ValueError when they do not fit."""
        if self.length + count > self.capacity:
            raise ValueError(f"the cache holds {self.capacity} tokens; {self.length} + {count} do not fit")
        if self.length > 0 and count > self.chunk:
            raise ValueError(f"this cache takes at most {self.chunk} tokens at a time once begun, not {count}")
        self.make_room(self.length + count)
        return self.position + torch.arange(count, device=self.position.device)

    def make_room(self, needed: int) -> None:
        """Twice the room, or what is ``needed``, where there is less. A ring that is as long as its window stays as it
        is."""
        if needed <= self.room:
            return
        self.room = min(max(needed, 2 * self.room), self.capacity)
        rings: dict[int, Tensor] = {}
        for layer, block in zip(self.layers, self.stack.blocks, strict=True):
            before, after = layer.slots, self._slots(block.attn)
            layer.grow(after)
            if after not in rings:
                rings[after] = F.pad(self.rings[before], (0, after - before), value=-1)
        self.rings = rings

    def place(self, positions: Tensor) -> None:
        """Give the new positions their slots, before the layers write what belongs there."""
        for slots, ring in self.rings.items():
            newest = positions[..., -slots:]
            ring.scatter_(-1, newest % slots, newest)

    def advance(self, count: int) -> None:
        self.length += count
        self.position += count

    def begin(self, given: Iterable[tuple[Tensor, Tensor]], length: int) -> None:
        """Begin with ``length`` tokens that another run has read: keys and values (B, K, T, E) for each layer."""
        positions = self.next_positions(length)
        self.place(positions)
        for layer, (k, v) in zip(self.layers, given, strict=True):
            layer.write(k, v, positions)
        self.advance(length)

    def back(self, length: int) -> None:
        """Forget the tokens from position ``length`` on, at most ``chunk`` of them where a ring has wrapped round."""
        if length < self.length:
            self.position -= self.length - length
            self.length = length
            for ring in self.rings.values():
                ring.masked_fill_(ring >= length, -1)

    def reorder(self, rows: Tensor) -> None:
        """Keep the given batch rows, in that order (beam search)."""
        for layer, cross in zip(self.layers, self.cross, strict=True):
            layer.reorder(rows, min(self.length, layer.slots))
            cross.reorder(rows)


class Texts(Cache):
    """``batch`` texts, each of a length of its own. One encoder's output is read by all of them.

    Each is a Cache of one row in ``each``. Given to a model itself, this reads one token (B, 1) of every text in one
    run. A text that does not go on (``moving`` 0) reads along: what it writes lies beyond its end, where its next token
    comes, or in a slot that no text fills. So the run is the same program whoever goes on; the lengths in ``each`` are
    the caller's to count.
    """

    @functools.cached_property
    def each(self) -> list[Row]:
        return [Row(self, text) for text in range(len(self.position))]

    @functools.cached_property
    def moving(self) -> Tensor:
        """1 for each text that goes on in the next run of all, else 0: (B,)."""
        return torch.zeros_like(self.position)

    def _apart(self, batch: int) -> tuple[int, ...]:
        return (batch,)

    def _slots(self, attn: spec.Attention) -> int:
        return _slots(attn, self.room + 1, self.chunk + 1)

    @property
    def begun(self) -> bool:
        return True

    def next_positions(self, count: int) -> Tensor:
        """Positions (B, T) of the next ``count`` tokens of each text."""
        return self.position[:, None] + torch.arange(count, device=self.position.device)

    def advance(self, count: int) -> None:
        self.position += count * self.moving

    def grow(self, length: int) -> None:
        """Texts may become as long as this."""
        self.capacity = max(length, self.capacity)
        for row in self.each:
            row.look()

    def make_room(self, needed: int) -> None:
        before = self.room
        super().make_room(needed)
        if self.room != before:
            for row in self.each:
                row.look()

    def copy(self, text: int, to: int, length: int) -> None:
        """Let ``to`` begin with the first ``length`` tokens of a text; with all of them where a window slides."""
        if to != text:
            source, target = self.each[text], self.each[to]
            for its, own in zip(source.layers, target.layers, strict=True):
                filled = min(source.length, its.slots)
                own.k[:, :, :filled], own.v[:, :, :filled] = its.k[:, :, :filled], its.v[:, :, :filled]
            for slots, ring in source.rings.items():
                target.rings[slots].copy_(ring)
            target.position.copy_(source.position)
            target.length = source.length
        self.each[to].back(length)

    def clear(self, text: int) -> None:
        """Let a text begin anew. What is hidden counts nothing times what it is, which must not be NaN."""
        row = self.each[text]
        for layer in row.layers:
            filled = min(row.length + 1, layer.slots)
            layer.k[:, :, :filled], layer.v[:, :, :filled] = 0, 0
        row.back(0)

    def reorder(self, rows: Tensor) -> None:
        lengths = [row.length for row in self.each]
        for layer in self.layers:
            layer.reorder(rows, min(max(lengths), layer.slots))
        for held in (self.position, *self.rings.values()):
            held.copy_(held.index_select(0, rows))
        for row, text in zip(self.each, rows.tolist(), strict=True):
            row.length = lengths[text]


class Row(Cache):
    """One of several Texts: the same memory."""

    def __init__(self, texts: Texts, text: int) -> None:
        self._texts, self._text = texts, text
        self.stack, self.chunk = texts.stack, texts.chunk
        self.length = 0
        self.cross = texts.cross
        self.look()

    def look(self) -> None:
        """Find the memory, which may have moved."""
        texts, text = self._texts, self._text
        self.capacity, self.room = texts.capacity, texts.room
        self.position = texts.position[text]
        self.layers = [LayerCache(layer.k[text : text + 1], layer.v[text : text + 1]) for layer in texts.layers]
        self.rings = {slots: ring[text] for slots, ring in texts.rings.items()}

    def make_room(self, needed: int) -> None:
        self._texts.make_room(needed)


def _slots(attn: spec.Attention, length: int, chunk: int) -> int:
    return length if attn.window is None else min(length, attn.window + chunk - 1)
