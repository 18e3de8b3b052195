"""The Record: what is derived is what the run computed; what is saved comes back."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

import cutaway
from cutaway.errors import Misuse, NotFound, Refused
from cutaway.look import ModelCard, Record, names, run
from cutaway.look.record import stored_bytes
from cutaway.model import spec
from cutaway.model.tap import record
from cutaway.model.transformer import Transformer
from tests.model import machines

CARD = ModelCard("tiny", parameters=1)


def ran(name: str = "llama", length: int = 12, **how: object) -> tuple[Transformer, torch.Tensor, Record]:
    model = machines.lively(machines.DECODERS[name])
    assert isinstance(model, Transformer)
    ids = machines.tokens(1, length)
    return model, ids, run(model, [ids], CARD, tokens=ids[0].tolist(), **how)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", machines.DECODERS)
def test_every_tensor_of_the_run_is_there_and_is_what_the_run_computed(name: str) -> None:
    model, ids, kept = ran(name)
    with record(model) as tape:
        model(ids)
    assert set(tape.tensors) <= set(kept.names())
    assert torch.equal(kept["logits"], tape.tensors["logits"])
    for full, computed in tape.tensors.items():
        if full.endswith("scores"):  # beyond the mask a fused run computes none; ours are q k^T there too
            assert machines.largest(model, kept[full], computed) < 1e-6
        assert kept[full].shape == computed.shape
        assert len(kept.axes(full)) == computed.ndim
        assert machines.largest(model, kept[full], computed) < 1e-6, full


@pytest.mark.parametrize("machine", [machines.T5, machines.WHISPER], ids=["t5", "whisper"])
def test_encoder_decoder_runs_are_recorded_too(machine: spec.Seq2Seq) -> None:
    model = machines.lively(machine)
    source = machines.tokens(1, 9) if machine is machines.T5 else torch.randn(1, 12, 60)
    ids = machines.tokens(1, 5)
    kept = run(model, [source, ids], CARD, tokens=ids[0].tolist())
    with record(model) as tape:
        model(source, ids)
    for full, computed in tape.tensors.items():
        assert machines.largest(model, kept[full], computed) < 1e-6, full


def test_a_run_of_an_encoder_and_a_decoder_comes_back(tmp_path: Path) -> None:
    deep = dataclasses.replace(machines.T5.encoder, blocks=machines.T5.encoder.blocks * 2)  # four blocks before two
    model = machines.lively(dataclasses.replace(machines.T5, encoder=deep))
    source, ids = machines.tokens(1, 9), machines.tokens(1, 5)
    told = {"source": source[0].tolist(), "source_pieces": [{"id": 1, "text": "a", "special": False}]}
    kept = run(model, [source, ids], CARD, tokens=ids[0].tolist(), text="what was read", **told)
    assert set(names.names(model.spec)) <= set(kept.names())
    assert kept.shape("encoder.blocks.3.resid_post") == (9, 48)
    assert kept.nbytes == stored_bytes(model.spec, 5, source=9)
    kept.save(tmp_path / "run.cutaway", include="*.river", weights=["target.tokens.weight"])
    with safetensors.safe_open(tmp_path / "run.cutaway", "pt") as file:
        story = json.loads(file.metadata()["cutaway"])
    assert {side: story[side] for side in told} == told
    assert story["axes"]["encoder.river"] == ["stop", "S"]
    assert story["axes"]["decoder.river"] == ["stop", "T"]
    opened = cutaway.open(tmp_path / "run.cutaway")
    assert opened.description() == kept.description()
    assert opened.source == told["source"]
    for name in ("encoder.river", "encoder.blocks.3.attn.pattern", "decoder.blocks.1.cross.pattern", "logits"):
        torch.testing.assert_close(opened[name], kept[name], rtol=0, atol=0)


def test_one_head_is_that_head() -> None:
    _, _, kept = ran("windows")
    assert torch.equal(kept["blocks.1.attn.pattern[2]"], kept["blocks.1.attn.pattern"][2])
    assert torch.equal(kept["blocks.1.attn.scores[-1]"], kept["blocks.1.attn.scores"][3])
    assert torch.equal(kept["blocks.1.mlp.hidden[-1]"], kept["blocks.1.mlp.hidden"][-1])
    assert kept.axes("blocks.1.attn.pattern[2]") == ("T", "T")
    with pytest.raises(Misuse, match="axis H has 4 entries"):
        kept["blocks.1.attn.pattern[4]"]


def test_the_river_is_the_norm_of_the_stream() -> None:
    _, _, kept = ran()
    expected = [kept[f"blocks.{i}.{what}"].norm(dim=-1) for i in range(3) for what in ("resid_pre", "resid_mid")]
    assert torch.equal(kept["river"], torch.stack([*expected, kept["blocks.2.resid_post"].norm(dim=-1)]))


@pytest.mark.parametrize("name", machines.DECODERS)
def test_a_saved_record_comes_back_without_its_model(name: str, tmp_path: Path) -> None:
    _, _, kept = ran(name, text="hello", pieces=[{"id": 1, "text": "hello", "special": False}], settings={"seed": 7})
    kept.save(tmp_path / "run.cutaway")
    again = cutaway.open(tmp_path / "run.cutaway")
    assert again.description() == kept.description()
    assert set(kept.names()) - set(again.names()) == {"logits"}
    for full in again.names():
        assert torch.equal(again[full], kept[full]), full


def test_the_logits_of_a_file_are_exact_where_kept_and_whole_in_sum(tmp_path: Path) -> None:
    _, _, kept = ran()
    kept.save(tmp_path / "run.cutaway")
    again = cutaway.open(tmp_path / "run.cutaway")
    logits = kept["logits"]
    assert torch.allclose(again["logits.last"], logits[-1], atol=1e-6)
    top = logits.gather(-1, again["logits.top.ids"].long())
    assert torch.equal(again["logits.top.values"], top)
    whole = torch.cat([top, again["logits.rest"][:, None]], -1).logsumexp(-1)
    assert torch.allclose(whole, logits.logsumexp(-1), atol=1e-5)
    with pytest.raises(Misuse, match=r"logits\.last"):
        again["logits"]


def test_a_file_takes_along_what_is_asked(tmp_path: Path) -> None:
    _, _, kept = ran()
    kept.save(tmp_path / "run.cutaway", include="blocks.*.attn.pattern", weights="stem.tokens.*")
    assert "blocks.1.attn.pattern" in safetensors.torch.load_file(tmp_path / "run.cutaway")
    assert torch.equal(cutaway.open(tmp_path / "run.cutaway")["logits"], kept["logits"])
    with pytest.raises(Misuse, match=r"'blocks\.9'"):
        kept.save(tmp_path / "other.cutaway", include="blocks.9")
    assert not (tmp_path / "other.cutaway").exists()


def test_keep_limits_what_is_stored() -> None:
    _, _, kept = ran(keep="blocks.*.attn.pattern")
    assert set(kept.tensors) == {f"blocks.{i}.attn.pattern" for i in range(3)}
    with pytest.raises(Misuse, match="did not keep"):
        kept["blocks.0.attn.z"]
    with pytest.raises(Misuse, match=r"matches 'blocks\.9"):
        ran(keep=["embed", "blocks.9.attn.q"])
    with pytest.raises(Misuse, match=r"Did you mean 'blocks\.1\.attn\.pattern'"):
        kept["blocks.1.attn.patern"]


@pytest.mark.parametrize(
    "name",
    [
        "blocks.1.attn.pattern",
        "blocks.0.attn.scores",
        "blocks.1.mlp.hidden",
        "logits",
        "blocks.1.attn.q_rot",
        "blocks.0.attn.k_rot",
        "blocks.1.resid_pre",
        "blocks.1.resid_post",
        "embed",
    ],
)
def test_an_edit_is_in_the_record_and_in_all_that_follows(name: str) -> None:
    model, ids, before = ran()
    after = run(model, [ids], CARD, tokens=ids[0].tolist(), edit={name: lambda x: x * 0.5})
    assert after.edits == [name]
    assert torch.allclose(after[name], before[name] * 0.5)
    with record(model, edit={name: lambda x: x * 0.5}) as tape:
        model(ids)
    for full, computed in tape.tensors.items():
        assert machines.largest(model, after[full], computed) < 1e-6, full
    with pytest.raises(Misuse, match="no_such"):
        run(model, [ids], CARD, tokens=[], edit={"no_such": lambda x: x})


def test_the_size_is_known_beforehand() -> None:
    for name, machine in machines.DECODERS.items():
        _, _, kept = ran(name)
        assert stored_bytes(machine, 12) == sum(x.numel() * x.element_size() for x in kept.tensors.values()), name
    _, _, kept = ran(keep="blocks.1.attn.*")
    expected = sum(x.numel() * x.element_size() for x in kept.tensors.values())
    assert stored_bytes(machines.DECODERS["llama"], 12, keep="blocks.1.attn.*") == expected


def test_files_that_are_not_records_are_refused(tmp_path: Path) -> None:
    _, _, kept = ran()
    path = tmp_path / "run.cutaway"
    kept.save(path)
    whole = path.read_bytes()
    with pytest.raises(NotFound, match="no file"):
        cutaway.open(tmp_path / "none.cutaway")
    for damage in (b"", whole[:5], whole[: len(whole) // 2], b"\xff" * 64, whole + b"x"):
        path.write_bytes(damage)
        with pytest.raises(Refused, match="cannot be read"):
            cutaway.open(path)
    story = {"format": 1, "spec": spec.to_json(kept.spec), "tokens": [1], "text": None}
    story |= {"model": {"name": "x"}, "pieces": [], "settings": {}, "edits": []}
    lies = [
        None,
        {"format": 2},
        {**story, "spec": {"kind_of": "Perceptron"}},
        {**story, "tokens": ["x"]},
        {**story, "model": {"name": "x", "colour": 1}},
        {key: story[key] for key in story if key != "pieces"},
    ]
    for lie in lies:
        safetensors.torch.save_file({"embed": torch.zeros(1, 2)}, path, {"cutaway": json.dumps(lie)})
        with pytest.raises(Refused):
            cutaway.open(path)
    safetensors.torch.save_file({"embed": torch.zeros(3)}, path, {"cutaway": json.dumps(story)})
    with pytest.raises(Refused, match="1 axes, not 2"):
        cutaway.open(path)
