"""The whole machine: stem, stack of blocks, head.

Shapes: B batch, T time, S source time, D width, V vocabulary (or classes).

    ids (B,T) -> [stem] -> (B,T,D) -> [block] x N -> [norm] -> (B,T,D) -> [head] -> logits (B,T,V)
"""

from __future__ import annotations

from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from . import spec
from .attention import Mask
from .block import ACTIVATIONS, Block, Shared
from .cache import Cache, Texts
from .linear import linear
from .positions import RelativeBias, rotation
from .stems import TokenStem, make_stem
from .sublayer import make_norm
from .tap import tap


class Stack(nn.Module):
    """The blocks, and what they share: rotations, relative bias, masks, cache."""

    def __init__(self, stack: spec.Stack) -> None:
        super().__init__()
        self.stack = stack
        self.blocks = nn.ModuleList(Block(block, stack.width) for block in stack.blocks)
        self.norm = make_norm(stack.final_norm, stack.width)
        heads = stack.blocks[0].attn.heads
        self.relative = None if stack.relative is None else RelativeBias(heads, stack.relative)

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        present: Tensor | None = None,
        memory: Tensor | None = None,
        memory_present: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Residual stream in (B, T, D), out (B, T, D), normalised. ``positions`` (T,), or (B, T) where each text stands
        elsewhere. ``present`` (B, T) is False at padding.

        With an empty cache, or none, the keys are the new positions themselves; later they are the cache's slots.
        """
        if cache is not None:
            cache.place(positions)
        first_pass = cache is None or not cache.begun
        keys = {0: positions} if cache is None or first_pass else cache.rings
        shared = {
            slots: self._shared(Mask(positions, ring, first_pass, present), x.dtype, memory, memory_present)
            for slots, ring in keys.items()
        }
        ropes = {block.attn.rope for block in self.stack.blocks if block.attn.rope is not None}
        rotations = {rope: rotation(rope, positions, x.dtype) for rope in ropes}
        for i, (block, its) in enumerate(zip(self.blocks, self.stack.blocks, strict=True)):
            turn = None if its.attn.rope is None else rotations[its.attn.rope]
            if cache is None:
                x = block(x, shared[0], turn)
            else:
                layer = cache.layers[i]
                x = block(x, shared[0 if first_pass else layer.slots], turn, layer, cache.cross[i])
        if cache is not None:
            cache.advance(x.shape[1])
        return tap(self, "final", x if self.norm is None else self.norm(x))

    def _shared(self, mask: Mask, dtype: torch.dtype, memory: Tensor | None, memory_present: Tensor | None) -> Shared:
        bias = None if self.relative is None else self.relative(mask.queries, mask.keys).to(dtype)
        if memory is None:
            return Shared(mask, bias)
        memory_positions = torch.arange(memory.shape[1], device=memory.device)
        return Shared(mask, bias, memory, Mask(mask.queries, memory_positions, False, memory_present))


class Packed(Protocol):
    """A matrix that is kept in another form (quantized.py)."""

    def product(self, x: Tensor) -> Tensor:
        """x W^T: (..., D) -> (..., V)."""


Rows = Tensor | Packed


def _rows(tokens: nn.Module) -> Rows:
    """An embedding's rows, to unembed with."""
    rows: Rows = tokens if hasattr(tokens, "product") else tokens.weight  # type: ignore[assignment]
    return rows


class Unembedding(nn.Module):
    """One row per token, dotted with the stream; tied models bring the embedding's own rows."""

    def __init__(self, size: int, width: int, tied: bool, bias: bool) -> None:
        super().__init__()
        self.weight = None if tied else nn.Parameter(torch.zeros(size, width))
        self.bias = nn.Parameter(torch.zeros(size)) if bias else None

    def forward(self, x: Tensor, embedding: Rows | None) -> Tensor:
        rows = embedding if self.weight is None else self.weight
        if rows is None:
            raise ValueError("a tied unembedding needs the embedding's rows")
        if isinstance(rows, Tensor):
            return linear(x, rows, self.bias)
        found = rows.product(x)
        return found if self.bias is None else found + self.bias


