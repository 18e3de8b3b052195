"""Learning to fill masks: what is hidden, what is learned, and the model that is left."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import cutaway
from cutaway.errors import Misuse
from cutaway.training import loop, masked, train
from cutaway.training.objective import objective
from cutaway.training.recipe import resolve
from cutaway.training.tokenizer import FRAME

Write = Callable[..., str]

MODEL = [
    "task=fill", "tokenizer.size=310", "model.model_type=roberta", 'model.architectures=["RobertaForMaskedLM"]',
    "model.max_position_embeddings=20", "model.type_vocab_size=1", "window=12", "batch=4",
]  # fmt: skip
CONTROL = {name: id for id, name in enumerate(FRAME)}


def fill(path: str, *more: str) -> Any:
    return train(path, [*MODEL, *more])


def test_training_learns_and_leaves_a_model_that_fills(recipe: Write) -> None:
    result = fill(recipe(), "steps=150", "lr=1e-2")
    lines = [json.loads(line) for line in (result.run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert np.mean(losses[-5:]) < 0.8 * losses[0]
    assert result.measured["nats_per_mask"]["valid"] < 0.8 * np.log(310)
    assert 0 < result.measured["accuracy"]["valid"] < 1
    model = cutaway.load(result.model)
    assert model.tokens("the king") == [0, *model.tokenizer._engine.encode("the king")[1:-1], 2]
    (blank,) = model.fill("once upon a [MASK] then")
    assert blank.tokens[blank.position] == CONTROL["mask_token"]
    assert blank.probabilities.sum() == pytest.approx(1)
    assert (result.model / "config.json").is_file()


def test_transformers_agrees_with_the_exported_model(recipe: Write) -> None:
    transformers = pytest.importorskip("transformers", reason="compares with transformers, which is not installed")
    result = fill(recipe())
    tokenizer = transformers.AutoTokenizer.from_pretrained(result.model)
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(result.model).eval()
    model = cutaway.load(result.model)
    (blank,) = model.fill("the old king saw a <mask>.")
    ids = tokenizer("the old king saw a <mask>.", return_tensors="pt").input_ids
    assert blank.tokens == ids[0].tolist()
    with torch.no_grad():
        reference = theirs(ids).logits[0, blank.position].double().numpy()
    assert np.abs(blank.logits - reference).max() <= 1e-5 * np.abs(reference).max()


def test_what_is_hidden() -> None:
    ids = torch.randint(len(CONTROL), 300, (400, 50), generator=torch.Generator().manual_seed(1))
    ids[:, 0], ids[:, -1] = CONTROL["bos_token"], CONTROL["eos_token"]
    shown, hidden = masked.hide(ids, 0.2, CONTROL, 300, np.random.default_rng(3))
    assert not hidden[:, [0, -1]].any()
    assert hidden[:, 1:-1].float().mean() == pytest.approx(0.2, abs=0.01)
    assert torch.equal(shown[~hidden], ids[~hidden])
    as_mask = (shown == CONTROL["mask_token"])[hidden].float().mean()
    as_itself = (shown == ids)[hidden].float().mean()
    assert as_mask == pytest.approx(0.8, abs=0.02)
    assert as_itself == pytest.approx(0.1, abs=0.02)  # and a little more, where the other token is the same
    assert shown[hidden].min() >= len(CONTROL) - 1  # never another control token
    one = torch.tensor([[CONTROL["bos_token"], 7, 8, CONTROL["eos_token"]]])
    for seed in range(20):  # never nothing
        assert masked.hide(one, 1e-9, CONTROL, 300, np.random.default_rng(seed))[1].sum() == 1


def test_the_loss_of_a_step_is_a_function_of_the_recipe_and_the_step(recipe: Write) -> None:
    resolved = resolve(recipe(), MODEL)
    losses = []
    for _ in range(2):
        learned = objective(resolved, resolved.folder / "data")
        torch.manual_seed(0)
        model = loop.initialise(loop.build(loop.describe(learned.config)[1]), 1)
        losses.append([learned.loss(model, step).item() for step in (0, 5, 5)])
    assert losses[0] == losses[1]
    assert losses[0][1] == losses[0][2] != losses[0][0]


def test_a_stopped_run_goes_on_to_the_same_weights(recipe: Write, stopped: Callable[..., None]) -> None:
    whole = fill(recipe("whole"), "steps=20")
    stopped(lambda: fill(recipe("broken"), "steps=20"), at=7, number=signal.SIGTERM)
    broken = fill(recipe("broken"), "steps=20")
    assert (broken.model / "model.safetensors").read_bytes() == (whole.model / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ('model.architectures=["RobertaModel"]', "describes no model that fills masks"),
        ("window=19", "exceed the model's 18 positions"),
        ("masked=0", "masked must be above 0"),
        ("tokenizer.size=260", "at least 261"),
    ],
)
def test_mistakes_are_named(recipe: Write, override: str, says: str) -> None:
    with pytest.raises(Misuse, match=says):
        fill(recipe(), override)
