"""What encoder-decoders write, token for token as `transformers` does: greedy and beams, under every rule of a file."""

from __future__ import annotations

import contextlib
import json
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cutaway
from cutaway.api import Model
from cutaway.errors import Misuse, Refused
from cutaway.families import checkpoint
from cutaway.generate.beam import beam_search
from cutaway.generate.loop import generate
from cutaway.generate.manner import NEUTRAL, OLD, manner_of
from cutaway.generate.rules import Rules
from cutaway.generate.sampler import Sampler
from tests.model import machines

SOURCE = [5, 17, 33, 8, 41, 12, 9, 2]
T5 = {
    "vocab_size": 61, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 15, "decoder_start_token_id": 0,
    "eos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip
BART = {
    "vocab_size": 61, "d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 48,
    "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 48, "max_position_embeddings": 40,
    "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": 2,
}  # fmt: skip
MARIAN = {
    **BART, "activation_function": "swish", "scale_embedding": True, "pad_token_id": 60, "eos_token_id": 0,
    "bos_token_id": None, "decoder_start_token_id": 60, "forced_eos_token_id": 0,
}  # fmt: skip
KINDS = {"t5": ("T5", T5), "bart": ("Bart", BART), "marian": ("Marian", MARIAN)}

# generation_config.json as published checkpoints have it, made to fit the tiny vocabulary and length.
STATED: dict[str, dict[str, Any]] = {
    "nothing": {},
    "beams": {"num_beams": 4, "max_length": 14},
    "bart-large-cnn": {
        "num_beams": 4, "max_length": 24, "min_length": 9, "length_penalty": 2.0, "no_repeat_ngram_size": 3,
        "early_stopping": True, "forced_bos_token_id": 7,
    },
    "opus-mt": {"num_beams": 4, "max_length": 20, "bad_words_ids": [[60], [5, 17]], "renormalize_logits": True},
    "long ones, never stopped early": {
        "num_beams": 3, "max_length": 16, "length_penalty": 1.5, "early_stopping": "never",
        "eos_token_id": [1, 2, *range(20, 40)],
    },
    "short ones": {"num_beams": 5, "max_length": 16, "length_penalty": -1.0, "no_repeat_ngram_size": 2},
    "no penalty": {"num_beams": 2, "max_new_tokens": 11, "length_penalty": 0.0, "min_new_tokens": 4},
    "suppressed": {
        "num_beams": 3, "max_length": 12, "suppress_tokens": [3, 4, 5, 6], "begin_suppress_tokens": [8, 9, 10, 11],
        "forced_bos_token_id": 13, "repetition_penalty": 1.7,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory):
    """pairs(kind, seed, stated) -> ours and the reference's, read from one folder with that generation_config.json."""
    transformers = pytest.importorskip("transformers", reason="is the reference for what is written")
    transformers.logging.set_verbosity_error()
    made: dict[tuple[str, int], tuple[Path, Any]] = {}

    def make(kind: str, seed: int, **stated: Any) -> tuple[Model, Any]:
        if (kind, seed) not in made:
            name, says = KINDS[kind]
            config = getattr(transformers, f"{name}Config")(**says)
            torch.manual_seed(seed)
            reference = transformers.AutoModelForSeq2SeqLM.from_config(config).eval()
            with torch.no_grad():
                for parameter in reference.parameters():
                    if parameter.requires_grad:
                        parameter.add_(0.25 * torch.randn_like(parameter))
            made[kind, seed] = tmp_path_factory.mktemp(kind), reference
            reference.save_pretrained(made[kind, seed][0])
        folder, reference = made[kind, seed]
        says = KINDS[kind][1]
        ids = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_eos_token_id")
        stated = {key: says[key] for key in ids if says.get(key) is not None} | stated
        (folder / "generation_config.json").write_text(json.dumps(stated))
        reference.generation_config = transformers.GenerationConfig.from_pretrained(folder)
        return cutaway.load(folder, dtype="float32"), reference

    return make


def theirs(reference: Any, source: list[int], **how: Any) -> list[int]:
    """The reference's tokens behind the one it begins with, without padding."""
    written = reference.generate(torch.tensor([source]), attention_mask=torch.ones(1, len(source)), **how)
    return written[0, 1:].tolist()


@pytest.mark.parametrize("stated", STATED)
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_the_tokens_are_the_reference_s(kind: str, seed: int, stated: str, pairs) -> None:
    ours, reference = pairs(kind, seed, **STATED[stated])
    how = {} if {"max_length", "max_new_tokens"} & STATED[stated].keys() else {"max_new_tokens": 15}
    for first in (5, 20, 35, 50):
        source = [first, *SOURCE]
        found = ours.translate(tokens=source, **how)
        assert found.tokens == theirs(reference, source, **how)
        ended = found.tokens[-1] in (STATED[stated].get("eos_token_id") or ours.eos)
        assert found.finish_reason == ("stop" if ended else "length")
        assert found.prompt == source


@pytest.mark.parametrize("seed", range(40))
def test_the_rules_are_the_reference_s_on_any_scores(seed: int) -> None:
    transformers = pytest.importorskip("transformers", reason="is the reference for what is written")
    random = np.random.default_rng(seed)

    def some(count: int) -> tuple[int, ...]:
        return tuple(int(i) for i in random.integers(0, 12, count))

    length, start = int(random.integers(1, 8)), 1
    rules = Rules(
        repetition_penalty=float(random.choice([1.0, 0.7, 1.6])),
        no_repeat_ngram_size=int(random.integers(0, 4)),
        bad_words_ids=tuple(some(int(random.integers(1, 4))) for _ in range(int(random.integers(0, 5)))),
        min_length=int(random.choice([0, 3, 6])),
        forced_bos_token_id=int(random.integers(0, 12)) if random.random() < 0.5 else None,
        forced_eos_token_id=some(2) if random.random() < 0.5 else (),
        suppress_tokens=some(2) if random.random() < 0.5 else (),
        begin_suppress_tokens=some(3) if random.random() < 0.5 else (),
        renormalize_logits=bool(random.random() < 0.5),
    )
    eos, last = some(2), bool(random.random() < 0.5)
    written = [list(some(length)) for _ in range(3)]
    scores = torch.randn(3, 12, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)
    stated = {key: value for key, value in vars(rules).items() if value != getattr(Rules(), key)}
    stated |= {key: [list(one) for one in value] for key, value in stated.items() if key == "bad_words_ids"}
    stated |= {key: list(value) for key, value in stated.items() if isinstance(value, tuple)}
    config = transformers.GenerationConfig(
        eos_token_id=list(eos), max_length=length + 1 if last else length + 5, do_sample=False, **stated
    )
    config._eos_token_tensor = torch.tensor(eos)
    model = types.SimpleNamespace(config=types.SimpleNamespace(is_encoder_decoder=True))
    model._merge_criteria_processor_list = lambda processors, more: processors
    get = transformers.GenerationMixin._get_logits_processor
    expected = get(model, config, input_ids_seq_length=start, device="cpu")(torch.tensor(written), scores)
    torch.testing.assert_close(rules(scores, written, eos, start, last), expected, equal_nan=True)


@pytest.mark.parametrize("stated", STATED)
@pytest.mark.parametrize("kind", KINDS)
def test_greedy_under_the_same_rules(kind: str, stated: str, pairs) -> None:
    ours, reference = pairs(kind, 3, **STATED[stated])
    for first in (5, 50):
        source = [first, *SOURCE]
        expected = theirs(reference, source, num_beams=1, max_new_tokens=12)
        assert ours.translate(tokens=source, beams=1, max_new_tokens=12).tokens == expected
        assert ours.translate(tokens=source, temperature=0, max_new_tokens=12).tokens == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("penalty", [-2.0, 0.0, 0.6, 3.0])
def test_beams_and_length_penalties_asked_for(kind: str, penalty: float, pairs) -> None:
    ours, reference = pairs(kind, 4)
    for beams in (2, 6):
        how = {"max_new_tokens": 13, "length_penalty": penalty}
        expected = theirs(reference, SOURCE, num_beams=beams, **how)
        assert ours.translate(tokens=SOURCE, beams=beams, **how).tokens == expected


@pytest.mark.parametrize("kind", ["t5", "marian"])
def test_the_score_is_the_reference_s(kind: str, pairs) -> None:
    ours, reference = pairs(kind, 0)
    for rules, how in ((Rules(), {}), (Rules(bad_words_ids=((7,), (9,)), renormalize_logits=True), {
        "bad_words_ids": [[7], [9]], "renormalize_logits": True})):  # fmt: skip
        out = reference.generate(
            torch.tensor([SOURCE]), num_beams=3, max_new_tokens=10, length_penalty=1.3, forced_eos_token_id=None,
            return_dict_in_generate=True, output_scores=True, **how,
        )  # fmt: skip
        start = KINDS[kind][1]["decoder_start_token_id"]
        best = beam_search(
            ours.machine, [start], source=SOURCE, beams=3, max_new_tokens=10, eos=ours.eos, length_penalty=1.3,
            rules=rules,
        )[0]  # fmt: skip
        assert best.tokens == out.sequences[0, 1:].tolist()
        assert best.score == pytest.approx(out.sequences_scores[0].item(), rel=1e-4)


def test_what_an_old_config_says_of_decoding_holds_where_nothing_newer_does(pairs) -> None:
    transformers = pytest.importorskip("transformers", reason="is the reference for what is written")
    ours, reference = pairs("bart", 0)
    folder = ours.folder
    old = {
        "num_beams": 4, "max_length": 20, "min_length": 8, "length_penalty": 2.0, "no_repeat_ngram_size": 2,
        "force_bos_token_to_be_generated": True,
    }  # fmt: skip
    (folder / "generation_config.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | old))
    try:
        ours = cutaway.load(folder)
        assert ours.warnings == []
        manner = manner_of(folder, ours.config, 61)
        assert (manner.beams, manner.max_new_tokens, manner.rules.forced_bos_token_id) == (4, 19, 0)
        reference.generation_config = transformers.GenerationConfig(
            **{k: v for k, v in config.items() if k.endswith("token_id")} | old, forced_bos_token_id=0
        )
        assert ours.translate(tokens=SOURCE).tokens == theirs(reference, SOURCE)
    finally:
        (folder / "config.json").write_text(json.dumps(config))


# ------------------------------------------------------------------ with no other library


@pytest.mark.parametrize("sampler", [Sampler(temperature=0), Sampler(temperature=1.3, top_k=20), Sampler(top_p=0.9)])
def test_reading_with_a_cache_is_reading_anew(sampler: Sampler) -> None:
    model = machines.lively(machines.T5)
    rules = Rules(no_repeat_ngram_size=2, min_length=5, forced_bos_token_id=3, suppress_tokens=(7, 8))
    how: dict[str, Any] = {"source": SOURCE, "sampler": sampler, "rules": rules, "seed": 5, "eos": (1,)}
    one = generate(model, [0], max_new_tokens=30, **how).finish()
    other = generate(model, [0], max_new_tokens=30, cached=False, **how).finish()
    assert one == other
    assert one.tokens[0] == 3
    assert not {7, 8} & set(one.tokens)
    pairs = list(zip([0, *one.tokens], one.tokens, strict=False))
    assert len(set(pairs)) == len(pairs)


def test_one_beam_is_greedy_and_the_source_matters() -> None:
    model = machines.lively(machines.T5)
    greedy = [
        generate(model, [0], source=source, sampler=Sampler(temperature=0), max_new_tokens=20).finish().tokens
        for source in (SOURCE, SOURCE[::-1])
    ]
    assert greedy[0] != greedy[1]
    (best,) = beam_search(model, [0], source=SOURCE, beams=1, max_new_tokens=20)
    assert best.tokens == greedy[0]


def test_writing_ends_with_the_context() -> None:
    model = machines.lively(machines.T5)
    found = generate(model, [0], source=SOURCE, max_new_tokens=10**6, seed=0).finish()
    assert len(found.tokens) == machines.CONTEXT
    assert found.finish_reason == "length"
    assert len(beam_search(model, [0], source=SOURCE, beams=2, max_new_tokens=10**6)[0].tokens) == machines.CONTEXT


def stated(folder: Path, **says: Any) -> Path:
    (folder / "generation_config.json").write_text(json.dumps({"decoder_start_token_id": 0} | says))
    return folder


@pytest.mark.parametrize(
    "says",
    [
        {"diversity_penalty": 0.5},
        {"num_beam_groups": 2},
        {"encoder_no_repeat_ngram_size": 3},
        {"penalty_alpha": 0.6},
        {"typical_p": 0.3},
        {"num_beams": 0},
        {"num_beams": 10**9},
        {"num_beams": 2, "do_sample": True},
        {"early_stopping": "soon"},
        {"max_length": 1},
        {"min_length": -3},
        {"bad_words_ids": [7]},
        {"bad_words_ids": [[]]},
        {"bad_words_ids": [[61]]},
        {"suppress_tokens": [-1]},
        {"suppress_tokens": [3], "forced_bos_token_id": 3},
        {"forced_eos_token_id": "two"},
        {"decoder_start_token_id": 61},
        {"decoder_start_token_id": None},
        {"repetition_penalty": 0},
        {"length_penalty": "high"},
        {"do_sample": True, "top_p": 7.0},
    ],
)
def test_a_setting_that_is_not_done_or_makes_no_sense_is_refused_by_name(says: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(Refused) as caught:
        manner_of(stated(tmp_path, **says), {}, 61)
    assert caught.value.fix
    assert any(key in str(caught.value) for key in [*says, "top_p"]) or "decoder" in str(caught.value)


KEYS = sorted({*OLD, *NEUTRAL, "max_new_tokens", "min_new_tokens", "min_p", "renormalize_logits", "flux"})
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 70) | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(says=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=5))
def test_any_generation_config_is_understood_or_refused(says: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps(says))
    with contextlib.suppress(Refused):
        asked = manner_of(tmp_path, {"task_specific_params": {"t": says}}, 61, "t")
        scores = asked.rules(torch.zeros(1, 61), [[asked.start]], asked.eos or (1,), 1, last=False)
        assert scores.shape == (1, 61)


def test_an_unknown_setting_is_a_warning_and_known_idle_ones_are_none(tmp_path: Path) -> None:
    idle = {
        "num_return_sequences": 1,
        "use_cache": True,
        "transformers_version": "5",
        "typical_p": 1.0,
        "max_time": None,
    }
    assert manner_of(stated(tmp_path, **idle), {}, 61).warnings == []
    (warning,) = manner_of(stated(tmp_path, flux=3), {}, 61).warnings
    assert warning == "generation_config.json says flux = 3, which Cutaway does not know."


def test_a_checkpoint_may_ask_for_a_draw(tmp_path: Path) -> None:
    asked = manner_of(stated(tmp_path, do_sample=True, temperature=0.7, top_p=0.9), {}, 61)
    assert asked.sampler == Sampler(0.7, 50, 0.9)  # top_k is 50 where nobody says
    assert manner_of(stated(tmp_path, temperature=0.7), {}, 61).sampler == Sampler(temperature=0)


@pytest.mark.parametrize(
    "how",
    [
        {"beams": 2, "temperature": 1.0},
        {"beams": 2, "stop": "x"},
        {"beams": 2, "length_penalty": float("nan")},
        {"beams": 2, "length_penalty": "long"},
        {"beams": 1, "length_penalty": 2.0},
        {"beams": 0},
        {"max_new_tokens": 0},
        {"repetition_penalty": 0.0},
        {"task": "translation_en_to_de"},
        {"top_p": 2.0},
    ],
)
def test_misuse(how: dict[str, Any], tmp_path: Path) -> None:
    from tests.families.making import make

    folder = make(tmp_path, {**T5, "model_type": "t5", "is_encoder_decoder": True, "n_positions": 20})
    model = cutaway.load(folder)
    assert model.translate(tokens=SOURCE, max_new_tokens=3).tokens
    with pytest.raises(Misuse):
        model.translate(tokens=SOURCE, **how)
    assert checkpoint.open(folder).spec.context == 20
