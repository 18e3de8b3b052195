"""The Record of a run: every intermediate by name, in memory or in one file.

Axes: T time, S source time, H heads, K key-value heads, E head width, D width, F hidden, V vocabulary.

    stored    embed pos | per block: resid_pre, q_rot k_rot v, attention's out, resid_mid, up gate, MLP's out | final
    derived   in, q, k, scores, pattern, z, hidden, resid_post, logits, river: on access, from the stored ones

Everything of GPT-2 small at 512 tokens would be 804 MB; stored this way it is a quarter. A derived tensor is computed
by the machine's own functions from what the run left, so it is what the run computed.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from ..errors import Misuse
from ..model import attention, block
from ..model import spec as specs
from ..model.attention import Mask
from ..model.positions import rotate, rotation
from ..model.sublayer import make_norm
from ..model.tap import Edit, record
from ..model.transformer import Head, Seq2Seq, Transformer
from . import names as naming

TOP = 50


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

    A name may end in an index of its first axis: ``"blocks.2.attn.pattern[3]"`` is head 3 alone, (T, T), and only
    that head is computed. ``weights`` are the model's own while it is loaded, or those the file brought along.
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

    def __post_init__(self) -> None:
        self._axes = naming.names(self.spec) | {
            "river": ("stop", "T"),
            "logits.last": ("V",),
            "logits.top.values": ("T", "top"),
            "logits.top.ids": ("T", "top"),
            "logits.rest": ("T",),
        }

    def names(self) -> list[str]:
        """Every name this record can answer, in the order the machine makes them."""
        return [name for name in self._axes if self._has(name)]

    def axes(self, name: str) -> naming.Axes:
        """The axes of a tensor by letter, such as ("H", "T", "T"). Raises Misuse for an unknown name."""
        plain, index = _indexed(name)
        if plain not in self._axes:
            raise Misuse(f"No tensor of this run is called {plain!r}.", _hint(plain, self._axes))
        return self._axes[plain] if index is None else self._axes[plain][1:]

    @torch.no_grad()
    def __getitem__(self, name: str) -> Tensor:
        """The tensor of that name. Raises Misuse for an unknown one, or one this record was told not to keep."""
        self.axes(name)
        plain, index = _indexed(name)
        if name in self.tensors:
            return self.tensors[name]
        if plain in self.tensors:
            return _at(self.tensors[plain], name, index)
        if not self._has(plain):
            raise Misuse(f"This record did not keep what {plain!r} is made of.", _remedy(plain))
        kind = plain.rpartition(".")[2]
        if index is not None and kind in ("scores", "pattern"):
            place = plain.rpartition(".")[0]
            derive = self._scores if kind == "scores" else self._pattern
            return derive(place, _head_slice(name, index, self._attn(place)))[0]
        return _at(self._derive(plain), name, index)

    def __repr__(self) -> str:
        what = repr(self.text) if self.text is not None else f"{len(self.tokens)} tokens"
        return f"Record({self.model.name}, {what}, {len(self.names())} names, {self.nbytes / 1e6:.1f} MB stored)"

    @property
    def nbytes(self) -> int:
        """How many bytes the stored tensors take."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    # ------------------------------------------------------------------ what can be derived, and how

    def _sources(self, name: str) -> list[str]:
        """The names (or "weights:" names) a derived tensor is computed from; empty when there is no way."""
        place, _, kind = name.rpartition(".")
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
            return [self._read_by(place), *(f"weights:{weight}" for weight in self._norm_weights(place))]
        if kind == "resid_post":
            return [_next_block(name, "resid_pre")]
        if kind == "resid_pre":
            return [_next_block(name, "resid_post", -1)]
        if name == "logits" or name.startswith("logits."):
            return [f"{self._decoder}final", *(f"weights:{weight}" for weight in self._head_weights())]
        if name == "river":
            return self._stops()
        return []

    def _has(self, name: str) -> bool:
        if name.startswith("weights:"):
            return name.removeprefix("weights:") in self.weights
        if name in self.tensors or (name.startswith("logits.") and "logits" in self.tensors):
            return True
        if name.endswith(("resid_post", "resid_pre")):
            return any(source in self.tensors for source in self._sources(name))
        sources = self._sources(name)
        return bool(sources) and all(self._has(source) for source in sources)

    def _derive(self, name: str) -> Tensor:
        place, _, kind = name.rpartition(".")
        if kind in ("q", "k"):
            return self._unrotate(place, self[f"{place}.{kind}_rot"])
        if kind == "scores":
            return self._scores(place, slice(None))
        if kind == "pattern":
            return self._pattern(place, slice(None))
        if kind == "z":
            values = attention.repeat_heads(self[f"{place}.v"].transpose(0, 1)[None], self._attn(place).heads)[0]
            return (self[f"{place}.pattern"] @ values).transpose(0, 1)
        if kind == "hidden":
            gate = self[f"{place}.gate"] if f"{place}.gate" in self._axes else None
            return block.hidden(self._block(place).mlp, self[f"{place}.up"], gate)
        if kind == "in":
            return self._normed(place)
        if kind in ("resid_post", "resid_pre"):
            return self.tensors[self._sources(name)[0]]
        if name == "river":
            return torch.stack([self[stop].float().norm(dim=-1) for stop in self._stops()])
        return self._logits(name)

    def _scores(self, place: str, heads: slice) -> Tensor:
        """(H, T, S), for some heads: scale * q k^T, soft-capped, biased, before the mask."""
        if f"{place}.scores" in self.tensors:
            return self.tensors[f"{place}.scores"][heads]
        attn = self._attn(place)
        q = self[f"{place}.q_rot"].transpose(0, 1)[None]
        k = attention.repeat_heads(self[f"{place}.k_rot"].transpose(0, 1)[None], attn.heads)
        biases = self._sources(f"{place}.scores")[2:]
        bias = self[biases[0]][heads] if biases else None
        return attention.scores(q[:, heads], k[:, heads], attn.scale, attn.softcap, bias)[0]

    def _pattern(self, place: str, heads: slice) -> Tensor:
        """(H, T, S), for some heads: scores after mask and softmax."""
        if f"{place}.pattern" in self.tensors:
            return self.tensors[f"{place}.pattern"][heads]
        scores = self._scores(place, heads)
        time, keys = (torch.arange(length, device=scores.device) for length in scores.shape[-2:])
        return attention.pattern(scores, Mask(time, keys, aligned=False).table(self._attn(place)))

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
        x = self[self._read_by(place)]
        weights = self._norm_weights(place)
        norm = make_norm(self._block(place).norm, x.shape[-1]) if weights else None
        if norm is None:
            return x
        values = {weight.rpartition(".")[2]: self.weights[weight] for weight in weights}
        normed: Tensor = functional_call(norm, values, (x,))
        return normed

    def _logits(self, name: str) -> Tensor:
        if name == "logits":
            return self._head(self[f"{self._decoder}final"])
        if name == "logits.last":
            whole = self.tensors.get("logits")
            return self._head(self[f"{self._decoder}final"][-1:])[-1] if whole is None else whole[-1]
        return tops(self["logits"])[name]

    def _head(self, final: Tensor) -> Tensor:
        with torch.device("meta"):
            head = Head(self.spec.head, final.shape[-1])
        weights = {name.removeprefix("head."): self.weights[name] for name in self._head_weights() if "head." in name}
        embedding = self.weights[self._embedding] if self.spec.head.tied else None
        logits: Tensor = functional_call(head, weights, (final[None], embedding))
        return logits[0]

    # ------------------------------------------------------------------ where things are

    @property
    def _decoder(self) -> str:
        return "decoder." if isinstance(self.spec, specs.Seq2Seq) else ""

    @property
    def _embedding(self) -> str:
        return "target.tokens.weight" if isinstance(self.spec, specs.Seq2Seq) else "stem.tokens.weight"

    def _side(self, name: str) -> str:
        return name.partition("blocks.")[0]

    def _stack(self, name: str) -> specs.Stack:
        if isinstance(self.spec, specs.Transformer):
            return self.spec.stack
        return self.spec.encoder if name.startswith("encoder.") else self.spec.decoder

    def _block(self, name: str) -> specs.Block:
        return self._stack(name).blocks[int(name.partition("blocks.")[2].partition(".")[0])]

    def _attn(self, place: str) -> specs.Attention:
        its = self._block(place)
        return its.cross if place.endswith(".cross") and its.cross is not None else its.attn

    def _read_by(self, place: str) -> str:
        """The stream a sublayer reads."""
        at, _, kind = place.rpartition(".")
        its = self._block(place)
        if kind == "attn" or (kind == "mlp" and its.parallel):
            return f"{at}.resid_pre"
        return f"{at}.resid_cross" if kind == "mlp" and its.cross is not None else f"{at}.resid_mid"

    def _norm_weights(self, place: str) -> list[str]:
        its = self._block(place)
        if "pre" not in its.slots:
            return []
        if its.shared_norm and place.endswith("mlp"):
            place = place.removesuffix("mlp") + "attn"
        stack = self._side(place) or "stack."
        kinds = ("weight", "bias") if its.norm.kind == "layer" else ("weight",)
        return [f"{stack}{place.removeprefix(self._side(place))}.pre.{kind}" for kind in kinds]

    def _head_weights(self) -> list[str]:
        head = self.spec.head
        found = [self._embedding] if head.tied else ["head.out.weight"]
        found += ["head.out.bias"] if head.bias else []
        if head.transform is not None:
            found += ["head.dense.weight", "head.dense.bias", "head.norm.weight"]
            found += ["head.norm.bias"] if head.transform[1].kind == "layer" else []
        return found

    def _stops(self) -> list[str]:
        """Where the river is measured: before and after each attention, and at the end."""
        layers = len(self._stack(self._decoder).blocks)
        stops = [f"{self._decoder}blocks.{i}.{what}" for i in range(layers) for what in ("resid_pre", "resid_mid")]
        return [*stops, f"{self._decoder}blocks.{layers - 1}.resid_post"]

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
        }


