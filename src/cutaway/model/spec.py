"""What a Transformer is, as plain frozen data: no torch, no behaviour, no names of models.

    text, image, sound                                     a Transformer is a stem, a stack and a head
          |
      [ stem ]      Tokens | Patches | Mel                 inputs -> residual stream (T, width)
          |
      [ block ] x N   Attention and MLP, each x + branch(x)
          |
      [ norm ]
          |
      [ head ]      residual stream -> logits

A ``Seq2Seq`` is two of those joined by cross-attention. One ``Block`` per layer is written out, equal or not, so
alternating windows or rotations need no pattern flags. Every class checks its own values and raises ValueError.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "silu", "tanh")
SLOTS = ("pre", "post", "stream")


@dataclass(frozen=True)
class Norm:
    """Layer normalisation (Ba et al. 2016) or root-mean-square normalisation (Zhang & Sennrich 2019)."""

    kind: Literal["layer", "rms"]
    eps: float

    def __post_init__(self) -> None:
        _one_of("norm", self.kind, ("layer", "rms"))
        _positive("eps", self.eps)


@dataclass(frozen=True)
class LinearScaling:
    """Positions divided by ``factor`` (position interpolation, Chen et al. 2023)."""

    factor: float

    def __post_init__(self) -> None:
        _positive("factor", self.factor)


@dataclass(frozen=True)
class Llama3Scaling:
    """Long waves divided by ``factor``, short ones kept, a ramp between (Llama 3.1)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_length: int

    def __post_init__(self) -> None:
        _positive("factor", self.factor)
        _positive("original_length", self.original_length)
        if not self.low_freq_factor < self.high_freq_factor:
            raise ValueError(
                f"low_freq_factor {self.low_freq_factor} must be below {self.high_freq_factor}, the high one"
            )


@dataclass(frozen=True)
class YarnScaling:
    """NTK-by-parts interpolation with an attention temperature (YaRN, Peng et al. 2023).

    ``attention_factor`` multiplies cosine and sine, so scores grow by its square.
    """

    factor: float
    original_length: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 1.0
    truncate: bool = True

    def __post_init__(self) -> None:
        for name in ("factor", "original_length", "beta_fast", "beta_slow", "attention_factor"):
            _positive(name, getattr(self, name))


@dataclass(frozen=True)
class Rope:
    """Rotary positions (Su et al. 2021): the first ``width`` of each head's E numbers rotate, in halves."""

    base: float
    width: int
    scaling: LinearScaling | Llama3Scaling | YarnScaling | None = None

    def __post_init__(self) -> None:
        _positive("base", self.base)
        _positive("width", self.width)
        if self.width % 2:
            raise ValueError(f"rope width {self.width} must be even: numbers rotate in pairs")


@dataclass(frozen=True)
class Attention:
    """softmax(scale * q k^T + bias) v with ``heads`` queries sharing ``kv_heads`` keys and values.

    ``bias`` says which of the q, k, v, o projections carry one. ``window`` lets a query see only that many newest
    keys, itself included. ``softcap`` c replaces scores s by c tanh(s / c) (Gemma 2). ``qk_norm`` normalises queries
    and keys per head ("head") or over all heads at once ("full").
    """

    heads: int
    kv_heads: int
    width: int
    scale: float
    bias: str = ""
    causal: bool = True
    window: int | None = None
    rope: Rope | None = None
    qk_norm: Literal["head", "full"] | None = None
    softcap: float | None = None

    def __post_init__(self) -> None:
        for name in ("heads", "kv_heads", "width", "scale"):
            _positive(name, getattr(self, name))
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} heads cannot share {self.kv_heads} key-value heads evenly")
        if set(self.bias) - set("qkvo"):
            raise ValueError(f"attention bias {self.bias!r} must be made of the letters q, k, v, o")
        if self.rope is not None and self.rope.width > self.width:
            raise ValueError(f"rope width {self.rope.width} exceeds head width {self.width}")
        if self.window is not None:
            _positive("window", self.window)
        if self.qk_norm is not None:
            _one_of("qk_norm", self.qk_norm, ("head", "full"))
        if self.softcap is not None:
            _positive("softcap", self.softcap)


@dataclass(frozen=True)
class MLP:
    """down(act(up(x))), or down(act(gate(x)) * up(x)) when ``gated`` (Shazeer 2020)."""

    hidden: int
    activation: str
    gated: bool = False
    bias: bool = False

    def __post_init__(self) -> None:
        _positive("hidden", self.hidden)
        _one_of("activation", self.activation, ACTIVATIONS)


