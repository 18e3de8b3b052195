"""The bundled masked model is what its card says: files, size, hash, and the same logits in transformers."""

from __future__ import annotations

import hashlib
import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

import cutaway
from cutaway.families import checkpoint
from cutaway.training.recipe import resolve

FOLDER = Path(str(files("cutaway"))) / "bundled" / "words"
WEIGHTS = FOLDER / "model.safetensors"


@pytest.fixture(scope="module")
def card() -> str:
    return (FOLDER / "README.md").read_text(encoding="utf-8")


def test_the_files_are_those_of_a_checkpoint() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 4_000_000


def test_the_card_names_these_weights(card: str) -> None:
    assert hashlib.sha256(WEIGHTS.read_bytes()).hexdigest() in card
    with safe_open(WEIGHTS, "pt") as file:
        tensors = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118  not a dict
    assert {tensor.dtype for tensor in tensors} == {torch.bfloat16}
    parameters = checkpoint.open(FOLDER, strict=True).parameters
    assert f"{parameters:,} parameters" in " ".join(card.split())


def test_the_recipe_describes_this_model() -> None:
    config = json.loads((FOLDER / "config.json").read_text())
    recipe = resolve("words")
    assert {key: config[key] for key in recipe.model} == recipe.model


def test_the_samples_of_the_card_are_its_own(card: str) -> None:
    model = cutaway.load("words")
    samples = [
        line.strip().strip("|").split("|") for line in card.splitlines() if line.startswith("| ") and "[MASK]" in line
    ]
    assert len(samples) >= 5
    for text, told in samples:
        (blank,) = model.fill(text.strip())
        words = [choice.text.replace("␣", "").strip() for choice in blank.top(5)]
        assert [word.strip() for word in told.split(",")] == words


def test_transformers_agrees() -> None:
    transformers = pytest.importorskip("transformers", reason="compares with transformers, which is not installed")
    tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDER)
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(FOLDER).eval()
    assert theirs.dtype == torch.float32
    text = "The old king had three daughters, and the <mask> was very beautiful."
    (blank,) = cutaway.load("words").fill(text)
    ids = tokenizer(text, return_tensors="pt").input_ids
    assert blank.tokens == ids[0].tolist()
    with torch.no_grad():
        reference = theirs(ids).logits[0, blank.position].double().numpy()
    assert np.abs(blank.logits - reference).max() <= 1e-5 * np.abs(reference).max()
