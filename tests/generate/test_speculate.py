"""Reading ahead changes nothing but the time: same seed, same text, and so the same distribution."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cutaway.generate import speculate
from cutaway.generate.loop import Generation, generate
from cutaway.generate.rules import Leanings, Rules
from cutaway.generate.sampler import Sampler
from cutaway.generate.speculate import LookUp, Tally, worth
from cutaway.model.quantized import quantize
from cutaway.model.transformer import Transformer
from cutaway.native import library
from tests.model.machines import DECODERS, VOCABULARY, lively

PROMPT = [1, 17, 5, 42, 8, 17, 5]
MANNERS: list[dict[str, Any]] = [
    {"sampler": Sampler(temperature=0)},
    {"sampler": Sampler()},
    {"sampler": Sampler(1.3, top_k=30, top_p=0.9, min_p=0.01, repetition_penalty=1.2)},
    {"sampler": Sampler(0.8), "rules": Rules(no_repeat_ngram_size=2, suppress_tokens=(3, 4)), "eos": {7, 9}},
    {"sampler": Sampler(0.5), "rules": Leanings(bias=((5, 3.0),), presence=0.5, frequency=0.2)},
]


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever comes of it, five guesses at a time."""
    monkeypatch.setattr(speculate, "worth", lambda rate, cost, most: 5)


