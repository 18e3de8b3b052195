"""The bundled digits model is what its card says, and sees digits: MNIST's where that is at hand, and drawn ones."""

from __future__ import annotations

import hashlib
import json
import re
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors import safe_open

import cutaway
from cutaway.api import Model
from cutaway.families import checkpoint
from cutaway.training.images import read_idx
from cutaway.training.recipe import resolve

FOLDER = Path(str(files("cutaway"))) / "bundled" / "digits"
WEIGHTS = FOLDER / "model.safetensors"


@pytest.fixture(scope="module")
def card() -> str:
    return (FOLDER / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def model() -> Model:
    return cutaway.load("digits")


def test_the_files_are_those_of_a_checkpoint() -> None:
    names = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"}
    assert {path.name for path in FOLDER.iterdir()} == names
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 3_000_000


def test_the_card_names_these_weights(card: str) -> None:
    assert hashlib.sha256(WEIGHTS.read_bytes()).hexdigest() in card
    with safe_open(WEIGHTS, "pt") as file:
        tensors = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118  not a dict
    assert {tensor.dtype for tensor in tensors} == {torch.float32}
    parameters = sum(tensor.numel() for tensor in tensors)
    assert parameters == checkpoint.open(FOLDER, strict=True).parameters
    assert f"{parameters:,} parameters" in " ".join(card.split())


def test_the_recipe_describes_this_model() -> None:
    config = json.loads((FOLDER / "config.json").read_text())
    recipe = resolve("digits")
    assert {key: config[key] for key in recipe.model} == recipe.model
    assert list(config["id2label"].values()) == list("0123456789")
    says = json.loads((FOLDER / "preprocessor_config.json").read_text())
    assert (says["image_mean"], says["image_std"]) == ([recipe.images.mean], [recipe.images.std])


def test_transformers_agrees(model: Model) -> None:
    transformers = pytest.importorskip("transformers", reason="compares with transformers, which is not installed")
    theirs = transformers.AutoModelForImageClassification.from_pretrained(FOLDER)
    shown = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        reference = theirs(shown).logits
        assert (model.machine(shown) - reference).abs().max() <= 1e-5 * reference.abs().max()


def drawn(*lines: list[tuple[float, float]], ink: int = 255, paper: int = 0, side: int = 200) -> Image.Image:
    """Strokes on paper, in tenths of its side."""
    picture = Image.new("L", (side, side), paper)
    pen = ImageDraw.Draw(picture)
    for line in lines:
        places = [(x * side / 10, y * side / 10) for x, y in line]
        pen.line(places, fill=ink, width=side // 12, joint="curve")
        for x, y in places:
            pen.ellipse([x - side / 24, y - side / 24, x + side / 24, y + side / 24], fill=ink)
    return picture


ROUND = [(5 + 1.7 * np.cos(t), 5 + 2.6 * np.sin(t)) for t in np.linspace(0, 2 * np.pi, 40)]
DIGITS = {
    "0": [ROUND],
    "1": [[(5, 2.2), (5, 7.8)]],
    "4": [[(3.8, 2.4), (3.4, 5.2), (6.6, 5.2)], [(6.4, 2.4), (6.2, 7.8)]],
    "7": [[(3.2, 2.6), (6.8, 2.6), (4.8, 7.8)]],
}


@pytest.mark.parametrize("name", DIGITS)
@pytest.mark.parametrize("negative", [False, True], ids=["white on black", "black on white"])
def test_a_drawn_digit_is_seen(model: Model, name: str, negative: bool) -> None:
    colours = {"ink": 20, "paper": 250} if negative else {}
    best = model.see(drawn(*DIGITS[name], **colours)).labels[0]
    assert best.name == name
    assert best.p is not None
    assert best.p > 0.5


def test_digits_nobody_trained_it_on_are_seen(model: Model, shared: Path, card: str) -> None:
    """The first thousand of the ten thousand that the card's accuracy was measured on."""
    images = read_idx(shared / "data/mnist/t10k-images-idx3-ubyte", 3)[:1000]
    classes = read_idx(shared / "data/mnist/t10k-labels-idx1-ubyte", 1)[:1000]
    with torch.no_grad():
        found = model.machine((torch.from_numpy(images)[:, None] / 255 - 0.5) / 0.5).argmax(-1)
    accuracy = float((found == torch.from_numpy(classes)).float().mean())
    (stated,) = re.findall(r"\*\*([\d.]+) %\*\*", card)
    assert float(stated) >= 99.0
    assert accuracy >= 0.985
    for image, its in zip(images[:20], found[:20].tolist(), strict=True):
        assert model.see(Image.fromarray(image)).labels[0].name == str(its)
