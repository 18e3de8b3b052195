"""Checkpoints that lie, are damaged or mean harm: one clear sentence, the right error, and nothing used."""

from __future__ import annotations

import json
import os
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from cutaway.errors import CutawayError, Failed, NotFound, Refused
from cutaway.families import checkpoint, weights
from tests.families.making import GPT2, LLAMA, NEOX, make, say


def refusal(folder, kind: type[CutawayError] = Refused, load: bool = False) -> str:
    """The error's message, once it is known to be one sentence with a fix."""
    with pytest.raises(kind) as caught:
        opened = checkpoint.open(folder)
        if load:
            opened.load()
    assert type(caught.value) is kind
    assert caught.value.fix
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700
    return str(caught.value)


def rewrite(folder, change, name: str = "model.safetensors") -> None:
    tensors = load_file(folder / name)
    change(tensors)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / name)


def raw(folder, header: bytes | dict, data: bytes = b"", length: int | None = None) -> None:
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    written = struct.pack("<Q", len(header) if length is None else length) + header + data
    (folder / "model.safetensors").write_bytes(written)


# ------------------------------------------------------------------ what is not a checkpoint


def test_no_folder(tmp_path):
    assert "is not a folder" in refusal(tmp_path / "nowhere", NotFound)


def test_a_folder_without_config(tmp_path):
    assert "no config.json" in refusal(tmp_path, NotFound)


def test_a_folder_without_weights(tmp_path):
    (make(tmp_path) / "model.safetensors").unlink()
    assert "has no weights" in refusal(tmp_path, NotFound)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "last.ckpt"])
def test_pickles_only(tmp_path, name):
    (make(tmp_path) / "model.safetensors").unlink()
    (tmp_path / name).write_bytes(b"\x80\x04.")
    said = refusal(tmp_path)
    assert name in said
    assert "pickle" in said


def test_an_unknown_model_type_lists_the_known_ones(tmp_path):
    said = refusal(make(tmp_path, model_type="perceiver"))
    assert "perceiver" in said
    assert "gpt2" in said
    assert "llama" in said
    assert "not yet" not in said


@pytest.mark.parametrize("model_type", ["mixtral", "albert", "modernbert", "clip", "mt5", "phi3"])
def test_a_well_known_model_type_is_not_yet_known(tmp_path, model_type):
    assert "not yet" in refusal(make(tmp_path, model_type=model_type))


@pytest.mark.parametrize("model_type", [None, 7, ["llama"], "x" * 5000])
def test_a_senseless_model_type(tmp_path, model_type):
    refusal(make(tmp_path, model_type=model_type))


# ------------------------------------------------------------------ config.json lies


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": 10**6, "intermediate_size": 10**6, "num_hidden_layers": 1000, "num_attention_heads": 1000},
        {"num_hidden_layers": 20_000},
        {"num_hidden_layers": 1000},
        {"num_hidden_layers": 0},
        {"num_hidden_layers": -2},
        {"num_hidden_layers": 2.5},
        {"num_hidden_layers": True},
        {"num_hidden_layers": "2"},
        {"num_hidden_layers": None},
        {"num_hidden_layers": [2]},
        {"vocab_size": 200_000_000},
        {"vocab_size": 10**30},
        {"hidden_size": -16},
        {"hidden_size": 17},
        {"num_attention_heads": 3},
        {"num_key_value_heads": 3},
        {"head_dim": 3},
        {"hidden_act": "gelu_squared"},
        {"hidden_act": 3},
        {"rms_norm_eps": 0},
        {"rms_norm_eps": -1e-5},
        {"rms_norm_eps": "small"},
        {"rope_theta": {}},
        {"tie_word_embeddings": "yes"},
        {"attention_bias": 1},
        {"max_position_embeddings": -1},
        {"dtype": "float8_e4m3fn"},
        {"dtype": 16},
    ],
    ids=lambda changes: json.dumps(changes)[:60],
)
def test_a_config_that_lies_is_refused_before_anything_is_built(tmp_path, changes, monkeypatch):
    folder = make(tmp_path, **changes)
    monkeypatch.setattr(checkpoint, "build", lambda described: pytest.fail("built a model"))
    refusal(folder)


