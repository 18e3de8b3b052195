"""Where a number comes from: any one cell of a run, term by term, from the cells before it.

Axes: t reading position, s read position, h head, k key-value head, e number of a head, d number of the stream,
f neuron, v token of the vocabulary; of a sound m mel bin, r frame. Of an encoder-decoder every name a term says is
whole: logits lead through decoder.blocks.i.cross and encoder.final to a row of the encoder's embedding.

    terms --sum | mean | copy | lookup--> x --add, scale, softcap, activation ...--> total, beside the recorded value

One rule per name, in the order the machine works. Everything is computed in float64 from the numbers the record
holds, so a total differs from the recorded value by the rounding of the machine's own arithmetic and no more.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from ...errors import Misuse
from .. import names as naming
from .attention import (
    attention_out,
    key_value_of_the_encoder,
    pattern,
    query_key_value,
    relative_bias,
    rotated,
    scores,
    z,
)
from .block import hidden, mlp_out, pre_activation, read_by_a_branch, resid_cross, resid_mid, resid_post, resid_pre
from .end import final, head_hidden, head_up, logits, river
from .numbers import At, name_of
from .stems import conv1, embed, frames, image, pos, segment
from .work import Explanation, Factor, Step, Term, Work, read

if TYPE_CHECKING:
    from ..record import Record

__all__ = ["RULES", "Explanation", "Factor", "Step", "Term", "explain", "kind_of", "name_of", "parse"]


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
    """ "blocks.3.attn.q" -> "attn.q"; "encoder.embed" -> "embed"."""
    return re.sub(r"^(encoder\.|decoder\.)?(blocks\.\d+\.)?", "", name)


RULES: dict[str, Callable[[At], Work]] = {
    "image": image,
    "frames": frames,
    "conv1": conv1,
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
    "cross.in": read_by_a_branch,
    "cross.q": query_key_value,
    "cross.k": key_value_of_the_encoder,
    "cross.v": key_value_of_the_encoder,
    "cross.q_rot": rotated,
    "cross.k_rot": rotated,
    "cross.scores": scores,
    "cross.pattern": pattern,
    "cross.z": z,
    "cross.out": attention_out,
    "resid_cross": resid_cross,
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
