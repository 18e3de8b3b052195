"""A tiny model with a tokenizer, a way to run command lines in this process, and one to run them in another."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from cutaway import cli
from cutaway.inputs.engines import BYTE_OF
from tests.families.making import LLAMA, make


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose tokens are the 256 bytes; its context is 32."""
    folder = make(tmp_path_factory.mktemp("tiny"), {**LLAMA, "vocab_size": 256})
    tokenizer = Tokenizer(models.BPE(BYTE_OF, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No network, an empty cache, nothing remembered from elsewhere."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    monkeypatch.setenv("CUTAWAY_HOME", str(tmp_path / "state"))


@pytest.fixture
def cutaway(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """cutaway("next", "a") -> its exit code and what it printed."""

    def run(*arguments: Any) -> Outcome:
        code = cli.call([str(argument) for argument in arguments])
        return Outcome(code, *capsys.readouterr())

    return run


def command(*arguments: str | bytes, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """The same in a process of its own."""
    here = Path(cli.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(here)} | options.pop("env", {})
    return subprocess.run(
        [sys.executable, "-m", "cutaway.cli", *arguments], capture_output=True, timeout=120, env=environment, **options
    )
