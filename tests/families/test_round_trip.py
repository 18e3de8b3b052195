"""file -> ours -> file: the same keys, the same bits, and the reference reads what we write."""

from __future__ import annotations

import json
import os
import stat

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from cutaway.errors import Misuse
from cutaway.families import checkpoint
from tests.families.variants import VARIANTS


def _equal_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one.view(torch.uint8), other.view(torch.uint8))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_file_comes_back_bit_for_bit(saved, variant, tmp_path):
    folder, _ = saved(variant)
    opened = checkpoint.open(folder)
    checkpoint.save(opened.load(), opened.config, tmp_path)
    theirs, ours = load_file(folder / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    names = opened.family.names(opened.spec)
    theirs = {name: tensor for name, tensor in theirs.items() if not names.is_dead(name)}  # a pooler nobody reads
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        if "gemma" in opened.family.model_type and "norm" in name:  # w is held as 1 + w in float32
            torch.testing.assert_close(ours[name], tensor, rtol=0, atol=2**-24)
        else:
            assert _equal_bits(ours[name], tensor), name
    assert json.loads((tmp_path / "config.json").read_text()) == opened.config


def test_the_norms_of_a_bfloat16_gemma_come_back_bit_for_bit(saved, tmp_path):
    from tests.families.reference import reference_model, write

    model = reference_model("gemma3").bfloat16()
    for name, parameter in model.named_parameters():
        if "norm" in name:  # 1 + w in float32 has no room for less than 2^-16 beside the 8 bits of a bfloat16
            parameter.data[parameter.data.abs() < 2**-16] = 0.0
    folder = write(model, tmp_path / "theirs")
    opened = checkpoint.open(folder)
    checkpoint.save(opened.load(), opened.config, tmp_path / "ours")
    theirs, ours = (load_file(tmp_path / who / "model.safetensors") for who in ("theirs", "ours"))
    assert ours.keys() == theirs.keys()
    assert all(_equal_bits(ours[name], theirs[name]) for name in theirs)


def test_what_we_save_twice_is_one_file(saved, tmp_path):
    folder, _ = saved("gemma2")
    first = checkpoint.open(folder)
    checkpoint.save(first.load(), first.config, tmp_path / "a")
    second = checkpoint.open(tmp_path / "a")
    checkpoint.save(second.load(), second.config, tmp_path / "b")
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()


@pytest.mark.parametrize("variant", ["gpt2", "qwen3, windowed, biases", "gemma3", "neox", "phi"])
def test_the_reference_reads_what_we_write(saved, variant, tmp_path):
    from tests.families.reference import our_run, reference_run, worst

    transformers = pytest.importorskip("transformers", reason="compares with transformers, which is not installed")
    folder, _ = saved(variant)
    opened = checkpoint.open(folder)
    model = opened.load()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01
    checkpoint.save(model, opened.config, tmp_path)
    theirs, notes = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, attn_implementation="eager", output_loading_info=True
    )
    assert not any(notes[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert worst(our_run(model), reference_run(theirs.eval())) < 1e-5


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_files_have_the_mode_the_umask_allows(saved, umask, tmp_path):
    folder, _ = saved("llama")
    opened = checkpoint.open(folder)
    model = opened.load()
    before = os.umask(umask)
    try:
        checkpoint.save(model, opened.config, tmp_path / "out")
    finally:
        os.umask(before)
    for file in (tmp_path / "out").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~umask
    with safe_open(tmp_path / "out/model.safetensors", framework="pt") as opened_again:
        assert opened_again.metadata() == {"format": "pt"}


def test_half_precision_is_saved_and_said(saved, tmp_path):
    folder, _ = saved("qwen2")
    opened = checkpoint.open(folder)
    checkpoint.save(opened.load("bfloat16"), opened.config, tmp_path)
    again = checkpoint.open(tmp_path)
    assert again.config["dtype"] == "bfloat16"
    assert again.dtype is torch.bfloat16
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {torch.bfloat16}


def test_another_model_s_config_is_refused(saved, tmp_path):
    folder, _ = saved("qwen2")
    opened = checkpoint.open(folder)
    with pytest.raises(Misuse, match="does not describe this model"):
        checkpoint.save(opened.load(), {**opened.config, "rms_norm_eps": 1e-5}, tmp_path)
    assert list(tmp_path.iterdir()) == []
