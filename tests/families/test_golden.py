"""Every family against stored results of the reference, so that the suite bites without it.

tools/golden_families.py writes the results.
"""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from cutaway.families import checkpoint, known
from tests.families.golden import FILE, TOKENS, weight
from tests.families.variants import VARIANTS


def _stored() -> tuple[dict[str, dict], dict[str, torch.Tensor]]:
    with safe_open(FILE, framework="pt") as file:
        return json.loads(file.metadata()["models"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


MODELS, TENSORS = _stored()


def test_every_variant_of_every_family_is_stored():
    assert MODELS.keys() == VARIANTS.keys()
    assert {model["config"]["model_type"] for model in MODELS.values()} == set(known())
    assert FILE.stat().st_size < 360_000


@pytest.mark.parametrize("variant", MODELS)
def test_a_golden_model(variant, tmp_path):
    from tests.families.reference import our_run, worst

    model = MODELS[variant]
    (tmp_path / "config.json").write_text(json.dumps(model["config"]))
    weights = {name: weight(name, tuple(shape)) for name, shape in model["shapes"].items()}
    save_file(weights, tmp_path / "model.safetensors")
    theirs = {
        name.removeprefix(f"{variant}/"): tensor for name, tensor in TENSORS.items() if name.startswith(f"{variant}/")
    }
    opened = checkpoint.open(tmp_path, strict=True)
    assert worst(our_run(opened.load(), TOKENS), theirs) < 1e-5
