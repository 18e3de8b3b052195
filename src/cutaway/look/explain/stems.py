"""The rules of what enters the residual stream (model/stems.py)."""

from __future__ import annotations

import itertools

import torch

from ...errors import Misuse
from ...model import spec as specs
from ...model.positions import sinusoids
from .numbers import ALL, At, name_of
from .work import Factor, Work, products, read


def image(at: At) -> Work:
    """image[c,y,x] = (level · scale - mean) / std, of a grey level from 0 to 255"""
    how = at.record.settings.get("image")
    value = at.cell(at.name, *at.index)
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


def frames(at: At) -> Work:
    """frames[m,r]: how strong mel bin m of the sound is in frame r, as the model was given it"""
    return read(at.cell(at.name, *at.index), "copy", "what the model was given: the log-mel of the sound")


def conv1(at: At) -> Work:
    """conv1[d,r] = gelu(Σ W[d,m,tap] · frames[m, r + tap - 1] + b), over all mel bins and three frames"""
    d, r = at.index
    return _convolved(at, "conv1", "frames", d, r)


def embed(at: At) -> Work:
    """embed[t,d] = table[token t, d] · scale; of a patch Σ W[d,c,i,j] · image[c,y,x] + b; of a sound
    gelu(Σ W[d,i,tap] · conv1[i, 2t + tap - 1] + b)"""
    t, d = at.index
    if isinstance(at.stem, specs.Patches):
        return _patch(at, at.stem, t, d)
    if isinstance(at.stem, specs.Mel):
        return _convolved(at, "conv2", "conv1", d, 2 * t)
    token = _token(at, t)
    row = at.weight(at.stem_module("tokens.weight"), token, d)
    return read(row, "lookup", f"the row of token {token}").scale(at.stem.scale, "scale of the embedding")


def _token(at: At, t: int) -> int:
    """The token at a position of the cell's side. Raises Misuse where the record was not told which were read."""
    tokens = at.record.source if at.side == "encoder." else at.record.tokens
    if not tokens:
        raise Misuse(f"{at.name} is a row of the embedding, but this record does not say which tokens were read.")
    return tokens[t]


def _convolved(at: At, kernel: str, source: str, d: int, centre: int) -> Work:
    """gelu(Σ W[d,i,tap] · x[i, centre + tap - 1] + b); beyond the ends of the sound x is 0."""
    x, module = at.tensor(at.here(source), ALL, ALL), at.stem_module(kernel)
    weights = at.tensor(f"weights.{module}.weight", d, ALL, ALL)
    taps = [tap for tap in range(weights.shape[-1]) if 0 <= centre + tap - 1 < x.shape[-1]]
    places = list(itertools.product(range(len(x)), taps))
    work = products(
        [Factor(name_of(at.here(source), (i, centre + j - 1)), float(x[i, centre + j - 1])) for i, j in places],
        [Factor(name_of(f"weights.{module}.weight", (d, i, j)), float(weights[i, j])) for i, j in places],
    )
    return work.plus(at.weight(f"{module}.bias", d)).activate("gelu")


def _patch(at: At, stem: specs.Patches, t: int, d: int) -> Work:
    if t < stem.extra_tokens:
        return read(at.weight(at.stem_module(f"extra.{t}.weight"), 0, d), "lookup", "learned, the same for every image")
    side = stem.patch
    row, column = divmod(t - stem.extra_tokens, stem.image // side)
    pixels, kernel = at.tensor(at.here("image"), ALL, ALL, ALL), at.stem_module("patch")
    weights = at.tensor(f"weights.{kernel}.weight", d, ALL, ALL, ALL)
    places = list(itertools.product(range(stem.channels), range(side), range(side)))
    seen = [(c, row * side + i, column * side + j) for c, i, j in places]
    work = products(
        [Factor(name_of(at.here("image"), place), float(pixels[place])) for place in seen],
        [Factor(name_of(f"weights.{kernel}.weight", (d, *place)), float(weights[place])) for place in places],
    )
    return work.plus(at.weight(f"{kernel}.bias", d))


def pos(at: At) -> Work:
    """pos[t,d] = table[t,d]; or, without a table, sin or cos of t · frequency"""
    t, d = at.index
    positions = at.stem.positions if isinstance(at.stem, specs.Tokens) else None
    if positions is None or positions.kind == "learned":
        row = t if positions is None else t + positions.offset
        return read(at.weight(at.stem_module("positions.weight"), row, d), "lookup", f"the row of position {t}")
    half = at.stem.width // 2
    function, frequency = ("sin", "cos")[d // half], 1 / 10000 ** (2 * (d % half) / at.stem.width)
    value = float(sinusoids(torch.tensor([t]), at.stem.width, torch.float)[0, d])
    return read(Factor(f"{function}({t} × {frequency:.6g})", value), "lookup", "a wave over the positions")


def segment(at: At) -> Work:
    """segment[t,d] = table[0,d]: a text alone is all of the first segment"""
    return read(at.weight(at.stem_module("segments.weight"), 0, at.index[1]), "lookup", "the row of the first segment")
