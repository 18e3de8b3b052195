"""The rules of what enters the residual stream (model/stems.py)."""

from __future__ import annotations

import itertools

import torch

from ...model import spec as specs
from ...model.positions import sinusoids
from .numbers import ALL, At, name_of
from .work import Factor, Work, products, read


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
