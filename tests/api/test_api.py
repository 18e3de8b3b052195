"""The Model a Python user holds: predict, sample, repeat, look inside; and what it says to bad input."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import cutaway
from cutaway import api
from cutaway.api import Model
from cutaway.errors import CutawayError, Misuse, NotFound

TEXT = "once upon a time"


def test_importing_cutaway_imports_no_torch() -> None:
    code = "import sys, cutaway; cutaway.__version__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_next_is_the_softmax_over_the_whole_vocabulary(model: Model) -> None:
    ids = model.tokens(TEXT)
    found = model.next(TEXT)
    logits = model.machine(torch.tensor([ids]))[0, -1].double().detach()
    assert found.tokens == ids
    assert np.allclose(found.logits, logits.numpy(), atol=1e-5)
    assert np.allclose(found.probabilities, logits.softmax(-1).numpy(), atol=1e-6)
    assert found.probabilities.shape == (300,)
    top = found.top(5)
    assert [choice.id for choice in top] == logits.topk(5).indices.tolist()
    assert found.rest(5) == pytest.approx(1 - sum(choice.p for choice in top), abs=1e-12)
    assert sum(choice.p for choice in found.top(300)) == pytest.approx(1)


def test_text_and_its_tokens_are_the_same_thing(model: Model) -> None:
    ids = model.tokens(TEXT)
    assert np.array_equal(model.next(TEXT).logits, model.next(tokens=ids).logits)
    assert [piece.id for piece in model.pieces(TEXT)] == ids
    assert torch.equal(model.run(TEXT)["logits"], model.run(tokens=ids)["logits"])


def test_a_run_is_recorded_with_its_story(model: Model, tmp_path: Path) -> None:
    run = model.run(TEXT)
    assert run.text == TEXT
    assert run.tokens == model.tokens(TEXT)
    assert [piece["id"] for piece in run.pieces] == run.tokens
    assert run.model.parameters == sum(p.numel() for p in model.machine.parameters())
    assert torch.equal(run["logits"], model.machine(torch.tensor([run.tokens]))[0])
    assert run.names()
    assert set(model.names()) <= set(run.names())
    run.save(tmp_path / "x.cutaway")
    assert cutaway.open(tmp_path / "x.cutaway").description() == run.description()


def test_knocking_out_a_head_moves_the_prediction(model: Model) -> None:
    def without_head_1(z: torch.Tensor) -> torch.Tensor:
        z = z.clone()
        z[:, 1] = 0
        return z

    whole, cut = model.run(TEXT), model.run(TEXT, edit={"blocks.0.attn.z": without_head_1})
    assert not torch.allclose(whole["logits.last"], cut["logits.last"], atol=1e-3)
    assert torch.equal(whole["blocks.0.attn.pattern"], cut["blocks.0.attn.pattern"])


def test_generating_greedily_is_the_argmax_again_and_again(model: Model) -> None:
    made = model.generate(TEXT, max_new_tokens=8, temperature=0)
    ids = model.tokens(TEXT)
    for _ in range(8):
        ids.append(int(np.argmax(model.next(tokens=ids).logits)))
    assert made.tokens == ids[-8:]


def test_a_seed_gives_the_same_text_and_no_seed_says_which_it_took(model: Model) -> None:
    first = model.generate(TEXT, max_new_tokens=10, temperature=1.5, seed=11)
    assert first.tokens == model.generate(TEXT, max_new_tokens=10, temperature=1.5, seed=11).tokens
    picked = model.generate(TEXT, max_new_tokens=10, temperature=1.5)
    assert picked.tokens == model.generate(TEXT, max_new_tokens=10, temperature=1.5, seed=picked.seed).tokens


def test_beams_find_a_likelier_text_than_greed(model: Model) -> None:
    def log_probability(tokens: list[int]) -> float:
        ids = model.tokens(TEXT)
        rows = model.machine(torch.tensor([ids + tokens]))[0].log_softmax(-1)
        return sum(rows[len(ids) - 1 + i, token].item() for i, token in enumerate(tokens))

    greedy = model.generate(TEXT, max_new_tokens=6, temperature=0)
    searched = model.generate(TEXT, max_new_tokens=6, beams=8)
    assert log_probability(searched.tokens) >= log_probability(greedy.tokens)
    with pytest.raises(Misuse, match="Beam search"):
        model.generate(TEXT, beams=2, temperature=0.5)


def test_streaming_yields_the_same_tokens_one_by_one(model: Model) -> None:
    whole = model.generate(TEXT, max_new_tokens=10, seed=5)
    steps = list(model.generate(TEXT, max_new_tokens=10, seed=5, stream=True))
    assert [step.id for step in steps] == whole.tokens
    assert "".join(step.text for step in steps) == whole.text
    assert all(0 < step.p <= 1 for step in steps)


def test_a_text_longer_than_the_context_is_read_from_its_end(model: Model) -> None:
    ids = [1 + i % 200 for i in range(50)]
    run = model.run(tokens=ids)
    assert run.tokens == ids[-32:]
    assert model.next(tokens=ids).notes == run.settings["notes"]
    assert "50 tokens" in run.settings["notes"][0]
    assert "kept the last 32" in run.settings["notes"][0]
    assert np.array_equal(model.next(tokens=ids).logits, model.next(tokens=ids[-32:]).logits)


def test_a_checkpoint_without_tokenizer_takes_tokens(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(folder / name, tmp_path)
    bare = cutaway.load(tmp_path)
    assert bare.next(tokens=[1, 2, 3]).top(1)[0].text.isdigit()
    assert bare.generate(tokens=[1, 2, 3], max_new_tokens=3, seed=0).tokens
    assert bare.run(tokens=[1, 2, 3]).pieces == []
    with pytest.raises(Misuse, match="without a tokenizer"):
        bare.next("once")


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float64])
def test_a_dtype_can_be_asked_for(folder: Path, dtype: object) -> None:
    model = cutaway.load(folder, dtype=dtype)  # type: ignore[arg-type]
    assert model.card.dtype in ("bfloat16", "float64")
    assert str(model.run(TEXT)["blocks.0.attn.v"].dtype).endswith(model.card.dtype)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda m: m.next(""), "empty"),
        (lambda m: m.next(), "one of the two"),
        (lambda m: m.next("a", tokens=[1]), "one of the two"),
        (lambda m: m.next(tokens=[300]), "300 is no token id"),
        (lambda m: m.next(tokens=[-1]), "-1 is no token id"),
        (lambda m: m.next(tokens=[1.5]), "1.5 is no token id"),
        (lambda m: m.next("\ud800"), "surrogate"),
        (lambda m: m.run("once", keep="blocks.7.*"), "blocks.7"),
        (lambda m: m.run("once", edit={"nothing": lambda x: x}), "nothing"),
        (lambda m: m.generate("once", temperature=-1), "temperature"),
        (lambda m: m.generate("once", temperature=float("nan")), "temperature"),
        (lambda m: m.generate("once", top_p=0), "top_p|top-p"),
        (lambda m: m.generate("once", top_k=-1), "top_k|top-k"),
        (lambda m: m.generate("once", max_new_tokens=-1), "max_new_tokens"),
    ],
)
def test_bad_input_is_one_clear_sentence(model: Model, wrong: object, says: str) -> None:
    with pytest.raises(Misuse, match=says) as caught:
        wrong(model)  # type: ignore[operator]
    assert str(caught.value).count("\n") == 0


def test_a_record_too_large_is_refused_before_it_is_made(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "RECORD_BYTES", 3000)
    for keep in (None, "*"):
        with pytest.raises(Misuse, match="keep="):
            model.run(TEXT, keep=keep)
    assert model.run(TEXT, keep="embed").names() == ["embed"]


def test_an_unknown_device_is_said_in_a_sentence(folder: Path) -> None:
    with pytest.raises(Misuse, match="no device 'toaster'"):
        cutaway.load(folder, device="toaster")


def test_an_unknown_model_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(NotFound):
        cutaway.load("no/such-model-anywhere")
    with pytest.raises(CutawayError):
        cutaway.load("no such model")


def test_a_draft_with_other_tokens_is_refused(model: Model, folder: Path, tmp_path: Path) -> None:
    plain = model.generate(TEXT, max_new_tokens=10, seed=5)
    ahead = model.generate(TEXT, max_new_tokens=10, seed=5, draft=model)
    assert ahead.tokens == plain.tokens
    assert ahead.tally is not None
    shutil.copytree(folder, tmp_path / "other")
    file = tmp_path / "other" / "tokenizer.json"
    described = json.loads(file.read_text())
    vocabulary = described["model"]["vocab"]
    vocabulary["!"], vocabulary["#"] = vocabulary["#"], vocabulary["!"]
    file.write_text(json.dumps(described))
    with pytest.raises(Misuse, match=r'other cannot draft for .*: its token \d+ is "#", not "!"'):
        model.generate(TEXT, draft=cutaway.load(tmp_path / "other"))
