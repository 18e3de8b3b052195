"""Folders of quantised models: the bits of what they were made from, and nothing believed that their files say."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import cutaway
from cutaway.errors import CutawayError, Failed, Misuse, Refused
from cutaway.families import checkpoint, packed, verify
from cutaway.families.config import read_config
from cutaway.model import quantized
from cutaway.training.start import read_start
from tests.families.making import GPT2, LLAMA, NEOX, make, say

IDS = [3, 1, 4, 1, 5, 9]


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return make(tmp_path / "whole")


@pytest.fixture
def small(tmp_path: Path, whole: Path) -> Path:
    return cutaway.quantize(whole, tmp_path / "small", "int4")


@pytest.mark.parametrize("to", ["int8", "int4"])
@pytest.mark.parametrize("config", [LLAMA, {**LLAMA, "tie_word_embeddings": True}, GPT2, NEOX])
def test_the_folder_has_the_bits_of_what_it_was_made_from(tmp_path: Path, config: dict[str, Any], to: str) -> None:
    whole = make(tmp_path / "whole", config)
    asked = cutaway.load(whole, quantize=to)
    found = cutaway.load(cutaway.quantize(whole, tmp_path / "small", to))
    assert found.card.dtype == asked.card.dtype == to
    expected, got = asked.machine.state_dict(), found.machine.state_dict()
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    assert (found.next(tokens=IDS).logits == asked.next(tokens=IDS).logits).all()
    by_hand = checkpoint.open(whole).load(torch.float32)
    quantized.quantize(by_hand, int(to.removeprefix("int")))
    assert all(torch.equal(tensor, got[name]) for name, tensor in by_hand.state_dict().items())


def test_it_writes_the_same_text_and_keeps_its_tokenizer(tmp_path: Path) -> None:
    found = cutaway.load(cutaway.quantize("stories", tmp_path / "small", "int8"))
    asked = cutaway.load("stories", quantize="int8")
    text = "Once upon a time there was a"
    assert found.generate(text, seed=5, max_new_tokens=20).text == asked.generate(text, seed=5, max_new_tokens=20).text
    assert found.eos == asked.eos
    assert abs(found.run(text).explain("blocks.2.attn.q[-1,0,3]").difference) < 1e-5


def test_no_float32_matrix_is_made_on_the_way(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither are the matrices packed again, nor does any tensor of a matrix's size stand in float32."""
    monkeypatch.setattr(quantized, "_pack", lambda *_: pytest.fail("packed again"))
    machine = cutaway.load(small).machine
    assert all(parameter.dim() == 1 for parameter in machine.parameters())


def test_nothing_is_written_over(tmp_path: Path, whole: Path, small: Path) -> None:
    before = {file: file.read_bytes() for folder in (whole, small) for file in folder.iterdir()}
    (tmp_path / "link").symlink_to(small)
    for target in (whole, small, whole / "config.json", tmp_path / "link"):
        with pytest.raises(Misuse, match="is there already"):
            cutaway.quantize(whole, target)
    with pytest.raises(Misuse, match="There is no folder"):
        cutaway.quantize(whole, tmp_path / "no" / "small")
    assert before == {file: file.read_bytes() for folder in (whole, small) for file in folder.iterdir()}
    (tmp_path / "empty").mkdir()
    assert cutaway.load(cutaway.quantize(whole, tmp_path / "empty")).card.dtype == "int8"


def test_half_a_folder_is_never_there(tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packed, "save_file", full)
    with pytest.raises(Failed, match="No space left"):
        cutaway.quantize(whole, tmp_path / "small")
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


def test_what_cannot_be_quantised_says_so(tmp_path: Path, whole: Path, small: Path) -> None:
    for name, to, says in (
        ("words", "int8", "Only decoders"),
        (whole, "int3", "int8 or int4"),
        (small, "int8", "alread"),
    ):
        with pytest.raises(Misuse, match=says):
            cutaway.quantize(name, tmp_path / "new", to)
    assert not (tmp_path / "new").exists()
    for asked, says in (({"quantize": "int8"}, "int4 already"), ({"dtype": "bfloat16"}, "stays in float32")):
        with pytest.raises(Misuse, match=says):
            cutaway.load(small, **asked)
    assert cutaway.load(small, quantize="int4", dtype="float32").card.dtype == "int4"


def test_it_is_not_taken_for_a_whole_model(tmp_path: Path, small: Path) -> None:
    with pytest.raises(Misuse, match="quantised"):
        read_start(small)
    with pytest.raises(Misuse, match="quantised"):
        verify.verify(checkpoint.open(small))
    for machine in (cutaway.load(small).machine, cutaway.load("stories").machine):
        with pytest.raises(Misuse, match="quantised"):
            checkpoint.save(machine, read_config(small), tmp_path / "new")


def _without(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["stack.blocks.1.mlp.down.packed"]


def _more(tensors: dict[str, torch.Tensor]) -> None:
    tensors["stack.blocks.2.mlp.down.packed"] = tensors["stack.blocks.1.mlp.down.packed"].clone()


def _other_shape(tensors: dict[str, torch.Tensor]) -> None:
    tensors["stack.blocks.0.attn.q.packed"] = tensors["stack.blocks.0.attn.q.packed"][:1].contiguous()


def _other_dtype(tensors: dict[str, torch.Tensor]) -> None:
    tensors["stack.blocks.0.attn.q.packed"] = tensors["stack.blocks.0.attn.q.packed"].float()


def _infinite(tensors: dict[str, torch.Tensor]) -> None:
    tensors["stack.blocks.0.attn.q.packed"][0, 0, :2] = torch.tensor([0, 0x7C], dtype=torch.uint8)


@pytest.mark.parametrize(
    ("change", "says"),
    [(_without, "lack"), (_more, "no place"), (_other_shape, "not the shape"), (_other_dtype, "as F32"),
     (_infinite, "infinity")],
)  # fmt: skip
def test_files_that_lie_are_refused(small: Path, change: Any, says: str) -> None:
    tensors = load_file(small / "model.safetensors")
    change(tensors)
    save_file(tensors, small / "model.safetensors")
    with pytest.raises(Refused, match=says):
        cutaway.load(small)


@pytest.mark.parametrize(
    "changes",
    [{"hidden_size": 1 << 15, "intermediate_size": 1 << 19}, {"hidden_size": 32}, {"num_hidden_layers": 1000},
     {"quantization_config": {"quant_method": "cutaway", "bits": 8, "version": 1}},
     {"quantization_config": {"quant_method": "cutaway", "bits": 4, "version": 2}},
     {"quantization_config": {"quant_method": "cutaway", "bits": 2, "version": 1}}, {"quantization_config": None}],
)  # fmt: skip
def test_a_config_that_lies_is_refused_before_memory_is_taken(
    small: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint.Checkpoint, "load", lambda *_: pytest.fail("loaded"))
    say(small, **changes)
    with pytest.raises(CutawayError):
        cutaway.load(small)


def test_a_file_cut_short_is_refused(small: Path) -> None:
    content = (small / "model.safetensors").read_bytes()
    (small / "model.safetensors").write_bytes(content[:-100])
    with pytest.raises(Refused, match="cut short"):
        cutaway.load(small)


def test_only_a_decoder_may_say_so(tmp_path: Path) -> None:
    shutil.copytree(cutaway.load("words").folder, tmp_path / "words")
    say(tmp_path / "words", quantization_config={"quant_method": "cutaway", "bits": 8, "version": 1})
    with pytest.raises(Refused, match="only decoders"):
        cutaway.load(tmp_path / "words")
