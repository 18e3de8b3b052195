"""A real trained model: a Llama of 260 thousand parameters with grouped heads and a tied embedding."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from cutaway.families import checkpoint


@pytest.fixture(scope="module")
def folder(shared):
    return shared / "weights/stories260K"


@pytest.fixture(scope="module")
def model(folder):
    return checkpoint.open(folder).load()


@pytest.fixture(scope="module")
def reference(folder):
    return dict(np.load(folder / "reference.npz"))


def test_it_is_what_it_says(folder):
    opened = checkpoint.open(folder, strict=True)
    assert opened.warnings == []
    assert opened.parameters == 260_032
    assert opened.dtype is torch.float32
    assert len(opened.fingerprint) == 32


@pytest.mark.parametrize("which", ["prompt", "story"])
@torch.no_grad()
def test_logits(model, reference, which):
    theirs = torch.from_numpy(reference[f"{which}_logits"])
    ours = model(torch.from_numpy(reference[f"{which}_ids"]).long()[None])[0]
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-5


@torch.no_grad()
def test_loss_on_its_story(model, folder):
    ids = torch.tensor(json.loads((folder / "reference.json").read_text())["story_ids"])
    loss = torch.nn.functional.cross_entropy(model(ids[None])[0, :-1], ids[1:])
    expected = json.loads((folder / "reference.json").read_text())["story_mean_nll"]
    assert float(loss) == pytest.approx(expected, abs=1e-5)


@torch.no_grad()
def test_greedy_text(model, reference):
    ids = torch.from_numpy(reference["prompt_ids"]).long()
    expected = reference["greedy_ids"].tolist()
    while len(ids) < len(expected):
        ids = torch.cat([ids, model(ids[None])[0, -1].argmax()[None]])
    assert ids.tolist() == expected
