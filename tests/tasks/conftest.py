"""Tiny encoders for the tests of what encoders are asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .encoders import BERT, write

Make = Callable[..., Path]


@pytest.fixture
def encoder(tmp_path: Path) -> Make:
    """encoder(BERT, id2label={...}) -> the folder of a random model of that config, with its tokenizer."""

    def make(config: dict[str, Any] = BERT, **changes: Any) -> Path:
        config = {**config, **changes}
        return write(tmp_path / f"{config['model_type']}{len(list(tmp_path.iterdir()))}", config)

    return make