@dataclass(frozen=True)
class Block:
    """One layer. ``slots`` says where its norms sit:

        pre     h = norm(x) enters the branch          GPT-2, Llama, ViT, T5
        post    y = norm(branch(h)) leaves it          OLMo 2; with pre: Gemma 2, 3
        stream  x = norm(x + y) on the stream itself   the original Transformer, BERT, Marian

    ``parallel``: attention and MLP read the same stream and are added together (NeoX); with ``shared_norm`` they
    share one norm as well (Phi). ``cross`` adds attention over the encoder's output between the two.
    """

    attn: Attention
    mlp: MLP
    norm: Norm
    slots: tuple[str, ...] = ("pre",)
    parallel: bool = False
    shared_norm: bool = False
    cross: Attention | None = None

    def __post_init__(self) -> None:
        if not self.slots or set(self.slots) - set(SLOTS):
            raise ValueError(f"norm slots {self.slots} must be some of {SLOTS}")
        if self.parallel and ("stream" in self.slots or self.cross is not None):
            raise ValueError("a parallel block has neither a norm on the stream nor cross-attention")
        if self.shared_norm and not (self.parallel and "pre" in self.slots):
            raise ValueError("a shared norm is the pre norm of a parallel block")


@dataclass(frozen=True)
class RelativeBias:
    """Learned score bias by bucketed distance, shared by all layers (T5, Raffel et al. 2019)."""

    buckets: int
    max_distance: int
    bidirectional: bool

    def __post_init__(self) -> None:
        _positive("buckets", self.buckets)
        if self.max_distance <= self.buckets // 2:
            raise ValueError(f"max_distance {self.max_distance} must exceed half the {self.buckets} buckets")


@dataclass(frozen=True)
class Stack:
    """The blocks in order and what stands at their end."""

    width: int
    blocks: tuple[Block, ...]
    final_norm: Norm | None
    relative: RelativeBias | None = None

    def __post_init__(self) -> None:
        _positive("width", self.width)
        if not self.blocks:
            raise ValueError("a stack needs at least one block")


@dataclass(frozen=True)
class Positions:
    """Added position vectors: ``learned``, or fixed ``sinusoid`` (Vaswani et al. 2017).

    ``offset`` rows at the front of the table are never used (RoBERTa, BART).
    """

    kind: Literal["learned", "sinusoid"]
    length: int
    offset: int = 0

    def __post_init__(self) -> None:
        _one_of("positions", self.kind, ("learned", "sinusoid"))
        _positive("positions length", self.length)
        if self.offset < 0:
            raise ValueError(f"positions offset {self.offset} must not be negative")


@dataclass(frozen=True)
class Tokens:
    """Token ids -> rows of the embedding, times ``scale``, plus positions and segments, perhaps normalised."""

    vocabulary: int
    width: int
    scale: float = 1.0
    positions: Positions | None = None
    segments: int = 0
    norm: Norm | None = None

    def __post_init__(self) -> None:
        _positive("vocabulary", self.vocabulary)
        _positive("width", self.width)
        _positive("embedding scale", self.scale)
        if self.positions is not None and self.positions.kind == "sinusoid" and self.width % 2:
            raise ValueError(f"width {self.width} must be even: sines and cosines go in pairs")


