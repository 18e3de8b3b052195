"""Tiny models for the tests of what models are asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from . import speech
from .encoders import BERT, write

Make = Callable[..., Path]


@pytest.fixture
def encoder(tmp_path: Path) -> Make:
    """encoder(BERT, id2label={...}) -> the folder of a random model of that config, with its tokenizer."""

    def make(config: dict[str, Any] = BERT, **changes: Any) -> Path:
        config = {**config, **changes}
        return write(tmp_path / f"{config['model_type']}{len(list(tmp_path.iterdir()))}", config)

    return make


@pytest.fixture
def whisper(tmp_path: Path) -> Make:
    """whisper(seed, **says) -> the folder of a random model of speech; ``says``: of its generation_config.json."""

    def made(seed: int = 0, **says: Any) -> Path:
        return speech.write(tmp_path, seed, **says)

    return made
