"""Folders of quantised models: the bits of what they were made from, and nothing believed that their files say."""

from __future__ import annotations

import json
import re
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
from cutaway.model import quantized, spec
from cutaway.model.transformer import Seq2Seq
from cutaway.tasks.sentences import Pooling, pooling_of
from cutaway.training.start import read_start
from tests.families.making import GPT2, LLAMA, NEOX, make, say
from tests.families.variants import BART, ENCODER, IMAGE, MARIAN, T5, WHISPER

IDS = [3, 1, 4, 1, 5, 9]
#: An encoder's decoder, with one embedding for both and with two; encoders alone.
OTHERS: dict[str, dict[str, Any]] = {
    "marian": {"model_type": "marian", **MARIAN},
    "marian, two vocabularies": {"model_type": "marian", **MARIAN, "share_encoder_decoder_embeddings": False},
    "bart": {"model_type": "bart", "architectures": ["BartForConditionalGeneration"], **BART},
    "t5": {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], **T5},
    "t5, untied": {
        "model_type": "t5", "architectures": ["T5ForConditionalGeneration"], **T5, "tie_word_embeddings": False,
    },
    "whisper": {"model_type": "whisper", **WHISPER},
    "bert": {"model_type": "bert", "architectures": ["BertForMaskedLM"], **ENCODER},
    "vit": {"model_type": "vit", "architectures": ["ViTForImageClassification"], **IMAGE},
}  # fmt: skip


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


def given(machine: Any) -> list[torch.Tensor]:
    """What a machine reads, and what it has written."""
    stem = machine.spec.source if isinstance(machine, Seq2Seq) else machine.spec.stem
    rng, ids = torch.Generator().manual_seed(1), torch.tensor([IDS])
    if isinstance(stem, spec.Tokens):
        return [ids, ids] if isinstance(machine, Seq2Seq) else [ids]
    if isinstance(stem, spec.Mel):
        return [torch.randn(1, stem.bins, 2 * stem.length, generator=rng), ids]
    return [torch.randn(1, stem.channels, stem.image, stem.image, generator=rng)]


@pytest.mark.parametrize("to", ["int8", "int4"])
@pytest.mark.parametrize("kind", OTHERS)
@torch.no_grad()
def test_so_it_is_with_every_other_kind(tmp_path: Path, kind: str, to: str) -> None:
    """An encoder's matrices, those that look across, and both ends."""
    whole = make(tmp_path / "whole", OTHERS[kind])
    asked, small = cutaway.load(whole, quantize=to), cutaway.quantize(whole, tmp_path / "small", to)
    found, by_hand = cutaway.load(small), cutaway.load(whole).machine
    assert found.card.dtype == asked.card.dtype == to
    quantized.quantize(by_hand, int(to.removeprefix("int")))
    states = [machine.state_dict() for machine in (asked.machine, found.machine, by_hand)]
    assert states[0].keys() == states[1].keys() == states[2].keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in states[0].items() for state in states[1:])
    left = [name for name, tensor in states[0].items() if tensor.dim() > 1 and not name.endswith(".packed")]
    assert all(re.search(r"positions|segments|extra|patch|conv|relative", name) for name in left), left
    exact, inputs = cutaway.load(whole).machine, given(found.machine)
    logits = found.machine(*inputs)
    assert torch.equal(logits, asked.machine(*inputs))
    assert (logits - exact(*inputs)).norm() < 0.3 * exact(*inputs).norm()


def test_what_two_stems_share_is_held_once(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole", OTHERS["marian"])
    small = cutaway.quantize(whole, tmp_path / "small")
    for model in (cutaway.load(whole, quantize="int8"), cutaway.load(small)):
        assert isinstance(model.machine, Seq2Seq)
        assert model.machine.source.tokens is model.machine.target.tokens
    tensors = load_file(small / "model.safetensors")
    assert [name for name in tensors if "tokens" in name] == ["source.tokens.packed"]
    tensors["target.tokens.packed"] = tensors["source.tokens.packed"].clone()
    save_file(tensors, small / "model.safetensors")
    assert cutaway.load(small).card.dtype == "int8"  # twice, and no harm done
    tensors["target.tokens.packed"][0, 0, 40] += 1
    save_file(tensors, small / "model.safetensors")
    with pytest.raises(Refused, match="with other numbers|differs"):
        cutaway.load(small)


def test_an_unembedding_that_a_file_lacks_is_the_embedding(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole", OTHERS["t5, untied"])
    tensors = load_file(whole / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, whole / "model.safetensors")
    asked = cutaway.load(whole, quantize="int4")
    found = cutaway.load(cutaway.quantize(whole, tmp_path / "small", "int4"))
    for state in (asked.machine.state_dict(), found.machine.state_dict()):
        assert torch.equal(state["head.out.packed"], state["target.tokens.packed"])


def test_what_says_how_vectors_are_pooled_comes_along(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole", OTHERS["bert"], architectures=["BertModel"])
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in
               (("Transformer", ""), ("Pooling", "1_Pooling"))]  # fmt: skip
    (whole / "modules.json").write_text(json.dumps(modules))
    (whole / "1_Pooling").mkdir()
    (whole / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    small = cutaway.quantize(whole, tmp_path / "small")
    assert pooling_of(small) == pooling_of(whole) != Pooling()


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


@pytest.mark.parametrize("model", ["stories", "words", "digits", "spoken"])
def test_a_folder_that_only_says_so_is_refused(tmp_path: Path, model: str) -> None:
    shutil.copytree(cutaway.load(model).folder, tmp_path / "it")
    say(tmp_path / "it", quantization_config={"quant_method": "cutaway", "bits": 8, "version": 1})
    with pytest.raises(Refused, match="no place|does not hold"):
        cutaway.load(tmp_path / "it")
