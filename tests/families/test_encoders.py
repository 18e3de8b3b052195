"""Encoders' files as they are found: old spellings, second copies, heads nobody reads or that are not read yet."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cutaway.errors import Refused
from cutaway.families import checkpoint
from tests.families.variants import ENCODER


def rewrite(folder: Path, change) -> None:
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors")


def say(folder: Path, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


@pytest.fixture
def masked(saved, tmp_path):
    """A copy of a saved BERT with a masked head that may be damaged, and what the reference computes."""
    folder, theirs = saved("bert, masked")
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path, dict(theirs)


def agrees(folder: Path, theirs) -> bool:
    from tests.families.reference import our_run, worst

    return worst(our_run(checkpoint.open(folder, strict=True).load()), theirs) < 1e-5


def test_gamma_and_beta_and_position_ids(masked):
    folder, theirs = masked
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}

    def spell(tensors):
        for new, was in old.items():
            tensors = {name.replace(new, was): tensor for name, tensor in tensors.items()}
        return tensors | {"bert.embeddings.position_ids": torch.arange(64)[None]}

    rewrite(folder, spell)
    assert any(name.endswith("gamma") for name in load_file(folder / "model.safetensors"))
    assert agrees(folder, theirs)


def test_a_tied_head_s_own_copies_must_be_equal(masked):
    folder, theirs = masked

    def copies(tensors):
        bias, rows = tensors["cls.predictions.bias"], tensors["bert.embeddings.word_embeddings.weight"]
        return tensors | {"cls.predictions.decoder.bias": bias.clone(), "cls.predictions.decoder.weight": rows.clone()}

    rewrite(folder, copies)
    assert agrees(folder, theirs)
    rewrite(folder, lambda tensors: tensors | {"cls.predictions.decoder.bias": tensors["cls.predictions.bias"] + 1})
    with pytest.raises(Refused, match=r"decoder\.bias is there under another name too"):
        checkpoint.open(folder).load()


def test_an_untied_head_has_its_own_rows_and_bias(tmp_path):
    transformers = pytest.importorskip("transformers", reason="compares with transformers, which is not installed")
    from tests.families.reference import reference_run, stir

    model = transformers.BertForMaskedLM(transformers.BertConfig(**ENCODER, tie_word_embeddings=False)).eval()
    stir(model)
    model.save_pretrained(tmp_path)
    assert agrees(tmp_path, reference_run(model))


def test_a_second_head_and_a_pooler_are_left_out(tmp_path):
    transformers = pytest.importorskip("transformers", reason="compares with transformers, which is not installed")
    from tests.families.reference import our_run, reference_run, stir, worst

    model = transformers.BertForPreTraining(transformers.BertConfig(**ENCODER)).eval()
    stir(model)
    model.save_pretrained(tmp_path)
    whole = model.forward
    model.forward = lambda ids: transformers.modeling_outputs.MaskedLMOutput(logits=whole(ids).prediction_logits)
    assert worst(our_run(checkpoint.open(tmp_path, strict=True).load()), reference_run(model)) < 1e-5


def test_an_encoder_saved_with_its_prefix_and_read_without_its_head(masked):
    folder, theirs = masked
    say(folder, architectures=["BertModel"])
    del theirs["logits"]
    assert checkpoint.open(folder).spec.head is None
    assert agrees(folder, theirs)


@pytest.mark.parametrize("name", ["BertForTokenClassification", "BertForQuestionAnswering", "BertLMHeadModel"])
def test_a_head_that_is_not_read_is_named(masked, name):
    folder, _ = masked
    say(folder, architectures=[name])
    if name.endswith("Model"):  # read without a head, its decoder's one is no BERT's
        assert checkpoint.open(folder).spec.head is None
        return
    with pytest.raises(Refused, match="does not read yet"):
        checkpoint.open(folder)


@pytest.mark.parametrize(
    "says", [{"position_embedding_type": "relative_key"}, {"is_decoder": True}, {"add_cross_attention": True}]
)
def test_what_changes_the_computation_is_refused(masked, says):
    folder, _ = masked
    say(folder, **says)
    with pytest.raises(Refused, match="Cutaway does not compute that"):
        checkpoint.open(folder)
