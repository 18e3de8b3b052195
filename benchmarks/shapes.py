"""The shapes that generation is measured on, and what the hardware must do for each of their tokens."""

from __future__ import annotations

from typing import Any

import torch

from cutaway import families
from cutaway.bench import limits
from cutaway.model.transformer import Transformer, build

Config = dict[str, Any]

SHAPES: dict[str, Config] = {
    "gpt2-small": {
        "model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "vocab_size": 50257,
        "bos_token_id": 50256, "eos_token_id": 50256,
    },
    "smollm-135m": {
        "model_type": "llama", "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3, "intermediate_size": 1536, "vocab_size": 49152, "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": 0,
    },
}  # fmt: skip

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
