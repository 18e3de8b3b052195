"""From a name or a path to a folder: bundled, local, cached, downloaded; and what is said when there is none."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import errors
from safetensors.torch import load_file, save_file

from cutaway import hub
from cutaway.errors import Failed, NotFound, Refused
from cutaway.families import checkpoint
from tests.families.making import make

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty Hugging Face cache, and no hub."""
    for name in ("HF_HOME", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))

    def no_network(*args, **kwargs):
        raise errors.LocalEntryNotFoundError("cannot reach the hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", no_network)
    return tmp_path / "cache"


def cached_model(cache: Path, name: str, revision: str = REVISION, main: bool = True, **changes) -> Path:
    repository = cache / f"models--{name.replace('/', '--')}"
    folder = make(repository / "snapshots" / revision, **changes)
    if main:
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / "main").write_text(revision)
    return folder


@pytest.fixture
def remote(tmp_path, cache, monkeypatch) -> Path:
    """A folder that plays the repository someone/tiny; what is asked for is linked into the cache as the hub does."""
    source = make(tmp_path / "remote")
    (source / "modeling_tiny.py").write_text("raise SystemExit('ran')")
    (source / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    for name in ("tokenizer.json", "preprocessor_config.json"):
        (source / name).write_text("{}")
    calls: list[list[str]] = []

    def snapshot_download(name, revision=None, allow_patterns=None):
        if name != "someone/tiny":
            raise errors.RepositoryNotFoundError("404", response=FakeResponse())
        assert revision in (None, REVISION)
        calls.append(allow_patterns)
        folder = cache / "models--someone--tiny" / "snapshots" / REVISION
        folder.mkdir(parents=True, exist_ok=True)
        for file in source.iterdir():
            if any(fnmatch(file.name, pattern) for pattern in allow_patterns):
                shutil.copy(file, folder)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    snapshot_download.calls = calls
    return source


class FakeResponse:
    """What the hub's errors ask of a response."""

    headers: dict[str, str] = {}  # noqa: RUF012
    status_code = 404
    request = None
    text = ""


# ------------------------------------------------------------------ finding


def test_a_bundled_name(monkeypatch, tmp_path):
    monkeypatch.setattr(hub, "BUNDLED", tmp_path / "bundled")
    make(tmp_path / "bundled" / "tales")
    assert hub.find("tales") == tmp_path / "bundled" / "tales"
    assert [entry.name for entry in hub.bundled()] == ["tales"]
    with pytest.raises(NotFound):
        hub.find("tales/../../secret")


def test_every_bundled_model_opens_without_a_warning():
    for entry in hub.bundled():
        assert entry.problem is None
        opened = checkpoint.open(hub.find(entry.name), strict=True)
        assert opened.parameters == entry.parameters


@pytest.mark.parametrize("as_path", [str, Path])
def test_a_folder(tmp_path, as_path):
    folder = make(tmp_path / "mine")
    assert hub.find(as_path(folder)) == folder


def test_a_relative_folder_wins_over_the_hub(tmp_path, monkeypatch, cache):
    cached_model(cache, "someone/tiny")
    make(tmp_path / "someone" / "tiny")
    monkeypatch.chdir(tmp_path)
    assert hub.find("someone/tiny") == Path("someone/tiny")


def test_a_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = make(tmp_path / "mine")
    assert hub.find("~/mine") == folder


@pytest.mark.parametrize(
    "name", ["./none", "/none", "a/b/c", "a/../b", "a b", "", "~nobody-at-all/x", "é", "a\0b", "x" * 500]
)
def test_no_such_path(name):
    with pytest.raises(NotFound) as caught:
        hub.find(name)
    assert caught.value.fix


def test_a_file_is_not_a_folder(tmp_path):
    file = make(tmp_path) / "model.safetensors"
    with pytest.raises(NotFound, match="is a file"):
        hub.find(file)


def test_a_cached_name_needs_no_network(cache):
    for name in ("someone/tiny", "tiny"):
        folder = cached_model(cache, name)
        assert hub.find(name) == folder


def test_main_wins_over_a_newer_snapshot(cache):
    main = cached_model(cache, "someone/tiny")
    cached_model(cache, "someone/tiny", "f" * 40, main=False)
    assert hub.find("someone/tiny") == main


def test_a_snapshot_of_another_revision_will_do(cache):
    folder = cached_model(cache, "someone/tiny", main=False)
    assert hub.find("someone/tiny") == folder


def test_a_reference_that_points_outside_is_no_reference(cache):
    folder = cached_model(cache, "someone/tiny")
    (cache / "models--someone--tiny/refs/main").write_text("../../../../etc")
    assert hub.find("someone/tiny") == folder


def test_an_incomplete_snapshot_is_not_used(cache):
    (cached_model(cache, "someone/tiny") / "model.safetensors").unlink()
    with pytest.raises(NotFound, match="not whole in the cache"):
        hub.find("someone/tiny")


# ------------------------------------------------------------------ downloading


def test_a_download_takes_safetensors_and_descriptions_only(remote):
    folder = hub.find("someone/tiny")
    fetched = ["config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"]
    assert sorted(file.name for file in folder.iterdir()) == fetched
    checkpoint.open(folder)
    assert hub.find("someone/tiny") == folder


def test_progress_goes_to_stderr(remote, capsys):
    hub.find("someone/tiny")
    out, err = capsys.readouterr()
    assert out == ""
    assert "someone/tiny" in err


def test_shards_are_fetched_by_the_names_of_the_index(remote):
    tensors = load_file(remote / "model.safetensors")
    (remote / "model.safetensors").unlink()
    save_file(tensors, remote / "weights-1.safetensors")
    save_file(tensors, remote / "consolidated.safetensors")
    index = {"weight_map": dict.fromkeys(tensors, "weights-1.safetensors")}
    (remote / "model.safetensors.index.json").write_text(json.dumps(index))
    folder = hub.find("someone/tiny")
    assert not (folder / "consolidated.safetensors").exists()
    checkpoint.open(folder)


@pytest.mark.parametrize("name", ["*", "../x.safetensors", "pytorch_model.bin", "[a-z]*.safetensors"])
def test_an_index_cannot_ask_for_other_files(remote, name):
    (remote / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"model.norm.weight": name}}))
    with pytest.raises(Refused):
        hub.find("someone/tiny")


