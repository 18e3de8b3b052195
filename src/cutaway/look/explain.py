"""Where a number comes from: any one cell of a run, term by term, from the cells before it.

Axes: t reading position, s read position, h head, k key-value head, e number of a head, d number of the stream,
f neuron, v token of the vocabulary.

    terms --sum | mean | copy | lookup--> x --add, scale, softcap, activation ...--> total, beside the recorded value

One rule per name, in the order the machine works. Everything is computed in float64 from the numbers the record
holds, so a total differs from the recorded value by the rounding of the machine's own arithmetic and no more.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import Misuse
from ..model import spec as specs
from ..model.attention import Mask
from ..model.block import ACTIVATIONS
from ..model.positions import RelativeBias, inverse_frequencies, rotation, sinusoids
from . import names as naming

if TYPE_CHECKING:
    from .record import Record

ALL = None  # in an index: every place along that axis


@dataclass(frozen=True)
class Factor:
    """A number by name: a cell of the record, ``weights.name[i,j]``, or the cosine or sine of a position's angle."""

    cell: str
    value: float


@dataclass(frozen=True)
class Term:
    """Its factors multiplied, squared or exponentiated: see :attr:`Explanation.term`."""

    factors: tuple[Factor, ...]
    value: float


@dataclass(frozen=True)
class Step:
    """What happens to the number x found so far; ``by`` is the other number, ``cell`` its name where it has one.

    subtract    before the terms: ``by`` is taken from each number that is then squared or exponentiated
    sum, mean   of the terms' values; copy, lookup: the only term as it is; masked: there are none, x is 0
    add         x + by
    scale       x * by, one number for the whole vector; multiply: one of its own for each cell
    root        the square root of x
    divide      by / x
    softcap     by * tanh(x / by)
    activation  the function ``label`` names, of x
    """

    op: str
    by: float | None
    cell: str | None
    label: str | None
    value: float


@dataclass(frozen=True)
class Explanation:
    """How one cell was computed. ``term``: what a term makes of its factors: "product", "square", "exp", "value".

    The steps combine the terms in order; the last one's value is ``total``. ``value`` is what the record holds, and
    ``difference`` is total - value.
    """

    cell: str
    value: float
    rule: str
    terms: list[Term]
    term: str
    steps: list[Step]
    total: float
    difference: float

    def to_json(self) -> dict[str, Any]:
        """Plain data; numbers that are not finite as "-inf", "inf" and "nan"."""
        plain: dict[str, Any] = _plain(self)
        return plain


def explain(record: Record, cell: str) -> Explanation:
    """How the number in ``cell``, a name with one integer for each axis, was computed. Raises Misuse for any other."""
    name, index = parse(record, cell)
    at = At(record, name, index)
    held, kind = at.cell(name, *index), kind_of(name)
    if name.removesuffix(".last") in record.edits:
        work = read(held, "lookup", "put here by an edit of this run")
    else:
        work = RULES[kind](at)
    return Explanation(held.cell, held.value, kind, work.terms, work.term, work.steps, work.x, work.x - held.value)


def parse(record: Record, cell: str) -> tuple[str, tuple[int, ...]]:
    """ "final[3,-1]" -> ("final", (3, 47)). Raises Misuse unless it names one number that a rule derives."""
    name, index = naming.split(cell)
    if not (isinstance(record.spec, specs.Transformer) and isinstance(record.spec.stem, specs.Tokens | specs.Patches)):
        raise Misuse(
            f"{name} cannot be explained: this is not the run of one stack that reads tokens or an image.",
            "Explained are the runs of models such as GPT-2, Llama, Gemma, BERT or ViT.",
        )
    if name.startswith(naming.WEIGHT):
        raise Misuse(f"{name} is a weight: it was learned, nothing in the run made it.")
    axes, shape = record.axes(name), record.shape(name)
    if kind_of(name) not in RULES:
        raise Misuse(f"{name} is not a number the model computes.", f"Explained are {', '.join(RULES)}.")
    naming.selected(cell, index, axes, shape)
    place = [i % size for i, size in zip(index, shape, strict=False) if isinstance(i, int)]
    if len(place) != len(axes):
        raise Misuse(
            f"{cell} is not one number: {name} has the axes {' '.join(axes)}.",
            f"Give an integer for each, such as {name_of(name, [0] * len(axes))}.",
        )
    return name, tuple(place)


