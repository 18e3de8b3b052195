"""Weights by rule: the same numbers everywhere, so that golden tensors need only the reference's results.

A weight is a hash of its name and place, turned into a number between -0.3 and 0.3, or near 1 for a norm's weight.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import torch
from torch import Tensor

FILE = Path(__file__).parents[1] / "golden" / "families.safetensors"
TOKENS = torch.tensor([[5, 17, 3, 28, 28, 9, 1, 14, 30, 2, 11, 7]])


def image(channels: int, side: int) -> Tensor:
    """An image of no meaning, (1, channels, side, side), in (-0.9, 0.9)."""
    return 3 * weight("image", (1, channels, side, side))


def sound(bins: int, frames: int) -> Tensor:
    """Mel frames of no meaning, (1, bins, frames), in (-0.9, 0.9)."""
    return 3 * weight("sound", (1, bins, frames))


def weight(name: str, shape: tuple[int, ...]) -> Tensor:
    """The tensor called ``name`` of a golden model, float32, in (-0.3, 0.3); a norm's weight is moved by 1."""
    count = int(torch.Size(shape).numel())
    z = _mixed(torch.arange(count, dtype=torch.int64) * 0x9E3779B1 + zlib.crc32(name.encode()))
    spread = 0.3 * (z.double() / 2**31 - 1)
    return (spread + (1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0)).float().reshape(shape)


def _mixed(z: Tensor) -> Tensor:
    """The finaliser of MurmurHash3, 32 bits wide."""
    z = z & 0xFFFFFFFF
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        z = z ^ (z >> shift)
        z = (z * factor) & 0xFFFFFFFF
    return z ^ (z >> 16)