def test_an_unknown_family_is_refused_before_its_weights_are_fetched(remote):
    make(remote, model_type="mixtral")
    with pytest.raises(Refused, match="not yet"):
        hub.find("someone/tiny")
    assert len(huggingface_hub.snapshot_download.calls) == 1


def test_pickles_are_not_fetched(remote, cache):
    (remote / "model.safetensors").unlink()
    with pytest.raises(Refused, match="pickles"):
        hub.find("someone/tiny")
    assert not list(cache.rglob("*.bin"))


def test_a_repository_without_config(remote):
    (remote / "config.json").unlink()
    with pytest.raises(NotFound, match=r"config\.json"):
        hub.find("someone/tiny")


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (errors.RepositoryNotFoundError("404", response=FakeResponse()), NotFound, "not on the hub"),
        (errors.GatedRepoError("403", response=FakeResponse()), NotFound, "gated"),
        (errors.HFValidationError("bad"), NotFound, "not on the hub"),
        (errors.LocalEntryNotFoundError("offline"), NotFound, "cannot be reached"),
        (errors.OfflineModeIsEnabled("offline"), NotFound, "cannot be reached"),
        (ConnectionError("refused"), NotFound, "cannot be reached"),
        (TimeoutError(), NotFound, "cannot be reached"),
        (errors.HfHubHTTPError("500 oops", response=FakeResponse()), Failed, "500 oops"),
        (OSError(28, "No space left on device"), Failed, "No space left"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_the_hub_says_is_said_in_a_sentence(monkeypatch, error, kind, says):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(kind, match=says) as caught:
        hub.find("someone/tiny")
    assert type(caught.value) is kind
    assert caught.value.fix
    assert "\n" not in str(caught.value)


def test_the_real_library_without_a_network(tmp_path):
    code = (
        "from cutaway import hub, errors\ntry: hub.find('someone/tiny')\nexcept errors.NotFound as e: print(e.message)"
    )
    environment = {"HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_DISABLE_TELEMETRY": "1"}
    for offline in ("0", "1"):
        said = subprocess.run(
            [sys.executable, "-c", code],
            env={**environment, "HF_HUB_OFFLINE": offline, "PYTHONPATH": str(Path(hub.__file__).parents[1])},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert "cannot be reached" in said.stdout, said.stderr


# ------------------------------------------------------------------ listing


def test_cached_models_are_listed_with_what_they_are(cache):
    cached_model(cache, "someone/tiny", dtype="bfloat16")
    (entry,) = hub.cached()
    assert (entry.name, entry.source, entry.family, entry.dtype) == ("someone/tiny", "cached", "llama", "bfloat16")
    assert entry.spec is not None
    assert entry.spec.stack.width == 16
    assert entry.parameters == checkpoint.open(entry.folder).parameters
    assert entry.problem is None


def test_without_a_stated_dtype_the_file_is_asked(cache):
    folder = cached_model(cache, "someone/tiny")
    content = json.loads((folder / "config.json").read_text())
    del content["dtype"]
    (folder / "config.json").write_text(json.dumps(content))
    assert hub.cached()[0].dtype == "float32"


def test_what_cannot_be_read_is_left_out_or_has_a_reason(cache):
    cached_model(cache, "a/foreign", model_type="mixtral")
    (cached_model(cache, "b/broken") / "config.json").write_text("{")
    (cached_model(cache, "c/incomplete") / "model.safetensors").unlink()
    (cache / "datasets--d--data").mkdir()
    (cache / "models--e--empty").mkdir()
    (entry,) = hub.cached()
    assert entry.name == "c/incomplete"
    assert isinstance(entry.problem, NotFound)


def test_no_cache_is_an_empty_list(monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", "/nowhere/at/all")
    assert hub.cached() == []


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"HF_HUB_CACHE": "/a"}, "/a"),
        ({"HUGGINGFACE_HUB_CACHE": "/b"}, "/b"),
        ({"HF_HOME": "/c"}, "/c/hub"),
        ({"XDG_CACHE_HOME": "/d"}, "/d/huggingface/hub"),
        ({"HOME": "/e"}, "/e/.cache/huggingface/hub"),
        ({"HF_HOME": "$HOME/f", "HOME": "/g"}, "/g/f/hub"),
    ],
)
def test_the_cache_is_where_the_library_has_it(monkeypatch, environment, expected):
    monkeypatch.delenv("HF_HUB_CACHE")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert hub.cache_folder() == Path(expected)


def test_listing_imports_neither_torch_nor_the_hub_library():
    code = (
        "import sys; from cutaway import hub; from cutaway.families import verify; hub.bundled(); hub.cached();"
        "print(sorted({'torch', 'numpy', 'huggingface_hub', 'safetensors', 'transformers'} & set(sys.modules)))"
    )
    path = str(Path(hub.__file__).parents[1])
    said = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": path}, capture_output=True, text=True)
    assert said.stdout.strip() == "[]", said.stderr


def test_what_makes_a_sentence_model_comes_along() -> None:
    """Without its pooling a model would give other vectors, and nobody would notice."""
    needed = {"modules.json", "sentence_bert_config.json", "1_Pooling/config.json", "preprocessor_config.json"}
    assert needed <= set(hub.SMALL_FILES)
