"""The Record of a run: every intermediate by name, in memory or in one file.

Axes: T time, S source time, H heads, K key-value heads, E head width, D width, F hidden, V vocabulary; of an image
C channels, Y rows, X columns of pixels. A run of an image stores ``image``, as the model read it, before all others.

    stored    embed pos | per block: resid_pre, q_rot k_rot v, attention's out, resid_mid, up gate, MLP's out | final
    derived   in, q, k, scores, pattern, z, hidden, resid_post, logits, river: on access, from the stored ones
    views     kinds, mean, max, coarse, strength, promotes, demotes, lens: what is read off those (heads, lens, neurons)

Everything of GPT-2 small at 512 tokens would be 804 MB; stored this way it is a quarter. A derived tensor is computed
by the machine's own functions from what the run left, so it is what the run computed.
"""

from __future__ import annotations

import difflib
import functools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import gelu

from ..errors import Misuse
from ..model import attention, block
from ..model import spec as specs
from ..model.attention import Mask
from ..model.positions import rotate, rotation
from ..model.quantized import Quantized, rows_of, weights
from ..model.stems import MelStem
from ..model.sublayer import make_norm
from ..model.tap import Edit, record
from ..model.transformer import Head, Rows, Seq2Seq, Transformer, embedding_of
from ..native.product import in_turn
from . import heads, neurons
from . import names as naming
from .after import begun, can_be_gone_on_from, go_on
from .lens import lens
from .names import TOP, WEIGHT

if TYPE_CHECKING:
    from .explain import Explanation


@dataclass(frozen=True)
class ModelCard:
    """Which model a record is of. ``fingerprint`` is of the checkpoint's headers and a sample of its pages.

    ``verified``: largest logit difference from the reference library, where it was measured on this checkpoint.
    """

    name: str
    family: str = ""
    parameters: int = 0
    dtype: str = "float32"
    fingerprint: str = ""
    verified: float | None = None


