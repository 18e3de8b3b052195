"""Drawing where the logits lie: the sampler's tokens, one step ahead of the host, and nothing asked of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from cutaway.errors import Failed
from cutaway.generate import batch as rooms
from cutaway.generate import in_pytorch, in_step, loop
from cutaway.generate.batch import Batch, Event, Request
from cutaway.generate.in_pytorch import InPyTorch
from cutaway.generate.in_step import Chosen, Draw, Kind, Settings
from cutaway.generate.loop import generate
from cutaway.generate.rules import Rules
from cutaway.generate.sampler import Sampler, uniform
from cutaway.model.transformer import Seq2Seq, Transformer, build
from cutaway.native import library
from tests.generate.test_in_pytorch import Repeating, worst
from tests.model.machines import CONTEXT, DECODERS, IDS, LENGTH, SOURCES, VOCABULARY, lively

PROMPT = [1, 17, 5, 42, 8]
SAMPLERS = {
    "greedy": Sampler(0),
    "drawn": Sampler(1.3),
    "cut": Sampler(1.3, top_k=40, top_p=0.9, min_p=0.01),
}


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's engine on a processor, which believes it is on a GPU; what would be a graph is run anew each time."""
    monkeypatch.setattr(library, "ready", lambda: None)
    monkeypatch.setattr(in_pytorch, "on_gpu", lambda device: True)
    monkeypatch.setattr(in_pytorch, "_captured", Repeating.captured)


def drawn(rows: list[np.ndarray], draws: list[Draw]) -> Tensor:
    """(B, 4): token, the probability it was drawn with, the model's, certain."""
    its = Settings(len(rows), torch.device("cpu"))
    its.set([0] * len(rows), [1] * len(rows), draws)
    found = its.draw(torch.from_numpy(np.stack(rows)), max(draw.kind for draw in draws))
    assert its.ids[:, 0].tolist() == found[:, 0].tolist()
    assert its.step.tolist() == [draw.step + 1 for draw in draws]
    return found


SETTINGS = st.builds(
    Sampler,
    temperature=st.sampled_from([0, 1e-300, 0.7, 1.0, 3.0, 1e9]),
    top_k=st.sampled_from([None, 0, 1, 3, 50, 5000]),
    top_p=st.sampled_from([None, 1e-9, 0.3, 0.9, 0.999999, 1]),
    min_p=st.sampled_from([None, 0, 0.05, 1]),
)