def run(
    model: Transformer | Seq2Seq,
    inputs: Sequence[Tensor],
    card: ModelCard,
    keep: str | Iterable[str] | None = None,
    edit: Mapping[str, Edit] | None = None,
    **described: Any,
) -> Record:
    """Run ``model`` once on ``inputs`` (batch 1) and record it.

    ``keep``: names to store (shell-style patterns) instead of the usual set. ``edit``: name -> function that gets the
    tensor (no batch axis) and returns another of the same shape, felt by everything after it. ``described`` goes into
    the record as it is (text, tokens, pieces, settings). Raises Misuse for names this model does not have.
    """
    edit = dict(edit or {})
    known = naming.names(model.spec)
    kept = _keeper(model.spec, known, keep)
    unknown = [name for name in edit if name not in known]
    if unknown:
        raise Misuse(f"No tensor of this model is called {unknown[0]!r}.", _hint(unknown[0], known))
    needed = {*edit, *(before for name in edit if (before := _before(name)) in known)}
    with torch.no_grad(), record(model, lambda name: name in needed or kept(name), edit) as tape:
        if isinstance(model, Transformer) and "logits" not in edit and not kept("logits"):
            model.stream(inputs[0])  # the logits of every position are derived when somebody asks
        else:
            model(*inputs)
    weights = dict(model.state_dict())
    return Record(card, model.spec, tensors=tape.tensors, weights=weights, edits=sorted(edit), **described)


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
    machine: specs.Transformer, length: int, element: int = 4, keep: str | Iterable[str] | None = None
) -> int:
    """How many bytes a run over ``length`` tokens will store, before running it."""
    known = naming.names(machine)
    kept = _keeper(machine, known, keep)
    return element * sum(
        math.prod(naming.extent(machine, name, axis, length) for axis in axes)
        for name, axes in known.items()
        if kept(name)
    )


