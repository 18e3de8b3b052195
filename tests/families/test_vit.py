"""Vision models' files as they are found: poolers, mask tokens, sides written twice, heads that are not read."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from cutaway.errors import Refused
from cutaway.families import checkpoint, describe
from cutaway.model import spec
from tests.families.making import make, say
from tests.families.published import PUBLISHED
from tests.families.variants import IMAGE

VIT = {"model_type": "vit", "architectures": ["ViTForImageClassification"], **IMAGE}


def test_what_nobody_reads_is_left_out(tmp_path):
    folder = make(tmp_path, VIT)
    ours = checkpoint.open(folder).load().state_dict()
    extra = {
        "vit.embeddings.mask_token": torch.zeros(1, 1, 48),
        "vit.pooler.dense.weight": torch.zeros(48, 48),
        "vit.pooler.dense.bias": torch.zeros(48),
    }
    save_file(load_file(folder / "model.safetensors") | extra, folder / "model.safetensors")
    again = checkpoint.open(folder, strict=True).load().state_dict()
    assert ours.keys() == again.keys()
    assert all(torch.equal(ours[name], again[name]) for name in ours)


def test_the_learned_vectors_come_from_where_they_are_kept(tmp_path):
    folder = make(tmp_path, VIT)
    theirs, model = load_file(folder / "model.safetensors"), checkpoint.open(folder).load()
    assert theirs["vit.embeddings.cls_token"].shape == (1, 1, 48)
    assert torch.equal(model.stem.extra[0].weight, theirs["vit.embeddings.cls_token"][0])
    assert torch.equal(model.stem.positions.weight, theirs["vit.embeddings.position_embeddings"][0])


@pytest.mark.parametrize("shape", [(2, 10, 48), (1, 11, 48), (10, 48), (1, 1, 10, 48)])
def test_positions_of_another_shape_are_named(tmp_path, shape):
    folder = make(tmp_path, VIT)
    tensors = load_file(folder / "model.safetensors") | {"vit.embeddings.position_embeddings": torch.zeros(shape)}
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(Refused, match="position_embeddings"):
        checkpoint.open(folder)


def test_a_model_saved_with_its_head_and_read_without(tmp_path):
    folder = make(tmp_path, VIT)
    say(folder, architectures=["ViTModel"])
    assert checkpoint.open(folder).load().head is None


def test_a_side_may_be_written_twice():
    assert describe({**VIT, "image_size": [24, 24], "patch_size": [8, 8]})[1] == describe(VIT)[1]


@pytest.mark.parametrize(
    ("says", "named"),
    [
        ({"image_size": [24, 32]}, "no square"),
        ({"patch_size": [8, 4]}, "no square"),
        ({"patch_size": [8]}, "no square"),
        ({"image_size": ["24", "24"]}, "whole number"),
        ({"image_size": 30}, "30 pixels"),
        ({"image_size": 10**6}, "whole number"),
        ({"num_attention_heads": 5}, "not a multiple"),
        ({"head_dim": 24}, "does not compute"),
        ({"hidden_act": "quick_gelu"}, "known are"),
        ({"architectures": ["ViTForMaskedImageModeling"]}, "does not read yet"),
        ({"architectures": ["ViTForSemanticSegmentation"]}, "does not read yet"),
    ],
)
def test_what_is_not_computed_is_refused(says, named):
    with pytest.raises(Refused, match=named):
        describe({**VIT, **says})


def test_facts():
    vit, deit = (describe(PUBLISHED[name])[1] for name in ("ViT base", "DeiT base, distilled"))
    assert vit.stem == spec.Patches(768, image=224, patch=16)
    assert (vit.context, deit.context) == (197, 198)
    assert vit.stack.blocks[0].attn == spec.Attention(12, 12, 64, 0.125, bias="qkvo", causal=False)
    assert vit.head == spec.Head(1000, bias=True, pool="first")
    assert deit.head == spec.Head(1000, bias=True, pool="first_two")
    assert (vit.task, describe(PUBLISHED["DINO small"])[1].task) == ("see", "embed")
