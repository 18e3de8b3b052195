"""The rules of a block: what its branches read and add, and the MLP (model/block.py)."""

from __future__ import annotations

from ...model import spec as specs
from .numbers import ALL, At
from .work import Work, read


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
    return at.leaving("mlp.down", "mlp.hidden", (ALL,), at.block.mlp.bias)


def resid_post(at: At) -> Work:
    """resid_post[t,d] = resid_mid[t,d] + mlp.out[t,d]"""
    return at.added([at.own("resid_mid"), at.own("mlp.out")], *_on_the_stream(at, "mlp"))


def _on_the_stream(at: At, branch: str) -> tuple[specs.Norm | None, str]:
    return at.block.norm if "stream" in at.block.slots else None, f"stack.{at.own(branch)}.stream"
