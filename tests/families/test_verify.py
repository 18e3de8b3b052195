"""Verification: our logits beside the reference's, remembered by fingerprint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cutaway import hub
from cutaway.errors import Failed
from cutaway.families import checkpoint
from cutaway.families.verify import state_folder, verified, verify


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("CUTAWAY_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_result_is_measured_and_remembered(saved, home):
    folder, _ = saved("qwen2, windowed, tied, yarn")
    opened = checkpoint.open(folder)
    assert verified(opened.fingerprint) is None
    result = verify(opened)
    assert result["agrees"]
    assert 0 < result["relative"] < 1e-5
    assert result["fingerprint"] == opened.fingerprint
    assert [len(sequence) for sequence in result["tokens"]] == [1, 17, 64]  # its context is 64
    assert [len(sequence) for sequence in result["positions"]] == [1, 17, 64]
    assert result["relative"] == max(p["relative"] for sequence in result["positions"] for p in sequence)
    assert verified(opened.fingerprint) == result
    assert [file.name for file in (home / "verified").iterdir()] == [f"{opened.fingerprint}.json"]


@pytest.mark.parametrize("variant", ["vit, classes", "deit, two heads", "vit, no head"])
def test_models_of_images_are_compared_on_images(saved, variant):
    folder, _ = saved(variant)
    result = verify(checkpoint.open(folder))
    assert result["agrees"]
    assert result["relative"] > 0
    assert result["tokens"] == []
    assert [len(image) for image in result["positions"]] == [10 if variant.endswith("no head") else 1] * 3


def test_an_encoder_and_a_decoder_read_the_same_tokens(saved):
    folder, _ = saved("marian, two vocabularies")
    result = verify(checkpoint.open(folder))
    assert result["agrees"]
    assert max(max(sequence) for sequence in result["tokens"]) < 61  # the smaller of the two
    assert [len(sequence) for sequence in result["positions"]] == [1, 17, 64]


def test_a_decoder_behind_a_sound_is_compared_on_noise(saved):
    pytest.importorskip("transformers", reason="compares with transformers, which is not installed")
    result = verify(checkpoint.open(saved("whisper")[0]))
    assert result["agrees"]
    assert result["compared"] == "logits"
    assert [len(positions) for positions in result["positions"]] == [1, 17, 64]


def test_a_model_that_differs_is_said_to(saved, monkeypatch):
    folder, _ = saved("llama")
    opened = checkpoint.open(folder)
    right = checkpoint.Checkpoint.load

    def wrong(self, dtype=None, device=None):
        model = right(self, dtype, device)
        model.stack.norm.weight.data *= 1.001
        return model

    monkeypatch.setattr(checkpoint.Checkpoint, "load", wrong)
    result = verify(opened)
    assert not result["agrees"]
    assert result["relative"] > 1e-4


def test_without_the_reference_there_is_nothing_to_compare(saved, monkeypatch):
    folder, _ = saved("llama")
    opened = checkpoint.open(folder)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Failed, match="not installed"):
        verify(opened)


@pytest.mark.parametrize("content", ["", "{", "[]", "7"])
def test_a_damaged_memory_is_no_memory(home, content):
    (home / "verified").mkdir(parents=True)
    (home / "verified" / "abc.json").write_text(content)
    assert verified("abc") is None


def test_the_state_folder_follows_the_environment(monkeypatch, tmp_path):
    assert state_folder() == tmp_path / "home"
    monkeypatch.delenv("CUTAWAY_HOME")
    monkeypatch.setenv("XDG_STATE_HOME", "/somewhere/state")
    assert state_folder() == Path("/somewhere/state/cutaway")
    monkeypatch.delenv("XDG_STATE_HOME")
    assert state_folder() == Path.home() / ".local/state/cutaway"


def test_what_is_remembered_is_plain_json(saved, home):
    folder, _ = saved("gpt2")
    result = verify(checkpoint.open(folder))
    assert json.loads(json.dumps(result)) == result


@pytest.mark.parametrize("name", [entry.name for entry in hub.bundled()])
def test_the_reference_agrees_about_what_is_bundled(name):
    pytest.importorskip("transformers", reason="compares with transformers, which is not installed")
    assert verify(checkpoint.open(hub.find(name)))["agrees"]