@dataclass(frozen=True)
class Patches:
    """An image of ``image`` by ``image`` pixels in square patches of ``patch`` pixels -> vectors, behind
    ``extra_tokens`` learned ones (class; DeiT: and distillation)."""

    width: int
    image: int
    patch: int
    channels: int = 3
    extra_tokens: int = 1

    def __post_init__(self) -> None:
        for name in ("width", "image", "patch", "channels"):
            _positive(name, getattr(self, name))
        if self.image % self.patch:
            raise ValueError(f"an image of {self.image} pixels cannot be cut into patches of {self.patch}")

    @property
    def length(self) -> int:
        """How many vectors there are: the learned ones, then the patches row by row."""
        return self.extra_tokens + (self.image // self.patch) ** 2


@dataclass(frozen=True)
class Mel:
    """Log-mel frames -> two convolutions, the second halving time, plus positions (Whisper)."""

    width: int
    bins: int
    length: int

    def __post_init__(self) -> None:
        for name in ("width", "bins", "length"):
            _positive(name, getattr(self, name))


Stem = Tokens | Patches | Mel


@dataclass(frozen=True)
class Head:
    """Residual stream -> ``size`` logits.

    ``tied``: the token embedding serves as the unembedding. ``transform``: a dense layer, an activation and perhaps a
    norm first (BERT). ``pool``: "first" reads only the first position (ViT, encoders that classify); "last" only the
    last token (decoders that classify); "first_two" reads each of the first two with an unembedding of its own, and the
    logits are their mean (DeiT's class and distillation tokens).
    """

    size: int
    tied: bool = False
    bias: bool = False
    scale: float = 1.0
    softcap: float | None = None
    transform: tuple[str, Norm | None] | None = None
    pool: Literal["first", "first_two", "last"] | None = None

    def __post_init__(self) -> None:
        _positive("head size", self.size)
        if self.pool is not None:
            _one_of("pool", self.pool, ("first", "first_two", "last"))
        _positive("head scale", self.scale)
        if self.softcap is not None:
            _positive("softcap", self.softcap)


@dataclass(frozen=True)
class Transformer:
    """Decoder (GPT-2, Llama), encoder (BERT), vision model (ViT). ``context``: the longest sequence it was made for.

    Without a head its result is the stream itself (models of sentence vectors).
    """

    stem: Stem
    stack: Stack
    head: Head | None
    context: int

    def __post_init__(self) -> None:
        _same_width(self.stem, self.stack)
        _positive("context", self.context)
        if self.head is None or not self.head.tied:
            return
        if not (isinstance(self.stem, Tokens) and self.stem.vocabulary == self.head.size):
            raise ValueError("a tied head needs a token embedding of its own size")

    @property
    def stacks(self) -> tuple[Stack, ...]:
        return (self.stack,)

    @property
    def vocabulary(self) -> int:
        """How many tokens the stem knows; 0 where it reads none."""
        return self.stem.vocabulary if isinstance(self.stem, Tokens) else 0

    @property
    def task(self) -> Literal["continue", "fill", "classify", "see", "embed"]:
        """What it does: continue a text, fill what is masked in one, tell classes of texts apart, tell what an image
        shows, or make vectors."""
        if self.head is None:
            return "embed"
        if self.head.pool is not None:
            return "see" if isinstance(self.stem, Patches) else "classify"
        return "continue" if self.stack.blocks[0].attn.causal else "fill"


@dataclass(frozen=True)
class Seq2Seq:
    """Encoder and decoder joined by cross-attention (T5, Marian, Whisper).

    ``context``: the longest sequence either was made for. ``shared_embedding``: both stems read one token embedding.
    """

    source: Stem
    encoder: Stack
    target: Tokens
    decoder: Stack
    head: Head
    context: int
    shared_embedding: bool = False

    def __post_init__(self) -> None:
        _same_width(self.source, self.encoder)
        _same_width(self.target, self.decoder)
        if any(block.cross is None for block in self.decoder.blocks):
            raise ValueError("every decoder block of an encoder-decoder needs cross-attention")
        if self.head.tied and self.target.vocabulary != self.head.size:
            raise ValueError("a tied head needs a token embedding of its own size")
        if self.shared_embedding and (
            not isinstance(self.source, Tokens) or self.source.vocabulary != self.target.vocabulary
        ):
            raise ValueError("an embedding that is shared needs one vocabulary on both sides")

    @property
    def stem(self) -> Stem:
        """What reads what the model is given."""
        return self.source

    @property
    def stacks(self) -> tuple[Stack, ...]:
        return self.encoder, self.decoder

    @property
    def vocabulary(self) -> int:
        """How many tokens the encoder's stem knows; 0 where it reads none."""
        return self.source.vocabulary if isinstance(self.source, Tokens) else 0

    @property
    def task(self) -> Literal["rewrite", "transcribe"]:
        """What it does: turn one text into another, or write down what is said."""
        return "transcribe" if isinstance(self.source, Mel) else "rewrite"


Spec = Transformer | Seq2Seq


def classifies(spec: Spec) -> bool:
    """Are its logits of classes, rather than of tokens?"""
    return spec.head is not None and spec.head.pool is not None


def parameters(spec: Spec) -> int:
    """How many parameters a model of this spec has, tied and shared tables counted once. Arithmetic only."""
    if isinstance(spec, Transformer):
        return _stem(spec.stem) + _stack(spec.stack) + _head(spec.head, spec.stack.width)
    source = _stem(spec.source)
    if spec.shared_embedding and isinstance(spec.source, Tokens):
        source -= spec.source.vocabulary * spec.source.width
    both_stacks = _stack(spec.encoder) + _stack(spec.decoder)
    return source + _stem(spec.target) + both_stacks + _head(spec.head, spec.decoder.width)


def _norm(norm: Norm | None, width: int) -> int:
    return 0 if norm is None else width * (2 if norm.kind == "layer" else 1)


def _stem(stem: Stem) -> int:
    if isinstance(stem, Patches):
        return stem.width * (stem.channels * stem.patch**2 + 1 + stem.length + stem.extra_tokens)
    if isinstance(stem, Mel):
        return stem.width * (3 * stem.bins + 1 + 3 * stem.width + 1 + stem.length)
    rows = stem.vocabulary + stem.segments
    if stem.positions is not None and stem.positions.kind == "learned":
        rows += stem.positions.length + stem.positions.offset
    return rows * stem.width + _norm(stem.norm, stem.width)


def _attention(attn: Attention, width: int, norm: Norm) -> int:
    query, key = attn.heads * attn.width, attn.kv_heads * attn.width
    biases = {"q": query, "k": key, "v": key, "o": width}
    qk_norm = 0
    if attn.qk_norm == "head":
        qk_norm = 2 * _norm(norm, attn.width)
    elif attn.qk_norm == "full":
        qk_norm = _norm(norm, query) + _norm(norm, key)
    return 2 * width * (query + key) + sum(biases[letter] for letter in attn.bias) + qk_norm


def _stack(stack: Stack) -> int:
    width, total = stack.width, _norm(stack.final_norm, stack.width)
    counted: dict[Block, int] = {}
    for block in stack.blocks:
        if block not in counted:
            sublayers = 3 if block.cross is not None else 2
            norms = len(block.slots) * sublayers - (1 if block.shared_norm else 0)
            mlp = (3 if block.mlp.gated else 2) * width * block.mlp.hidden
            if block.mlp.bias:
                mlp += (2 if block.mlp.gated else 1) * block.mlp.hidden + width
            attentions = [block.attn] if block.cross is None else [block.attn, block.cross]
            counted[block] = (
                mlp + norms * _norm(block.norm, width) + sum(_attention(a, width, block.norm) for a in attentions)
            )
        total += counted[block]
    if stack.relative is not None:
        total += stack.relative.buckets * stack.blocks[0].attn.heads
    return total


def _head(head: Head | None, width: int) -> int:
    if head is None:
        return 0
    total = 0 if head.tied else head.size * width
    if head.bias:
        total += head.size
    if head.pool == "first_two":
        total *= 2
    if head.transform is not None:
        total += width * width + width + _norm(head.transform[1], width)
    return total


# ------------------------------------------------------------------ JSON

_CLASSES = {
    cls.__name__: cls
    for cls in (
        Norm, LinearScaling, Llama3Scaling, YarnScaling, Rope, Attention, MLP, Block, RelativeBias, Stack, Positions,
        Tokens, Patches, Mel, Head, Transformer, Seq2Seq,
    )
}  # fmt: skip


def to_json(value: Any) -> Any:
    """A spec as JSON-ready data; every object carries its class as ``kind_of``."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"kind_of": type(value).__name__, **fields}
    if isinstance(value, tuple):
        return [to_json(item) for item in value]
    return value


def from_json(data: Any) -> Any:
    """The inverse of :func:`to_json`. Raises ValueError for an unknown class or field."""
    if isinstance(data, list):
        return tuple(from_json(item) for item in data)
    if not isinstance(data, dict):
        return data
    fields = dict(data)
    name = fields.pop("kind_of", None)
    if name not in _CLASSES:
        raise ValueError(f"no part of a Transformer is called {name!r}")
    try:
        return _CLASSES[name](**{key: from_json(item) for key, item in fields.items()})
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from None


# ------------------------------------------------------------------ checks


def _positive(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise ValueError(f"{name} must be a number above zero, not {value!r}")


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} {value!r} is not one of {', '.join(known)}")


def _same_width(stem: Stem, stack: Stack) -> None:
    if stem.width != stack.width:
        raise ValueError(f"the stem writes vectors of {stem.width} numbers, the stack reads {stack.width}")