@st.composite
def rows_of_logits(draw: st.DrawFn) -> np.ndarray:
    """Of a vocabulary of 700: spread more or less, some of them equal, some impossible."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    row = rng.normal(size=700) * draw(st.sampled_from([0, 0.01, 1, 10, 200]))
    if draw(st.booleans()):
        row = row.round(1)
    row[rng.random(row.size) < draw(st.sampled_from([0, 0.5, 0.999]))] = -math.inf
    row[rng.integers(row.size)] = draw(st.sampled_from([-3.0, 3.0, 40.0]))
    return row


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(rows_of_logits(), SETTINGS), min_size=1, max_size=4), st.integers(0, 2**64), st.integers(0, 99)
)
def test_what_is_certain_is_the_sampler_s(rows: list[tuple[np.ndarray, Sampler]], seed: int, step: int) -> None:
    draws = [Draw(sampler, seed, step) for _, sampler in rows]
    found = drawn([row for row, _ in rows], draws)
    for (row, sampler), (token, p_drawn, p, certain) in zip(rows, found.tolist(), strict=True):
        if certain:
            expected, its_p = sampler.choose(row, [], seed, step)
            assert token == expected
            assert p_drawn == pytest.approx(its_p, rel=1e-9)
            assert p == pytest.approx(float(torch.from_numpy(row).softmax(0)[expected]), rel=1e-9)


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize("round_to", [None, 1], ids=["unequal", "many equal"])
def test_nearly_all_is_certain(sampler: Sampler, round_to: int | None) -> None:
    rng = np.random.default_rng(3)
    rows = [rng.normal(size=50_000).astype(np.float32) * 3 for _ in range(40)]
    if round_to is not None:
        rows = [row.round(round_to) for row in rows]
    found = drawn(rows, [Draw(sampler, 11, step) for step in range(40)])
    assert found[:, 3].sum() == 40
    expected = [sampler.choose(row, [], 11, step)[0] for step, row in enumerate(rows)]
    assert found[:, 0].tolist() == expected


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_where_rounding_decides_it_is_not_certain_or_the_sampler_s(data: st.DataObject) -> None:
    """Random numbers beside the very places where one token ends and the next begins."""
    row, sampler = data.draw(rows_of_logits()), data.draw(SETTINGS)
    assume(sampler.temperature > 0)
    sums = np.cumsum(sampler.trace(row).probabilities)
    edges = (sums / sums[-1])[data.draw(st.lists(st.integers(0, 699), min_size=1, max_size=4))]
    for u in (float(near) for edge in edges for near in (np.nextafter(edge, 0), edge, np.nextafter(edge, 1))):
        u = min(u, 1 - 2**-53)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(in_step, "uniform", lambda seed, step, u=u: torch.tensor([u], dtype=torch.float64))
            patch.setattr("cutaway.generate.sampler.uniform", lambda seed, step, u=u: u)
            ((token, _, _, certain),) = drawn([row], [Draw(sampler, 0, 0)]).tolist()
            if certain:
                assert token == sampler.choose(row, [], 0, 0)[0]


def test_on_an_edge_it_is_not_certain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_step, "uniform", lambda seed, step: torch.tensor([0.5], dtype=torch.float64))
    halves = np.zeros(2)
    assert not drawn([halves], [Draw(Sampler(), 0, 0)])[0, 3]
    assert not drawn([np.zeros(4)], [Draw(Sampler(top_p=0.25), 0, 0)])[0, 3]  # does the first alone hold a quarter?
    near = np.array([-2e-17, -1e-17, 0.0])  # all weigh 1, and the first is no more probable than the last
    assert not drawn([near], [Draw(Sampler(top_p=0.3), 0, 0)])[0, 3]
    tenth = np.array([0.0, math.log(0.1)])
    assert not drawn([tenth], [Draw(Sampler(min_p=float(np.exp(tenth[1]))), 0, 0)])[0, 3]
    greedy = drawn([np.zeros(4)] * 2, [Draw(Sampler(0), 0, 0), Draw(Sampler(top_p=0.25), 0, 0)])
    assert greedy[:, 3].tolist() == [1, 0]  # beside others nothing is uncertain of the largest
    assert drawn([np.zeros(5)], [Draw(Sampler(top_k=3), 0, 0)])[0, :2].tolist() == [1, pytest.approx(1 / 3)]


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_what_cannot_be_drawn_is_not_certain(sampler: Sampler, broken: float) -> None:
    row = np.full(9, broken)
    ((token, _, _, certain),) = drawn([row], [Draw(sampler, 0, 0)]).tolist()
    assert not certain
    assert 0 <= token < 9  # a row of the embedding: the next run may have begun


@given(st.integers(-(2**64), 2**65), st.integers(0, 2**40))
def test_the_random_number_is_the_sampler_s(seed: int, step: int) -> None:
    its = torch.tensor([in_step._signed(seed)]), torch.tensor([step])
    assert in_step.uniform(*its).item() == uniform(seed, step)


@pytest.mark.parametrize(
    ("sampler", "kind"),
    [
        (Sampler(0, top_k=4), Kind.ARGMAX),
        (Sampler(), Kind.DRAW),
        (Sampler(top_k=0, min_p=0), Kind.DRAW),
        (Sampler(top_k=1), Kind.CUT),
        (Sampler(top_p=0.5), Kind.CUT),
        (Sampler(min_p=0.1), Kind.CUT),
    ],
)
def test_no_more_is_done_than_the_settings_need(sampler: Sampler, kind: Kind) -> None:
    assert Draw(sampler, 0, 0).kind is kind


# --- texts -----------------------------------------------------------------------------------------------------------


def steps(machine: Transformer, sampler: Sampler, **asked: Any) -> list[loop.Step]:
    return list(generate(machine, PROMPT, sampler=sampler, max_new_tokens=40, seed=7, **asked))


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize("kind", DECODERS)
def test_drawn_in_the_step_equals_plain(kind: str, sampler: Sampler) -> None:
    machine: Transformer = lively(DECODERS[kind])  # type: ignore[assignment]
    plain, there = steps(machine, sampler, cached=False), steps(machine, sampler)
    assert [step.id for step in plain] == [step.id for step in there]
    for one, other in zip(plain, there, strict=True):
        assert one.u == other.u
        assert one.p == pytest.approx(other.p, rel=1e-4)
        assert one.p_drawn == pytest.approx(other.p_drawn, rel=1e-4)


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("name", sorted(SOURCES))
def test_behind_an_encoder(name: str) -> None:
    machine = lively(SOURCES[name])
    assert isinstance(machine, Seq2Seq)
    memory = loop.Encoded(torch.randn(1, 11, machine.spec.decoder.width))
    found = [
        generate(machine, PROMPT[:1], source=memory, max_new_tokens=20, seed=3, cached=cached).finish().tokens
        for cached in (True, False)
    ]
    assert found[0] == found[1]


@pytest.mark.usefixtures("as_on_a_gpu")
def test_the_next_step_is_under_way_before_the_host_hears_of_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    machine: Transformer = lively(DECODERS["llama"])  # type: ignore[assignment]
    went: list[str] = []
    for owner, name in ((InPyTorch, "begin"), (InPyTorch, "go_on"), (in_pytorch.Pending, "take")):
        whole = getattr(owner, name)

        def told(*given: Any, whole: Any = whole, name: str = name) -> Any:
            went.append(name)
            return whole(*given)

        monkeypatch.setattr(owner, name, told)
    generate(machine, PROMPT, max_new_tokens=4, seed=1).finish()
    assert went == ["begin", "go_on", "take", "go_on", "take", "go_on", "take", "take"]


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("kind", ["llama", "windows"])
def test_where_the_host_draws_another_token_that_one_is_read(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the device every third token is a wrong one and not certain, and every fifth not certain alone."""
    machine: Transformer = lively(DECODERS[kind])  # type: ignore[assignment]
    expected = steps(machine, SAMPLERS["cut"], cached=False)
    draw, wrong = Settings.draw, []

    def now_and_then(its: Settings, logits: Tensor, kind: Kind) -> Tensor:
        step = its.step.clone()
        found = draw(its, logits, kind)
        moved = its.moving == 1
        other = moved & (step % 3 == 1)
        found[:, 0] = torch.where(other, (found[:, 0] + 1) % VOCABULARY, found[:, 0])
        found[:, 3] = torch.where(other | (step % 5 == 1), 0.0, found[:, 3])
        its.ids[:, 0] = torch.where(moved, found[:, 0].long(), its.ids[:, 0])
        wrong.append(bool(other.any()))
        return found

    monkeypatch.setattr(Settings, "draw", now_and_then)
    found = steps(machine, SAMPLERS["cut"])
    assert [step.id for step in found] == [step.id for step in expected]
    assert sum(wrong) > 10


