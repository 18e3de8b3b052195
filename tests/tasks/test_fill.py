"""Masks filled as the reference fills them, and what is said where there is nothing to fill."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import cutaway
from cutaway.errors import Misuse

from .conftest import Make
from .encoders import BERT, ROBERTA

TEXTS = ["The capital of France is [MASK].", "[MASK] cat sat [MASK][MASK] the mat", "the [MASK]", "[MASK]"]


@pytest.mark.parametrize("config", [BERT, ROBERTA], ids=["bert", "roberta"])
@pytest.mark.parametrize("text", TEXTS)
def test_the_reference_cuts_and_fills_alike(encoder: Make, config: dict, text: str) -> None:
    transformers = pytest.importorskip("transformers", reason="compares with transformers, which is not installed")
    folder = encoder(config)
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    theirs = text.replace("[MASK]", tokenizer.mask_token)
    ids = tokenizer(theirs)["input_ids"]
    reference = transformers.AutoModelForMaskedLM.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        logits = reference(torch.tensor([ids])).logits[0]
    model = cutaway.load(folder)
    for written in {text, theirs}:  # [MASK] everywhere, and the tokenizer's own word
        blanks = model.fill(written)
        assert blanks[0].tokens == ids
        assert [blank.position for blank in blanks] == [t for t, id in enumerate(ids) if id == tokenizer.mask_token_id]
        for blank in blanks:
            expected = logits[blank.position].double().numpy()
            assert np.abs(blank.logits - expected).max() < 1e-5 * np.abs(expected).max()
            assert blank.probabilities.sum() == pytest.approx(1)
            assert blank.top(1)[0].id == expected.argmax()


def test_typed_control_tokens_stay_text(encoder: Make) -> None:
    model = cutaway.load(encoder())
    assert model.tokenizer is not None
    ids = model.fill("[SEP] the [MASK] [CLS]")[0].tokens
    special = [id for id in ids if id in model.tokenizer.special - {1}]  # 1: unknown
    assert special == [2, 4, 3]  # [CLS], the mask, [SEP]: the template's and ours
    assert model.tokens("[SEP] [MASK] [CLS]") == model.run("[SEP] [MASK] [CLS]").tokens
    assert model.tokens("[SEP] [MASK] [CLS]").count(4) == 1
    classifier = cutaway.load(encoder(architectures=["BertForSequenceClassification"]))
    assert classifier.tokens("[MASK]").count(4) == 0  # who fills nothing has no masks either
    assert "masks" not in classifier.run("[MASK]").settings


def test_a_run_has_its_masks(encoder: Make) -> None:
    model = cutaway.load(encoder())
    record = model.run("the [MASK] sat on the [MASK]")
    blanks = model.fill("the [MASK] sat on the [MASK]")
    assert record.settings["masks"] == [blank.position for blank in blanks] == [2, 6]
    for blank in blanks:
        assert np.abs(record[f"logits[{blank.position}]"].numpy() - blank.logits).max() < 1e-5
    assert model.run("the cat").settings["masks"] == []
    long = model.run("the cat sat on the mat " * 10)
    assert (len(long.tokens), long.tokens[0], long.tokens[-1]) == (40, 2, 3)  # the end is left out, not the frame
    assert "its end was left out" in long.settings["notes"][0]


def test_what_cannot_be_filled_is_said(encoder: Make) -> None:
    model = cutaway.load(encoder())
    with pytest.raises(Misuse, match=r"The text has no \[MASK\]"):
        model.fill("The capital of France is Paris.")
    with pytest.raises(Misuse, match="a mask lies behind"):
        model.fill("the cat sat on the mat " * 10 + "[MASK]")
    assert model.fill("[MASK] " + "the cat sat on the mat " * 10)[0].notes[0].startswith("The text has ")


def test_each_kind_of_model_says_what_it_is_asked_with(encoder: Make) -> None:
    masked, classes = cutaway.load(encoder()), cutaway.load(encoder(architectures=["BertForSequenceClassification"]))
    with pytest.raises(Misuse, match="does not continue texts: it fills in what is masked"):
        masked.generate("The")
    with pytest.raises(Misuse, match="does not continue texts: it tells classes"):
        classes.next("The")
    with pytest.raises(Misuse, match="does not fill masks: it continues a text"):
        cutaway.load("stories").fill("a [MASK]")
    with pytest.raises(Misuse, match="Ask it with fill"):
        masked.classify("The cat")


def test_a_mask_is_recorded_like_any_run(encoder: Make, tmp_path) -> None:
    model = cutaway.load(encoder())
    ids = model.fill(TEXTS[0])[0].tokens
    run = model.run(tokens=ids)
    position = ids.index(4)
    assert np.allclose(run["logits"][position].numpy(), model.fill(TEXTS[0])[0].logits, atol=1e-5)
    pattern = run["blocks.1.attn.pattern"]
    assert torch.allclose(pattern.sum(-1), torch.ones(pattern.shape[:-1]))
    assert pattern[:, 0, -1].min() > 0  # the first token reads the last
    run.save(tmp_path / "run.cutaway")
    again = cutaway.open(tmp_path / "run.cutaway")
    torch.testing.assert_close(again["logits.last"], run["logits"][-1], rtol=0, atol=1e-5)
    assert torch.equal(again["blocks.1.attn.pattern"], pattern)
