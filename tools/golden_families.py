"""Write tests/golden/families.safetensors: what the reference computes for tiny models of every family.

    python -m tools.golden_families        (from the repository's root; needs transformers)

For each model the file holds the logits and every block's output; its metadata holds config.json and the shapes of
the tensors. The weights themselves follow from their names (tests/families/golden.py).
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file

from cutaway.files import write_atomically
from tests.families.golden import FILE, TOKENS, weight
from tests.families.reference import own_head, reference_run
from tests.families.variants import VARIANTS

SMALLER = {
    "vocab_size": 31, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 32,
}  # fmt: skip
SMALLER_DISTILBERT = {"vocab_size": 31, "dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 2}
SMALLER_GPT2 = {"vocab_size": 31, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
SMALLER_IMAGE = {
    "image_size": 8, "patch_size": 4, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2,
}  # fmt: skip
SMALLER_T5 = {"vocab_size": 31, "d_model": 16, "d_kv": 6, "d_ff": 24, "num_layers": 2, "num_heads": 2}
SMALLER_BART = {
    "vocab_size": 31, "d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 24,
    "decoder_attention_heads": 4, "decoder_layers": 2, "decoder_ffn_dim": 20, "max_position_embeddings": 32,
}  # fmt: skip
SMALLER_WHISPER = {
    "vocab_size": 31, "num_mel_bins": 5, "d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2,
    "encoder_ffn_dim": 24, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 20,
    "max_source_positions": 12, "max_target_positions": 32, "bos_token_id": 28, "eos_token_id": 28,
    "begin_suppress_tokens": [7, 28],
}  # fmt: skip
LEFT_OUT = {"use_cache", "transformers_version"}


def smaller(says: dict) -> dict:
    """The variant's configuration at the smallest size that still shows its facts."""
    own = {
        "n_embd": SMALLER_GPT2,
        "dim": SMALLER_DISTILBERT,
        "image_size": SMALLER_IMAGE,
        "d_kv": SMALLER_T5,
        "num_mel_bins": SMALLER_WHISPER,
        "d_model": SMALLER_BART,
    }
    says = {**says, **next((size for key, size in own.items() if key in says), SMALLER)}
    if "num_key_value_heads" in says:
        says["num_key_value_heads"] = 1
    if "head_dim" in says:
        says["head_dim"] = 12
    if "no_rope_layers" in says:
        says["no_rope_layers"] = [1, 0]
    for key, most in {"pad_token_id": 28, "decoder_start_token_id": 28, "decoder_vocab_size": 29}.items():
        if key in says:
            says[key] = min(says[key], most)
    if "layer_types" in says:
        says["layer_types"] = says["layer_types"][:2]
    return says


def golden_model(variant: str, folder: Path) -> tuple[torch.nn.Module, dict[str, list[int]]]:
    """The reference's model with weights by rule, and the shapes of the tensors of its file by name."""
    config_name, model_name, says = VARIANTS[variant]
    model_class = getattr(transformers, model_name)
    own_head(model_class(getattr(transformers, config_name)(**smaller(says)))).save_pretrained(folder)
    shapes = {name: list(tensor.shape) for name, tensor in load_file(folder / "model.safetensors").items()}
    weights = {name: weight(name, tuple(shape)) for name, shape in shapes.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return model_class.from_pretrained(folder, attn_implementation="eager").eval(), shapes


def main() -> None:
    transformers.logging.set_verbosity_error()
    tensors, models = {}, {}
    for variant in VARIANTS:
        with tempfile.TemporaryDirectory() as folder:
            model, shapes = golden_model(variant, Path(folder))
            config = json.loads((Path(folder) / "config.json").read_text())
        models[variant] = {"config": {k: v for k, v in config.items() if k not in LEFT_OUT}, "shapes": shapes}
        for name, tensor in reference_run(model, TOKENS).items():
            tensors[f"{variant}/{name}"] = tensor.contiguous().clone()
    metadata = {"transformers": transformers.__version__, "models": json.dumps(models)}
    with write_atomically(FILE) as path:
        save_file(tensors, path, metadata=metadata)
    print(f"{FILE}: {len(models)} models, {FILE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
