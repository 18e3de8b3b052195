"""cutaway bench beside engines with formats of their own: what is written for them, and how they take part."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cutaway.bench import formats, measure
from cutaway.bench.processes import OURS, Process, python_of
from cutaway.errors import Failed
from cutaway.families import describe
from cutaway.model.positions import inverse_frequencies
from tests.families.making import GPT2, LLAMA, make
from tests.tasks.test_rewrite import T5

PEERS = Path(__file__).parents[2] / ".peers"
SCALED = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
QWEN3 = LLAMA | {"model_type": "qwen3", "head_dim": 8}
GEMMA2 = LLAMA | {"model_type": "gemma2", "head_dim": 8, "tie_word_embeddings": True}

#: An engine with CTranslate2's face, whose every token is 7.
STAND_IN = {
    "ctranslate2/__init__.py": """
from types import SimpleNamespace
__version__ = "9.8"
class Generator:
    def __init__(self, path, device, intra_threads, compute_type):
        assert open(path + "/model").read() == compute_type and intra_threads > 0
    def generate_batch(self, prompts, max_length, callback, **_):
        assert all(word.isdigit() for word in prompts[0])
        for _ in range(max_length):
            callback(SimpleNamespace(token_id=7))
""",
    "ctranslate2/converters.py": """
import os
from transformers import AutoTokenizer
class TransformersConverter:
    def __init__(self, folder):
        assert os.path.exists(folder + "/model.safetensors")
        assert AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids("17") == 17
    def convert(self, target, quantization):
        os.mkdir(target)
        with open(target + "/model", "w") as file:
            file.write(quantization)
""",
    "openvino.py": "",  # and no nncf
    "llama_cpp.py": "raise ImportError('its library is broken. Build it anew.')",
}


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines that are installed, as far as anybody can see."""
    monkeypatch.setattr(measure, "MOST", 1)
    folder = tmp_path / "installed"
    for name, content in STAND_IN.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_an_engine_takes_part_by_its_own_format(cutaway: Any, tiny: Path, stand_ins: None, tmp_path: Path) -> None:
    """And those that can't be given the model are said, and left out; nothing that was written stays."""
    beside = tmp_path / "beside"
    beside.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(beside))
        code, out, err = cutaway("bench", tiny, "--quantize", "int4", "--json")
    assert code == 0
    engines = {engine["engine"]: engine for engine in json.loads(out)["engines"]}
    assert list(engines) == [OURS, "transformers", "CTranslate2"]
    assert (engines["CTranslate2"]["version"], engines["CTranslate2"]["dtype"]) == ("9.8", "int8")  # it has but 8 bits
    assert engines["CTranslate2"]["same"] != [24]
    assert min(engines["CTranslate2"]["written"] + engines["CTranslate2"]["read"]) > 0
    assert "llama.cpp is left out: ImportError: its library is broken." in err
    assert "OpenVINO is left out: ModuleNotFoundError: No module named 'nncf'." in err
    assert "pip install" not in err
    assert list(beside.iterdir()) == []


def test_what_is_not_installed_is_said(cutaway: Any, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "MOST", 1)
    monkeypatch.setattr(measure, "engines_of", lambda environment: ["OpenVINO", "transformers"])
    monkeypatch.setattr(measure, "written", lambda *_: tiny / "nowhere")
    code, _, err = cutaway("bench", tiny)
    assert code == 0
    assert (
        "llama.cpp and CTranslate2 are not there to compare with: pip install llama-cpp-python gguf ctranslate2, or "
        "--peers FOLDER." in err
    )
    assert "OpenVINO stopped: " in err


@pytest.mark.parametrize(
    ("there", "config", "task", "device", "take_part", "said"),
    [
        (["transformers", "OpenVINO"], LLAMA, "continue", "cpu", ["transformers", "OpenVINO"], []),
        (["transformers", "OpenVINO"], T5, "rewrite", "cpu", ["transformers"],
         ["OpenVINO is compared only with models that go on with a text."]),
        (["llama.cpp", "CTranslate2"], LLAMA, "continue", "cuda", [],
         ["llama.cpp and CTranslate2 are compared only on processors."]),
        (["transformers"], {"quantization_config": {"quant_method": "cutaway", "bits": 8, "version": 1}}, "continue",
         "cpu", [], ["No other engine reads a folder of cutaway quantize: nothing is compared."]),
    ],
    ids=["all", "behind an encoder", "on a GPU", "quantised"],
)  # fmt: skip
def test_who_is_compared(
    there: list[str], config: dict[str, Any], task: str, device: str, take_part: list[str], said: list[str]
) -> None:
    notes: list[str] = []
    assert measure._comparable(there, config, task, device, notes) == take_part
    assert notes == said


