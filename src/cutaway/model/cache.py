"""Keys and values already computed, so that one more token costs one more token.

Shapes: B batch, K key-value heads, T new tokens, S slots, E head width.

A layer's cache is a ring of S slots; position p lies in slot p mod S. A full cache has a slot for every position and
never wraps; a sliding window needs only window + chunk - 1 slots (chunk: the most tokens written at once), because
no query reads further back. Positions are tensors: a Python int would be compiled into the graph, once per value.
A cache may begin with less room than it is made for, and double it as it fills: what is not there is neither read nor
moved about.
"""

from __future__ import annotations

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

    def __init__(self, batch: int, attn: spec.Attention, slots: int, dtype: torch.dtype, device: torch.device) -> None:
        self.k = torch.zeros(batch, attn.kv_heads, slots, attn.width, dtype=dtype, device=device)
        self.v = torch.zeros_like(self.k)

    @property
    def slots(self) -> int:
        return self.k.shape[2]

    def write(self, k: Tensor, v: Tensor, positions: Tensor) -> None:
        """Store new keys and values (B, K, T, E); only the newest S of them when there are more."""
        k, v, positions = k[:, :, -self.slots :], v[:, :, -self.slots :], positions[-self.slots :]
        where = positions % self.slots
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
        self.position = torch.zeros((), dtype=torch.long, device=device)
        self.layers = [
            LayerCache(batch, block.attn, _slots(block.attn, self.room, chunk), dtype, device) for block in stack.blocks
        ]
        self.cross = [CrossCache() for _ in stack.blocks]
        self.rings = {layer.slots: torch.full((layer.slots,), -1, device=device) for layer in self.layers}

    def next_positions(self, count: int) -> Tensor:
        """Positions (T,) of the next ``count`` tokens. Raises ValueError when they do not fit."""
        if self.length + count > self.capacity:
            raise ValueError(f"the cache holds {self.capacity} tokens; {self.length} + {count} do not fit")
        if self.length > 0 and count > self.chunk:
            raise ValueError(f"this cache takes at most {self.chunk} tokens at a time once begun, not {count}")
        if self.length + count > self.room:
            self._grow(self.length + count)
        return self.position + torch.arange(count, device=self.position.device)

    def _grow(self, needed: int) -> None:
        """Twice the room, or what is needed. A ring that is as long as its window stays as it is."""
        self.room = min(max(needed, 2 * self.room), self.capacity)
        rings: dict[int, Tensor] = {}
        for layer, block in zip(self.layers, self.stack.blocks, strict=True):
            before, after = layer.slots, _slots(block.attn, self.room, self.chunk)
            layer.grow(after)
            if after not in rings:
                rings[after] = F.pad(self.rings[before], (0, after - before), value=-1)
        self.rings = rings

    def place(self, positions: Tensor) -> None:
        """Give the new positions their slots, before the layers write what belongs there."""
        for slots, ring in self.rings.items():
            newest = positions[-slots:]
            ring.index_copy_(0, newest % slots, newest)

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

    def copy(self, other: Cache, length: int) -> None:
        """Begin with the first ``length`` tokens of a cache of the same stack, in which no window slides."""
        self.begin(((layer.k[:, :, :length], layer.v[:, :, :length]) for layer in other.layers), length)

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


def _slots(attn: spec.Attention, length: int, chunk: int) -> int:
    return length if attn.window is None else min(length, attn.window + chunk - 1)