def test_one_layer_more_names_what_is_missing(tmp_path):
    said = refusal(make(tmp_path, num_hidden_layers=3))
    assert "lack" in said
    assert "stack.blocks.2" in said


def test_one_layer_less_names_what_is_too_much(tmp_path):
    assert "model.layers.1" in refusal(make(tmp_path, num_hidden_layers=1))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"model_type": "llama", "model_type": "gpt2"}', "twice"),
        ('{"model_type": "llama", "rms_norm_eps": NaN}', "NaN"),
        ('{"model_type": "llama", "rms_norm_eps": Infinity}', "Infinity"),
        ('{"model_type": "llama", "rms_norm_eps": 1e400}', "finite"),
        ('{"model_type": "llama", "vocab_size": ' + "9" * 5000 + "}", "JSON"),
        ("[" * 100_000 + "]" * 100_000, "nested"),
        ("[1, 2]", "object"),
        ("{", "JSON"),
        ("", "JSON"),
    ],
    ids=["duplicate", "NaN", "Infinity", "1e400", "5000 digits", "deep", "list", "cut short", "empty"],
)
def test_json_that_cannot_be_trusted(tmp_path, text, why):
    (make(tmp_path) / "config.json").write_text(text)
    assert why in refusal(tmp_path)


def test_bytes_that_are_no_text(tmp_path):
    (make(tmp_path) / "config.json").write_bytes(b"\xff\xfe{}")
    assert "not text" in refusal(tmp_path)


def test_a_config_of_100_megabytes_is_not_even_read(tmp_path):
    with (make(tmp_path) / "config.json").open("r+b") as file:
        file.truncate(100 * 2**20)
    assert "100 MB" in refusal(tmp_path)


# ------------------------------------------------------------------ what is not understood


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        (LLAMA, {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}),
        (LLAMA, {"rope_scaling": {"type": "longrope", "long_factor": [1.0], "short_factor": [1.0]}}),
        (LLAMA, {"rope_scaling": {"rope_type": "of the future", "factor": 2.0}}),
        (LLAMA, {"rope_scaling": {"factor": 2.0}}),
        (LLAMA, {"rope_scaling": {"rope_type": "linear"}}),
        (LLAMA, {"rope_scaling": {"rope_type": "default", "mrope_section": [1, 1]}}),
        (LLAMA, {"rope_scaling": "linear"}),
        (LLAMA, {"rope_parameters": {"full_attention": {"rope_type": "default"}}}),
        (
            LLAMA,
            {
                "rope_parameters": {"rope_type": "linear", "factor": 2.0},
                "rope_scaling": {"rope_type": "linear", "factor": 4.0},
            },
        ),
        (LLAMA, {"rope_interleaved": True}),
        (LLAMA, {"layer_types": ["sliding_attention", "full_attention"]}),
        (LLAMA, {"quantization_config": {"quant_method": "gptq", "bits": 4}}),
        (LLAMA, {"quantization": {"bits": 4}}),
        (LLAMA, {"is_causal": False}),
        (GPT2, {"add_cross_attention": True}),
        (GPT2, {"pruned_heads": {"0": [1]}}),
    ],
    ids=lambda value: json.dumps(value)[:50],
)
def test_what_would_change_the_computation_is_refused_by_name(tmp_path, config, changes):
    said = refusal(make(tmp_path, config, **changes))
    assert any(word in said for key in changes for word in (key, "rope"))


def test_a_foreign_key_is_a_warning_and_strictly_an_error(tmp_path):
    folder = make(tmp_path, mixing_depth=3, rope_scaling={"rope_type": "linear", "factor": 2.0, "finetuned": True})
    warnings = checkpoint.open(folder).warnings
    assert len(warnings) == 2
    assert any("mixing_depth = 3" in warning for warning in warnings)
    assert any("rope_scaling.finetuned = true" in warning for warning in warnings)
    with pytest.raises(Refused, match="mixing_depth"):
        checkpoint.open(folder, strict=True)


