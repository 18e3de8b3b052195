"""Downloading with progress from a hub on 127.0.0.1: ended and gone on with, cut short, damaged, refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cutaway import hub
from cutaway.families import checkpoint, describe
from cutaway.model import spec
from tests.families.making import GPT2, LLAMA, NEOX, make
from tests.hub.fake_hub import FakeHub

NAME = "someone/tiny"
WIDE = {**GPT2, "vocab_size": 4_000, "n_embd": 64}  # weights of a megabyte or so

FETCH = """
import sys
from cutaway import errors, hub
try:
    folder = hub.fetch(sys.argv[1], lambda bytes, total: print(bytes, total, flush=True))
    print("there", folder, flush=True)
except errors.CutawayError as problem:
    print("problem", type(problem).__name__, problem, flush=True)
"""


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeHub]:
    make(tmp_path / "hub" / NAME, WIDE)
    (tmp_path / "hub" / NAME / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    hub = FakeHub(tmp_path / "hub")
    yield hub
    hub.close()


def environment(fake: FakeHub, tmp_path: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    path = str(Path(hub.__file__).parents[1])
    return {**kept, "HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": fake.address, "PYTHONPATH": path, **more}


def start(fake: FakeHub, tmp_path: Path, name: str = NAME, before: str = "", **more: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", before + FETCH, name],
        env=environment(fake, tmp_path, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def fetch(fake: FakeHub, tmp_path: Path, **options: str) -> tuple[list[tuple[int, int]], str]:
    """The progress that was told, and the last line."""
    out, err = start(fake, tmp_path, **options).communicate(timeout=120)
    *told, last = out.splitlines() or [err]
    return [(int(bytes), int(total)) for bytes, total in map(str.split, told)], last


def weights(fake: FakeHub) -> int:
    return (fake.folder / NAME / "model.safetensors").stat().st_size


def cached(tmp_path: Path) -> Path:
    return tmp_path / "home" / "hub" / f"models--{NAME.replace('/', '--')}"


def whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    entries = [entry for entry in hub.cached() if entry.problem is None]
    for entry in entries:
        checkpoint.open(entry.folder, strict=True).load()
    return [entry.name for entry in entries] == [NAME]


def test_a_download_tells_its_bytes_and_leaves_a_cache_the_library_knows(fake, tmp_path, monkeypatch):
    told, last = fetch(fake, tmp_path)
    assert last.startswith("there"), last
    assert told == sorted(told)
    assert told[0] == (0, weights(fake))
    assert told[-1] == (weights(fake), weights(fake))
    assert len(told) > 4
    assert whole(tmp_path, monkeypatch)
    assert not list(cached(tmp_path).rglob("*.bin"))
    assert not list(cached(tmp_path).rglob("*incomplete"))
    offline = {**environment(fake, tmp_path), "HF_HUB_OFFLINE": "1"}
    code = f"import huggingface_hub as h; print(h.hf_hub_download({NAME!r}, 'model.safetensors'))"
    said = subprocess.run([sys.executable, "-c", code], env=offline, capture_output=True, text=True)
    assert said.stdout.strip().endswith("model.safetensors"), said.stderr


def test_a_killed_download_leaves_no_model_and_goes_on_where_it_was(fake, tmp_path, monkeypatch):
    fake.slow = 0.02
    process = start(fake, tmp_path)
    while int(process.stdout.readline().split()[0]) < weights(fake) // 3:
        pass
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not whole(tmp_path, monkeypatch)
    fake.slow = 0
    fake.asked.clear()
    told, last = fetch(fake, tmp_path)
    assert last.startswith("there"), last
    assert told[0][0] >= weights(fake) // 3
    ((_, begin),) = [one for one in fake.asked if one[0] == "model.safetensors"]
    assert begin == told[0][0]
    assert whole(tmp_path, monkeypatch)


def test_a_second_download_fetches_nothing(fake, tmp_path):
    fetch(fake, tmp_path)
    fake.asked.clear()
    told, last = fetch(fake, tmp_path)
    assert last.startswith("there")
    assert told == [(weights(fake), weights(fake))]
    assert fake.asked == []


def test_a_file_cut_short_is_gone_on_with(fake, tmp_path, monkeypatch):
    fake.cut = 300_000
    _, last = fetch(fake, tmp_path)
    assert last.startswith("there"), last
    begins = [begin for name, begin in fake.asked if name == "model.safetensors"]
    assert len(begins) == 2
    assert 0 < begins[1] <= 300_000
    assert whole(tmp_path, monkeypatch)


def test_a_hub_that_ignores_ranges_is_read_from_the_beginning(fake, tmp_path, monkeypatch):
    fake.cut, fake.deaf = 300_000, True
    _, last = fetch(fake, tmp_path)
    assert last.startswith("there"), last
    assert whole(tmp_path, monkeypatch)


def test_other_bytes_than_promised_are_thrown_away(fake, tmp_path, monkeypatch):
    fake.damaged = True
    _, last = fetch(fake, tmp_path)
    assert last == f"problem Failed The weights of {NAME} arrived damaged. Fetch them again."
    assert not list(cached(tmp_path).rglob("*incomplete"))
    fake.damaged = False
    assert fetch(fake, tmp_path)[1].startswith("there")
    assert whole(tmp_path, monkeypatch)


def test_another_family_is_refused_before_its_weights_are_fetched(fake, tmp_path):
    config = fake.folder / NAME / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_type": "mixtral"}))
    _, last = fetch(fake, tmp_path)
    assert last.startswith("problem Refused")
    assert "model.safetensors" not in [name for name, _ in fake.asked]


def test_pickles_are_refused(fake, tmp_path):
    (fake.folder / NAME / "model.safetensors").unlink()
    _, last = fetch(fake, tmp_path)
    assert last.startswith("problem Refused")
    assert "pickles" in last


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit there")
def test_a_disk_that_takes_no_more_is_a_sentence_and_the_part_is_kept(fake, tmp_path, monkeypatch):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))\n"
    _, last = fetch(fake, tmp_path, before=limit)
    assert last.startswith("problem Failed")
    assert "too large" in last
    told, last = fetch(fake, tmp_path)
    assert last.startswith("there"), last
    assert told[0][0] > 200_000
    assert whole(tmp_path, monkeypatch)


def test_a_disk_too_small_is_known_before_anything_is_fetched(fake, tmp_path):
    full = "import shutil, types; shutil.disk_usage = lambda path: types.SimpleNamespace(free=1_000)\n"
    _, last = fetch(fake, tmp_path, before=full)
    assert last.startswith("problem Failed someone/tiny needs 1 MB more and the disk has 0")
    assert "model.safetensors" not in [name for name, _ in fake.asked]


def test_without_a_network_it_says_so(fake, tmp_path):
    began = time.monotonic()
    for more in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        _, last = fetch(fake, tmp_path, **more)
        assert last.startswith("problem NotFound")
        assert "the hub cannot be reached" in last
    assert time.monotonic() - began < 60


def test_a_repository_that_is_not_there(fake, tmp_path):
    _, last = fetch(fake, tmp_path, name="someone/nothing")
    assert last.startswith("problem NotFound There is no model called someone/nothing")


def test_shards_are_fetched_and_counted_together(fake, tmp_path, monkeypatch):
    folder = fake.folder / NAME
    from safetensors.torch import load_file, save_file

    tensors = list(load_file(folder / "model.safetensors").items())
    (folder / "model.safetensors").unlink()
    parts = {"a.safetensors": dict(tensors[:5]), "b.safetensors": dict(tensors[5:])}
    for name, part in parts.items():
        save_file(part, folder / name)
    index = {"weight_map": {tensor: name for name, part in parts.items() for tensor in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    told, last = fetch(fake, tmp_path)
    assert last.startswith("there"), last
    assert told == sorted(told)
    assert told[-1][0] == sum((folder / name).stat().st_size for name in parts)
    assert whole(tmp_path, monkeypatch)


CONFIGS = {
    "openai-community/gpt2": GPT2
    | {"vocab_size": 50257, "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024},
    "openai-community/gpt2-medium": GPT2
    | {"vocab_size": 50257, "n_embd": 1024, "n_head": 16, "n_layer": 24, "n_positions": 1024},
    "HuggingFaceTB/SmolLM-135M": {**LLAMA, "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536}
    | {"num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True},
    "HuggingFaceTB/SmolLM2-360M": {**LLAMA, "vocab_size": 49152, "hidden_size": 960, "intermediate_size": 2560}
    | {"num_hidden_layers": 32, "num_attention_heads": 15, "num_key_value_heads": 5, "tie_word_embeddings": True},
    "Qwen/Qwen3-0.6B": {**LLAMA, "vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072}
    | {"num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "tie_word_embeddings": True}
    | {"model_type": "qwen3", "head_dim": 128},
    "EleutherAI/pythia-70m": NEOX
    | {"vocab_size": 50304, "hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8}
    | {"num_hidden_layers": 6},
    "EleutherAI/pythia-160m": NEOX
    | {"vocab_size": 50304, "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
    | {"num_hidden_layers": 12},
}


@pytest.mark.parametrize("offer", hub.OFFERS, ids=lambda offer: offer.name)
def test_an_offer_says_what_the_model_is(offer):
    family, described, warnings = describe(CONFIGS[offer.id])
    assert (family.model_type, spec.parameters(described), warnings) == (offer.family, offer.parameters, [])
    assert 2 * offer.parameters < offer.bytes < 5 * offer.parameters
