"""Opening and loading: what is read when, in which dtype, at what cost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cutaway.errors import Misuse
from cutaway.families import checkpoint
from tests.families.making import GPT2, LLAMA, make, random_model, say


def test_opening_reads_no_tensor(tmp_path, monkeypatch):
    folder = make(tmp_path)
    monkeypatch.setattr(checkpoint, "safe_open", lambda *args, **kwargs: pytest.fail("read the data"))
    opened = checkpoint.open(str(folder))
    assert opened.folder == folder
    assert opened.config["model_type"] == "llama"
    assert opened.parameters == sum(tensor.numel() for tensor in load_file(folder / "model.safetensors").values())


@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=["untied", "tied"])
def test_what_is_saved_is_loaded(tmp_path, config):
    model = random_model(config)
    checkpoint.save(model, config, tmp_path)
    loaded = checkpoint.open(tmp_path).load()
    ids = torch.tensor([[1, 2, 3, 4]])
    assert torch.equal(model(ids), loaded(ids))
    assert not loaded.training
    assert all(parameter.device.type == "cpu" for parameter in loaded.parameters())
    assert loaded.state_dict().keys() == model.state_dict().keys()


def test_a_file_is_opened_anew_for_each_part_of_it(tmp_path, monkeypatch):
    """What has been read of a mapped file is not held until all of it is read."""
    folder, opened = make(tmp_path), []
    whole = checkpoint.open(folder).load().state_dict()

    def watched(*args, **kwargs):
        opened.append(args)
        return safe_open(*args, **kwargs)

    monkeypatch.setattr(checkpoint, "safe_open", watched)
    monkeypatch.setattr(checkpoint, "AT_ONCE", sum(tensor.nbytes for tensor in whole.values()) // 3)
    parts = checkpoint.open(folder).load().state_dict()
    assert len(opened) in (2, 3)
    assert parts.keys() == whole.keys()
    assert all(torch.equal(parts[name], whole[name]) for name in whole)


def test_dtype_is_the_one_asked_for_else_the_config_s_else_the_file_s(tmp_path):
    make(tmp_path, LLAMA)
    tensors = {name: tensor.half() for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    save_file(tensors, tmp_path / "model.safetensors")

    def dtypes(asked=None):
        return {parameter.dtype for parameter in checkpoint.open(tmp_path).load(asked).parameters()}

    assert dtypes() == {torch.float32}  # config.json still says so
    say(tmp_path, dtype="bfloat16")
    assert dtypes() == {torch.bfloat16}
    say(tmp_path, dtype=None)
    assert dtypes() == {torch.float16}
    say(tmp_path, torch_dtype="bfloat16")
    assert dtypes() == {torch.bfloat16}
    assert dtypes("float32") == dtypes(torch.float32) == {torch.float32}


@pytest.mark.parametrize("dtype", ["int8", "float", "nonsense", torch.int64])
def test_a_dtype_weights_cannot_have(tmp_path, dtype):
    with pytest.raises(Misuse, match="dtype"):
        checkpoint.open(make(tmp_path)).load(dtype)


def test_saving_replaces_the_files_whole(tmp_path):
    make(tmp_path)
    model = random_model(LLAMA, seed=1)
    checkpoint.save(model, LLAMA, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    loaded = checkpoint.open(tmp_path).load().state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in model.state_dict().items())


def test_opening_does_not_import_the_compiler(tmp_path):
    """Filling meta tensors would: two seconds before the first picture."""
    folder = make(tmp_path)
    code = (
        "import sys; from cutaway.families import checkpoint;"
        f"checkpoint.open({str(folder)!r}).load(); print('torch._dynamo' in sys.modules)"
    )
    path = str(Path(checkpoint.__file__).parents[2])
    said = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": path}, capture_output=True, text=True)
    assert said.stdout.strip() == "False", said.stderr