@pytest.fixture(params=["engine", "pytorch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "pytorch":
        monkeypatch.setattr(library, "ready", lambda: None)
        return "pytorch"
    try:
        library.load()
    except library.Unavailable as reason:
        pytest.skip(f"needs the kernels in C: {reason}")
    return "engine"


@pytest.fixture(scope="module")
def machines() -> dict[str, Transformer]:
    return {kind: lively(described) for kind, described in DECODERS.items()}  # type: ignore[misc]


def written(machine: Transformer, **settings: Any) -> Generation:
    generation = generate(machine, PROMPT, max_new_tokens=45, seed=6, **settings)
    generation.finish()
    return generation


@pytest.mark.usefixtures("eager", "way")
@pytest.mark.parametrize("kind", sorted(DECODERS))
@pytest.mark.parametrize("manner", MANNERS, ids=["greedy", "plain", "cuts", "rules", "leanings"])
def test_the_same_seed_gives_the_same_text(machines: dict[str, Transformer], kind: str, manner: dict[str, Any]) -> None:
    machine = machines[kind]
    plain = written(machine, **manner)
    for draft in ("prompt", machine, machines["windows" if kind == "llama" else "llama"]):
        ahead = written(machine, **manner, draft=draft)
        assert ahead.tokens == plain.tokens
        assert ahead.finish_reason == plain.finish_reason
        tally = ahead.tally
        assert tally is not None
        if draft is machine:  # what it draws itself with the same numbers comes
            assert tally.proposed > 0
            assert tally.runs <= 2 + len(plain.tokens) // 5 + tally.proposed - tally.accepted
        assert tally.runs + tally.accepted == len(plain.tokens)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("kind", sorted(DECODERS))
def test_quantised_every_bit_is_the_same(kind: str, bits: int) -> None:
    if library.ready() is None:
        pytest.skip("needs the kernels in C")
    machine: Transformer = lively(DECODERS[kind])  # type: ignore[assignment]
    quantize(machine, bits)
    plain = list(generate(machine, PROMPT, max_new_tokens=40, seed=2))
    assert list(generate(machine, PROMPT, max_new_tokens=40, seed=2, draft="prompt")) == plain
    assert list(generate(machine, PROMPT, max_new_tokens=40, seed=2, draft=lively(DECODERS["llama"]))) == plain  # type: ignore[arg-type]


# --- the distribution ------------------------------------------------------------------------------------------------

CUT = Sampler(temperature=1.5, top_k=3)


def chances(machine: Transformer, count: int) -> dict[tuple[int, ...], float]:
    """What the model, asked anew at every step, makes of every text of ``count`` tokens."""
    texts: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(count):
        longer = {}
        for text, chance in texts.items():
            with torch.no_grad():
                logits = machine(torch.tensor([[*PROMPT, *text]]))[0, -1]
            for token, its in enumerate(CUT.trace(logits).probabilities):
                if its > 0:
                    longer[(*text, token)] = chance * float(its)
        texts = longer
    return texts


def strangeness(machine: Transformer, draft: Any, draws: int = 2000) -> tuple[float, float]:
    """Pearson's chi-square of the drawn texts of three tokens, and what it stays below but once in ten thousand."""
    expected = chances(machine, 3)
    found = Counter(
        tuple(generate(machine, PROMPT, sampler=CUT, max_new_tokens=3, seed=seed, draft=draft).finish().tokens)
        for seed in range(draws)
    )
    assert found.keys() <= expected.keys()
    common = {text: chance * draws for text, chance in expected.items() if chance * draws >= 5}
    rare = draws - sum(common.values())
    chi = sum((found[text] - share) ** 2 / share for text, share in common.items())
    chi += (draws - sum(found[text] for text in common) - rare) ** 2 / rare if rare > 1 else 0
    free = len(common)
    return chi, free * (1 - 2 / (9 * free) + 3.72 * (2 / (9 * free)) ** 0.5) ** 3  # Wilson and Hilferty 1931


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("guesser", ["prompt", "a draft"])
def test_the_distribution_is_the_models_own(machines: dict[str, Transformer], guesser: str) -> None:
    machine = machines["llama"]
    chi, most = strangeness(machine, "prompt" if guesser == "prompt" else machines["gemma2"])
    assert chi < most


@pytest.mark.usefixtures("eager")
def test_which_is_seen_where_wrong_guesses_are_taken(
    machines: dict[str, Transformer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speculate, "_came", lambda guess, new: True)
    machine, draft = machines["llama"], machines["gemma2"]
    assert written(machine, sampler=CUT, draft=draft).tokens != written(machine, sampler=CUT).tokens
    try:
        chi, most = strangeness(machine, draft)
    except AssertionError:
        return  # texts that cannot be
    assert chi > most


# --- guesses ---------------------------------------------------------------------------------------------------------


def test_look_up() -> None:
    guess = LookUp()
    assert guess([1, 2, 3], 4) == []
    assert guess([1, 2, 3, 9, 1, 2], 3) == [3, 9, 1]
    assert guess([1, 2, 3, 9, 1, 2, 4, 9, 1, 2], 2) == [4, 9]  # as last time
    assert LookUp()([1, 2, 3, 9, 1, 2, 4, 8, 1, 2, 5, 9, 1, 2], 1) == [4]  # more in a row is better
    assert LookUp()([5, 5, 5], 4) == [5, 5, 5, 5]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 9))
def test_look_up_finds_the_last_time(ids: list[int], most: int) -> None:
    found = LookUp()(ids, most)
    for size in range(4, 1, -1):
        places = [at for at in range(len(ids) - size) if ids[at : at + size] == ids[-size:]] if size < len(ids) else []
        if places:
            assert found[0] == ids[places[-1] + size]
            assert len(found) == most
            return
    assert found == []


def test_as_many_guesses_as_pay() -> None:
    assert worth(0.1, 0.0, 16) == 0  # of ten one comes: reading them along takes longer
    assert worth(0.99, 0.0, 16) == 16
    assert worth(0.9, 1.0, 16) == 0  # a draft as large as the model
    counts = [worth(rate / 100, 0.1, 16) for rate in range(100)]
    assert all(a <= b for a, b in itertools.pairwise(counts))


def test_a_large_draft_is_not_asked(machines: dict[str, Transformer]) -> None:
    tally = written(machines["llama"], draft=machines["llama"]).tally
    assert tally == Tally(proposed=0, accepted=0, runs=45)


@pytest.mark.usefixtures("eager", "way")
def test_a_draft_with_a_shorter_context(machines: dict[str, Transformer], monkeypatch: pytest.MonkeyPatch) -> None:
    draft: Transformer = lively(DECODERS["llama"])  # type: ignore[assignment]
    short = type(draft.spec)(*[getattr(draft.spec, name) for name in draft.spec.__dataclass_fields__])
    object.__setattr__(short, "context", 20)
    monkeypatch.setattr(draft, "spec", short)
    plain, ahead = (written(machines["llama"], draft=given) for given in (None, draft))
    assert ahead.tokens == plain.tokens
    assert ahead.tally is not None
    assert 0 < ahead.tally.proposed < 20
    assert max(ahead.tokens) < VOCABULARY
