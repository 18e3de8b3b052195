"""A decoder written down as a list of operations for kernels.c, and the memory they work in.

Shapes: M rows (tokens read at once), D width, F hidden, H heads, G key-value heads, E head width, V vocabulary,
S slots of a cache, B texts.

    embed -> [ q k v -> attend -> o, added -> up -> down, added ] x N -> unembed, of the rows that are wanted

Behind an encoder each block has a second attention: q -> attend, to the keys and values of what it made -> o, added.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cutaway.model import spec
from cutaway.model.attention import Attention
from cutaway.model.block import MLP, Block
from cutaway.model.positions import RelativeBias, rotation, sinusoids
from cutaway.model.quantized import Quantized
from cutaway.model.sublayer import Sublayer
from cutaway.model.transformer import Seq2Seq, Transformer

from .threads import one_thread

PANEL, GROUP = 16, 32  # rows of a panel; weights that share a scale
ABREAST, BESIDE = 48, 8  # inputs that meet a matrix of floats together, at most, side by side and along its rows
KINDS, QUANTIZED = {torch.float32: 0, torch.bfloat16: 1}, {8: 2, 4: 3}  # of matrices
ACTIVATIONS = {"": 0, "gelu": 1, "gelu_tanh": 2, "relu": 3, "silu": 4, "tanh": 5}
EMBED, NORM, LINEAR, ATTEND = range(4)
CACHES = {torch.float32: 0, torch.float16: 1, torch.int8: 2}

_pointer, _whole, _real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double


class CMatrix(ctypes.Structure):
    _fields_ = [("data", _pointer), ("bias", _pointer), ("out", _pointer),
                ("kind", _whole), ("rows", _whole), ("columns", _whole)]  # fmt: skip


class CNorm(ctypes.Structure):
    _fields_ = [("weight", _pointer), ("bias", _pointer), ("kind", _whole), ("eps", _real)]


class CAttention(ctypes.Structure):
    _fields_ = [
        *((name, _pointer) for name in ("q", "k", "v", "z", "keys", "values", "key_scales", "value_scales")),
        *((name, _pointer) for name in ("cos", "sin", "relative", "lengths")),
        ("q_norm", CNorm), ("k_norm", CNorm),
        *((name, _whole) for name in ("heads", "kv_heads", "width", "rotated", "slots", "window")),
        *((name, _whole) for name in ("whole_norm", "memories", "cache")),
        ("scale", _real), ("softcap", _real),
    ]  # fmt: skip


class COp(ctypes.Structure):
    _fields_ = [
        ("code", _whole), ("input", _pointer), ("width", _whole), ("norm", CNorm), ("matrix", CMatrix * 3),
        *((name, _whole) for name in ("matrices", "activation", "gated", "add", "picked", "exact")),
        ("scale", _real), ("softcap", _real), ("table", _pointer), ("offset", _whole), ("attention", CAttention),
    ]  # fmt: skip


class CBatch(ctypes.Structure):
    _fields_ = [
        ("rows", _whole), ("wanted", _whole), ("prompts", _whole),
        *((n, _pointer) for n in ("ids", "positions", "sequences", "picked", "floats", "bytes", "scales", "sums")),
        ("scratch", _whole),
    ]  # fmt: skip


STRUCTS = (CMatrix, CNorm, CAttention, COp, CBatch)


class Program:
    """The operations of one decoder, caches for ``texts`` texts of up to ``length`` tokens, room for ``rows`` at once.

    It reads the machine's own weights where they lie. ``memory`` (B or 1, S, D) is what an encoder made for each text,
    or for all of them. Keys and values are kept in 8 bits where the machine says so (``cache_in``), in float16 where it
    is quantised, else in float32; those of ``memory`` are always float32.
    """

    def __init__(
        self, machine: Transformer | Seq2Seq, texts: int, length: int, rows: int, memory: Tensor | None = None
    ) -> None:
        self.rows, self.length, self.texts = rows, length, texts
        self._kept: list[object] = []  # what the addresses point to
        self.caches: list[Tensor] = []  # (B, G, S, E): a panel of keys has its 16 turned, (E, 16); scales (B, G, S)
        self._cache_in = machine.cache_in
        self._rooms: dict[tuple[str, int], Tensor] = {}
        stem, stack = (
            (machine.target, machine.decoder) if isinstance(machine, Seq2Seq) else (machine.stem, machine.stack)
        )
        width = stack.stack.width
        self._memory, self._read = memory, 0 if memory is None else -(-memory.shape[1] // PANEL) * PANEL
        self._slots = -(-length // PANEL) * PANEL
        self._x, self._added = self._room(rows, width), self._room(rows, width)
        self._turns: dict[spec.Rope, tuple[Tensor, Tensor]] = {}
        self._relative = None if stack.relative is None else self._keep(self._distances(stack.relative))
        ops = list(self._embedding(stem))
        blocks: Iterable[Any] = stack.blocks
        for block, its in zip(blocks, stack.stack.blocks, strict=True):
            ops += self._block(block, its)
        ops.append(self._unembedding(machine.head, stem, stack.norm))
        self.ops = (COp * len(ops))(*ops)
        widest = max(matrix.columns for op in ops for matrix in op.matrix[: op.matrices])
        self.numbers = sum(matrix.rows * matrix.columns for op in ops if op.code == LINEAR for matrix in op.matrix)
        self._batch(widest)

    # ------------------------------------------------------------------ one run

    def fill(
        self,
        ids: Sequence[int],
        positions: Iterable[int],
        sequences: Iterable[int],
        wanted: Sequence[int],
        prompts: int = 0,
    ) -> CBatch:
        """The rows of the next run: token, position and text of each, and those of which logits are wanted. The first
        ``prompts`` of them are a prompt's."""
        count, batch = len(ids), self.batch
        self.ids[:count], self.picked[: len(wanted)] = ids, wanted
        self.positions[:count], self.sequences[:count] = list(positions), list(sequences)
        batch.rows, batch.wanted, batch.prompts = count, len(wanted), prompts
        return batch

    def _batch(self, widest: int) -> None:
        self.ids, self.positions, self.sequences, self.picked = (np.zeros(self.rows, np.int32) for _ in range(4))
        keys = max(self._slots, self._read) + PANEL
        self.batch, held = workspace(self.rows, widest, 4 * (6 * keys + self.rows + PANEL))
        self._kept += held
        self.batch.ids, self.batch.positions = self.ids.ctypes.data, self.positions.ctypes.data
        self.batch.sequences, self.batch.picked = self.sequences.ctypes.data, self.picked.ctypes.data

    # ------------------------------------------------------------------ from the machine to operations

    def _embedding(self, stem: Any) -> Iterable[COp]:
        its: spec.Tokens = stem.stem
        op = COp(code=EMBED, width=its.width, matrices=1, scale=its.scale)
        op.matrix[0] = self._matrix(stem.tokens, None, self._x)
        if its.positions is not None:
            op.table = _at(self._keep(self._places(stem, its.positions.offset)))
            op.offset = 0 if stem.positions is None else its.positions.offset
        yield op
        if stem.norm is not None:
            yield self._norm(self._x, stem.norm, self._x)

    @one_thread()
    def _places(self, stem: Any, offset: int) -> Tensor:
        """The vector of each position."""
        if stem.positions is None:
            return sinusoids(torch.arange(self.length), stem.stem.width, torch.float32).contiguous()
        table: Tensor = stem.positions.weight[: self.length + offset]
        return table.float().contiguous()

    def _block(self, block: Block, its: spec.Block) -> Iterable[COp]:
        attn, mlp = block.attn, block.mlp
        hidden = self._shared("hidden", its.mlp.hidden)
        up = self._up(mlp, its.mlp, hidden, attn if its.shared_norm else mlp)
        yield from self._attention(attn, its.attn)
        if its.parallel:  # the MLP reads the stream before attention adds to it
            yield up
        yield from self._leave(attn, self._linear(attn.o, self._z))
        if block.cross is not None and its.cross is not None:
            yield from self._cross(block.cross, its.cross)
            yield from self._leave(block.cross, self._linear(block.cross.o, self._z))
        if not its.parallel:
            yield up
        yield from self._leave(mlp, self._linear(mlp.down, hidden))

    def _attention(self, attn: Attention, its: spec.Attention) -> Iterable[COp]:
        """Queries, keys and values, and what they make of each other; the results are in ``_z``."""
        queries, keys = its.heads * its.width, its.kv_heads * its.width
        q, k, v = self._shared("q", queries), self._shared("k", keys), self._shared("v", keys)
        self._z = self._shared("z", queries)
        project = self._project(attn, 3)
        for i, (matrix, out) in enumerate(((attn.q, q), (attn.k, k), (attn.v, v))):
            project.matrix[i] = self._matrix(matrix, matrix.bias, out)
        yield project
        held = (self.texts, its.kv_heads, self._slots, its.width)
        caches = [self._cache(held, self._kind(attn)) for _ in range(2)]
        op = self._attend(attn, its, q, *caches)
        to = op.attention
        if self._cache_in == "int8":
            to.key_scales, to.value_scales = (_at(self._cache(held[:3], torch.float32)) for _ in range(2))
        to.k, to.v, to.relative = _at(k), _at(v), _at(self._relative)
        if its.rope is not None:
            if its.rope not in self._turns:
                self._turns[its.rope] = self._angles(its.rope)
            cos, sin = self._turns[its.rope]
            to.cos, to.sin, to.rotated = _at(cos), _at(sin), its.rope.width
        yield op

    @one_thread()
    def _angles(self, rope: spec.Rope) -> tuple[Tensor, Tensor]:
        """Cosine and sine for each position: of so many, PyTorch would wake all its threads."""
        cos, sin = rotation(rope, torch.arange(self._slots), torch.float32)
        return self._keep(cos.contiguous()), self._keep(sin.contiguous())

    def _kind(self, attn: Attention) -> torch.dtype:
        """What keys and values are kept in."""
        if self._cache_in == "int8":
            return torch.int8
        return torch.float16 if isinstance(attn.k, Quantized) else torch.float32  # inputs take 8 bits there anyway

    def _cache(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Room that a text fills as it grows; only then is the memory taken."""
        self.caches.append(self._keep(torch.empty(shape, dtype=dtype)))
        return self.caches[-1]

    def _cross(self, attn: Attention, its: spec.Attention) -> Iterable[COp]:
        """Queries, and what they make of the keys and values of an encoder's output, which are worked out here."""
        assert self._memory is not None, "a decoder behind an encoder has something to read"
        q, self._z = (self._shared(name, its.heads * its.width) for name in ("q", "z"))
        project = self._project(attn, 1)
        project.matrix[0] = self._matrix(attn.q, attn.q.bias, q)
        yield project
        memories, length, _ = self._memory.shape
        keys, values = (torch.zeros(memories, its.kv_heads, self._read, its.width) for _ in range(2))
        with torch.no_grad():
            keys[:, :, :length] = attn.keys(self._memory).transpose(1, 2)
            values[:, :, :length] = attn.values(self._memory).transpose(1, 2)
        turned = keys.unflatten(2, (-1, PANEL)).transpose(-1, -2).contiguous()
        op = self._attend(attn, its, q, self._keep(turned), self._keep(values))
        op.attention.slots, op.attention.memories = self._read, memories
        op.attention.lengths = _at(self._keep(torch.full((memories,), length, dtype=torch.int32)))
        yield op

    def _attend(self, attn: Attention, its: spec.Attention, q: Tensor, keys: Tensor, values: Tensor) -> COp:
        """Queries with keys and values that are kept; the results go to ``_z``."""
        op = COp(code=ATTEND)
        to = op.attention
        to.q, to.z, to.keys, to.values = (_at(tensor) for tensor in (q, self._z, keys, values))
        to.heads, to.kv_heads, to.width, to.slots = its.heads, its.kv_heads, its.width, self._slots
        to.scale, to.softcap, to.window = its.scale, its.softcap or 0, its.window or 0
        to.q_norm, to.k_norm = self._parameters(attn.q_norm), self._parameters(attn.k_norm)
        to.whole_norm, to.cache = its.qk_norm == "full", CACHES[keys.dtype]
        return op

    @one_thread()
    @torch.no_grad()
    def _distances(self, relative: RelativeBias) -> Tensor:
        """What each distance back adds to a score, (H, S)."""
        last = self._slots - 1
        bias: Tensor = relative(torch.tensor([last]), torch.arange(self._slots))  # (1, H, 1, S)
        return bias[0, :, 0].flip(-1).float().contiguous()

    def _up(self, mlp: MLP, its: spec.MLP, hidden: Tensor, enters: Sublayer) -> COp:
        matrices = [mlp.up] if mlp.gate is None else [mlp.gate, mlp.up]
        op = self._project(enters, len(matrices))
        op.gated, op.activation = its.gated, ACTIVATIONS[its.activation]
        for i, matrix in enumerate(matrices):
            op.matrix[i] = self._matrix(matrix, matrix.bias, hidden)
        return op

    def _leave(self, sublayer: Sublayer, product: COp) -> Iterable[COp]:
        """What a branch hands over is added to the stream, perhaps normalised before or after."""
        product.add = sublayer.post is None
        product.matrix[0].out = _at(self._x if product.add else self._added)
        yield product
        if sublayer.post is not None:
            yield self._norm(self._added, sublayer.post, self._x, add=True)
        if sublayer.stream is not None:
            yield self._norm(self._x, sublayer.stream, self._x)

    def _unembedding(self, head: Any, stem: Any, norm: Any) -> COp:
        assert head is not None, "a decoder has an unembedding"
        self.logits = self._room(self.rows, head.head.size)
        op = COp(
            code=LINEAR, input=_at(self._x), width=self._x.shape[1], matrices=1, picked=1, scale=head.head.scale,
            softcap=head.head.softcap or 0, norm=self._parameters(norm),
        )  # fmt: skip
        op.matrix[0] = self._matrix(stem.tokens if head.head.tied else head.out, head.out.bias, self.logits)
        return op

    def _linear(self, linear: Any, x: Tensor) -> COp:
        op = COp(code=LINEAR, input=_at(x), width=x.shape[1], matrices=1, scale=1)
        op.matrix[0] = self._matrix(linear, linear.bias, None)
        return op

    def _norm(self, x: Tensor, norm: nn.Module, out: Tensor, add: bool = False) -> COp:
        op = COp(code=NORM, input=_at(x), width=x.shape[1], norm=self._parameters(norm), add=add, matrices=1)
        op.matrix[0] = CMatrix(out=_at(out), rows=x.shape[1], columns=x.shape[1])
        return op

    def _project(self, enters: Sublayer, matrices: int) -> COp:
        """What several matrices make of the stream as a sublayer reads it."""
        norm, width = self._parameters(enters.pre), self._x.shape[1]
        return COp(code=LINEAR, input=_at(self._x), width=width, norm=norm, scale=1, matrices=matrices)

    def _parameters(self, norm: Any) -> CNorm:
        if norm is None:
            return CNorm()
        bias = getattr(norm, "bias", None)
        return CNorm(self._float(norm.weight), self._float(bias), 2 if bias is None else 1, norm.eps)

    def _matrix(self, module: Any, bias: Tensor | None, out: Tensor | None) -> CMatrix:
        if isinstance(module, Quantized):
            packed = self._keep(module.packed)
            kind, rows, columns = QUANTIZED[module.bits], module.rows, module.columns
            return CMatrix(_at(packed), self._float(bias), _at(out), kind, rows, columns)
        weight = self._keep(module.weight.detach().contiguous())
        return CMatrix(_at(weight), self._float(bias), _at(out), KINDS[weight.dtype], *weight.shape)

    def _float(self, tensor: Tensor | None) -> int | None:
        return None if tensor is None else _at(self._keep(tensor.detach().float().contiguous()))

    def _shared(self, name: str, width: int) -> Tensor:
        """Room for rows that every block uses anew."""
        if (name, width) not in self._rooms:
            self._rooms[name, width] = self._room(self.rows, width)
        return self._rooms[name, width]

    def _room(self, rows: int, width: int) -> Tensor:
        return self._keep(torch.empty(rows, width))

    def _keep(self, tensor: Tensor) -> Tensor:
        self._kept.append(tensor)
        return tensor


def workspace(rows: int, widest: int, attention: int = 0) -> tuple[CBatch, list[Tensor]]:
    """What operations on so many rows work in, where none of them is wider, and the tensors that must be kept as long.
    ``attention``: the bytes that attention takes of a thread's own."""
    blocks, groups = -(-rows // ABREAST) * ABREAST, -(-widest // GROUP)
    padded = groups * GROUP
    floats, scales = torch.empty(blocks, padded), torch.empty(blocks, groups)
    codes, sums = torch.empty(blocks, padded, dtype=torch.int8), torch.empty(blocks, groups, dtype=torch.int32)
    # A few rows are multiplied as 4 or 8; of those that are nobody's a denormal would take Intel's a hundred steps.
    floats.numpy().reshape(-1)[: BESIDE * widest] = 0
    own = 2 * 64 * 64 * 4 + padded * 16 + 4096  # a tile, one row of inputs
    own += max(2 * PANEL * padded * 4, 4 * groups * (2 * PANEL + PANEL * GROUP), attention)
    batch = CBatch(rows=rows, floats=_at(floats), bytes=_at(codes), scales=_at(scales), sums=_at(sums), scratch=own)
    return batch, [floats, scales, codes, sums]


def _at(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
