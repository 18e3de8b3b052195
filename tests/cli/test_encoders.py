"""fill, classify, embed and similar: what they print is what Python says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutaway import load
from tests.tasks.conftest import Make, encoder

__all__ = ["encoder"]  # the fixture

TEXT = "The cat sat on the [MASK]."


def test_fill(cutaway: Any, encoder: Make) -> None:
    folder = encoder()
    (blank,) = load(folder).fill(TEXT)
    code, out, err = cutaway("fill", TEXT, "-m", folder, "--top", 3)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [line.split()[2] for line in lines[1:4]] == [str(choice.id) for choice in blank.top(3)]
    assert lines[4].split()[0] == f"{blank.rest(3):.4%}"
    told = json.loads(cutaway("fill", TEXT, "-m", folder, "--json").out)
    assert [one["p"] for one in told["masks"][0]["top"]] == [choice.p for choice in blank.top(5)]
    assert cutaway("fill", "[MASK] cat [MASK]", "-m", folder).out.count("token ") == 2
    code, _, err = cutaway("fill", "The cat.", "-m", folder)
    assert (code, err.splitlines()[0]) == (2, "The text has no [MASK].")
    assert cutaway("fill", TEXT, "-m", folder, "--top", 0).code == 2
    assert "door" in cutaway("fill", "She opened the [MASK] and went in.").out  # the one that comes along


def test_classify(cutaway: Any, encoder: Make) -> None:
    folder = encoder(architectures=["BertForSequenceClassification"], id2label={"0": "sad", "1": "\x1b[31mglad"})
    found = load(folder).classify("The cat.")
    code, out, _ = cutaway("classify", "The cat.", "-m", folder)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:]] == [f"{label.p:.4%}" for label in found.labels]
    assert "\x1b" not in out
    told = json.loads(cutaway("classify", "The cat.", "-m", folder, "--json").out)
    assert [label["p"] for label in told["labels"]] == [label.p for label in found.labels]


def test_embed_and_similar(cutaway: Any, encoder: Make, tmp_path: Path) -> None:
    folder = encoder(architectures=["BertModel"])
    texts = ["The cat.", "Paris is the capital."]
    vectors = load(folder).embed(texts).numpy()
    told = json.loads(cutaway("embed", *texts, "-m", folder, "--save", tmp_path / "x.npy", "--json").out)
    assert np.array_equal(np.array(told["vectors"], np.float32), vectors)
    assert np.array_equal(np.load(tmp_path / "x.npy"), vectors)
    assert "32 numbers" in cutaway("embed", texts[0], "-m", folder).out
    lines = cutaway("similar", texts[0], texts[1], texts[0], "-m", folder).out.splitlines()
    assert lines[0] == "  1.0000  The cat."
    assert float(lines[1].split()[0]) == pytest.approx(load(folder).similar(*[texts[0], texts[1:]])[0], abs=6e-5)
    for wrong in (("embed",), ("similar", "one"), ("embed", "-", "-"), ("embed", "")):
        assert cutaway(*wrong, "-m", folder).code == 2


def test_what_only_decoders_do_is_said(cutaway: Any, encoder: Make, tmp_path: Path) -> None:
    folder = encoder(architectures=["BertModel"])
    for words in (
        ("next", "a"),
        ("generate", "a"),
        ("lens", "a"),
        ("look", "a"),
        ("run", "a", "--html", tmp_path / "x"),
    ):
        code, _, err = cutaway(*words, "-m", folder)
        assert (code, len(err.splitlines())) == (2, 2), words
    code, out, _ = cutaway("compare", "The cat.", "The mat.", "-m", folder)
    assert code == 0
    assert "none are compared" in out
    assert cutaway("heads", "The cat sat.", "-m", folder).code == 0
    assert "logits" not in cutaway("names", folder).out
