"""Classes as the reference finds them, whichever kind of classes they are; and the run of a classifier."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import cutaway
from tests.families.making import GPT2, LLAMA, make

from .conftest import Make
from .encoders import BERT, ROBERTA, byte_level

TEXT = "The cat sat on the mat."
NAMES = {"0": "sad", "1": "neither", "2": "happy"}


@pytest.mark.parametrize("config", [BERT, ROBERTA], ids=["bert", "roberta"])
def test_the_reference_finds_the_same_probabilities(encoder: Make, config: dict) -> None:
    transformers = pytest.importorskip("transformers", reason="compares with transformers, which is not installed")
    kind = config["architectures"][0].replace("ForMaskedLM", "ForSequenceClassification")
    folder = encoder(config, architectures=[kind], id2label=NAMES, label2id={v: int(k) for k, v in NAMES.items()})
    model = cutaway.load(folder)
    reference = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        logits = reference(torch.tensor([model.tokens(TEXT)])).logits[0]
    found = model.classify(TEXT)
    assert found.exclusive
    order = logits.argsort(descending=True).tolist()
    assert [label.name for label in found.labels] == [NAMES[str(i)] for i in order]
    assert [label.p for label in found.labels] == pytest.approx(logits.softmax(0)[order].tolist(), abs=1e-5)


@pytest.mark.parametrize(("family", "kind"), [("gpt2", "GPT2"), ("llama", "Llama")])
def test_a_decoder_s_classes_are_read_off_its_last_token(tmp_path: Path, family: str, kind: str) -> None:
    says = {"gpt2": GPT2, "llama": LLAMA}[family]
    made = {**says, "vocab_size": 330, "architectures": [f"{kind}ForSequenceClassification"], "id2label": NAMES}
    folder = make(tmp_path, made | {"pad_token_id": 1})
    byte_level().save(str(folder / "tokenizer.json"))
    model = cutaway.load(folder)
    assert model.spec.task == "classify"
    ids = model.tokens(TEXT)
    logits = torch.tensor([label.logit for label in model.classify(TEXT).labels])
    run = model.run(TEXT)
    torch.testing.assert_close(run["logits"].sort(descending=True).values, logits.float(), atol=1e-5, rtol=0)
    rows = dict(model.machine.named_parameters())["head.out.weight"]
    torch.testing.assert_close(run["logits"], rows @ run["final"][-1], atol=1e-5, rtol=0)
    cut = model.run(tokens=ids[:4])["logits"]
    padded = torch.tensor([ids[:6], [*ids[:4], 1, 1]])
    present = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    with torch.no_grad():
        torch.testing.assert_close(model.machine(padded, present)[1], cut, atol=1e-5, rtol=0)
    transformers = pytest.importorskip("transformers", reason="compares with transformers, which is not installed")
    reference = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        theirs = reference(padded, attention_mask=present.long()).logits
        torch.testing.assert_close(model.machine(padded, present), theirs, atol=1e-5, rtol=1e-5)


def test_classes_that_do_not_exclude_each_other_and_numbers(encoder: Make) -> None:
    many = cutaway.load(
        encoder(
            architectures=["BertForSequenceClassification"], num_labels=4, problem_type="multi_label_classification"
        )
    ).classify(TEXT)
    assert not many.exclusive
    for label in many.labels:
        assert label.p == pytest.approx(1 / (1 + 2.718281828459045**-label.logit))
    assert {label.name for label in many.labels} == {f"LABEL_{i}" for i in range(4)}
    score = cutaway.load(encoder(architectures=["BertForSequenceClassification"], num_labels=1)).classify(TEXT)
    assert [label.p for label in score.labels] == [None]


def test_the_run_of_a_classifier_ends_in_its_classes(encoder: Make, tmp_path) -> None:
    model = cutaway.load(encoder(architectures=["BertForSequenceClassification"], id2label=NAMES))
    run = model.run(TEXT)
    assert run.axes("logits") == ("V",)
    by_name = {label.name: label.logit for label in model.classify(TEXT).labels}
    assert run["logits"].tolist() == pytest.approx([by_name[name] for name in NAMES.values()], abs=1e-5)
    assert not [name for name in run.names(views=True) if name.startswith(("lens", "logits."))]
    run.save(tmp_path / "run.cutaway")
    assert torch.equal(cutaway.open(tmp_path / "run.cutaway")["logits"], run["logits"])
