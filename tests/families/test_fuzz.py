"""Whatever a file holds, it is read or refused in a sentence; no other exception ever comes out."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cutaway.errors import CutawayError
from cutaway.families import checkpoint, describe
from cutaway.families.config import parse_json
from tests.families.making import make
from tests.families.published import PUBLISHED

QUICK = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))

KEYS = sorted(
    {key for config in PUBLISHED.values() for key in config}
    | {
        "dtype", "is_causal", "layer_types", "mlp_bias", "no_rope_layers", "original_max_position_embeddings",
        "pruned_heads", "rope_parameters", "scale_attn_by_inverse_layer_idx", "use_bidirectional_attention",
    }
)  # fmt: skip
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.integers(-3, 40) | st.floats(allow_nan=False) | st.text(max_size=8)
)
ROPE = st.dictionaries(
    st.sampled_from([
        "rope_type", "type", "factor", "rope_theta", "low_freq_factor", "high_freq_factor", "attention_factor",
        "original_max_position_embeddings", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate",
        "partial_rotary_factor", "mrope_section", "full_attention", "sliding_attention",
    ]),
    SCALARS | st.sampled_from(["linear", "llama3", "yarn", "default"]),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS | ROPE | st.sampled_from(["full_attention", "sliding_attention", "gelu", "bfloat16"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@QUICK
@given(
    config=st.sampled_from(sorted(PUBLISHED)),
    changes=st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=12), VALUES, min_size=1, max_size=4),
)
def test_any_config_is_described_or_refused(config, changes):
    with contextlib.suppress(CutawayError):
        describe({**PUBLISHED[config], **changes})


@QUICK
@given(
    data=st.binary(max_size=60) | st.text(alphabet='{}[]":,0123456789eE+-. \\untrfalse', max_size=60).map(str.encode)
)
def test_any_bytes_are_json_or_refused(data):
    with contextlib.suppress(CutawayError):
        assert isinstance(parse_json(data, "config.json"), dict)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory) -> tuple[Path, bytes]:
    folder = make(tmp_path_factory.mktemp("damaged"))
    return folder, (folder / "model.safetensors").read_bytes()


@QUICK
@given(data=st.data())
def test_any_damage_to_a_weight_file_is_refused_or_harmless(damaged, data):
    folder, whole = damaged
    hurt = bytearray(whole)
    header = 8 + int.from_bytes(whole[:8], "little")
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, 7) | st.integers(0, header) | st.integers(0, len(whole) - 1))
        hurt[at] = data.draw(st.integers(0, 255))
    (folder / "model.safetensors").write_bytes(hurt)
    with contextlib.suppress(CutawayError):
        checkpoint.open(folder).load()
