"""Saved models of every variant, made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, dict[str, torch.Tensor]]]:
    """variant -> the folder the reference saved it to, and what the reference computes."""
    transformers = pytest.importorskip("transformers", reason="compares with transformers, which is not installed")
    transformers.logging.set_verbosity_error()
    from tests.families.reference import reference_model, reference_run, write

    torch.set_num_threads(1)
    made: dict[str, tuple[Path, dict[str, torch.Tensor]]] = {}

    def make(variant: str) -> tuple[Path, dict[str, torch.Tensor]]:
        if variant not in made:
            model = reference_model(variant)
            folder = write(model, tmp_path_factory.mktemp("saved"))
            made[variant] = folder, reference_run(model)
        return made[variant]

    return make