def test_names_cannot_speak_to_the_terminal(tmp_path):
    (warning,) = checkpoint.open(make(tmp_path, **{"\x1b[2J": 1})).warnings
    assert "\x1b" not in warning
    rewrite(tmp_path, lambda tensors: tensors.update({"\x1b[2J": torch.zeros(1)}))
    assert "\x1b" not in refusal(tmp_path)


def test_warnings_have_an_end(tmp_path):
    warnings = checkpoint.open(make(tmp_path, **{f"key{i}": i for i in range(500)})).warnings
    assert len(warnings) == 21
    assert "480 more" in warnings[-1]


def test_code_in_the_repository_is_never_run_and_said(tmp_path):
    folder = make(tmp_path, auto_map={"AutoModelForCausalLM": "modeling_evil.Model"})
    (folder / "modeling_evil.py").write_text("raise SystemExit('ran')")
    assert "never runs it" in checkpoint.open(folder).warnings[0]


def test_inert_and_null_keys_are_silent(tmp_path):
    folder = make(tmp_path, use_cache=False, _name_or_path="x", future_key=None, torch_dtype="float32", top_k=5)
    assert checkpoint.open(folder, strict=True).warnings == []


# ------------------------------------------------------------------ damaged files


def test_truncated_weights(tmp_path):
    file = make(tmp_path) / "model.safetensors"
    whole = file.read_bytes()
    for length in (0, 4, 8, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        assert "cut short" in refusal(tmp_path)


def test_trailing_bytes(tmp_path):
    with (make(tmp_path) / "model.safetensors").open("ab") as file:
        file.write(b"x")
    assert "nobody claims" in refusal(tmp_path)


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 17 * 2**20])
def test_a_header_of_absurd_length(tmp_path, length):
    make(tmp_path)
    raw(tmp_path, b"{}", length=length)
    refusal(tmp_path)


def test_a_header_larger_than_any_real_one(tmp_path):
    make(tmp_path)
    raw(tmp_path, b"{" + b" " * (17 * 2**20) + b"}")
    assert "17 MB" in refusal(tmp_path)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F31", "shape": [2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [True, 2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0]},
        {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
        {"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]},
        {"shape": [2]},
        [],
    ],
    ids=str,
)
def test_a_header_that_makes_no_sense(tmp_path, entry):
    make(tmp_path)
    raw(tmp_path, {"model.norm.weight": entry}, b"\0" * 8)
    refusal(tmp_path)


def test_overlapping_tensors(tmp_path):
    make(tmp_path)
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    raw(tmp_path, {"a": entry, "b": entry}, b"\0" * 8)
    assert "overlap" in refusal(tmp_path)


def test_a_duplicate_name_in_the_header(tmp_path):
    make(tmp_path)
    entry = b'"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'
    raw(tmp_path, b"{" + entry + b"," + entry + b"}", b"\0" * 4)
    assert "twice" in refusal(tmp_path)


def test_300_thousand_tensors_are_refused_before_their_names_are_read(tmp_path, monkeypatch):
    make(tmp_path)
    entry = b'"model.layers.%d.self_attn.q_proj.weight":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    raw(tmp_path, b"{" + b",".join(entry % i for i in range(300_000)) + b"}")
    monkeypatch.setattr(weights, "parse_json", lambda data, name: pytest.fail("read the header"))
    refusal(tmp_path)


def test_not_a_safetensors_file(tmp_path):
    (make(tmp_path) / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n" * 3)
    refusal(tmp_path)


# ------------------------------------------------------------------ wrong tensors


def test_a_missing_tensor(tmp_path):
    rewrite(make(tmp_path), lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    assert "stack.blocks.1.mlp.up.weight" in refusal(tmp_path)


def test_a_tensor_nobody_knows(tmp_path):
    rewrite(make(tmp_path), lambda tensors: tensors.update({"model.layers.0.moe.weight": torch.zeros(2)}))
    assert "model.layers.0.moe.weight" in refusal(tmp_path)


def test_a_bias_config_does_not_speak_of(tmp_path):
    name = "model.layers.0.self_attn.q_proj.bias"
    rewrite(make(tmp_path), lambda tensors: tensors.update({name: torch.zeros(16)}))
    assert name in refusal(tmp_path)


@pytest.mark.parametrize("number", ["01", "+1", "1_0", "²"])
def test_a_layer_spelt_another_way_is_no_layer(tmp_path, number):
    name = f"model.layers.{number}.self_attn.q_proj.weight"
    rewrite(make(tmp_path), lambda tensors: tensors.update({name: torch.zeros(16, 16)}))
    refusal(tmp_path)


@pytest.mark.parametrize("config", [LLAMA, GPT2, NEOX], ids=lambda config: config["model_type"])
def test_a_wrong_shape(tmp_path, config):
    whole = load_file(make(tmp_path, config) / "model.safetensors")
    for name, tensor in whole.items():
        save_file({**whole, name: tensor[:-1].contiguous()}, tmp_path / "model.safetensors")
        said = refusal(tmp_path)
        assert name in said
        assert "shape" in said


def test_a_shape_without_elements(tmp_path):
    rewrite(make(tmp_path), lambda tensors: tensors.update({"model.norm.weight": torch.zeros(2**40, 0)}))
    assert "model.norm.weight" in refusal(tmp_path)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.bool, torch.float8_e4m3fn])