@dataclass
class Record:
    """One run of one model. ``record["blocks.2.attn.pattern"]`` is a plain tensor (H, T, T).

    A name may end in an index, one entry per axis from the left: ``"blocks.2.attn.pattern[3,5:9]"`` is what tokens 5
    to 8 read in head 3, (4, T), and only that is computed. ``weights`` are the model's own while it is loaded, or those
    the file brought along; ``record["weights.stack.blocks.2.mlp.down.weight.T[7]"]`` is neuron 7's column (D).
    """

    model: ModelCard
    spec: specs.Spec
    tokens: list[int]
    tensors: dict[str, Tensor]
    weights: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    text: str | None = None
    pieces: list[dict[str, Any]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    edits: list[str] = field(default_factory=list)
    #: What an encoder read (axis S), while ``tokens`` are what the decoder read (axis T); empty where there is none.
    source: list[int] = field(default_factory=list)
    source_pieces: list[dict[str, Any]] = field(default_factory=list)
    #: What each logit stands for, in order: the readable text of a token, the name of a class; asked for when a file is
    #: written. Empty where nobody knows.
    vocabulary: Callable[[], list[str]] = field(default=list, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._axes = naming.answered(self.spec)

    def names(self, views: bool = False) -> list[str]:
        """Every name this record can answer, in the order the machine makes them; ``views``: what is read off them
        (kinds of heads, lens, neurons) as well."""
        hidden = () if views else naming.views(self.spec)
        return [name for name in self._axes if name not in hidden and self._has(name)]

    def weight_names(self) -> list[str]:
        """The names under which the weights at hand are answered; ``.T`` behind one turns it round."""
        return [f"{WEIGHT}{name}" for name in self.weights]

    def matching(self, patterns: str | Iterable[str]) -> list[str]:
        """The names that match shell-style patterns; views and weights only where no plainer name does, so that
        ``*`` stays what the machine made. A name with an index stands for itself. Raises Misuse where nothing does."""
        found: list[str] = []
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            hits = [pattern] if pattern in self else naming.matching(self.names(), pattern)[0]
            hits = hits or naming.matching([*self.names(views=True), *self.weight_names()], pattern)[0]
            if not hits:
                raise Misuse(f"Nothing in this record matches {pattern!r}.", "record.names() lists what it has.")
            found += hits
        return list(dict.fromkeys(found))

    def axes(self, name: str) -> naming.Axes:
        """The axes of a tensor by letter, such as ("H", "T", "T"). Raises Misuse for an unknown name or index."""
        plain, index = naming.split(name)
        axes = self._plain_axes(plain)
        if len(index) > len(axes):
            raise Misuse(f"{name} has more entries than axes: {', '.join(axes)}.")
        return tuple(axes[i] for i in naming.kept(index, axes))

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, before it is computed. Raises Misuse as reading it would."""
        if (stored := self._stored(name)) is not None:
            return tuple(stored.shape)
        plain, index = naming.split(name)
        counts = naming.selected(name, index, self._plain_axes(plain), self._full(plain))
        return tuple(counts[i] for i in naming.kept(index, counts))

    def cost(self, name: str) -> int:
        """How many numbers are made on the way to a tensor: known before any is computed.

        Counted are those that grow with the square of the text or with the vocabulary, and the tensor itself.
        """
        plain, index = naming.split(name)
        size = math.prod(self.shape(name))
        if name in self.tensors or plain in self.tensors or plain.startswith(WEIGHT):
            return size
        axes, full, kind = self._axes[plain], self._full(plain), plain.rpartition(".")[2]
        made = naming.selected(name, index, axes, full)
        keys = max(self._length("T"), self._length("S"))
        if kind in ("scores", "pattern"):
            return made[0] * made[1] * full[2]
        if kind in ("z", "kinds", "even", "mean", "max", "coarse"):
            return max(size, keys * keys)  # one head at a time
        if kind == "alike" or plain.endswith(".mlp.hidden"):
            return size
        if plain.startswith("lens."):
            return made[0] * full[1] * naming.head_of(self.spec).size
        return made[0] * naming.head_of(self.spec).size if _in_parts(plain, axes) else size

    def __contains__(self, name: str) -> bool:
        """Can this record answer ``name``, index and all?"""
        plain = name.partition("[")[0]
        known = plain in self._axes or plain.startswith(WEIGHT)  # to be told what was meant instead takes milliseconds
        if self._stored(name) is None and not (known and self._has(plain)):
            return False
        try:
            self.shape(name)
        except Misuse:
            return False
        return True

    @torch.no_grad()
    def __getitem__(self, name: str) -> Tensor:
        """The tensor of that name. Raises Misuse for an unknown one, or one this record was told not to keep."""
        if (stored := self._stored(name)) is not None:
            return stored
        plain, index = naming.split(name)
        self._plain_axes(plain)
        if not self._has(plain):
            raise Misuse(f"This record did not keep what {plain!r} is made of.", _remedy(plain))
        if plain in self.tensors or plain.startswith(WEIGHT):
            x = self.tensors[plain] if plain in self.tensors else self._weight(plain)
            naming.selected(name, index, self._plain_axes(plain), x.shape)
            return x[index]
        if index:
            naming.selected(name, index, self._plain_axes(plain), self._full(plain))
        part, rest = naming.parted(index, _in_parts(plain, self._axes[plain]))
        return self._derive(plain, *part)[rest]

    def explain(self, cell: str) -> Explanation:
        """How one number was computed, term by term: "blocks.2.attn.scores[3,5,4]", one integer for each axis.

        Raises Misuse for a cell that does not exist or is not computed by the model, and where the record lacks what
        it was computed from.
        """
        from .explain import explain

        return explain(self, cell)

    def __repr__(self) -> str:
        what = repr(self.text) if self.text is not None else f"{self.length} tokens"
        return f"Record({self.model.name}, {what}, {len(self.names())} names, {self.nbytes / 1e6:.1f} MB stored)"

    @property
    def length(self) -> int:
        """How many positions the (target) stream has: tokens, or what stands for an image."""
        return len(self.tokens) or self._length("T")

    @property
    def nbytes(self) -> int:
        """How many bytes the stored tensors take."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    # ------------------------------------------------------------------ how large things are

    def _stored(self, name: str) -> Tensor | None:
        """What stands under exactly this name, index included: a file may hold parts."""
        if name.startswith(WEIGHT):
            return self.weights.get(name.removeprefix(WEIGHT))
        return self.tensors.get(name)

    def _plain_axes(self, plain: str) -> naming.Axes:
        if plain.startswith(WEIGHT):
            axes = naming.weight_axes(plain.removesuffix(".T"), self._dimensions(plain))
            return axes[::-1] if plain.endswith(".T") else axes
        if plain not in self._axes:
            raise Misuse(f"No tensor of this run is called {plain!r}.", _hint(plain, self._axes))
        return self._axes[plain]

    def _full(self, plain: str) -> tuple[int, ...]:
        if plain in self.tensors:
            return tuple(self.tensors[plain].shape)
        if plain.startswith(WEIGHT):
            return tuple(self._weight(plain).shape)
        axes = self._plain_axes(plain)
        time, source = self._length("T"), self._length("S")
        return tuple(naming.extent(self.spec, plain, axis, time, source) for axis in axes)

    def _length(self, axis: str) -> int:
        """How long a time axis is, from what is stored."""
        if axis == "S" and isinstance(self.spec, specs.Transformer):
            return len(self.source)  # none of its tensors has that axis
        for name, tensor in self.tensors.items():
            if name in self._axes and axis in self._axes[name]:
                return tensor.shape[self._axes[name].index(axis)]
        return len(self.source if axis == "S" else self.tokens)

    def _dimensions(self, weight: str) -> int:
        """How many axes a weight has, of which perhaps only parts are at hand."""
        for name, part in self.weights.items():
            plain, index = naming.split(name)
            if plain == weight.removeprefix(WEIGHT):
                return part.ndim + sum(isinstance(entry, int) for entry in index)
        return self._weight(weight).ndim

    def _weight(self, name: str) -> Tensor:
        """The weight behind ``weights.…`` or ``weights.….T``. Raises Misuse for one that is not at hand."""
        plain = name.removeprefix(WEIGHT)
        if plain in self.weights:
            return self.weights[plain]
        if plain.removesuffix(".T") in self.weights:
            return self.weights[plain.removesuffix(".T")].T
        fix = _hint(name, self.weight_names(), "record.weight_names() lists them.")
        raise Misuse(f"No weight at hand is called {name!r}.", fix)

    # ------------------------------------------------------------------ what can be derived, and how

    def _sources(self, name: str) -> list[str]:
        """The names a derived tensor is computed from; empty when there is no way."""
        place, _, kind = name.rpartition(".")
        if kind == "conv1":
            return [_frames(name), *_weights(self._conv1_weights())]
        if name == "head.up":
            return [f"{self._decoder}final", *_weights(self._head_weights())]
        if name == "head.hidden":
            return ["head.up", *_weights(self._head_weights())]
        if kind in ("q", "k"):
            return [f"{place}.{kind}_rot"]
        if kind == "scores":
            biased = self._stack(place).relative is not None and not place.endswith(".cross")
            return [f"{place}.q_rot", f"{place}.k_rot"] + ([f"{self._side(place)}relative.bias"] if biased else [])
        if kind == "pattern":
            return [f"{place}.scores"]
        if kind == "z":
            return [f"{place}.pattern", f"{place}.v"]
        if kind == "hidden":
            return [f"{place}.up"] + ([f"{place}.gate"] if f"{place}.gate" in self._axes else [])
        if kind == "in":
            return [self._read_by(place), *_weights(self._norm_weights(place))]
        if kind == "resid_post":
            return [_next_block(name, "resid_pre")]
        if kind == "resid_pre":
            return [_next_block(name, "resid_post", -1)]
        if name == "logits" or name.startswith("logits."):
            read = self._unembedded
            return [f"{self._decoder}final" if read == "final" else read, *_weights(self._head_weights())]
        if kind in ("river", "alike"):
            return self.stops(place)
        if kind in ("kinds", "even", "mean", "max", "coarse"):
            return [f"{place}.pattern"]
        if kind == "strength":
            return [f"{place}.hidden", *_weights(self._column_weights(place))]
        if _way(name):
            columns = self._column_weights(place.rpartition(".")[0])
            return _weights([*columns, *self._final_norm_weights(), *self._head_weights()])
        if name.startswith("lens."):
            return [
                *self.stops(),
                f"{self._decoder}final",
                *_weights([*self._final_norm_weights(), *self._head_weights()]),
            ]
        return []

    def _has(self, name: str) -> bool:
        if name.startswith(WEIGHT):
            plain = name.removeprefix(WEIGHT)
            return plain in self.weights or plain.removesuffix(".T") in self.weights
        if name in self.tensors or (name.startswith("logits.") and "logits" in self.tensors):
            return True
        if name.endswith(("resid_post", "resid_pre")):
            return any(source in self.tensors for source in self._sources(name))
        sources = self._sources(name)
        return bool(sources) and all(self._has(source) for source in sources)

    def _derive(self, name: str, *part: slice) -> Tensor:
        """The tensor, or that part of its leading axes which ``_in_parts`` says can be computed alone."""
        place, _, kind = name.rpartition(".")
        if kind == "conv1":
            return self._conv1(name)
        if name == "head.up":
            dense = self._head().dense
            assert dense is not None, "a head without this layer has no such name"
            up: Tensor = dense(self._read_by_head("final", *part))
            return up
        if name == "head.hidden":
            return self._head().hidden(self._read_by_head("head.up", *part))
        if kind in ("q", "k"):
            return self._unrotate(place, self[f"{place}.{kind}_rot"])
        if kind == "scores":
            return self._scores(place, *part)
        if kind == "pattern":
            return self._pattern(place, *part)
        if kind == "z":
            rows, chosen = part
            values = attention.repeat_heads(self[f"{place}.v"].transpose(0, 1)[None], self._attn(place).heads)[0]
            each = [p @ values[h] for h, p in self._patterns(place, chosen, rows)]
            return torch.stack(each, 1)
        if kind == "hidden":
            gate = self[f"{place}.gate"][part] if f"{place}.gate" in self._axes else None
            return block.hidden(self._block(place).mlp, self[f"{place}.up"][part], gate)
        if kind == "in":
            return self._normed(place)
        if kind in ("resid_post", "resid_pre"):
            return self.tensors[self._sources(name)[0]]
        if kind == "river":
            return torch.stack([self[stop].float().norm(dim=-1) for stop in self.stops(place)])
        if kind == "alike":
            return torch.stack([self._alike(stop, part[1]) for stop in self.stops(place)[part[0]]])
        if kind == "kinds":
            ids, readable = self._readable(place)
            return torch.stack([heads.kinds(p, ids, readable) for _, p in self._patterns(place, *part)])
        if kind == "even":
            return heads.even(*self._readable(place))
        if kind == "coarse":
            return torch.stack([heads.coarse(p) for _, p in self._patterns(place, *part)])
        if kind in ("mean", "max"):
            return self._over_heads(place, kind, *part)
        if kind == "strength":
            return neurons.strength(self[f"{place}.hidden"], self._columns(place, slice(None)))
        if way := _way(name):
            return self._moved(place.rpartition(".")[0], *part)[way, kind]
        if name.startswith("lens."):
            return self._lens(kind, *part)
        return self._logits(name, *part)

    def _conv1(self, name: str) -> Tensor:
        """(D, R): what the first convolution makes of mel frames, after its activation."""
        assert isinstance(self.spec.stem, specs.Mel), "no other stem has this name"
        with torch.device("meta"):
            convolution = MelStem(self.spec.stem).conv1
        values = {weight.rpartition(".")[2]: self.weights[weight] for weight in self._conv1_weights()}
        return gelu(functional_call(convolution, values, (self[_frames(name)][None],)))[0]

    def _scores(self, place: str, heads: slice, rows: slice) -> Tensor:
        """(H, T, S), for some heads and readers: scale * q k^T, soft-capped, biased, before the mask."""
        if f"{place}.scores" in self.tensors:
            return self.tensors[f"{place}.scores"][heads, rows]
        attn = self._attn(place)
        q = self[f"{place}.q_rot"].transpose(0, 1)[None]
        k = attention.repeat_heads(self[f"{place}.k_rot"].transpose(0, 1)[None], attn.heads)
        biases = self._sources(f"{place}.scores")[2:]
        bias = self[biases[0]][heads, rows] if biases else None
        return attention.scores(q[:, heads, rows], k[:, heads], attn.scale, attn.softcap, bias)[0]

    def _pattern(self, place: str, heads: slice, rows: slice) -> Tensor:
        """(H, T, S), for some heads and readers: scores after mask and softmax."""
        if f"{place}.pattern" in self.tensors:
            return self.tensors[f"{place}.pattern"][heads, rows]
        return attention.pattern(self._scores(place, heads, rows), self._visible(place, rows))

    def _visible(self, place: str, rows: slice = slice(None)) -> Tensor | None:
        """Who may read whom, (T, S), for some readers; None when all may read all."""
        _, queries, keys = self._full(f"{place}.pattern")
        device = next(iter(self.tensors.values())).device
        time, read = torch.arange(queries, device=device)[rows], torch.arange(keys, device=device)
        return Mask(time, read, aligned=False).table(self._attn(place))

    def _readable(self, place: str) -> tuple[Tensor, Tensor]:
        """The token ids (T,), and who may read whom, written out (T, T)."""
        read = self.source if place.startswith("encoder.") else self.tokens
        ids = torch.tensor(read, device=next(iter(self.tensors.values())).device)
        visible = self._visible(place)
        return ids, ids.new_ones(len(ids), len(ids), dtype=torch.bool) if visible is None else visible

    def _patterns(self, place: str, chosen: slice, rows: slice = slice(None)) -> Iterator[tuple[int, Tensor]]:
        """The heads' patterns (T, S) one at a time: all together they may not fit."""
        for h in range(self._attn(place).heads)[chosen]:
            yield h, self._pattern(place, slice(h, h + 1), rows)[0]

    def _unrotate(self, place: str, x: Tensor) -> Tensor:
        rope = self._attn(place).rope
        if rope is None or ".cross" in place:
            return x
        cos, sin = rotation(rope, torch.arange(len(x), device=x.device), x.dtype)
        length = cos[0, 0, 0] ** 2 + sin[0, 0, 0] ** 2  # YaRN stretches as it turns
        turned = rotate(x[None], cos, -sin)[0]
        turned[..., : rope.width] /= length
        return turned

    def _normed(self, place: str) -> Tensor:
        weights = self._norm_weights(place)
        return self._norm_with(self._block(place).norm if weights else None, weights, self[self._read_by(place)])

    def _norm_with(self, how: specs.Norm | None, weights: list[str], x: Tensor) -> Tensor:
        norm = make_norm(how, x.shape[-1])
        if norm is None:
            return x
        values = {weight.rpartition(".")[2]: self.weights[weight] for weight in weights}
        normed: Tensor = functional_call(norm, values, (x,))
        return normed

    def _alike(self, stop: str, rows: slice) -> Tensor:
        """(T, T), for some tokens: the cosine of the angle between the streams of two at a stop."""
        directions = torch.nn.functional.normalize(self[stop].float(), dim=-1)
        return directions[rows] @ directions.T

    def _over_heads(self, place: str, kind: str, rows: slice) -> Tensor:
        """(T, S): the mean or the largest weight over the heads."""
        patterns = (pattern.float() for _, pattern in self._patterns(place, slice(None), rows))
        if kind == "max":
            return functools.reduce(torch.maximum, patterns)
        return functools.reduce(torch.add, patterns) / self._attn(place).heads

    def _columns(self, place: str, some: slice) -> Tensor:
        """Each neuron's column of the down projection, (F, D), with the gain of a post norm multiplied in (whose
        division by the length of what is added is the same for all neurons of a token, and left out)."""
        down, *post = self._column_weights(place)
        columns = self.weights[down].T[some]
        return columns * self.weights[post[0]] if post else columns

    def _moved(self, place: str, some: slice) -> dict[tuple[str, str], Tensor]:
        """What a neuron does to the logits, as (way, what) -> (F, top)."""
        columns = self._columns(place, some)
        gain, final = self._final_norm_weights()[:1], self._stack(place).final_norm
        rows = self.weights[self._head_weights()[0]]
        centred = final is not None and final.kind == "layer"
        effect = neurons.effect(columns, rows, self.weights[gain[0]] if gain else None, centred)
        effect = effect * naming.head_of(self.spec).scale
        return {
            (way, what): x
            for way in naming.WAYS
            for what, x in neurons.most(effect, promotes=way == "promotes").items()
        }

    def _lens(self, what: str, rows: slice) -> Tensor:
        """The lens at each stop, for some tokens: (T, stop, ...). Blocks that norm only what they add leave a stream
        that the final norm was made for like any other; a stream normed on its way (BERT) has no final norm, and
        goes to the head as it is. The last stop is ``final`` itself, so it is the model's own distribution."""
        streams = torch.stack([self[stop][rows] for stop in self.stops()[:-1]], 1)  # (T, stop, D)
        streams = torch.cat([self._finally_normed(streams), self[f"{self._decoder}final"][rows][:, None]], 1)
        few = max(1, 2**22 // (streams.shape[1] * naming.head_of(self.spec).size))  # 4 million logits at a time
        head, embedding = self._head(), self._embedding_of_head()
        return torch.cat([lens(head(streams[i : i + few], embedding))[what] for i in range(0, len(streams), few)])

    def _finally_normed(self, x: Tensor) -> Tensor:
        return self._norm_with(self._stack(self._decoder).final_norm, self._final_norm_weights(), x)

    def _logits(self, name: str, rows: slice = slice(None)) -> Tensor:
        whole = self.tensors.get("logits")
        if name == "logits.last":
            return self._logits("logits", slice(-1, None))[0]
        if whole is not None:
            logits = whole[rows]
        else:
            logits = self._head().unembed(self._read_by_head(self._unembedded, rows), self._embedding_of_head())
        return logits if name == "logits" else tops(logits)[name]

    def _read_by_head(self, name: str, rows: slice = slice(None)) -> Tensor:
        """What the head reads of ``final``, or what it made of that: some tokens; of a classifier one, or two."""
        x = self[f"{self._decoder}final" if name == "final" else name]
        if naming.every_token(self.spec):
            return x[rows]
        if x.ndim == 1:
            return x
        return x[:2] if naming.head_of(self.spec).pool == "first_two" else x[naming.read_at(self.spec, len(x))]

    def _head(self) -> Head:
        """The head with the weights at hand."""
        with torch.device("meta"):
            head = Head(naming.head_of(self.spec), self._stack(self._decoder).width)
        own = [name for name in self._head_weights() if "head." in name]
        rows = rows_of(self.weights, "head.out.weight") if "head.out.weight" in own else None
        if packed := isinstance(rows, Quantized):
            head.out = rows  # type: ignore[assignment]  # with its bias
            own = [name for name in own if not name.startswith("head.out.")]
        values = {name.removeprefix("head."): self.weights[name] for name in own}
        head.load_state_dict(values, strict=not packed, assign=True)
        return head

    def _embedding_of_head(self) -> Rows | None:
        return rows_of(self.weights, self._embedding) if naming.head_of(self.spec).tied else None

    @property
    def _unembedded(self) -> str:
        """The vectors that meet the unembedding's rows."""
        return "head.hidden" if naming.head_of(self.spec).transform is not None else "final"

    # ------------------------------------------------------------------ where things are

    @property
    def _decoder(self) -> str:
        return "decoder." if isinstance(self.spec, specs.Seq2Seq) else ""

    @property
    def _embedding(self) -> str:
        return embedding_of(self.spec)

    def _side(self, name: str) -> str:
        return name.partition("blocks.")[0]

    def _stack(self, name: str) -> specs.Stack:
        return naming.stack_of(self.spec, name)

    def _block(self, name: str) -> specs.Block:
        return self._stack(name).blocks[int(name.partition("blocks.")[2].partition(".")[0])]

    def _attn(self, place: str) -> specs.Attention:
        its = self._block(place)
        return its.cross if place.endswith(".cross") and its.cross is not None else its.attn

    def _read_by(self, place: str) -> str:
        """The stream a sublayer reads; with a shared norm the MLP reads what attention reads."""
        at, _, kind = place.rpartition(".")
        its = self._block(place)
        if kind == "mlp" and its.shared_norm:
            return f"{at}.attn.in"
        if kind == "attn" or (kind == "mlp" and its.parallel):
            return f"{at}.resid_pre"
        return f"{at}.resid_cross" if kind == "mlp" and its.cross is not None else f"{at}.resid_mid"

    def _norm_weights(self, place: str) -> list[str]:
        its = self._block(place)
        if "pre" not in its.slots or (its.shared_norm and place.endswith("mlp")):
            return []
        return _parts_of(its.norm, f"{self._in_stack(place)}.pre")

    def _conv1_weights(self) -> list[str]:
        stem = "source" if isinstance(self.spec, specs.Seq2Seq) else "stem"
        return [f"{stem}.conv1.weight", f"{stem}.conv1.bias"]

    def _in_stack(self, place: str) -> str:
        """Where a place of the run is among the weights."""
        side = self._side(place)
        return f"{side or 'stack.'}{place.removeprefix(side)}"

    def _column_weights(self, place: str) -> list[str]:
        """The down projection, and the gain of a post norm."""
        post = [f"{self._in_stack(place)}.post.weight"] if "post" in self._block(place).slots else []
        return [f"{self._in_stack(place)}.down.weight", *post]

    def _final_norm_weights(self) -> list[str]:
        norm = self._stack(self._decoder).final_norm
        return [] if norm is None else _parts_of(norm, f"{self._decoder or 'stack.'}norm")

    def _head_weights(self) -> list[str]:
        head = naming.head_of(self.spec)
        found = [self._embedding] if head.tied else ["head.out.weight"]
        found += ["head.out.bias"] if head.bias else []
        if head.pool == "first_two":
            found += ["head.second.weight", *(["head.second.bias"] if head.bias else [])]
        if head.transform is not None:
            found += ["head.dense.weight", "head.dense.bias"]
            found += [] if head.transform[1] is None else _parts_of(head.transform[1], "head.norm")
        return found

    def stops(self, side: str = "") -> list[str]:
        """Where the river is measured: before and after each attention, and at the end. ``side``: "encoder" or
        "decoder" of a run that has both; unsaid, the one that makes the logits."""
        at = f"{side}." if side else self._decoder
        return [f"{at}{stop}" for stop in naming.stops(self._stack(at))]

    # ------------------------------------------------------------------ saving

    def save(
        self, path: str | os.PathLike[str], include: str | Iterable[str] = (), weights: str | Iterable[str] = ()
    ) -> None:
        """Write a .cutaway file: safetensors, with one JSON string (key "cutaway") in its metadata.

        Of the logits the last position goes whole, elsewhere the top 50 and the exact log-sum of the rest; norm
        weights go along always. ``include``: derived names to store too; ``weights``: weight names to take along
        (shell-style patterns). Raises Misuse for a pattern that matches nothing.
        """
        from .file import save

        save(self, path, include, weights)

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Write the run as one HTML file that opens with no server and no network: the drawing, every stop, sliders.

        Raises Failed where the page has not been built, and Misuse for a run too large for a page.
        """
        from .html import save

        save(self, path)

    def _repr_html_(self) -> str:
        """The same page, in a notebook's cell."""
        from .html import in_notebook

        return in_notebook(self)

    def description(self) -> dict[str, Any]:
        """Everything but the numbers, ready for JSON."""
        return {
            "model": asdict(self.model),
            "spec": specs.to_json(self.spec),
            "text": self.text,
            "tokens": self.tokens,
            "pieces": self.pieces,
            "settings": self.settings,
            "edits": self.edits,
            **({"source": self.source, "source_pieces": self.source_pieces} if self.source else {}),
        }


def run(
    model: Transformer | Seq2Seq,
    inputs: Sequence[Tensor],
    card: ModelCard,
    keep: str | Iterable[str] | None = None,
    edit: Mapping[str, Edit] | None = None,
    after: Record | None = None,
    **described: Any,
) -> Record:
    """Run ``model`` once on ``inputs`` (batch 1) and record it.

    ``keep``: names to store (shell-style patterns) instead of the usual set. ``edit``: name -> function that gets the
    tensor (no batch axis) and returns another of the same shape, felt by everything after it. ``after``: an earlier run
    of the same weights, from which is taken what both texts begin with (see ``after.py``). ``described`` goes into
    the record as it is (text, tokens, pieces, settings). Raises Misuse for names this model does not have.
    """
    if after is not None and keep is None and not edit and isinstance(model, Transformer):
        count = begun(after, inputs[0][0].tolist())
        if count and can_be_gone_on_from(after):
            tensors = go_on(model, after.tensors, count, inputs[0])
            return Record(card, model.spec, tensors=tensors, weights=weights(model), **described)
    edit = dict(edit or {})
    known = naming.names(model.spec)
    kept = _keeper(model.spec, known, keep)
    unknown = [name for name in edit if name not in known]
    if unknown:
        raise Misuse(f"No tensor of this model is called {unknown[0]!r}.", _hint(unknown[0], known))
    needed = {*edit, *(before for name in edit if (before := _before(name)) in known)}

    def keeps(name: str) -> bool:
        return name in needed or kept(name)

    with torch.no_grad(), in_turn(model, *inputs), record(model, keeps, edit) as tape:
        asked = (name for name in ("head.up", "head.hidden", "logits") if name in edit or kept(name))
        if isinstance(model, Transformer) and not any(asked):
            model.stream(inputs[0])  # the logits of every position are derived when somebody asks
        else:
            model(*inputs)
    tensors = {
        name: x.detach() for name, x in tape.tensors.items()
    }  # one may be a view of a weight, which has a gradient
    return Record(card, model.spec, tensors=tensors, weights=weights(model), edits=sorted(edit), **described)


def _before(name: str) -> str | None:
    """The tensor that is otherwise derived backwards from ``name``: once ``name`` is edited, it must be stored."""
    if name.endswith(("q_rot", "k_rot")):
        return name.removesuffix("_rot")
    return _next_block(name, "resid_post", -1) if name.endswith("resid_pre") else None


def tops(logits: Tensor) -> dict[str, Tensor]:
    """What a file keeps of logits (T, V): each position's top 50 and the exact log-sum-exp of all others."""
    values, ids = logits.float().topk(min(TOP, logits.shape[-1]))
    rest = logits.double().scatter(-1, ids, float("-inf")).logsumexp(-1).float()
    return {"logits.top.values": values, "logits.top.ids": ids.int(), "logits.rest": rest}


def stored_bytes(
    machine: specs.Spec, length: int, element: int = 4, keep: str | Iterable[str] | None = None, source: int = 0
) -> int:
    """How many bytes a run over ``length`` tokens, and ``source`` that an encoder reads, will store, before running
    it."""
    if keep is None:
        return element * _usual_numbers(machine, length, source)
    return element * _numbers(machine, length, source, keep)


def _numbers(machine: specs.Spec, length: int, source: int, keep: str | Iterable[str] | None) -> int:
    known = naming.names(machine)
    kept = _keeper(machine, known, keep)
    return sum(
        math.prod(naming.extent(machine, name, axis, length, source) for axis in axes)
        for name, axes in known.items()
        if kept(name)
    )


@functools.lru_cache(128)  # a text that is typed has been nearly as long before
def _usual_numbers(machine: specs.Spec, length: int, source: int) -> int:
    return _numbers(machine, length, source, None)


def _keeper(
    machine: specs.Spec, known: Mapping[str, naming.Axes], keep: str | Iterable[str] | None
) -> Callable[[str], bool]:
    if keep is None:
        return naming.all_stored(machine).__contains__
    wanted, missed = naming.matching(known, keep)
    if missed:
        raise Misuse(f"No tensor of this model matches {missed[0]!r}.", _hint(missed[0], known))
    return frozenset(wanted).__contains__


def _hint(name: str, known: Iterable[str], otherwise: str = "`cutaway names` lists them all.") -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"Did you mean {close[0]!r}?" if close else otherwise


def _weights(names: Iterable[str]) -> list[str]:
    return [f"{WEIGHT}{name}" for name in names]


def _parts_of(norm: specs.Norm, place: str) -> list[str]:
    return [f"{place}.{part}" for part in (("weight", "bias") if norm.kind == "layer" else ("weight",))]


def _frames(name: str) -> str:
    """What the first convolution reads."""
    return name.replace("conv1", "frames")


def _way(name: str) -> str | None:
    """Does this tell what a neuron promotes, or what it demotes?"""
    return next((way for way in naming.WAYS if f".mlp.{way}." in name), None)


def _in_parts(name: str, axes: naming.Axes) -> int:
    """How many leading axes of a derived tensor can be computed in part."""
    kind = name.rpartition(".")[2]
    if kind in ("scores", "pattern", "z", "alike"):
        return 2
    rows = name.endswith(".mlp.hidden") or (name.startswith(("logits", "head.", "lens.")) and axes[0] == "T")
    return int(rows or _way(name) is not None or kind in ("kinds", "coarse", "mean", "max"))


def _next_block(name: str, what: str, step: int = 1) -> str:
    head, _, rest = name.partition("blocks.")
    return f"{head}blocks.{int(rest.partition('.')[0]) + step}.{what}"


def _remedy(name: str) -> str:
    if name.startswith("logits"):
        return 'Only record["logits.last"] is stored whole in a file; load the model and run it for the rest.'
    if name.endswith("conv1"):
        return 'Save it with record.save(path, weights="*.conv1.*"), or load the model and run it.'
    return "Run again with keep= naming it, or without keep=."