def test_a_model_too_large_to_be_written_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_memory", lambda: 11_999)
    with pytest.raises(Failed, match=r"OpenVINO is left out: to write 1,000 parameters .* are free in memory"):
        measure._room("OpenVINO", 1000, tmp_path)
    monkeypatch.setattr(measure, "_memory", lambda: 12_000)
    measure._room("OpenVINO", 1000, tmp_path)


# ------------------------------------------------------------------------------------------------- llama.cpp's files


@pytest.mark.parametrize("config", [LLAMA, GPT2, QWEN3], ids=lambda config: config["model_type"])
def test_every_tensor_has_its_place(config: dict[str, Any], tmp_path: Path) -> None:
    model = formats.opened(make(tmp_path, config))
    content = formats.gguf_of(model)
    names = set(content.tensors)
    assert content.architecture == config["model_type"]
    assert {name.rpartition(".")[0] for name in names if ".1." in name} == {
        name.rpartition(".")[0].replace(".0.", ".1.") for name in names if ".0." in name
    }
    assert ("output.weight" in names) == (config is not GPT2)  # whose embedding is its unembedding
    held = sum(parameter.numel() for parameter in model.parameters())
    assert sum(tensor.size for tensor in content.tensors.values()) == held
    assert content.facts["block_count"] == 2
    assert content.facts["attention.head_count"] == 4
    assert content.tensors["blk.0.ffn_up.weight"].shape == ((64 if config is GPT2 else 24), 16)


def test_rows_of_queries_lie_as_llama_cpp_turns_them(tmp_path: Path) -> None:
    """It turns 2i and 2i + 1 of a head where transformers turns i and i + half."""
    model = formats.opened(make(tmp_path))
    theirs = model.model.layers[0].self_attn.q_proj.weight.numpy().reshape(4, 4, 16)
    ours = formats.gguf_of(model).tensors["blk.0.attn_q.weight"].reshape(4, 4, 16)
    assert np.array_equal(ours, theirs[:, [0, 2, 1, 3]])
    assert np.array_equal(formats.interleaved(np.arange(8), 2), [0, 2, 1, 3, 4, 6, 5, 7])  # biases too


def test_slower_turns_are_written_along(tmp_path: Path) -> None:
    """By how much each pair is slower: our own frequencies say so too."""
    config = LLAMA | {"rope_scaling": SCALED, "max_position_embeddings": 512, "hidden_size": 64}
    content = formats.gguf_of(formats.opened(make(tmp_path, config)))
    rope: Any = describe(config)[1].stack.blocks[0].attn.rope  # type: ignore[union-attr]
    plain = 10000.0 ** -(torch.arange(0, 16, 2) / 16)
    expected = (plain / inverse_frequencies(rope, torch.device("cpu"))).numpy()
    assert expected.max() == pytest.approx(8)
    np.testing.assert_allclose(content.tensors["rope_freqs.weight"], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (GEMMA2, "no file of its format is written here for a gemma2 model"),
        (QWEN3 | {"rope_scaling": SCALED}, "no file of its format is written here for a qwen3 model with scaled"),
        (LLAMA | {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8}},
         "rotations that scale attention too"),
    ],
    ids=["another kind", "scaled", "yarn"],
)  # fmt: skip
def test_what_is_not_written_is_said(config: dict[str, Any], says: str, tmp_path: Path) -> None:
    model = formats.opened(make(tmp_path, config))
    with pytest.raises(SystemExit, match=says):
        formats.gguf_of(model)


# ------------------------------------------------------------------------------------------ the engines themselves


@pytest.mark.skipif(not python_of(PEERS).exists(), reason="no engines here: python benchmarks/peers.py brings them")
@pytest.mark.parametrize("engine", [engine for engine, peer in measure.PEERS.items() if peer.formats])
@pytest.mark.parametrize("config", [LLAMA, GPT2, QWEN3], ids=lambda config: config["model_type"])
def test_an_engine_reads_the_same_model(engine: str, config: dict[str, Any], tmp_path: Path) -> None:
    """Its losses are ours: llama.cpp keeps keys and values in 16 bits."""
    wide = {"n_embd": 64} if config is GPT2 else {"hidden_size": 64, "intermediate_size": 96, "rope_scaling": None}
    if config is LLAMA and engine != "CTranslate2":  # whose converter overlooks both
        wide |= {"rope_scaling": SCALED, "attention_bias": True}  # type: ignore[dict-item]
    folder = make(tmp_path / "model", config | wide | {"vocab_size": 320})
    rng = random.Random(0)
    windows = [[rng.randrange(320) for _ in range(30)] for _ in range(2)]
    kind = measure.PEERS[engine].formats["float32"]
    target = measure.written(engine, kind, folder, tmp_path, python_of(PEERS))
    losses = []
    for process in (Process(OURS, folder), Process(engine, target, dtype=kind, threads=1, python=python_of(PEERS))):
        losses.append(process.ask({"windows": windows})["losses"])
        process.close()
    assert losses[1] == pytest.approx(losses[0], abs=2e-4)
    assert max(losses[0]) < 3 * math.log(320)