@pytest.mark.usefixtures("as_on_a_gpu")
def test_logits_and_trace_are_the_step_s() -> None:
    """Though the next step is under way by then."""
    machine: Transformer = lively(DECODERS["llama"])  # type: ignore[assignment]
    ids, sampler = list(PROMPT), SAMPLERS["cut"]
    generation = generate(machine, ids, sampler=sampler, max_new_tokens=12, seed=2)
    for step in generation:
        with torch.no_grad():
            logits = machine(torch.tensor([ids]))[0, -1].numpy()
        assert generation.logits is not None
        assert worst(generation.logits, logits) < 2e-6
        trace = generation.trace
        assert trace is not None
        assert trace.probabilities[step.id] == pytest.approx(step.p_drawn, rel=1e-9)
        ids.append(step.id)


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("rules", [Rules(no_repeat_ngram_size=2), Rules(suppress_tokens=(3, 5))])
def test_rules_are_the_host_s(rules: Rules) -> None:
    machine: Transformer = lively(DECODERS["llama"])  # type: ignore[assignment]
    for sampler, asked in ((Sampler(), rules), (Sampler(repetition_penalty=1.5), Rules())):
        there, plain = (steps(machine, sampler, rules=asked, cached=cached) for cached in (True, False))
        assert [step.id for step in there] == [step.id for step in plain]


