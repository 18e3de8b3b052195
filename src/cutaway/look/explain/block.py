"""The rules of a block: what its branches read and add, and the MLP (model/block.py)."""

from __future__ import annotations

from ...model import spec as specs
from .. import names as naming
from .numbers import ALL, At
from .work import Work, read


def resid_pre(at: At) -> Work:
    """resid_pre[t,d] = embed + pos + segment in block 0, afterwards resid_post of the block before"""
    if at.layer:
        before = at.here(f"blocks.{at.layer - 1}.resid_post")
        return read(at.cell(before, *at.index), "copy", "as the block before left it")
    known = naming.names(at.machine)
    parts = [part for part in map(at.here, ("embed", "pos", "segment")) if part in known]
    norm = at.stem.norm if isinstance(at.stem, specs.Tokens) else None
    return at.added(parts, norm, at.stem_module("norm"))


def read_by_a_branch(at: At) -> Work:
    """in[t,d] = norm(x[t])[d]: attention reads resid_pre, cross-attention resid_mid, the MLP what the last of them left
    (in a parallel block resid_pre as well)"""
    t, d = at.index
    if at.branch == "mlp" and at.block.shared_norm:
        return read(at.cell(at.own("attn.in"), t, d), "copy", "attention and MLP share one norm")
    norm = at.block.norm if "pre" in at.block.slots else None
    return at.normed(at.cells(at.own(_stream(at)), t, ALL), d, norm, at.block_module(f"{at.branch}.pre"))


def _stream(at: At) -> str:
    """The stream that a branch reads."""
    if at.branch == "attn" or at.block.parallel:
        return "resid_pre"
    return "resid_mid" if at.branch == "cross" else _after_attention(at)


def _after_attention(at: At) -> str:
    return "resid_mid" if at.block.cross is None else "resid_cross"


def resid_mid(at: At) -> Work:
    """resid_mid[t,d] = resid_pre[t,d] + attn.out[t,d]"""
    return _plus(at, "resid_pre", "attn")


def resid_cross(at: At) -> Work:
    """resid_cross[t,d] = resid_mid[t,d] + cross.out[t,d]"""
    return _plus(at, "resid_mid", "cross")


def pre_activation(at: At) -> Work:
    """mlp.up[t,f] = Σ W_up[f,d] · mlp.in[t,d] + b; mlp.gate likewise"""
    t, f = at.index
    matrix = at.block_module(f"mlp.{at.name.rpartition('.')[2]}")
    return at.projected(matrix, f, at.block.mlp.bias, at.cells(at.own("mlp.in"), t, ALL))


def hidden(at: At) -> Work:
    """mlp.hidden[t,f] = act(mlp.up[t,f]); gated: act(mlp.gate[t,f]) · mlp.up[t,f]"""
    mlp, up = at.block.mlp, at.cell(at.own("mlp.up"), *at.index)
    if not mlp.gated:
        return read(up, "copy").activate(mlp.activation)
    return read(at.cell(at.own("mlp.gate"), *at.index), "copy").activate(mlp.activation).times(up, "up")


def mlp_out(at: At) -> Work:
    """mlp.out[t,d] = Σ W_down[d,f] · mlp.hidden[t,f] + b, then the post norm where there is one"""
    return at.leaving("down", "hidden", (ALL,), at.block.mlp.bias)


def resid_post(at: At) -> Work:
    """resid_post[t,d] = resid_mid[t,d] + mlp.out[t,d], behind cross-attention resid_cross[t,d] + mlp.out[t,d]"""
    return _plus(at, _after_attention(at), "mlp")


def _plus(at: At, stream: str, branch: str) -> Work:
    """The stream and what a branch adds to it."""
    norm = at.block.norm if "stream" in at.block.slots else None
    return at.added([at.own(stream), at.own(f"{branch}.out")], norm, at.block_module(f"{branch}.stream"))
