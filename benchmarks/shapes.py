"""The shapes that generation is measured on. Read in the peers' environment too, where Cutaway is not.

.peers/bin/python benchmarks/shapes.py SHAPE FOLDER      random weights of a shape, as transformers saves
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

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


def save(shape: str, folder: Path) -> None:
    import torch
    import transformers

    torch.manual_seed(0)
    facts = dict(SHAPES[shape])
    config = transformers.AutoConfig.for_model(facts.pop("model_type"), **facts)
    transformers.AutoModelForCausalLM.from_config(config).float().save_pretrained(folder)


if __name__ == "__main__":
    save(sys.argv[1], Path(sys.argv[2]))