def test_a_dtype_weights_do_not_have(tmp_path, dtype):
    make(tmp_path)
    rewrite(tmp_path, lambda t: t.update({"model.norm.weight": t["model.norm.weight"].to(dtype)}))
    assert "model.norm.weight" in refusal(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_numbers_that_are_none(tmp_path, value, dtype):
    def poison(tensors):
        tensors.update({name: tensor.to(dtype) for name, tensor in tensors.items()})
        tensors["model.layers.1.mlp.down_proj.weight"][3, 5] = value

    rewrite(make(tmp_path), poison)
    assert "model.layers.1.mlp.down_proj.weight" in refusal(tmp_path, load=True)


def test_a_tied_head_that_differs_from_the_embedding(tmp_path):
    make(tmp_path, tie_word_embeddings=True)
    assert "differs from the embedding" in refusal(tmp_path, load=True)


def test_files_that_change_while_they_are_read(tmp_path):
    opened = checkpoint.open(make(tmp_path))
    rewrite(tmp_path, lambda tensors: tensors.update({"model.norm.weight": torch.ones(3)}))
    with pytest.raises(Refused, match="changed"):
        opened.load()


def test_a_model_larger_than_memory(tmp_path, monkeypatch):
    make(tmp_path)
    monkeypatch.setattr(checkpoint, "_free_memory", lambda device: 1000)
    assert "memory" in refusal(tmp_path, Failed, load=True)


# ------------------------------------------------------------------ shards


def shard(folder, where: dict[str, str] | None = None) -> None:
    """Split the weights in two files, or keep what is there and write an index that says ``where``."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    if where is None:
        names = sorted(tensors)
        halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
        for name, its in halves.items():
            save_file({key: tensors[key] for key in its}, folder / name)
        where = {key: name for name, its in halves.items() for key in its}
    file.unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def test_shards_are_one_model(tmp_path):
    whole = checkpoint.open(make(tmp_path)).load().state_dict()
    shard(tmp_path)
    parts = checkpoint.open(tmp_path).load().state_dict()
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "/etc/passwd", "sub/x.safetensors", "..", "a\\b", "a\0b", ""]
)
def test_a_shard_outside_the_folder(tmp_path, name):
    folder = make(tmp_path / "model")
    save_file({"model.norm.weight": torch.ones(16)}, tmp_path / "outside.safetensors")
    shard(folder, {"model.norm.weight": name})
    assert "outside itself" in refusal(folder)


def test_a_missing_shard(tmp_path):
    shard(make(tmp_path))
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002.safetensors" in refusal(tmp_path)


def test_a_tensor_in_two_shards(tmp_path):
    shard(make(tmp_path))
    one, other = (tmp_path / f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
    save_file({**load_file(other), **load_file(one)}, other)
    assert "in both" in refusal(tmp_path)


@pytest.mark.parametrize(
    "index", [{}, {"weight_map": {}}, {"weight_map": []}, {"weight_map": {"a": 1}}, {"weight_map": {"a": None}}]
)
def test_an_index_that_maps_nothing(tmp_path, index):
    shard(make(tmp_path))
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    refusal(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_link_that_leaves_the_folder(tmp_path, name):
    folder = make(tmp_path / "model")
    os.replace(folder / name, tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    assert "is a link" in refusal(folder)


def test_the_links_of_the_hugging_face_cache_are_followed(tmp_path):
    repository = tmp_path / "models--someone--tiny"
    folder = make(repository / "snapshots" / "abc")
    (repository / "blobs").mkdir()
    for i, file in enumerate(sorted(folder.iterdir())):
        os.replace(file, repository / "blobs" / f"{i:064x}")
        file.symlink_to(f"../../blobs/{i:064x}")
    checkpoint.open(folder).load()
    (tmp_path / "models--other" / "blobs").mkdir(parents=True)
    os.replace(repository / "blobs" / f"{1:064x}", tmp_path / "models--other" / "blobs" / "w")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("../../../models--other/blobs/w")
    assert "is a link" in refusal(folder)


# ------------------------------------------------------------------ the oddities of real files


def test_files_saved_without_the_head_leave_out_its_prefix(tmp_path):
    def strip(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        for layer in range(2):
            tensors[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 32, 32, dtype=torch.uint8)
            tensors[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)

    whole = checkpoint.open(make(tmp_path, GPT2)).load().state_dict()
    rewrite(tmp_path, strip)
    bare = checkpoint.open(tmp_path).load().state_dict()
    assert all(torch.equal(whole[name], bare[name]) for name in whole)


@pytest.mark.parametrize(
    ("config", "dead"),
    [
        (LLAMA, {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)}),
        (NEOX, {
            "gpt_neox.layers.1.attention.bias": torch.ones(1, 1, 32, 32, dtype=torch.bool),
            "gpt_neox.layers.1.attention.masked_bias": torch.tensor(-1e9),
            "gpt_neox.layers.0.attention.rotary_emb.inv_freq": torch.ones(1),
        }),
    ],
    ids=["llama", "gpt_neox"],
)  # fmt: skip
def test_buffers_of_old_files_are_passed_over(tmp_path, config, dead):
    rewrite(make(tmp_path, config), lambda tensors: tensors.update(dead))
    checkpoint.open(tmp_path).load()


@pytest.mark.parametrize("config", [{**LLAMA, "tie_word_embeddings": True}, GPT2], ids=["llama", "gpt2"])
def test_a_tied_head_may_be_stored_twice_or_under_the_other_name(tmp_path, config):
    embedding = "transformer.wte.weight" if config is GPT2 else "model.embed_tokens.weight"
    whole = checkpoint.open(make(tmp_path, config)).load().state_dict()
    rewrite(tmp_path, lambda tensors: tensors.update({"lm_head.weight": tensors[embedding].clone()}))
    twice = checkpoint.open(tmp_path).load().state_dict()
    rewrite(tmp_path, lambda tensors: tensors.pop(embedding))
    other = checkpoint.open(tmp_path).load().state_dict()
    assert all(torch.equal(whole[name], twice[name]) and torch.equal(whole[name], other[name]) for name in whole)


def test_the_head_of_neox_has_two_names_but_one_place(tmp_path):
    rewrite(make(tmp_path, NEOX), lambda t: t.update({"lm_head.weight": t.pop("embed_out.weight")}))
    checkpoint.open(tmp_path).load()
    rewrite(tmp_path, lambda t: t.update({"embed_out.weight": t["lm_head.weight"].clone()}))
    assert "one too many" in refusal(tmp_path)


def test_the_file_may_be_overwritten_while_the_model_lives(tmp_path):
    model = checkpoint.open(make(tmp_path)).load()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.write(b"\xff" * (tmp_path / "model.safetensors").stat().st_size)
        file.truncate(16)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_the_fingerprint_knows_files_apart(tmp_path):
    first = checkpoint.open(make(tmp_path / "a")).fingerprint
    assert checkpoint.open(make(tmp_path / "b")).fingerprint == first
    say(tmp_path / "b", rope_theta=5000.0)
    assert checkpoint.open(tmp_path / "b").fingerprint != first
    rewrite(tmp_path / "a", lambda tensors: tensors["lm_head.weight"].mul_(1.01))
    assert checkpoint.open(tmp_path / "a").fingerprint != first