class Head(nn.Module):
    """Residual stream (B, T, D) -> logits (B, T, V), or (B, V) when it pools."""

    def __init__(self, head: spec.Head, width: int) -> None:
        super().__init__()
        self.head = head
        self.dense = None if head.transform is None else nn.Linear(width, width)
        self.norm = None if head.transform is None else make_norm(head.transform[1], width)
        self.out = Unembedding(head.size, width, head.tied, head.bias)
        self.second = Unembedding(head.size, width, head.tied, head.bias) if head.pool == "first_two" else None

    def forward(self, x: Tensor, embedding: Rows | None = None, present: Tensor | None = None) -> Tensor:
        x = self.read(x, present)
        if self.dense is not None:
            x = tap(self, "head.hidden", self.hidden(tap(self, "head.up", self.dense(x))))
        return tap(self, "logits", self.unembed(x, embedding))

    def read(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """What of the stream becomes logits: all of it, or what stands where the head pools. The last token is the last
        that is ``present`` (B, T)."""
        if self.head.pool == "first":
            return x[:, 0]
        if self.head.pool == "first_two":
            return x[:, :2]
        if self.head.pool == "last" and present is not None:
            places = torch.arange(x.shape[1], device=x.device)
            return x[torch.arange(len(x), device=x.device), (places * present).argmax(1)]
        return x[:, -1] if self.head.pool == "last" else x

    def hidden(self, up: Tensor) -> Tensor:
        """What the layer before the unembedding makes of its sums (..., D): activation, then perhaps a norm."""
        if self.head.transform is None:
            raise ValueError("no layer stands before this unembedding")
        x = ACTIVATIONS[self.head.transform[0]](up)
        return x if self.norm is None else self.norm(x)

    def unembed(self, x: Tensor, embedding: Rows | None = None) -> Tensor:
        """The vectors the unembedding reads (..., D), of two unembeddings (..., 2, D), to logits (..., V)."""
        x = x * self.head.scale
        if self.second is None:
            logits: Tensor = self.out(x, embedding)
        else:
            logits = (self.out(x[..., 0, :], embedding) + self.second(x[..., 1, :], embedding)) / 2
        if self.head.softcap is not None:
            logits = self.head.softcap * torch.tanh(logits / self.head.softcap)
        return logits


class Transformer(nn.Module):
    """Decoder (GPT-2, Llama), encoder (BERT), vision model (ViT): one stem, one stack, one head."""

    record_names: ClassVar = {"stem": "", "stack": "", "head": ""}
    cache_in: Literal["int8"] | None = None  # what the engine in C keeps keys and values in; None: as suits the weights

    def __init__(self, transformer: spec.Transformer) -> None:
        super().__init__()
        self.spec = transformer
        self.stem = make_stem(transformer.stem)
        self.stack = Stack(transformer.stack)
        self.head = None if transformer.head is None else Head(transformer.head, transformer.stack.width)

    def forward(
        self,
        inputs: Tensor,
        present: Tensor | None = None,
        segments: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Token ids (B, T), or an image or mel frames, to logits (B, T, V); without a head, to the stream (B, T, D).
        See :meth:`stream`."""
        stream = self.stream(inputs, present, segments, cache)
        return stream if self.head is None else self.logits(stream, present)

    def logits(self, stream: Tensor, present: Tensor | None = None) -> Tensor:
        """What the head makes of the residual stream after the final norm: (B, T, D) -> (B, T, V), or (B, V) when it
        reads one position only. ``present`` (B, T) is False at padding, which is no last token.
        Raises ValueError where there is no head."""
        if self.head is None:
            raise ValueError("this model has no head, and so no logits")
        embedding = _rows(self.stem.tokens) if isinstance(self.stem, TokenStem) and self.head.head.tied else None
        logits: Tensor = self.head(stream, embedding, present)
        return logits

    def stream(
        self,
        inputs: Tensor,
        present: Tensor | None = None,
        segments: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """The residual stream as the head reads it: (B, T, D), after the final norm.

        ``present`` (B, T) is False at padding. With ``cache`` the ids are appended to what it holds; padding and a
        cache do not go together (ValueError).
        """
        if cache is not None and present is not None:
            raise ValueError("a cache holds sequences of equal length; padding cannot go along")
        if isinstance(self.stem, TokenStem):
            positions = _positions(inputs, cache)
            x = self.stem(inputs, positions, segments)
        else:
            x = self.stem(inputs)
            positions = torch.arange(x.shape[1], device=x.device)
        stream: Tensor = self.stack(x, positions, present, cache=cache)
        return stream

    def cache(self, batch: int, length: int, chunk: int = 1, room: int | None = None) -> Cache:
        """An empty cache for ``batch`` sequences of up to ``length`` tokens."""
        return Cache(self.spec.stack, batch, length, *_kind(self), chunk, room)

    def texts(self, batch: int, length: int, chunk: int = 1, room: int | None = None) -> Texts:
        """Empty caches for ``batch`` texts, each of a length of its own."""
        return Texts(self.spec.stack, batch, length, *_kind(self), chunk, room)


class Seq2Seq(nn.Module):
    """Encoder and decoder joined by cross-attention: T5, Marian, Whisper."""

    record_names: ClassVar = {"source": "encoder", "target": "decoder", "head": ""}
    cache_in: Literal["int8"] | None = None

    def __init__(self, seq2seq: spec.Seq2Seq) -> None:
        super().__init__()
        self.spec = seq2seq
        self.source, self.encoder = make_stem(seq2seq.source), Stack(seq2seq.encoder)
        self.target, self.decoder = TokenStem(seq2seq.target), Stack(seq2seq.decoder)
        if seq2seq.shared_embedding and isinstance(self.source, TokenStem):
            self.source.tokens = self.target.tokens
        self.head = Head(seq2seq.head, seq2seq.decoder.width)

    def forward(self, inputs: Tensor, ids: Tensor, present: Tensor | None = None) -> Tensor:
        """Source inputs and target ids (B, T) to logits (B, T, V); ``present`` (B, S) is False at source padding."""
        return self.decode(ids, self.encode(inputs, present), present)

    def encode(self, inputs: Tensor, present: Tensor | None = None) -> Tensor:
        """Source tokens (B, S), or mel frames, to the memory the decoder reads, (B, S, D)."""
        if isinstance(self.source, TokenStem):
            x = self.source(inputs, _positions(inputs, None))
        else:
            x = self.source(inputs)
        memory: Tensor = self.encoder(x, torch.arange(x.shape[1], device=x.device), present)
        return memory

    def decode(
        self, ids: Tensor, memory: Tensor, memory_present: Tensor | None = None, cache: Cache | None = None
    ) -> Tensor:
        """Target ids (B, T) and memory (B, S, D) to logits (B, T, V). See :meth:`stream`."""
        return self.logits(self.stream(ids, memory, memory_present, cache))

    def stream(
        self, ids: Tensor, memory: Tensor, memory_present: Tensor | None = None, cache: Cache | None = None
    ) -> Tensor:
        """The decoder's residual stream as the head reads it: (B, T, D), after the final norm.

        A memory of one row (1, S, D) is read by all B. With ``cache`` the ids are appended to what it holds.
        """
        positions = _positions(ids, cache)
        stream: Tensor = self.decoder(
            self.target(ids, positions), positions, memory=memory, memory_present=memory_present, cache=cache
        )
        return stream

    def logits(self, stream: Tensor) -> Tensor:
        """What the head makes of the decoder's residual stream: (B, T, D) -> (B, T, V)."""
        logits: Tensor = self.head(stream, _rows(self.target.tokens) if self.spec.head.tied else None)
        return logits

    def cache(self, batch: int, length: int, chunk: int = 1, room: int | None = None) -> Cache:
        """An empty cache for the decoder: ``batch`` sequences of up to ``length`` tokens."""
        return Cache(self.spec.decoder, batch, length, *_kind(self), chunk, room)

    def texts(self, batch: int, length: int, chunk: int = 1, room: int | None = None) -> Texts:
        """Empty caches for ``batch`` texts of the decoder, each of a length of its own."""
        return Texts(self.spec.decoder, batch, length, *_kind(self), chunk, room)


def embedding_of(model_spec: spec.Spec) -> str:
    """The name of the token embedding that a tied head unembeds with."""
    return "target.tokens.weight" if isinstance(model_spec, spec.Seq2Seq) else "stem.tokens.weight"


def build(model_spec: spec.Spec) -> Transformer | Seq2Seq:
    """The machine a spec describes; under ``torch.device("meta")`` it takes no memory."""
    return Seq2Seq(model_spec) if isinstance(model_spec, spec.Seq2Seq) else Transformer(model_spec)


def _positions(ids: Tensor, cache: Cache | None) -> Tensor:
    return torch.arange(ids.shape[1], device=ids.device) if cache is None else cache.next_positions(ids.shape[1])


def _kind(model: nn.Module) -> tuple[torch.dtype, torch.device]:
    """What a model's numbers are, and where."""
    some = next(model.parameters())
    return some.dtype, some.device
