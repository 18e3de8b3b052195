"""Rotary positions as config.json writes them: one way since transformers 5, several before.

    new   "rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, ...}
    old   "rope_theta": 500000.0, "rope_scaling": {"rope_type" or "type": "llama3", "factor": 8.0, ...} or null

A scaling that is not known here is refused by name: ignored, it would give a model that is subtly wrong.
"""

from __future__ import annotations

import math

from ..errors import Refused
from ..model import spec
from .config import Config, shown

SCALINGS = ("default", "linear", "llama3", "yarn")


def read(
    c: Config,
    head_width: int,
    base: float = 10000.0,
    fraction: float = 1.0,
    base_key: str = "rope_theta",
    fraction_key: str = "partial_rotary_factor",
) -> spec.Rope:
    """The one rotation all layers of a model share; ``base`` and ``fraction`` are the family's defaults.

    ``head_width`` E is the width of a head, of which the first ``fraction`` turns.
    """
    part = scaling_part(c)
    return rope(c, part, head_width, c.number(base_key, base), c.number(fraction_key, fraction))


def scaling_part(c: Config) -> Config:
    """The object that says how positions are scaled, from the new key or the old one."""
    new, old = c.part("rope_parameters"), c.part("rope_scaling")
    if len(new) and len(old) and any(new.peek(key) != old.peek(key) for key in set(new) & set(old)):
        raise Refused("config.json says two things in rope_parameters and rope_scaling.", "Remove one of them.")
    return old if len(old) else new


def rope(c: Config, part: Config, head_width: int, base: float, fraction: float = 1.0) -> spec.Rope:
    """The rotation ``part`` describes; what it leaves out comes from ``base`` and ``fraction``."""
    base = part.number("rope_theta", base)
    width = int(head_width * part.number("partial_rotary_factor", fraction))
    return spec.Rope(base, width, _scaling(c, part))


def _scaling(c: Config, part: Config) -> spec.LinearScaling | spec.Llama3Scaling | spec.YarnScaling | None:
    part.only("mrope_section")
    kind = part.any("rope_type", part.any("type", "default"))
    nested = [key for key in part if isinstance(part.peek(key), dict)]
    if nested:
        raise _refused(f"a rope of its own for {' and '.join(nested)}")
    if part.has("factor") and not (part.has("rope_type") or part.has("type")):
        raise _refused("a rope scaling without a type")
    if kind not in SCALINGS:
        raise _refused(f"the rope scaling {shown(kind)}")
    if kind == "linear":
        return spec.LinearScaling(part.number("factor"))
    if kind == "llama3":
        return spec.Llama3Scaling(
            part.number("factor"), part.number("low_freq_factor"), part.number("high_freq_factor"), _original(c, part)
        )
    if kind == "yarn":
        return _yarn(c, part)
    return None


def _refused(what: str) -> Refused:
    return Refused(
        f"config.json asks for {what}, which is not computed for this family (known scalings: {', '.join(SCALINGS)}).",
        "Choose another checkpoint.",
    )


def _yarn(c: Config, part: Config) -> spec.YarnScaling:
    factor = part.number("factor")
    mscale, over_all = part.number("mscale", None), part.number("mscale_all_dim", None)
    if mscale is not None and over_all is not None:
        temperature = _temperature(factor, mscale) / _temperature(factor, over_all)
    else:
        temperature = _temperature(factor)
    return spec.YarnScaling(
        factor,
        _original(c, part),
        beta_fast=part.number("beta_fast", 32.0),
        beta_slow=part.number("beta_slow", 1.0),
        attention_factor=part.number("attention_factor", temperature),
        truncate=part.flag("truncate", True),
    )


def _temperature(factor: float, weight: float = 1.0) -> float:
    """How much sharper attention must be after stretching by ``factor`` (YaRN, equation 22; weighted by DeepSeek)."""
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


def _original(c: Config, part: Config) -> int:
    """The context before stretching: at the top of the config, in the scaling, or the context itself."""
    context = c.integer("max_position_embeddings")
    inside: int = part.integer("original_max_position_embeddings", context)
    return int(c.integer("original_max_position_embeddings", inside))
