"""The bundled model is what its card says: files, sizes, hash, and the same logits in transformers."""

from __future__ import annotations

import hashlib
import json
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer

from cutaway.families import checkpoint

FOLDER = Path(str(files("cutaway"))) / "bundled" / "stories"
WEIGHTS = FOLDER / "model.safetensors"


@pytest.fixture(scope="module")
def card() -> str:
    return (FOLDER / "README.md").read_text(encoding="utf-8")


def test_the_files_are_those_of_a_checkpoint() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert WEIGHTS.stat().st_size <= 15_000_000


def test_the_card_names_these_weights(card: str) -> None:
    assert hashlib.sha256(WEIGHTS.read_bytes()).hexdigest() in card
    with safe_open(WEIGHTS, "pt") as file:
        tensors = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118  not a dict
    assert {tensor.dtype for tensor in tensors} == {torch.bfloat16}
    parameters = sum(tensor.numel() for tensor in tensors)
    assert parameters == checkpoint.open(FOLDER).parameters <= 7_500_000
    assert f"{parameters:,} parameters" in " ".join(card.split())


def test_tokenizer_and_model_have_one_vocabulary() -> None:
    config = json.loads((FOLDER / "config.json").read_text())
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == config["vocab_size"] == 4096
    assert tokenizer.token_to_id("<|endoftext|>") == config["bos_token_id"] == config["eos_token_id"]
    assert config["max_position_embeddings"] >= 512
    assert config["dtype"] == "float32"


def test_transformers_agrees() -> None:
    transformers = pytest.importorskip("transformers", reason="compares with transformers, which is not installed")
    tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDER)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(FOLDER)
    assert theirs.dtype == torch.float32
    ours = checkpoint.open(FOLDER).load()
    text = "Once upon a time there was a king who had three daughters, and the youngest said:\n"
    ids = tokenizer(text, return_tensors="pt").input_ids
    assert ids[0].tolist() == Tokenizer.from_file(str(FOLDER / "tokenizer.json")).encode(text).ids
    with torch.no_grad():
        reference = theirs(ids).logits
        assert (ours(ids) - reference).abs().max() <= 1e-5 * reference.abs().max()
