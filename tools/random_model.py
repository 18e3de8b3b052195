"""Save a model of random weights in the field's own format, to see the page with a shape nobody has trained.

    python tools/random_model.py FOLDER [--family llama] [--layers 12] [--width 256] [--heads 12] [--context 2048]

Families: llama and those configured like it, gpt2, t5. Then `cutaway look --model FOLDER`. It speaks with the bundled
model's tokenizer. What it says is noise; every number of it is computed.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch

from cutaway import families, hub
from cutaway.families import checkpoint
from cutaway.model.init import initialise
from cutaway.model.transformer import build

WORDS = hub.find("stories")
#: Random matrices this much larger than a new model's give heads that look somewhere, as trained ones do.
SHARPER = 4.0


def config(family: str, layers: int, width: int, heads: int, context: int) -> dict[str, object]:
    """config.json of a model of that family and size."""
    common = {"model_type": family, "vocab_size": 4096, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    if family == "gpt2":
        return common | {"n_layer": layers, "n_embd": width, "n_head": heads, "n_positions": context}
    if family in ("marian", "whisper"):
        sides = {"layers": layers, "attention_heads": heads, "ffn_dim": 4 * width}
        common |= {f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in sides.items()}
        common |= {"d_model": width, "decoder_start_token_id": 0, "is_encoder_decoder": True}
        if family == "marian":
            return common | {"max_position_embeddings": context, "activation_function": "gelu"}
        return common | {"num_mel_bins": 80, "max_source_positions": 150, "max_target_positions": context}
    if family == "t5":
        return common | {
            "architectures": ["T5ForConditionalGeneration"], "num_layers": layers, "d_model": width,
            "num_heads": heads, "d_kv": width // heads, "d_ff": 4 * width, "decoder_start_token_id": 0,
        }  # fmt: skip
    return common | {
        "num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads, "num_key_value_heads": heads,
        "intermediate_size": 4 * width, "max_position_embeddings": context, "head_dim": width // heads,
    }  # fmt: skip


def save(
    folder: Path, family: str = "llama", layers: int = 12, width: int = 256, heads: int = 8, context: int = 2048
) -> None:
    says = config(family, layers, width, heads, context)
    _, described, _ = families.describe(says)
    model = initialise(build(described), seed=0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.mul_(SHARPER)
    checkpoint.save(model, says, folder)
    for path in WORDS.glob("*token*.json"):
        shutil.copy(path, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--family", default="llama")
    for name, value in (("layers", 12), ("width", 256), ("heads", 8), ("context", 2048)):
        parser.add_argument(f"--{name}", type=int, default=value)
    save(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
