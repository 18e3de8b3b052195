"""What an image shows: what a vision model's head makes of its first positions, as probabilities by name; or, without
a head, the stream at the first position as a vector of the image.

Shapes: N images, C channels, Y rows and X columns of pixels, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..model import spec
from ..model.transformer import Transformer
from ..native.product import in_turn
from .classify import Classified, named

TOGETHER = 8  # images that go through the machine at once
LEARNED = ("class", "distillation")  # the vectors before the patches, in their order


@torch.no_grad()
def see(machine: Transformer, pixels: Tensor, config: Mapping[str, Any], notes: list[str]) -> Classified:
    """Run ``pixels`` (C, Y, X) through a classifier of images; ``config`` names the classes."""
    read = placed(machine, pixels)[None]
    with in_turn(machine, read):
        return named(machine(read)[0], config, [], notes)


@torch.no_grad()
def vectors(machine: Transformer, images: Sequence[Tensor]) -> Tensor:
    """(N, D), float32, on the CPU: the stream at the first position, after the final norm, of each image (C, Y, X)."""
    batches = [torch.stack(list(images[i : i + TOGETHER])) for i in range(0, len(images), TOGETHER)]
    with in_turn(machine, *batches):
        return torch.cat([machine.stream(placed(machine, batch))[:, 0].float().cpu() for batch in batches])


def placed(machine: torch.nn.Module, pixels: Tensor) -> Tensor:
    """Where the machine is, in its dtype."""
    return pixels.to(next(machine.parameters()))


def pieces(stem: spec.Patches) -> list[dict[str, Any]]:
    """What stands at each position, readably: "class", then "row 0, column 3" of the patches."""
    learned = [LEARNED[i] if i < len(LEARNED) else f"learned {i}" for i in range(stem.extra_tokens)]
    side = range(stem.image // stem.patch)
    patches = [{"text": f"row {y}, column {x}", "special": False, "row": y, "column": x} for y in side for x in side]
    return [{"text": name, "special": True} for name in learned] + patches
