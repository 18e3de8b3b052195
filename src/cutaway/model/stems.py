"""Stems: from tokens, image patches or sound frames to the residual stream.

Shapes: B batch, T time, D width, P pixels of a patch's side, M mel bins.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import spec
from .positions import sinusoids
from .sublayer import make_norm
from .tap import tap


class TokenStem(nn.Module):
    """A token id picks its row of the embedding; a position may add its own vector (B, T) -> (B, T, D)."""

    def __init__(self, stem: spec.Tokens) -> None:
        super().__init__()
        self.stem = stem
        self.tokens = nn.Embedding(stem.vocabulary, stem.width)
        learned = stem.positions is not None and stem.positions.kind == "learned"
        self.positions = nn.Embedding(_rows(stem.positions), stem.width) if learned and stem.positions else None
        self.segments = nn.Embedding(stem.segments, stem.width) if stem.segments else None
        self.norm = make_norm(stem.norm, stem.width)

    def forward(self, ids: Tensor, positions: Tensor, segments: Tensor | None = None) -> Tensor:
        x = tap(self, "embed", self.tokens(ids) * self.stem.scale)
        if self.stem.positions is not None:
            at = self._at(positions, x.dtype)
            x = x + tap(self, "pos", at if at.dim() == 3 else at[None])
        if self.segments is not None:
            rows = torch.zeros_like(ids) if segments is None else segments
            x = x + tap(self, "segment", self.segments(rows))
        stream: Tensor = x if self.norm is None else self.norm(x)
        return stream

    def _at(self, positions: Tensor, dtype: torch.dtype) -> Tensor:
        """Position vectors (T, D), or (B, T, D): learned rows, or sinusoids."""
        if self.positions is None or self.stem.positions is None:
            return sinusoids(positions, self.stem.width, dtype)
        rows: Tensor = self.positions(positions + self.stem.positions.offset)
        return rows


def _rows(positions: spec.Positions | None) -> int:
    return 0 if positions is None else positions.length + positions.offset


class PatchStem(nn.Module):
    """An image (B, channels, pixels, pixels) cut into P x P patches, each projected to a vector (ViT, 2020)."""

    def __init__(self, stem: spec.Patches) -> None:
        super().__init__()
        self.patch = nn.Conv2d(stem.channels, stem.width, stem.patch, stem.patch)
        self.extra = nn.ModuleList(nn.Embedding(1, stem.width) for _ in range(stem.extra_tokens))
        self.positions = nn.Embedding(stem.length, stem.width)

    def forward(self, image: Tensor) -> Tensor:
        patches: Tensor = self.patch(tap(self, "image", image)).flatten(2).transpose(1, 2)  # (B, patches, D)
        learned = [rows.expand(len(patches), -1, -1) for rows in self.extra.parameters()]
        x = tap(self, "embed", torch.cat([*learned, patches], 1))
        return x + tap(self, "pos", self.positions.weight[None])


class MelStem(nn.Module):
    """Log-mel frames (B, M, 2T) through two convolutions, the second halving time, to (B, T, D) (Whisper, 2022)."""

    def __init__(self, stem: spec.Mel) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(stem.bins, stem.width, 3, padding=1)
        self.conv2 = nn.Conv1d(stem.width, stem.width, 3, stride=2, padding=1)
        self.positions = nn.Embedding(stem.length, stem.width)

    def forward(self, mel: Tensor) -> Tensor:
        heard = tap(self, "conv1", F.gelu(self.conv1(tap(self, "frames", mel))))
        x = tap(self, "embed", F.gelu(self.conv2(heard)).transpose(1, 2))
        return x + tap(self, "pos", self.positions.weight[None, : x.shape[1]])


def make_stem(stem: spec.Stem) -> TokenStem | PatchStem | MelStem:
    if isinstance(stem, spec.Patches):
        return PatchStem(stem)
    return MelStem(stem) if isinstance(stem, spec.Mel) else TokenStem(stem)
