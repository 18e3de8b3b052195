"""Ours gives the reference's numbers: every variant, at every block's output and at the logits."""

from __future__ import annotations

import pytest
import torch

from cutaway.families import checkpoint
from tests.families.variants import VARIANTS

TOLERANCE = 1e-5  # of each tensor's largest magnitude, in float32


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_saved_model_gives_the_reference_s_numbers(saved, variant):
    from tests.families.reference import our_run, worst

    folder, theirs = saved(variant)
    opened = checkpoint.open(folder, strict=True)
    assert worst(our_run(opened.load()), theirs) < TOLERANCE


@pytest.mark.parametrize("variant", ["gpt2", "qwen2, windowed, tied, yarn", "gemma3", "neox"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shards_and_half_precision_files(saved, variant, dtype, tmp_path):
    from tests.families.reference import our_run, reference_model, reference_run, worst, write

    model = reference_model(variant)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype).float()  # its rotation tables stay as they are
    theirs = reference_run(model)
    folder = write(model.to(dtype), tmp_path, max_shard_size="40KB")
    assert (folder / "model.safetensors.index.json").exists()
    opened = checkpoint.open(folder)
    assert opened.dtype is dtype
    assert worst(our_run(opened.load(torch.float32)), theirs) < TOLERANCE


def test_norms_of_one_plus_w_stay_in_float32(saved):
    folder, _ = saved("gemma2")
    model = checkpoint.open(folder).load("bfloat16")
    dtypes = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    assert dtypes.pop("stack.norm.weight") is torch.float32
    assert dtypes["stack.blocks.0.attn.pre.weight"] is torch.float32
    assert dtypes["stack.blocks.0.attn.q.weight"] is torch.bfloat16
    assert model(torch.tensor([[5, 6, 7]])).dtype is torch.bfloat16


def test_a_batch_gives_what_each_sequence_gives_alone(saved):
    folder, _ = saved("mistral")
    model = checkpoint.open(folder).load()
    tokens = torch.randint(3, 97, (3, 20), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        together = model(tokens)
        alone = torch.cat([model(tokens[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5 * float(alone.abs().max()))
