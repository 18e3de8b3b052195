"""The bundled spoken model is what its card says, and writes down digits: one, several, and the held-out ones."""

from __future__ import annotations

import hashlib
import json
import re
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

import cutaway
from cutaway import cli
from cutaway.api import Model
from cutaway.families import checkpoint
from cutaway.inputs import audio
from cutaway.training.recipe import resolve
from cutaway.training.recordings import recordings

FOLDER = Path(str(files("cutaway"))) / "bundled" / "spoken"
WEIGHTS = FOLDER / "model.safetensors"
SEVEN = Path(__file__).parents[1] / "golden" / "7_jackson_0.wav"  # of fsdd's test
WORDS = "zero one two three four five six seven eight nine".split()


@pytest.fixture(scope="module")
def card() -> str:
    return (FOLDER / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def model() -> Model:
    return cutaway.load("spoken")


def test_the_files_are_those_of_a_checkpoint() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {
        "README.md", "config.json", "generation_config.json", "model.safetensors", "preprocessor_config.json",
        "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 4_000_000


def test_the_card_names_these_weights(card: str) -> None:
    assert hashlib.sha256(WEIGHTS.read_bytes()).hexdigest() in card
    with safe_open(WEIGHTS, "pt") as file:
        tensors = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118  not a dict
    assert {tensor.dtype for tensor in tensors} == {torch.float16}
    parameters = sum(tensor.numel() for tensor in tensors)
    assert parameters == checkpoint.open(FOLDER, strict=True).parameters
    assert f"{parameters:,} parameters" in " ".join(card.split())
    assert "CC BY-SA 4.0" in card


def test_the_recipe_describes_this_model() -> None:
    config = json.loads((FOLDER / "config.json").read_text())
    recipe = resolve("spoken")
    assert {key: config[key] for key in recipe.model} == recipe.model
    assert list(recipe.sounds.words.values()) == WORDS


def test_the_figures_of_the_card_agree_with_each_other(card: str) -> None:
    rows = [
        [int(word.strip() or 0) for word in line.split("|")[2:-1]]
        for line in re.findall(r"^\| [a-z]+ (?:\| *\d* )+\|$", card, re.M)
    ]
    table = np.array(rows)
    assert table.shape == (10, 10)
    assert (table.sum(1) <= 30).all()
    (right,) = re.findall(r"\*\*(\d+) of 300\*\*", card)
    assert table.trace() == int(right)
    assert f"{int(right) / 3:.2f} %" in card


def test_the_command_prints_the_digit(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.call(["transcribe", str(SEVEN)]) == 0
    assert capsys.readouterr().out == "seven\n"


def test_words_in_a_row_and_their_times(model: Model) -> None:
    seven, _ = audio.open(SEVEN)
    pause = np.zeros(4800, np.float32)
    assert model.transcribe(np.concatenate([seven, pause, seven])).text == "seven seven"
    segments = model.transcribe(np.concatenate([seven, pause, seven]), timestamps=True).segments
    assert [segment.text.strip() for segment in segments] == ["seven", "seven"]
    second = (len(seven) + len(pause)) / audio.RATE
    assert segments[1].start == pytest.approx(second, abs=0.15)
    assert model.transcribe(np.zeros(16_000, np.float32)).text == ""


def test_each_word_listens_to_its_moment(model: Model) -> None:
    seven, _ = audio.open(SEVEN)
    pause = np.zeros(8000, np.float32)
    run = model.run(sound=np.concatenate([pause, seven]), target=" seven")
    looked = run[f"decoder.blocks.{len(model.spec.decoder.blocks) - 1}.cross.mean"]
    begin, end = (int(at / audio.RATE * 50) for at in (len(pause), len(pause) + len(seven)))
    assert looked[1, begin : end + 1].sum() > 0.5  # what writes the word


def test_transformers_writes_the_same(model: Model) -> None:
    transformers = pytest.importorskip("transformers", reason="compares with transformers, which is not installed")
    theirs = transformers.WhisperForConditionalGeneration.from_pretrained(FOLDER).eval()
    processor = transformers.WhisperProcessor.from_pretrained(FOLDER)
    samples, _ = audio.open(SEVEN)
    heard = processor(samples, sampling_rate=16_000, return_tensors="pt").input_features
    with torch.no_grad():
        written = theirs.generate(heard)
    assert processor.batch_decode(written, skip_special_tokens=True)[0].strip() == "seven"


def test_digits_that_it_was_not_trained_on(model: Model, shared: Path, card: str) -> None:
    """Every fifth of the 300 that the card's figure was measured on."""
    its = [
        one
        for one in recordings(shared / "data/fsdd/recordings.tar.gz", resolve("spoken").sounds.words)
        if one.index < 5
    ]
    assert len(its) == 300
    wrong = sum(model.transcribe(one.samples).text != one.word for one in its[::5])
    (right,) = re.findall(r"\*\*(\d+) of 300\*\*", card)
    assert wrong <= 300 - int(right)