def _keeper(
    machine: specs.Spec, known: Mapping[str, naming.Axes], keep: str | Iterable[str] | None
) -> Callable[[str], bool]:
    if keep is None:
        stack = machine.stack if isinstance(machine, specs.Transformer) else machine.decoder
        layers = len(stack.blocks)
        return lambda name: naming.stored(name, layers)
    wanted, missed = naming.matching(known, keep)
    if missed:
        raise Misuse(f"No tensor of this model matches {missed[0]!r}.", _hint(missed[0], known))
    return frozenset(wanted).__contains__


def _hint(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"Did you mean {close[0]!r}?" if close else "`cutaway names` lists them all."


def _indexed(name: str) -> tuple[str, int | None]:
    found = re.fullmatch(r"(.*)\[(-?\d+)\]", name)
    return (found[1], int(found[2])) if found else (name, None)


def _at(x: Tensor, name: str, index: int | None) -> Tensor:
    if index is None:
        return x
    if not -len(x) <= index < len(x):
        raise Misuse(f"{name} is out of range: its first axis has {len(x)}.")
    return x[index]


def _head_slice(name: str, index: int, attn: specs.Attention) -> slice:
    if not -attn.heads <= index < attn.heads:
        raise Misuse(f"{name} is out of range: there are {attn.heads} heads.")
    return slice(index % attn.heads, index % attn.heads + 1)


def _next_block(name: str, what: str, step: int = 1) -> str:
    head, _, rest = name.partition("blocks.")
    return f"{head}blocks.{int(rest.partition('.')[0]) + step}.{what}"


def _remedy(name: str) -> str:
    if name.startswith("logits"):
        return 'Only record["logits.last"] is stored whole in a file; load the model and run it for the rest.'
    return "Run again with keep= naming it, or without keep=."
