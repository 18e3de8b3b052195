"""The rules of attention (model/attention.py, and what model/positions.py gives it)."""

from __future__ import annotations

import math

import torch

from ...model import spec as specs
from ...model.attention import Mask
from ...model.positions import RelativeBias, inverse_frequencies, rotation
from .numbers import ALL, At
from .work import Factor, Term, Work, products, read


def query_key_value(at: At) -> Work:
    """q[t,h,e] = Σ W_q[h·E+e, d] · in[t,d] + b, k and v likewise; q and k perhaps normalised"""
    return _projected(at, at.own(f"{at.branch}.in"))


def key_value_of_the_encoder(at: At) -> Work:
    """k[s,k,e] = Σ W_k[k·E+e, d] · encoder.final[s,d] + b, v likewise: what cross-attention reads of the encoder"""
    return _projected(at, "encoder.final")


def _projected(at: At, source: str) -> Work:
    """A head's number of a query, a key or a value, made of the vector at its position in ``source``."""
    t, head, e = at.index
    attn, letter = at.attn, at.name[-1]
    matrix, row, bias = at.block_module(f"{at.branch}.{letter}"), head * attn.width + e, letter in attn.bias
    work = at.projected(matrix, row, bias, at.cells(source, t, ALL))
    if attn.qk_norm is None or letter == "v":
        return work
    rows = slice(head * attn.width, (head + 1) * attn.width) if attn.qk_norm == "head" else slice(None)
    y = at.image(matrix, rows, bias, at.tensor(source, t, ALL))
    return at.settled(work, y, e if attn.qk_norm == "head" else row, at.block.norm, f"{matrix}_norm")


def rotated(at: At) -> Work:
    """q_rot[t,h,e] = q[e]·cos(t·w) - q[e+R/2]·sin(t·w), its partner q[e]·cos(t·w) + q[e-R/2]·sin(t·w); so k_rot"""
    t, head, e = at.index
    rope, source = at.attn.rope, at.name.removesuffix("_rot")
    if rope is None or at.branch == "cross" or e >= rope.width:
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
    queries = at.cells(at.own(f"{at.branch}.q_rot"), t, head, ALL)
    keys = at.cells(at.own(f"{at.branch}.k_rot"), s, _shared(at), ALL)
    work = products(queries, keys).scale(at.attn.scale, "scale of the scores").softcap(at.attn.softcap)
    biased = at.stack.relative is not None and at.branch == "attn"
    return work.plus(at.cell(at.here("relative.bias"), head, t, s) if biased else None, "bias for the distance")


def relative_bias(at: At) -> Work:
    """relative.bias[h,t,s] = table[bucket of s - t, h]"""
    head, t, s = at.index
    relative = at.stack.relative
    assert relative is not None
    with torch.device("meta"):
        module = RelativeBias(1, relative)
    bucket = int(module.bucket(torch.tensor(s - t, device="cpu")))
    row = at.weight(at.stack_module("relative.table.weight"), bucket, head)
    return read(row, "lookup", f"bucket {bucket}, distance {s - t}")


def pattern(at: At) -> Work:
    """pattern[h,t,s] = exp(scores[h,t,s] - largest) / Σ over every s it may read; 0 for those it may not"""
    head, t, s = at.index
    row = at.cells(at.own(f"{at.branch}.scores"), head, t, ALL)
    allowed = _readable(at, t)
    if s not in allowed:
        return Work("exp", [], []).step("masked", 0.0, label=_hidden_by(at.attn, t, s))
    largest = max((row[i] for i in allowed), key=lambda score: score.value)
    terms = [Term((row[i],), math.exp(row[i].value - largest.value)) for i in allowed]
    work = Work("exp", terms, [])
    work.step("subtract", largest.value, largest.value, largest.cell, "the largest score").sum()
    return work.into(math.exp(row[s].value - largest.value), row[s].cell, "exp of this one")


def z(at: At) -> Work:
    """z[t,h,e] = Σ pattern[h,t,s] · v[s,k,e] over every s it may read"""
    t, head, e = at.index
    weights = at.cells(at.own(f"{at.branch}.pattern"), head, t, ALL)
    values = at.cells(at.own(f"{at.branch}.v"), ALL, _shared(at), e)
    allowed = _readable(at, t)
    return products([weights[s] for s in allowed], [values[s] for s in allowed])


def attention_out(at: At) -> Work:
    """out[t,d] = Σ W_o[d, h·E+e] · z[t,h,e] + b, then the post norm where there is one"""
    return at.leaving("o", "z", (ALL, ALL), "o" in at.attn.bias)


def _shared(at: At) -> int:
    """The key-value head that serves the head of this cell of scores (h,t,s) or z (t,h,e)."""
    attn = at.attn
    head = at.index[1 if at.name.endswith(".z") else 0]
    return head // (attn.heads // attn.kv_heads)


def _readable(at: At, t: int) -> list[int]:
    """The positions that position t may read."""
    length = at.record.shape(at.own(f"{at.branch}.pattern"))[-1]
    visible = Mask(torch.tensor([t]), torch.arange(length), aligned=False).table(at.attn)
    return list(range(length)) if visible is None else visible[0].nonzero().flatten().tolist()


def _hidden_by(attn: specs.Attention, t: int, s: int) -> str:
    if attn.causal and s > t:
        return f"causal: position {t} reads nothing after it"
    return f"window: position {t} reads only positions less than {attn.window} away"
