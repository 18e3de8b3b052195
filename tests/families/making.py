"""Tiny checkpoints made by us, so that these tests need no other library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from cutaway.families import checkpoint, describe
from cutaway.model.transformer import build

LLAMA: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 31, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32, "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": False,
}  # fmt: skip
GPT2: dict[str, Any] = {
    "model_type": "gpt2", "vocab_size": 31, "n_embd": 16, "n_head": 4, "n_layer": 2, "n_positions": 32,
    "activation_function": "gelu_new", "layer_norm_epsilon": 1e-05,
}  # fmt: skip
NEOX: dict[str, Any] = {
    "model_type": "gpt_neox", "vocab_size": 31, "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 32, "layer_norm_eps": 1e-05, "hidden_act": "gelu",
    "rotary_pct": 0.25, "rotary_emb_base": 10000, "use_parallel_residual": True, "tie_word_embeddings": False,
}  # fmt: skip


def random_model(config: dict[str, Any], seed: int = 0) -> torch.nn.Module:
    model = build(describe(config)[1]).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def make(folder: Path, config: dict[str, Any] = LLAMA, **changes: Any) -> Path:
    """A checkpoint of ``config`` with random weights; afterwards config.json says ``changes`` as well."""
    checkpoint.save(random_model(config), config, folder)
    if changes:
        say(folder, **changes)
    return folder


def say(folder: Path, **changes: Any) -> None:
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, **changes}))