def kind_of(name: str) -> str:
    """ "blocks.3.attn.q" -> "attn.q"."""
    return re.sub(r"^blocks\.\d+\.", "", name)


def name_of(name: str, index: Sequence[int | str]) -> str:
    return f"{name}[{','.join(map(str, index))}]"


def _plain(value: Any) -> Any:
    if isinstance(value, Explanation | Term | Factor | Step):
        return {name: _plain(part) for name, part in vars(value).items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


# ------------------------------------------------------------------ showing the work


@dataclass
class Work:
    """Terms, and the steps that have made one number of them so far."""

    term: str
    terms: list[Term]
    steps: list[Step]

    @property
    def x(self) -> float:
        return self.steps[-1].value

    def step(
        self, op: str, value: float, by: float | None = None, cell: str | None = None, label: str | None = None
    ) -> Work:
        self.steps.append(Step(op, by, cell, label, value))
        return self

    def sum(self) -> Work:
        return self.step("sum", sum(term.value for term in self.terms))

    def mean(self, label: str) -> Work:
        count = len(self.terms)
        return self.step("mean", sum(term.value for term in self.terms) / count, count, label=label)

    def add(self, by: float, label: str) -> Work:
        return self.step("add", self.x + by, by, label=label)

    def plus(self, factor: Factor | None, label: str = "bias") -> Work:
        if factor is None:
            return self
        return self.step("add", self.x + factor.value, factor.value, factor.cell, label)

    def scale(self, by: float, label: str) -> Work:
        return self if by == 1 else self.step("scale", self.x * by, by, label=label)

    def times(self, factor: Factor, label: str) -> Work:
        return self.step("multiply", self.x * factor.value, factor.value, factor.cell, label)

    def root(self) -> Work:
        return self.step("root", math.sqrt(self.x))

    def into(self, by: float, cell: str, label: str) -> Work:
        return self.step("divide", by / self.x, by, cell, label)

    def softcap(self, cap: float | None) -> Work:
        return self if cap is None else self.step("softcap", cap * math.tanh(self.x / cap), cap)

    def activate(self, name: str) -> Work:
        return self.step("activation", float(ACTIVATIONS[name](torch.tensor(self.x, dtype=torch.double))), label=name)


def products(*columns: Iterable[Factor]) -> Work:
    """Σ a·b, one term for each pair."""
    terms = [Term(factors, math.prod(f.value for f in factors)) for factors in zip(*columns, strict=True)]
    return Work("product", terms, []).sum()


def total(factors: Iterable[Factor]) -> Work:
    """Σ a."""
    return Work("value", [Term((factor,), factor.value) for factor in factors], []).sum()


def squares(factors: Sequence[Factor], minus: float = 0.0) -> Work:
    """(a - minus)², not yet added up: a norm takes their mean, a length their sum."""
    return Work("square", [Term((factor,), (factor.value - minus) ** 2) for factor in factors], [])


def read(factor: Factor, op: str, label: str | None = None) -> Work:
    """The number as it stands elsewhere."""
    return Work("value", [Term((factor,), factor.value)], []).step(op, factor.value, label=label)


# ------------------------------------------------------------------ finding the numbers


@dataclass(frozen=True)
class At:
    """The cell that is asked about, and every other number of the run and the model, in float64."""

    record: Record
    name: str
    index: tuple[int, ...]

    @property
    def machine(self) -> specs.Transformer:
        assert isinstance(self.record.spec, specs.Transformer)
        return self.record.spec

    @property
    def stem(self) -> specs.Tokens | specs.Patches:
        assert isinstance(self.machine.stem, specs.Tokens | specs.Patches)
        return self.machine.stem

    @property
    def layer(self) -> int:
        return int(self.name.split(".")[1])

    @property
    def block(self) -> specs.Block:
        return self.machine.stack.blocks[self.layer]

    @property
    def read_by_head(self) -> int:
        """Which position a head that pools reads."""
        return naming.read_at(self.machine, self.record.length)

    def own(self, name: str) -> str:
        """ "attn.q" -> "blocks.3.attn.q", in the block of the cell."""
        return f"blocks.{self.layer}.{name}"

    def tensor(self, name: str, *index: int | None) -> Tensor:
        """The numbers of a tensor, or of a weight, at ``index``; only those are computed where that saves work."""
        if name.startswith(naming.WEIGHT):
            self._check_weight(name)
        entries = [":" if i is ALL else i for i in index]
        return self.record[name_of(name, entries)].detach().cpu().double()

    def cells(self, name: str, *index: int | None) -> list[Factor]:
        """Each number of ``tensor(name, *index)`` with its name."""
        x = self.tensor(name, *index)
        sizes = iter(x.shape)
        places = itertools.product(*(range(next(sizes)) if i is ALL else (i,) for i in index))
        return [Factor(name_of(name, place), value) for place, value in zip(places, x.flatten().tolist(), strict=True)]

    def cell(self, name: str, *index: int) -> Factor:
        return self.cells(name, *index)[0]

    def weights(self, name: str, *index: int | None) -> list[Factor]:
        return self.cells(f"weights.{name}", *index)

    def weight(self, name: str, *index: int) -> Factor:
        return self.weights(name, *index)[0]

    def _check_weight(self, name: str) -> None:
        if name not in self.record:
            plain = name.removeprefix(naming.WEIGHT)
            raise Misuse(
                f"{self.name} is computed with {name}, which this record did not bring along.",
                f'Save it with record.save(path, weights="{plain}"), or load the model and run it.',
            )

    # What several rules share: a row of a matrix times a vector, and a norm.

    def projected(self, matrix: str, row: int, bias: bool, vector: list[Factor]) -> Work:
        """Σ W[row,i]·x[i] + b[row]"""
        work = products(vector, self.weights(f"{matrix}.weight", row, ALL))
        return work.plus(self.weight(f"{matrix}.bias", row) if bias else None)

    def image(self, matrix: str, rows: slice, bias: bool, vector: Tensor) -> Tensor:
        """W[rows] x + b[rows]: a whole vector, for a norm that needs all of it."""
        y = self.tensor(f"weights.{matrix}.weight", ALL, ALL)[rows] @ vector.flatten()
        return y + self.tensor(f"weights.{matrix}.bias", ALL)[rows] if bias else y

    def normed(self, x: list[Factor], i: int, norm: specs.Norm | None, weights: str) -> Work:
        """x[i] / √(mean(x²) + eps) · weight[i]; LayerNorm takes the mean from every x first and adds bias[i]"""
        if norm is None:
            return read(x[i], "copy", "no norm stands here")
        layer = norm.kind == "layer"
        mean = sum(factor.value for factor in x) / len(x) if layer else 0.0
        work = squares(x, mean)
        if layer:
            work.step("subtract", mean, mean, label=f"the mean of all {len(x)}")
        work.mean("variance: the mean of the squares" if layer else "mean of the squares").add(norm.eps, "eps").root()
        work.into(x[i].value - mean, x[i].cell, "this one, less the mean" if layer else "this one")
        return self._weighted(work, i, norm, weights)

    def settled(self, work: Work, x: Tensor, i: int, norm: specs.Norm | None, weights: str) -> Work:
        """The same norm, where ``work`` has x[i] but the vector x itself has no name in the record"""
        if norm is None:
            return work
        if norm.kind == "layer":
            mean = float(x.mean())
            work.add(-mean, f"minus the mean of all {len(x)}")
            x = x - mean
        work.scale(1 / math.sqrt(float((x * x).mean()) + norm.eps), f"1 / √(mean square of all {len(x)} + eps)")
        return self._weighted(work, i, norm, weights)

    def _weighted(self, work: Work, i: int, norm: specs.Norm, weights: str) -> Work:
        work.times(self.weight(f"{weights}.weight", i), "the norm's weight")
        return work.plus(self.weight(f"{weights}.bias", i) if norm.kind == "layer" else None, "the norm's bias")

    def added(self, parts: Sequence[str], norm: specs.Norm | None, weights: str) -> Work:
        """Σ parts[t,d], normalised where a norm stands on the stream"""
        t, d = self.index
        whole = torch.stack([self.tensor(part, t, ALL) for part in parts]).sum(0)
        return self.settled(total(self.cell(part, t, d) for part in parts), whole, d, norm, weights)


# ------------------------------------------------------------------ the rules, in the order the machine works


def image(at: At) -> Work:
    """image[c,y,x] = (level · scale - mean) / std, of a grey level from 0 to 255"""
    how = at.record.settings.get("image")
    value = at.cell("image", *at.index)
    if not isinstance(how, dict):
        return read(value, "copy", "what the model was given")
    channel = at.index[0]
    mean, std, scale = how["mean"][channel], how["std"][channel], how["scale"]
    level = Factor(name_of("level", at.index), round((value.value * std + mean) / scale, 3))
    return (
        read(level, "lookup", "a grey level of the picture")
        .scale(scale, "scale of the levels")
        .add(-mean, "less the mean")
        .scale(1 / std, "over the deviation")
    )


def embed(at: At) -> Work:
    """embed[t,d] = table[token t, d] · scale; of a patch Σ W[d,c,i,j] · image[c,y,x] + b"""
    t, d = at.index
    if isinstance(at.stem, specs.Patches):
        return _patch(at, at.stem, t, d)
    token = at.record.tokens[t]
    row = at.weight("stem.tokens.weight", token, d)
    return read(row, "lookup", f"the row of token {token}").scale(at.stem.scale, "scale of the embedding")


def _patch(at: At, stem: specs.Patches, t: int, d: int) -> Work:
    if t < stem.extra_tokens:
        return read(at.weight(f"stem.extra.{t}.weight", 0, d), "lookup", "learned, the same for every image")
    side = stem.patch
    row, column = divmod(t - stem.extra_tokens, stem.image // side)
    pixels, weights = at.tensor("image", ALL, ALL, ALL), at.tensor("weights.stem.patch.weight", d, ALL, ALL, ALL)
    places = list(itertools.product(range(stem.channels), range(side), range(side)))
    seen = [(c, row * side + i, column * side + j) for c, i, j in places]
    work = products(
        [Factor(name_of("image", place), float(pixels[place])) for place in seen],
        [Factor(name_of("weights.stem.patch.weight", (d, *place)), float(weights[place])) for place in places],
    )
    return work.plus(at.weight("stem.patch.bias", d))


def pos(at: At) -> Work:
    """pos[t,d] = table[t,d]; or, without a table, sin or cos of t · frequency"""
    t, d = at.index
    if isinstance(at.stem, specs.Patches):
        return read(at.weight("stem.positions.weight", t, d), "lookup", f"the row of position {t}")
    positions = at.stem.positions
    assert positions is not None
    if positions.kind == "learned":
        return read(at.weight("stem.positions.weight", t + positions.offset, d), "lookup", f"the row of position {t}")
    half = at.stem.width // 2
    function, frequency = ("sin", "cos")[d // half], 1 / 10000 ** (2 * (d % half) / at.stem.width)
    value = float(sinusoids(torch.tensor([t]), at.stem.width, torch.float)[0, d])
    return read(Factor(f"{function}({t} × {frequency:.6g})", value), "lookup", "a wave over the positions")


def segment(at: At) -> Work:
    """segment[t,d] = table[0,d]: a text alone is all of the first segment"""
    return read(at.weight("stem.segments.weight", 0, at.index[1]), "lookup", "the row of the first segment")


def resid_pre(at: At) -> Work:
    """resid_pre[t,d] = embed + pos + segment in block 0, afterwards resid_post of the block before"""
    if at.layer:
        return read(at.cell(f"blocks.{at.layer - 1}.resid_post", *at.index), "copy", "as the block before left it")
    if isinstance(at.stem, specs.Patches):
        return at.added(["embed", "pos"], None, "")
    there = {"embed": True, "pos": at.stem.positions is not None, "segment": at.stem.segments > 0}
    return at.added([part for part, is_there in there.items() if is_there], at.stem.norm, "stem.norm")


def read_by_a_branch(at: At) -> Work:
    """attn.in[t,d] = norm(resid_pre[t])[d]; mlp.in reads resid_mid, or resid_pre in a parallel block"""
    t, d = at.index
    branch = at.name.split(".")[2]
    if branch == "mlp" and at.block.shared_norm:
        return read(at.cell(at.own("attn.in"), t, d), "copy", "attention and MLP share one norm")
    stream = "resid_pre" if branch == "attn" or at.block.parallel else "resid_mid"
    norm = at.block.norm if "pre" in at.block.slots else None
    return at.normed(at.cells(at.own(stream), t, ALL), d, norm, f"stack.{at.own(branch)}.pre")


def query_key_value(at: At) -> Work:
    """q[t,h,e] = Σ W_q[h·E+e, d] · attn.in[t,d] + b, k and v likewise; q and k perhaps normalised"""
    t, head, e = at.index
    attn, letter = at.block.attn, at.name[-1]
    matrix, row, bias = f"stack.{at.own('attn')}.{letter}", head * attn.width + e, letter in attn.bias
    work = at.projected(matrix, row, bias, at.cells(at.own("attn.in"), t, ALL))
    if attn.qk_norm is None or letter == "v":
        return work
    rows = slice(head * attn.width, (head + 1) * attn.width) if attn.qk_norm == "head" else slice(None)
    y = at.image(matrix, rows, bias, at.tensor(at.own("attn.in"), t, ALL))
    return at.settled(work, y, e if attn.qk_norm == "head" else row, at.block.norm, f"{matrix}_norm")


def rotated(at: At) -> Work:
    """q_rot[t,h,e] = q[e]·cos(t·w) - q[e+R/2]·sin(t·w), its partner q[e]·cos(t·w) + q[e-R/2]·sin(t·w); so k_rot"""
    t, head, e = at.index
    rope, source = at.block.attn.rope, at.name.removesuffix("_rot")
    if rope is None or e >= rope.width:
        return read(at.cell(source, t, head, e), "copy", "nothing is rotated here")
    half = rope.width // 2
    first, pair = e < half, e % half
    cos, sin = (float(x[0, 0, pair]) for x in rotation(rope, torch.tensor([t]), at.record[source].dtype))
    angle = f"({t} × {float(inverse_frequencies(rope, torch.device('cpu'))[pair]):.6g})"
    stretch = "" if not isinstance(rope.scaling, specs.YarnScaling) else f"{rope.scaling.attention_factor:.6g}·"
    numbers = [at.cell(source, t, head, e), at.cell(source, t, head, e + half if first else e - half)]
    waves = [
        Factor(f"{stretch}cos{angle}", cos),
        Factor(f"-{stretch}sin{angle}" if first else f"{stretch}sin{angle}", -sin if first else sin),
    ]
    return products(numbers, waves)


def scores(at: At) -> Work:
    """scores[h,t,s] = Σ q_rot[t,h,e] · k_rot[s,k,e] · scale, soft-capped, plus a relative bias where there is one"""
    head, t, s = at.index
    attn = at.block.attn
    queries, keys = at.cells(at.own("attn.q_rot"), t, head, ALL), at.cells(at.own("attn.k_rot"), s, _shared(at), ALL)
    work = products(queries, keys).scale(attn.scale, "scale of the scores").softcap(attn.softcap)
    biased = at.machine.stack.relative is not None
    return work.plus(at.cell("relative.bias", head, t, s) if biased else None, "bias for the distance")


def relative_bias(at: At) -> Work:
    """relative.bias[h,t,s] = table[bucket of s - t, h]"""
    head, t, s = at.index
    relative = at.machine.stack.relative
    assert relative is not None
    with torch.device("meta"):
        module = RelativeBias(1, relative)
    bucket = int(module.bucket(torch.tensor(s - t, device="cpu")))
    return read(at.weight("stack.relative.table.weight", bucket, head), "lookup", f"bucket {bucket}, distance {s - t}")


def pattern(at: At) -> Work:
    """pattern[h,t,s] = exp(scores[h,t,s] - largest) / Σ over every s it may read; 0 for those it may not"""
    head, t, s = at.index
    row = at.cells(at.own("attn.scores"), head, t, ALL)
    allowed = _readable(at, t)
    if s not in allowed:
        return Work("exp", [], []).step("masked", 0.0, label=_hidden_by(at.block.attn, t, s))
    largest = max((row[i] for i in allowed), key=lambda score: score.value)
    terms = [Term((row[i],), math.exp(row[i].value - largest.value)) for i in allowed]
    work = Work("exp", terms, [])
    work.step("subtract", largest.value, largest.value, largest.cell, "the largest score").sum()
    return work.into(math.exp(row[s].value - largest.value), row[s].cell, "exp of this one")


def z(at: At) -> Work:
    """z[t,h,e] = Σ pattern[h,t,s] · v[s,k,e] over every s it may read"""
    t, head, e = at.index
    weights, values = at.cells(at.own("attn.pattern"), head, t, ALL), at.cells(at.own("attn.v"), ALL, _shared(at), e)
    allowed = _readable(at, t)
    return products([weights[s] for s in allowed], [values[s] for s in allowed])


def attention_out(at: At) -> Work:
    """attn.out[t,d] = Σ W_o[d, h·E+e] · z[t,h,e] + b, then the post norm where there is one"""
    return _leaving(at, "attn.o", "attn.z", (ALL, ALL), "o" in at.block.attn.bias)


def resid_mid(at: At) -> Work:
    """resid_mid[t,d] = resid_pre[t,d] + attn.out[t,d]"""
    return at.added([at.own("resid_pre"), at.own("attn.out")], *_on_the_stream(at, "attn"))


def pre_activation(at: At) -> Work:
    """mlp.up[t,f] = Σ W_up[f,d] · mlp.in[t,d] + b; mlp.gate likewise"""
    t, f = at.index
    return at.projected(f"stack.{at.name}", f, at.block.mlp.bias, at.cells(at.own("mlp.in"), t, ALL))


def hidden(at: At) -> Work:
    """mlp.hidden[t,f] = act(mlp.up[t,f]); gated: act(mlp.gate[t,f]) · mlp.up[t,f]"""
    mlp, up = at.block.mlp, at.cell(at.own("mlp.up"), *at.index)
    if not mlp.gated:
        return read(up, "copy").activate(mlp.activation)
    return read(at.cell(at.own("mlp.gate"), *at.index), "copy").activate(mlp.activation).times(up, "up")


def mlp_out(at: At) -> Work:
    """mlp.out[t,d] = Σ W_down[d,f] · mlp.hidden[t,f] + b, then the post norm where there is one"""
    return _leaving(at, "mlp.down", "mlp.hidden", (ALL,), at.block.mlp.bias)


def resid_post(at: At) -> Work:
    """resid_post[t,d] = resid_mid[t,d] + mlp.out[t,d]"""
    return at.added([at.own("resid_mid"), at.own("mlp.out")], *_on_the_stream(at, "mlp"))


def final(at: At) -> Work:
    """final[t,d] = norm(resid_post of the last block, at t)[d]"""
    t, d = at.index
    last = len(at.machine.stack.blocks) - 1
    return at.normed(at.cells(f"blocks.{last}.resid_post", t, ALL), d, at.machine.stack.final_norm, "stack.norm")


def head_up(at: At) -> Work:
    """head.up[t,d] = Σ W[d,i] · final[t,i] + b; of a classifier t is the position it reads, and is not written"""
    *time, d = at.index
    return at.projected("head.dense", d, True, at.cells("final", *(time or [at.read_by_head]), ALL))


def head_hidden(at: At) -> Work:
    """head.hidden[t,d] = norm(act(head.up[t]))[d]: what the unembedding reads"""
    *time, d = at.index
    activation, norm = naming.head_of(at.machine).transform or ("", None)
    work = read(at.cell("head.up", *at.index), "copy").activate(activation)
    return at.settled(work, ACTIVATIONS[activation](at.tensor("head.up", *time, ALL)).flatten(), d, norm, "head.norm")


def logits(at: At) -> Work:
    """logits[t,v] = Σ final[t,d] · U[v,d] · scale + b, soft-capped; where a layer stands before the unembedding, it
    reads head.hidden; of a classifier t is the position it reads, and is not written"""
    *time, v = at.index if at.name == "logits" else (at.record.length - 1, *at.index)
    head = naming.head_of(at.machine)
    if head.pool == "first_two":
        return _twice(at, head, v)
    unembedding = "stem.tokens.weight" if head.tied else "head.out.weight"
    place = time or [at.read_by_head]
    vector = at.cells("head.hidden", *time, ALL) if head.transform else at.cells("final", *place, ALL)
    work = products(vector, at.weights(unembedding, v, ALL))
    work.scale(head.scale, "scale of the logits").plus(at.weight("head.out.bias", v) if head.bias else None)
    return work.softcap(head.softcap)


def _twice(at: At, head: specs.Head, v: int) -> Work:
    """(Σ final[0,d] · U[v,d] + Σ final[1,d] · U'[v,d]) / 2: the class token's logit and the distillation token's"""
    rows = [at.weights(f"{which}.weight", v, ALL) for which in ("head.out", "head.second")]
    work = products(itertools.chain(*(at.cells("final", t, ALL) for t in (0, 1))), itertools.chain(*rows))
    work.scale(head.scale, "scale of the logits")
    for which in ("head.out", "head.second") if head.bias else ():
        work.plus(at.weight(f"{which}.bias", v))
    return work.scale(0.5, "the mean of the two").softcap(head.softcap)


def river(at: At) -> Work:
    """river[stop,t] = √Σ x[t,d]², x the stream at that stop: before and after each attention, and at the end"""
    stop, t = at.index
    layer, after = divmod(stop, 2)
    last = stop == 2 * len(at.machine.stack.blocks)
    stream = f"blocks.{layer - 1}.resid_post" if last else f"blocks.{layer}.{('resid_pre', 'resid_mid')[after]}"
    return squares(at.cells(stream, t, ALL)).sum().root()


def _leaving(at: At, matrix: str, source: str, running: tuple[None, ...], bias: bool) -> Work:
    """What a branch adds to the stream: a row of its last matrix times what it made, and the post norm."""
    t, d = at.index
    branch, matrix = at.own(matrix.partition(".")[0]), f"stack.{at.own(matrix)}"
    work = at.projected(matrix, d, bias, at.cells(at.own(source), t, *running))
    if "post" not in at.block.slots:
        return work
    y = at.image(matrix, slice(None), bias, at.tensor(at.own(source), t, *running))
    return at.settled(work, y, d, at.block.norm, f"stack.{branch}.post")


def _on_the_stream(at: At, branch: str) -> tuple[specs.Norm | None, str]:
    return at.block.norm if "stream" in at.block.slots else None, f"stack.{at.own(branch)}.stream"


def _shared(at: At) -> int:
    """The key-value head that serves the head of this cell of scores (h,t,s) or z (t,h,e)."""
    attn = at.block.attn
    head = at.index[1 if at.name.endswith(".z") else 0]
    return head // (attn.heads // attn.kv_heads)


def _readable(at: At, t: int) -> list[int]:
    """The positions that position t may read."""
    length = at.record.length
    visible = Mask(torch.tensor([t]), torch.arange(length), aligned=False).table(at.block.attn)
    return list(range(length)) if visible is None else visible[0].nonzero().flatten().tolist()


def _hidden_by(attn: specs.Attention, t: int, s: int) -> str:
    if attn.causal and s > t:
        return f"causal: position {t} reads nothing after it"
    return f"window: position {t} reads only positions less than {attn.window} away"


RULES: dict[str, Callable[[At], Work]] = {
    "image": image,
    "embed": embed,
    "pos": pos,
    "segment": segment,
    "relative.bias": relative_bias,
    "resid_pre": resid_pre,
    "attn.in": read_by_a_branch,
    "attn.q": query_key_value,
    "attn.k": query_key_value,
    "attn.v": query_key_value,
    "attn.q_rot": rotated,
    "attn.k_rot": rotated,
    "attn.scores": scores,
    "attn.pattern": pattern,
    "attn.z": z,
    "attn.out": attention_out,
    "resid_mid": resid_mid,
    "mlp.in": read_by_a_branch,
    "mlp.up": pre_activation,
    "mlp.gate": pre_activation,
    "mlp.hidden": hidden,
    "mlp.out": mlp_out,
    "resid_post": resid_post,
    "final": final,
    "head.up": head_up,
    "head.hidden": head_hidden,
    "logits": logits,
    "logits.last": logits,
    "river": river,
}
