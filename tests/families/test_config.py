"""config.json -> spec: the files as they were published, the same facts in new keys, and each default."""

from __future__ import annotations

import math
from typing import Any

import pytest

from cutaway.errors import Refused
from cutaway.families import describe, known
from cutaway.model import spec
from tests.families.published import PARAMETERS, PUBLISHED


def read(config: dict[str, Any]) -> spec.Transformer:
    return describe(config)[1]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_are_read_without_a_warning(name):
    _, described, warnings = describe(PUBLISHED[name])
    assert warnings == []
    assert spec.from_json(spec.to_json(described)) == described
    if name in PARAMETERS:
        assert spec.parameters(described) == PARAMETERS[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_reference_rewrites_them_and_nothing_changes(name):
    """What the reference makes of an old config, defaults filled in, says the same in the new keys."""
    transformers = pytest.importorskip("transformers", reason="compares with transformers, which is not installed")
    config = dict(PUBLISHED[name])
    rewritten = transformers.AutoConfig.for_model(config.pop("model_type"), **config).to_dict()
    _, described, warnings = describe(rewritten)
    assert warnings == []
    assert described == read(PUBLISHED[name])


def test_the_known_families():
    assert known() == [
        "bart", "bert", "camembert", "deit", "distilbert", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "llama",
        "marian", "mistral", "olmo2", "phi", "qwen2", "qwen3", "roberta", "smollm3", "t5", "vit", "whisper",
        "xlm-roberta",
    ]  # fmt: skip


# ------------------------------------------------------------------ facts, by hand


def test_gpt2():
    gpt2 = read(PUBLISHED["GPT-2"])
    block = gpt2.stack.blocks[5]
    assert gpt2.head.tied
    assert gpt2.context == 1024
    assert block.mlp == spec.MLP(3072, "gelu_tanh", bias=True)
    assert block.attn == spec.Attention(12, 12, 64, 0.125, bias="qkvo")


def test_llama3_scaling():
    rope = read(PUBLISHED["Llama 3.2 1B"]).stack.blocks[0].attn.rope
    assert rope == spec.Rope(500000.0, 64, spec.Llama3Scaling(32.0, 1.0, 4.0, 8192))


def test_yarn_of_an_old_config():
    described = read(PUBLISHED["Qwen2.5 7B, stretched and windowed"])
    rope = described.stack.blocks[0].attn.rope
    assert rope is not None
    assert rope.scaling == spec.YarnScaling(4.0, 32768, attention_factor=0.1 * math.log(4.0) + 1)
    assert [block.attn.window for block in described.stack.blocks] == [None] * 21 + [131072] * 7


@pytest.mark.parametrize(
    ("says", "temperature"),
    [
        ({}, 0.1 * math.log(4) + 1),
        ({"factor": 1.0}, 1.0),
        ({"attention_factor": 1.5}, 1.5),
        ({"mscale": 1.0}, 0.1 * math.log(4) + 1),
        ({"mscale": 0.707, "mscale_all_dim": 0.707}, 1.0),
        ({"mscale": 1.0, "mscale_all_dim": 0.5}, (0.1 * math.log(4) + 1) / (0.05 * math.log(4) + 1)),
    ],
)
def test_yarn_s_temperature(says, temperature):
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024, **says}
    rope = read({**PUBLISHED["Llama 2 7B"], "rope_scaling": scaling}).stack.blocks[0].attn.rope
    assert rope is not None
    assert isinstance(rope.scaling, spec.YarnScaling)
    assert rope.scaling.attention_factor == pytest.approx(temperature)


def test_the_length_before_stretching_is_looked_for_in_three_places():
    def length(top: int | None, inner: int | None) -> int:
        scaling = {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": inner}
        config = {**PUBLISHED["Llama 2 7B"], "rope_scaling": scaling, "original_max_position_embeddings": top}
        rope = read(config).stack.blocks[0].attn.rope
        assert rope is not None
        assert isinstance(rope.scaling, spec.YarnScaling)
        return rope.scaling.original_length

    assert (length(None, None), length(None, 512), length(256, 512)) == (4096, 512, 256)


def test_windows_and_nope():
    def windows(name: str) -> list[int | None]:
        return [block.attn.window for block in read(PUBLISHED[name]).stack.blocks]

    assert windows("Mistral 7B v0.1") == [4096] * 32
    assert windows("Mistral 7B v0.3") == [None] * 32
    assert windows("Qwen2.5 0.5B") == [None] * 24
    assert windows("Gemma 2 2B") == [4096, None] * 13
    assert windows("Gemma 3 1B") == ([512] * 5 + [None]) * 4 + [512] * 2
    turned = [block.attn.rope is not None for block in read(PUBLISHED["SmolLM3 3B"]).stack.blocks]
    assert turned == [True, True, True, False] * 9


def test_gemma3_turns_twice_and_scales_the_full_layers_only():
    ropes = [block.attn.rope for block in read(PUBLISHED["Gemma 3 4B, its text part"]).stack.blocks]
    assert ropes[0] == spec.Rope(10000.0, 256)
    assert ropes[5] == spec.Rope(1000000.0, 256, spec.LinearScaling(8.0))


def test_gemma2_s_own_facts():
    gemma = read(PUBLISHED["Gemma 2 2B"])
    assert gemma.head.tied
    assert gemma.head.softcap == 30.0
    assert gemma.stack.blocks[0].attn.softcap == 50.0
    assert gemma.stack.blocks[0].slots == ("pre", "post")
    assert isinstance(gemma.stem, spec.Tokens)
    assert gemma.stem.scale == 48.0
    assert read({**PUBLISHED["Gemma 2 2B"], "final_logit_softcapping": None}).head.softcap is None


def test_partial_rotation():
    def width(name: str) -> int:
        rope = read(PUBLISHED[name]).stack.blocks[0].attn.rope
        assert rope is not None
        return rope.width

    assert (width("Pythia 70M"), width("Phi 1.5"), width("Phi 2")) == (16, 32, 32)


# ------------------------------------------------------------------ contradictions


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("Qwen3 0.6B", {"layer_types": [*["full_attention"] * 27, "sliding_attention"]}),
        ("Qwen3 0.6B", {"layer_types": ["full_attention"] * 27}),
        ("Qwen3 0.6B", {"layer_types": ["linear_attention"] * 28}),
        ("Qwen3 0.6B", {"use_sliding_window": True, "max_window_layers": 3}),
        ("Mistral 7B v0.1", {"layer_types": ["full_attention"] * 32}),
        ("SmolLM3 3B", {"no_rope_layers": [1, 0]}),
        ("Gemma 2 2B", {"use_bidirectional_attention": True}),
        ("Gemma 3 1B", {"rope_parameters": {"full_attention": {"rope_type": "dynamic", "factor": 2.0}}}),
        ("Qwen2.5 0.5B", {"use_mrope": True}),
        ("Pythia 70M", {"rotary_pct": 2.0}),
        ("Pythia 70M", {"rotary_pct": 0.05}),
        ("Phi 2", {"num_key_value_heads": 5}),
        ("GPT-2", {"n_head": 7}),
    ],
)
def test_contradictions_are_refused(name, changes):
    with pytest.raises(Refused):
        read({**PUBLISHED[name], **changes})
