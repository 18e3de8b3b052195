"""The rules of what stands behind the blocks: the final norm and the head (model/transformer.py)."""

from __future__ import annotations

import itertools

from ...model import spec as specs
from ...model.block import ACTIVATIONS
from ...model.transformer import embedding_of
from .. import names as naming
from .numbers import ALL, At
from .work import Work, products, read, squares


def final(at: At) -> Work:
    """final[t,d] = norm(resid_post of the last block, at t)[d]"""
    t, d = at.index
    last = at.here(f"blocks.{len(at.stack.blocks) - 1}.resid_post")
    return at.normed(at.cells(last, t, ALL), d, at.stack.final_norm, at.stack_module("norm"))


def head_up(at: At) -> Work:
    """head.up[t,d] = Σ W[d,i] · final[t,i] + b; of a classifier t is the position it reads, and is not written"""
    *time, d = at.index
    return at.projected("head.dense", d, True, at.cells(at.here("final"), *(time or [at.read_by_head]), ALL))


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
    unembedding = embedding_of(at.machine) if head.tied else "head.out.weight"
    place = time or [at.read_by_head]
    vector = at.cells("head.hidden", *time, ALL) if head.transform else at.cells(at.here("final"), *place, ALL)
    work = products(vector, at.weights(unembedding, v, ALL))
    work.scale(head.scale, "scale of the logits").plus(at.weight("head.out.bias", v) if head.bias else None)
    return work.softcap(head.softcap)


def _twice(at: At, head: specs.Head, v: int) -> Work:
    """(Σ final[0,d] · U[v,d] + Σ final[1,d] · U'[v,d]) / 2: the class token's logit and the distillation token's"""
    rows = [at.weights(f"{which}.weight", v, ALL) for which in ("head.out", "head.second")]
    work = products(itertools.chain(*(at.cells(at.here("final"), t, ALL) for t in (0, 1))), itertools.chain(*rows))
    work.scale(head.scale, "scale of the logits")
    for which in ("head.out", "head.second") if head.bias else ():
        work.plus(at.weight(f"{which}.bias", v))
    return work.scale(0.5, "the mean of the two").softcap(head.softcap)


def river(at: At) -> Work:
    """river[stop,t] = √Σ x[t,d]², x the stream at that stop: before and after each attention, and at the end"""
    stop, t = at.index
    return squares(at.cells(at.here(naming.stops(at.stack)[stop]), t, ALL)).sum().root()
