"""The sampler's properties, its settings' limits, and the worked example of the videos."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cutaway.errors import Failed, Misuse
from cutaway.generate.sampler import Sampler, draw, nucleus, pick_seed, uniform

NAMES = ["Dumbledore", "Flitwick", "McGonagall", "Quirrell", "Snape", "Sprout", "Trelawney"]
HOGWARTS = [-0.8, -5.0, 0.5, 1.5, 3.4, -2.3, 2.5]

HOGWARTS_AT = {  # temperature: probabilities to four places
    0.5: [0.0002, 0.0000, 0.0025, 0.0188, 0.8397, 0.0000, 0.1388],
    1: [0.0092, 0.0001, 0.0338, 0.0918, 0.6136, 0.0021, 0.2495],
    2: [0.0499, 0.0061, 0.0956, 0.1576, 0.4075, 0.0236, 0.2598],
    5: [0.1075, 0.0464, 0.1394, 0.1702, 0.2489, 0.0796, 0.2079],
    10: [0.1277, 0.0839, 0.1455, 0.1608, 0.1944, 0.1100, 0.1777],
}


@pytest.mark.parametrize("temperature", HOGWARTS_AT)
def test_softmax_with_temperature_on_the_worked_example(temperature: float) -> None:
    probabilities = Sampler(temperature=temperature).trace(HOGWARTS).probabilities
    assert probabilities.round(4).tolist() == HOGWARTS_AT[temperature]


def test_the_winner_after_each_edit_of_the_worked_example() -> None:
    logits = dict(zip(NAMES, HOGWARTS, strict=True))

    def winner(temperature: float = 1) -> tuple[str, float]:
        ((i, p),) = Sampler(temperature=temperature).trace(list(logits.values())).top(1)
        return NAMES[i], round(p, 3)

    edits = [("Trelawney", 4.0), ("Snape", 4.2), ("McGonagall", 4.0), ("Dumbledore", 6.0), ("Snape", 9.9)]
    winners = []
    for name, value in edits:
        logits[name] = value
        winners.append(winner())
    assert winners == [
        ("Trelawney", 0.598),
        ("Snape", 0.521),
        ("Snape", 0.369),
        ("Dumbledore", 0.691),
        ("Snape", 0.975),
    ]
    assert [winner(t) for t in (4, 10, 2, 0, 5, 1, 7)] == [
        ("Snape", p) for p in (0.493, 0.268, 0.791, 1, 0.417, 0.975, 0.330)
    ]


def test_argmax_says_so() -> None:
    step = Sampler(temperature=0).trace(HOGWARTS).steps[0]
    assert (step.name, step.setting, step.tokens_in, step.cut) == ("temperature", 0, 7, 6)
    assert "argmax" in step.note
    assert step.mass == pytest.approx(0.6136, abs=5e-5)


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -0.1}, {"temperature": math.nan}, {"temperature": math.inf}, {"temperature": "hot"},
        {"top_k": -1}, {"top_k": 2.5}, {"top_p": 0}, {"top_p": 1.01}, {"top_p": -1}, {"top_p": math.nan},
        {"min_p": -0.1}, {"min_p": 1.5}, {"min_p": math.inf}, {"repetition_penalty": 0},
        {"repetition_penalty": -1}, {"repetition_penalty": math.nan}, {"top_k": True},
    ],
    ids=str,
)  # fmt: skip
def test_a_setting_out_of_range_is_one_clear_sentence(bad: dict[str, Any]) -> None:
    with pytest.raises(Misuse) as caught:
        Sampler(**bad)
    assert next(iter(bad)) in caught.value.message
    assert caught.value.message.count(".") - str(next(iter(bad.values()))).count(".") == 1
    assert caught.value.fix


@pytest.mark.parametrize("fine", [{"temperature": 1e-9}, {"temperature": 1e9}, {"temperature": 3}, {"top_p": 1}])
def test_unusual_settings_are_fine(fine: dict[str, Any]) -> None:
    probabilities = Sampler(**fine).trace(HOGWARTS).probabilities
    assert probabilities.sum() == pytest.approx(1)


def test_broken_logits_fail_with_a_sentence() -> None:
    for bad in ([0.0, math.nan], [0.0, math.inf], [-math.inf, -math.inf]):
        with pytest.raises(Failed):
            Sampler().trace(bad)
    with pytest.raises(Misuse):
        Sampler().trace([[1.0, 2.0]])
    with pytest.raises(Misuse):
        Sampler(repetition_penalty=1.1).trace([0.0, 1.0], previous=[2])
    assert Sampler(top_p=0.5).trace([-math.inf, -3.0]).probabilities.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_tensors_of_any_dtype_are_read_exactly(dtype: torch.dtype) -> None:
    logits = torch.tensor(HOGWARTS, dtype=dtype, requires_grad=True)
    expected = Sampler().trace(logits.tolist()).probabilities
    assert np.array_equal(Sampler().trace(logits).probabilities, expected)


def test_the_trace_becomes_json() -> None:
    summary = json.loads(json.dumps(Sampler(temperature=0.7, top_k=3).trace(HOGWARTS).to_dict(top=2)))
    assert [step["name"] for step in summary["steps"]] == ["temperature", "top-k", "softmax"]
    assert sum(row["p"] for row in summary["top"]) + summary["rest"] == pytest.approx(1)


logits_with_ties = st.lists(
    st.one_of(st.integers(-4, 4).map(float), st.floats(-30, 30), st.just(-math.inf)), min_size=1, max_size=40
).filter(lambda row: max(row) > -math.inf)
any_settings = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.floats(0, 20),
        "top_k": st.integers(0, 50),
        "top_p": st.floats(1e-6, 1),
        "min_p": st.floats(0, 1),
        "repetition_penalty": st.floats(0.1, 10),
    },
)


@settings(max_examples=200, deadline=None)
@given(logits_with_ties, any_settings, st.data())
def test_whatever_the_settings(row: list[float], chosen: dict[str, Any], data: st.DataObject) -> None:
    previous = data.draw(st.lists(st.integers(0, len(row) - 1), max_size=5))
    trace = Sampler(**chosen).trace(row, previous)
    assert trace.probabilities.sum() == pytest.approx(1)
    assert (trace.probabilities[np.isneginf(row)] == 0).all()
    for step, after in zip(trace.steps, trace.steps[1:], strict=False):
        assert 0 <= step.cut < step.tokens_in  # something always stays
        assert 0 < step.mass <= 1 + 1e-12
        assert after.tokens_in == step.tokens_left
    token, u = draw(trace.probabilities, data.draw(st.integers(-(2**70), 2**70)), data.draw(st.integers(0, 10**6)))
    assert 0 <= u < 1
    assert trace.probabilities[token] > 0


@settings(max_examples=200, deadline=None)
@given(logits_with_ties, st.floats(0.01, 0.99))
def test_top_p_keeps_the_smallest_set_that_reaches_p(row: list[float], p: float) -> None:
    full = Sampler().trace(row).probabilities
    kept = np.flatnonzero(Sampler(top_p=p).trace(row).probabilities)
    assert full[kept].sum() >= p - 1e-9
    assert full[kept].sum() - full[kept].min() < p + 1e-9
    cut = np.setdiff1d(np.flatnonzero(full), kept)
    assert not cut.size or full[cut].max() <= full[kept].min()


@given(logits_with_ties, st.integers(0, 100))
def test_top_k_beyond_the_vocabulary_cuts_nothing(row: list[float], more: int) -> None:
    plain = Sampler().trace(row).probabilities
    for k in (0, len(row) + more):
        assert Sampler(top_k=k).trace(row).probabilities.tolist() == plain.tolist()


@given(st.integers(1, 30), st.data(), any_settings)
def test_where_one_token_is_left_it_is_drawn(size: int, data: st.DataObject, chosen: dict[str, Any]) -> None:
    place = data.draw(st.integers(0, size - 1))
    row = [-math.inf] * size
    row[place] = data.draw(st.floats(-1e6, 1e6))
    trace = Sampler(**chosen).trace(row, previous=[place])
    assert trace.probabilities.tolist() == [float(i == place) for i in range(size)]
    assert draw(trace.probabilities, data.draw(st.integers()), 0)[0] == place


@given(st.integers(1, 30), st.floats(-1e6, 1e6), st.floats(0.01, 20), st.integers(1, 40))
def test_of_equal_tokens_the_first_are_kept_alike(size: int, logit: float, temperature: float, k: int) -> None:
    kept = min(k, size)
    found = Sampler(temperature, top_k=k, min_p=1.0).trace([logit] * size).probabilities
    assert found.tolist() == pytest.approx([1 / kept] * kept + [0.0] * (size - kept))
    assert Sampler(temperature=0).trace([logit] * size).probabilities[0] == 1


def many(data: st.DataObject) -> np.ndarray:
    """Logits of a vocabulary of a few blocks, some of them equal, some impossible."""
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    row = rng.normal(size=data.draw(st.sampled_from([1, 255, 256, 257, 3000]))) * data.draw(st.floats(0, 10))
    if data.draw(st.booleans()):
        row = row.round()
    row[rng.random(row.size) < data.draw(st.sampled_from([0, 0.5]))] = -math.inf
    row[rng.integers(row.size)] = 3.0
    return row


@settings(max_examples=300, deadline=None)
@given(any_settings, st.data())
def test_a_token_is_chosen_as_it_is_drawn(chosen: dict[str, Any], data: st.DataObject) -> None:
    row, previous = many(data), data.draw(st.lists(st.just(0), max_size=1))
    probabilities = Sampler(**chosen).trace(row, previous).probabilities
    for step in range(5):
        token, p = Sampler(**chosen).choose(row, previous, 7, step)
        assert token == draw(probabilities, 7, step)[0]
        assert p == pytest.approx(probabilities[token], rel=1e-9)


@settings(max_examples=50, deadline=None)
@given(any_settings, st.data())
def test_where_rounding_decides_a_token_is_chosen_as_it_is_drawn(chosen: dict[str, Any], data: st.DataObject) -> None:
    row = many(data)
    probabilities = Sampler(**chosen).trace(row).probabilities
    sums = np.cumsum(probabilities)
    places = np.linspace(0, row.size - 1, 7).astype(int)
    with pytest.MonkeyPatch.context() as patch:
        for u in (sums / sums[-1])[places]:
            for near in (np.nextafter(u, 0), u, np.nextafter(u, 1)):
                below_one = min(float(near), 1 - 2**-53)
                patch.setattr("cutaway.generate.sampler.uniform", lambda seed, step, u=below_one: u)
                assert Sampler(**chosen).choose(row, [], 0, 0)[0] == draw(probabilities, 0, 0)[0]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_nucleus_is_that_of_all_weights_in_order(data: st.DataObject) -> None:
    weights = np.exp(many(data))
    ranked, total = np.sort(weights)[::-1], np.cumsum(weights)[-1]
    sums = np.cumsum(ranked)
    edge = sums[data.draw(st.integers(0, weights.size - 1))] / total
    for p in (data.draw(st.floats(1e-6, 0.999999)), edge, np.nextafter(edge, 0)):
        if p < 1:
            reached = sums >= p * total
            expected = int(np.argmax(reached)) + 1 if reached.any() else weights.size
            assert nucleus(weights, p).sum() == expected


def test_the_draws_follow_the_probabilities() -> None:
    probabilities = Sampler().trace(HOGWARTS).probabilities
    drawn = np.bincount([draw(probabilities, seed=5, step=i)[0] for i in range(20_000)], minlength=7) / 20_000
    assert np.abs(drawn - probabilities).max() < 0.012  # about 3.5 standard errors of the largest


def test_the_last_token_is_drawn_when_u_rounds_up_to_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cutaway.generate.sampler.uniform", lambda seed, step: 1.0)
    assert draw([0.5, 0.5, 0.0], 0, 0)[0] == 1


def test_the_sum_must_exceed_u_not_reach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cutaway.generate.sampler.uniform", lambda seed, step: 0.5)
    assert draw([0.5, 0.5], 0, 0)[0] == 1
    monkeypatch.setattr("cutaway.generate.sampler.uniform", lambda seed, step: 0.0)
    assert draw([0.0, 1.0], 0, 0)[0] == 1


def test_the_hash_is_splitmix64() -> None:
    # The generator's published first outputs for seed 1234567, top 53 bits.
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [uniform(1234567, step) for step in range(4)] == [(x >> 11) / 2**53 for x in published]


def test_seeds_are_picked_fresh() -> None:
    assert len({pick_seed() for _ in range(8)}) > 1
    assert all(0 <= pick_seed() < 2**32 for _ in range(8))
