"""tests/golden/sampler.json, recomputed with plain Python arithmetic: no numpy, nothing of the sampler's own."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from cutaway.generate.sampler import Sampler, draw

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "sampler.json"
CASES = json.loads(GOLDEN.read_text(encoding="utf-8"))["cases"]
cases = pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])


def softmax(logits: dict[int, float]) -> dict[int, float]:
    largest = max(logits.values())
    weights = {i: math.exp(x - largest) for i, x in logits.items()}
    total = math.fsum(weights.values())
    return {i: w / total for i, w in weights.items()}


def by_probability(logits: dict[int, float]) -> list[int]:
    return sorted(logits, key=lambda i: (-logits[i], i))


def expected(case: dict[str, Any]) -> tuple[list[tuple[str, int, int, float]], dict[int, float]]:
    """The steps as (name, tokens in, cut, mass) and the probabilities of the tokens left, the slow and obvious way."""
    settings = case["settings"]
    logits = {i: x for i, x in enumerate(case["logits"]) if x is not None}
    steps: list[tuple[str, int, int, float]] = []

    def keep(name: str, ids: set[int]) -> None:
        nonlocal logits
        before = softmax(logits)
        steps.append((name, len(logits), len(logits) - len(ids), math.fsum(before[i] for i in ids)))
        logits = {i: x for i, x in logits.items() if i in ids}

    if (penalty := settings.get("repetition_penalty")) is not None:
        for i in set(case["previous"]) & set(logits):
            logits[i] = logits[i] * penalty if logits[i] < 0 else logits[i] / penalty
        steps.append(("repetition penalty", len(logits), 0, 1.0))
    temperature = settings.get("temperature", 1)
    if temperature == 0:
        keep("temperature", {by_probability(logits)[0]})
    else:
        largest = max(logits.values())
        logits = {i: (x - largest) / temperature for i, x in logits.items()}
        steps.append(("temperature", len(logits), 0, 1.0))
    if settings.get("top_k"):
        keep("top-k", set(by_probability(logits)[: settings["top_k"]]))
    if (top_p := settings.get("top_p")) is not None:
        probabilities = softmax(logits)
        order, kept = by_probability(logits), []
        while order and math.fsum(probabilities[i] for i in kept) < top_p - 1e-15:
            kept.append(order.pop(0))
        keep("top-p", set(kept) if top_p < 1 else set(logits))
    if (min_p := settings.get("min_p")) is not None:
        probabilities = softmax(logits)
        most = max(probabilities.values())
        keep("min-p", {i for i, p in probabilities.items() if p >= min_p * most})
    steps.append(("softmax", len(logits), 0, 1.0))
    return steps, softmax(logits)


def hashed(seed: int, step: int) -> float:
    z = (seed % 2**64 + 0x9E3779B97F4A7C15 * (step + 1)) % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return ((z ^ z >> 31) >> 11) / 2**53


@cases
def test_the_file_is_what_plain_arithmetic_gives(case: dict[str, Any]) -> None:
    steps, probabilities = expected(case)
    assert [(s["name"], s["tokens_in"], s["cut"]) for s in case["steps"]] == [s[:3] for s in steps]
    assert [s["mass"] for s in case["steps"]] == pytest.approx([s[3] for s in steps], rel=1e-12)
    assert case["kept"] == sorted(i for i, p in probabilities.items() if p > 0)
    stored = dict(enumerate(case["probabilities"]))
    assert stored == pytest.approx({i: probabilities.get(i, 0.0) for i in stored}, rel=1e-12)
    for d in case["draws"]:
        u = hashed(int(d["seed"]), d["step"])
        assert d["u"] == u
        below = math.fsum(p for i, p in probabilities.items() if i < d["id"])
        assert below - 1e-12 <= u <= below + probabilities[d["id"]] + 1e-12


@cases
def test_the_sampler_gives_what_is_in_the_file(case: dict[str, Any]) -> None:
    trace = Sampler(**case["settings"]).trace([-math.inf if x is None else x for x in case["logits"]], case["previous"])
    assert [(s.name, s.setting, s.tokens_in, s.cut) for s in trace.steps] == [
        (s["name"], s["setting"], s["tokens_in"], s["cut"]) for s in case["steps"]
    ]
    assert [s.mass for s in trace.steps] == pytest.approx([s["mass"] for s in case["steps"]], rel=1e-12)
    assert trace.probabilities.tolist() == pytest.approx(case["probabilities"], rel=1e-12)
    assert [i for i, p in enumerate(trace.probabilities) if p > 0] == case["kept"]
    for d in case["draws"]:
        assert draw(trace.probabilities, int(d["seed"]), d["step"]) == (d["id"], d["u"])