@pytest.mark.usefixtures("as_on_a_gpu")
def test_where_nan_began_is_told() -> None:
    machine: Transformer = lively(DECODERS["llama"])  # type: ignore[assignment]
    with torch.no_grad():
        machine.stack.blocks[1].mlp.down.weight[0, 0] = math.nan
    with pytest.raises(Failed, match="NaN"):
        generate(machine, PROMPT, seed=1).finish()


@pytest.mark.usefixtures("as_on_a_gpu")
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_texts_side_by_side(data: st.DataObject) -> None:
    """Some are drawn in the step, some by the host, some scored, some read while others are written."""
    machine: Transformer = lively(DECODERS["llama"])  # type: ignore[assignment]
    requests = [
        Request(
            tuple(data.draw(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=LENGTH))),
            data.draw(st.sampled_from([*SAMPLERS.values(), Sampler(repetition_penalty=1.3)])),
            data.draw(st.sampled_from([Rules(), Rules(no_repeat_ngram_size=1)])),
            max_new_tokens=data.draw(st.integers(0, 8)),
            seed=data.draw(st.integers(0, 9)),
            top=data.draw(st.sampled_from([None, 2])),
            score=data.draw(st.booleans()),
        )
        for _ in range(data.draw(st.integers(1, 5)))
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rooms, "CHUNK", 5)
        batch = Batch(machine, None)
        assert isinstance(batch._engine, InPyTorch)
        handles = [batch.submit(request) for request in requests]
        events: list[Event] = []
        while batch.free < rooms.SLOTS:
            events += batch.step()
    for handle, request in zip(handles, requests, strict=True):
        mine = [event for event in events if event.handle == handle]
        assert mine[-1].finish_reason == "length"
        if request.max_new_tokens == 0:
            assert [event.token for event in mine] == [None]
            continue
        alone = list(generate(
            machine, request.ids, sampler=request.sampler, rules=request.rules, seed=request.seed,
            max_new_tokens=request.max_new_tokens, cached=False,
        ))  # fmt: skip
        assert [event.token for event in mine] == [step.id for step in alone]
        if request.top is not None:
            told = [event.scored.logprob for event in mine if event.scored is not None]
            assert told == pytest.approx([math.log(step.p) for step in alone], abs=1e-4)


def test_on_a_processor_the_host_draws() -> None:
    """There the logits lie where the sampler is, which is quicker and exact."""
    machine: Transformer = lively(DECODERS["llama"])  # type: ignore[assignment]
    engine = InPyTorch(machine, CONTEXT)
    draw = Draw(Sampler(0), 0, 0)
    assert engine.following(draw, 4) is None
    (found,) = engine.drawing([(0, IDS[:3], False)], {0: draw})
    assert not isinstance(found, Chosen)


# --- a GPU -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", Kind)
def test_a_step_that_draws_asks_nothing_of_the_host(kind: Kind) -> None:
    """On meta tensors, as in test_in_pytorch.py."""
    with torch.device("meta"):
        machine = build(DECODERS["llama"])
    engine = InPyTorch(machine, CONTEXT, texts=3)
    with torch.inference_mode():
        assert engine._all(kind).is_meta


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_on_a_gpu_it_draws_as_the_sampler_does(sampler: Sampler, caplog: pytest.LogCaptureFixture) -> None:
    machine: Transformer = lively(DECODERS["llama"]).to("cuda")  # type: ignore[assignment]
    plain, there = steps(machine, sampler, cached=False), steps(machine, sampler)
    assert [step.id for step in plain] == [step.id for step in there]
    assert not caplog.text
