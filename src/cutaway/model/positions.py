"""Where a token stands: rotations of queries and keys, sinusoids, and relative score biases.

Shapes: B batch, T time (queries), S time (keys), H heads, E head width, D width, R rotated numbers of a head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from . import spec
from .tap import tap


def inverse_frequencies(rope: spec.Rope, device: torch.device) -> Tensor:
    """Radians per position for each rotated pair, (R/2,), slowest last (Su et al. 2021, eq. 15)."""
    exponents = torch.arange(0, rope.width, 2, device=device).float() / rope.width
    frequencies = 1.0 / rope.base**exponents
    scaling = rope.scaling
    if isinstance(scaling, spec.LinearScaling):
        return frequencies / scaling.factor
    if isinstance(scaling, spec.Llama3Scaling):
        turns = scaling.original_length * frequencies / (2 * math.pi)  # full turns within the original context
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        keep = ((turns - low) / (high - low)).clamp(0, 1)
        return frequencies * (keep + (1 - keep) / scaling.factor)
    if isinstance(scaling, spec.YarnScaling):
        keep = 1 - _yarn_ramp(rope, scaling, device)
        return frequencies * (keep + (1 - keep) / scaling.factor)
    return frequencies


def _yarn_ramp(rope: spec.Rope, scaling: spec.YarnScaling, device: torch.device) -> Tensor:
    """0 for pairs that turn often and are kept, 1 for slow ones that are interpolated (YaRN, section 3.2)."""

    def pair_that_turns(times: float) -> float:
        return rope.width * math.log(scaling.original_length / (times * 2 * math.pi)) / (2 * math.log(rope.base))

    first, last = pair_that_turns(scaling.beta_fast), pair_that_turns(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, rope.width - 1)
    if first == last:
        last += 0.001
    return ((torch.arange(rope.width // 2, device=device).float() - first) / (last - first)).clamp(0, 1)


def rotation(rope: spec.Rope, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine of each pair's angle at each position: two of (T, 1, R/2), or of (B, T, 1, R/2) at positions
    (B, T), ready for (B, T, H, R/2)."""
    angles = positions.float()[..., None, None] * inverse_frequencies(rope, positions.device)
    factor = rope.scaling.attention_factor if isinstance(rope.scaling, spec.YarnScaling) else 1.0
    return (angles.cos() * factor).to(dtype), (angles.sin() * factor).to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn pair i of ``x`` (B, T, H, E), numbers i and i + R/2, by its angle; what lies beyond R stays."""
    half = cos.shape[-1]
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)


def sinusoids(positions: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """Fixed position vectors (..., D): sines then cosines (Vaswani et al. 2017, section 3.5).

    Computed in float64 where there is one: in float32 the angle of position 500 is off by 3e-5.
    """
    exact = torch.float32 if positions.device.type == "mps" else torch.float64
    frequencies = 1.0 / 10000 ** (torch.arange(0, width, 2, device=positions.device, dtype=exact) / width)
    angles = positions.to(exact)[..., None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], -1).to(dtype)


class RelativeBias(nn.Module):
    """A learned number per head and distance bucket, added to every layer's scores (T5, Raffel et al. 2019)."""

    def __init__(self, heads: int, relative: spec.RelativeBias) -> None:
        super().__init__()
        self.relative = relative
        self.table = nn.Embedding(relative.buckets, heads)

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Positions (T,) and (S,) -> bias (1, H, T, S); (B, T) and (B, S) -> (B, H, T, S)."""
        distance = keys[..., None, :] - queries[..., :, None]
        bias = self.table(self.bucket(distance)).movedim(-1, -3)  # (H, T, S) or (B, H, T, S)
        return tap(self, "bias", bias if bias.dim() == 4 else bias[None])

    def bucket(self, distance: Tensor) -> Tensor:
        """Key position minus query position -> bucket: near ones exactly, far ones by their logarithm."""
        count = self.relative.buckets
        if self.relative.bidirectional:
            count //= 2
            first = (distance > 0) * count
            distance = distance.abs()
        else:
            first = torch.zeros_like(distance)
            distance = (-distance).clamp(min=0)
        exact = count // 2
        growth = math.log(self.relative.max_distance / exact)
        far = exact + (torch.log(distance.clamp(min=1).float() / exact) / growth * (count - exact)).long()
        return first + torch.where(distance < exact, distance, far.clamp(max=count - 1))
