"""What the hardware must do for each token of a shape (shapes.py)."""

from __future__ import annotations

import torch
from shapes import Config

from cutaway import families
from cutaway.bench import limits
from cutaway.model.transformer import Transformer, build

#: Bits that a weight takes: 4-bit ones in groups of 32 with a scale of 16 bits. int8 is counted without its scales.
BITS = {"fp32": 32.0, "int8": 8.0, "int4": 4.5}


def matrices(config: Config) -> tuple[int, int]:
    """The weights of all blocks' matrices, and of the unembedding, which a token reads; the rest is next to nothing."""
    blocks, head = limits.matrices(_machine(config))
    return blocks.numbers, head.numbers


def bytes_per_token(config: Config, precision: str) -> float:
    """What one step of decoding must read: every matrix once."""
    return sum(matrices(config)) * BITS[precision] / 8


def operations(config: Config, tokens: int) -> float:
    """Of a prompt in one go, its last position unembedded: what its matrices multiply and add, without attention."""
    return limits.operations_of_a_prompt(_machine(config), tokens)


def _machine(config: Config) -> Transformer:
    """A model of that shape, which takes no memory."""
    with torch.device("meta"):
        machine = build(families.describe(config)[1])
    assert isinstance(machine, Transformer), "the shapes are decoders"
    return machine
