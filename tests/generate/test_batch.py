"""Several generations at once: each as if it were alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cutaway.generate import batch as rooms
from cutaway.generate.batch import Batch, Event, Request
from cutaway.generate.engine import Turn
from cutaway.generate.in_c import InC
from cutaway.generate.in_pytorch import InPyTorch
from cutaway.generate.loop import generate
from cutaway.generate.rules import Leanings
from cutaway.generate.sampler import Sampler
from cutaway.model.quantized import quantize
from cutaway.model.transformer import Transformer
from cutaway.native import library
from tests.families.making import LLAMA, random_model
from tests.model.machines import DECODERS, lively

MACHINE = random_model({**LLAMA, "max_position_embeddings": 64})


def drain(batch: Batch) -> list[Event]:
    events: list[Event] = []
    while batch.free < rooms.SLOTS:
        events += batch.step()
    return events


def alone(request: Request) -> list[int]:
    return generate(
        MACHINE, request.ids, sampler=request.sampler, max_new_tokens=request.max_new_tokens, seed=request.seed,
        eos=request.eos,
    ).finish().tokens  # fmt: skip


REQUESTS = st.builds(
    Request,
    ids=st.lists(st.integers(0, 30), min_size=1, max_size=40).map(tuple),
    sampler=st.sampled_from([Sampler(), Sampler(0), Sampler(2, top_k=5), Sampler(top_p=0.5)]),
    max_new_tokens=st.integers(1, 12),
    seed=st.integers(0, 99),
    eos=st.sampled_from([frozenset(), frozenset({3, 7, 11})]),
)


@settings(max_examples=20, deadline=None)
@given(requests=st.lists(REQUESTS, min_size=1, max_size=8), gone=st.integers(0, 7))
def test_each_is_as_if_it_were_alone(requests: list[Request], gone: int) -> None:
    batch = Batch(MACHINE, None)
    handles = [batch.submit(request) for request in requests]
    first = batch.step()
    if gone < len(handles):
        batch.cancel(handles[gone])
    events = first + drain(batch)
    for place, (handle, request) in enumerate(zip(handles, requests, strict=True)):
        mine = [event for event in events if event.handle == handle]
        if place == gone:
            assert len(mine) <= 1  # nothing after it was cancelled
            continue
        assert [event.token for event in mine] == alone(request)
        assert [event.finish_reason is None for event in mine] == [True] * (len(mine) - 1) + [False]


def test_a_prompt_in_chunks_is_scored_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    request = Request(tuple(range(1, 30)), Sampler(0), max_new_tokens=3, top=2, score=True)
    found = []
    for chunk in (256, 4):
        monkeypatch.setattr(rooms, "CHUNK", chunk)
        batch = Batch(MACHINE, None)
        batch.submit(request)
        found.append(drain(batch))
    with torch.no_grad():
        shares = MACHINE.logits(MACHINE.stream(torch.tensor([request.ids])))[0].double().log_softmax(-1)
    for events in found:
        prompt = events[0].prompt
        assert prompt is not None
        assert [one.id for one in prompt] == list(request.ids)
        assert prompt[0].logprob is None
        assert [one.logprob for one in prompt[1:]] == pytest.approx(
            [float(shares[place, id]) for place, id in enumerate(request.ids[1:])], abs=1e-4
        )
        assert all(one.top[0][1] >= one.top[1][1] for one in prompt[1:])
        assert [event.prompt for event in events[1:]] == [None, None]
    assert [event.token for event in found[0]] == [event.token for event in found[1]]


def test_what_fails_harms_nobody() -> None:
    batch = Batch(MACHINE, None)
    bad = batch.submit(Request((1, 2), stop=("a",), max_new_tokens=5))  # no tokenizer: no stop strings
    good = Request((1, 2, 3), max_new_tokens=5, seed=1)
    handle = batch.submit(good)
    events = drain(batch)
    assert [event.error is not None for event in events if event.handle == bad] == [True]
    assert [event.token for event in events if event.handle == handle] == alone(good)


def test_leanings() -> None:
    scores = torch.zeros(1, 6)
    leanings = Leanings(bias=((2, 5.0),), presence=1.0, frequency=0.5)
    leaning = leanings(scores, [[4, 4, 3, 3]], (), 2, last=False)
    assert leaning[0].tolist() == [0, 0, 5, -2, 0, 0]  # the prompt's own tokens do not count
    assert scores.count_nonzero() == 0


# --- what texts begin with alike -------------------------------------------------------------------------------------

BEGINNING = tuple(range(1, 30))
KINDS = [(kind, bits) for kind in sorted(DECODERS) for bits in (None, 8, 4)]


@pytest.fixture(params=KINDS, ids=[f"{kind}-{bits or 'float32'}" for kind, bits in KINDS])
def decoder(request: pytest.FixtureRequest) -> Transformer:
    kind, bits = request.param
    machine: Transformer = lively(DECODERS[kind])  # type: ignore[assignment]
    if bits is not None:
        if library.ready() is None:
            pytest.skip("needs the kernels in C")
        quantize(machine, bits)
    return machine


def counted(batch: Batch) -> list[tuple[int, int]]:
    """(place, tokens) of everything the batch reads from now on."""
    read, count = batch._engine.together, list[tuple[int, int]]()

    def reading(turns: Sequence[Turn], prompts: Collection[int]) -> object:
        count.extend((slot, len(ids)) for slot, ids, _ in turns)
        return read(turns, prompts)

    batch._engine.together = reading  # type: ignore[method-assign, assignment]
    return count


def told(events: list[Event], handle: int) -> list[Event]:
    return [event for event in events if event.handle == handle]


def as_alone(machine: Transformer, request: Request, events: list[Event]) -> None:
    """The tokens of a Batch that has read nothing else; of a quantised machine to the last bit."""
    batch = Batch(machine, None)
    batch.submit(request)
    expected = drain(batch)
    assert [event.token for event in events] == [event.token for event in expected]
    if any(True for _ in machine.buffers()) and library.ready() is not None:  # quantised
        assert [event.scored for event in events] == [event.scored for event in expected]


def test_answers_to_one_prompt_read_it_once(decoder: Transformer) -> None:
    requests = [Request(BEGINNING, Sampler(1.2), max_new_tokens=6, seed=seed, top=2) for seed in range(5)]
    batch = Batch(decoder, None)
    count = counted(batch)
    handles = [batch.submit(request) for request in requests]
    events = drain(batch)
    for handle, request in zip(handles, requests, strict=True):
        as_alone(decoder, request, told(events, handle))
    if batch._engine.shares:
        assert sum(tokens for _, tokens in count) == len(BEGINNING) + 4 + 5 * 5
        assert [told(events, handle)[0].cached for handle in handles] == [0] + [len(BEGINNING) - 1] * 4


def test_a_conversation_goes_on_where_it_was(decoder: Transformer) -> None:
    batch = Batch(decoder, None)
    first = Request(BEGINNING, max_new_tokens=5, seed=1, top=0)
    batch.submit(first)
    answer = tuple(event.token for event in drain(batch))
    for _ in range(3):  # others come and go
        batch.submit(Request((7, 7, 7), max_new_tokens=2, seed=1))
        drain(batch)
    second = Request((*BEGINNING, *answer, 50, 51), max_new_tokens=5, seed=2, top=1)  # type: ignore[arg-type]
    third = Request((*BEGINNING[:20], 60, 61), max_new_tokens=5, seed=3, top=1)
    count = counted(batch)
    handles = [batch.submit(request) for request in (second, third)]
    events = drain(batch)
    for handle, request in zip(handles, (second, third), strict=True):
        as_alone(decoder, request, told(events, handle))
    if batch._engine.shares:
        # The last token of an answer is never read.
        assert [told(events, handle)[0].cached for handle in handles] == [len(BEGINNING) + 4, 20]
        assert sum(tokens for _, tokens in count) == 3 + 2 + 2 * 4


LIKE = st.builds(
    Request,
    ids=st.builds(
        lambda length, more: (*BEGINNING[:length], *more),
        st.integers(1, 29), st.lists(st.integers(0, 4), max_size=9),
    ),
    sampler=st.just(Sampler(1.2)), max_new_tokens=st.integers(1, 9), seed=st.integers(0, 99), top=st.just(1),
    score=st.sampled_from([False, False, True]),
)  # fmt: skip


@pytest.mark.parametrize("bits", [8, None])
@pytest.mark.parametrize("chunk", [5, 256])
@settings(max_examples=15, deadline=None)
@given(requests=st.lists(LIKE, min_size=1, max_size=16), leaving=st.sets(st.integers(0, 15)), data=st.data())
def test_whoever_comes_and_goes(
    chunk: int, bits: int | None, requests: list[Request], leaving: set[int], data: st.DataObject
) -> None:
    """Texts that begin alike are submitted at any time and some are cancelled at any time; the rest do not notice, and
    nobody waits for ever."""
    if bits and library.ready() is None:
        pytest.skip("needs the kernels in C")
    machine = QUANTISED if bits else PLAIN
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rooms, "SHARED", 2)
        patch.setattr(rooms, "CHUNK", chunk)
        batch = Batch(machine, None, slots=3)
        handles, events, waiting = dict[int, int](), list[Event](), list(range(len(requests)))
        for _ in range(1000):
            while batch.free and waiting and (batch.free == 3 or data.draw(st.booleans())):
                place = waiting.pop(0)
                handles[place] = batch.submit(requests[place])
            if not waiting and batch.free == 3:
                break
            events += batch.step()
            for place in leaving & handles.keys():
                if data.draw(st.booleans()):
                    batch.cancel(handles[place])
        else:
            raise AssertionError("it does not end")
        for place, handle in handles.items():
            its = told(events, handle)
            if its and its[-1].finish_reason is not None:
                as_alone(machine, requests[place], its)
            else:
                assert place in leaving


PLAIN: Transformer = lively(DECODERS["llama"])  # type: ignore[assignment]
QUANTISED: Transformer = lively(DECODERS["llama"])  # type: ignore[assignment]
quantize(QUANTISED, 8)


def test_a_long_prompt_does_not_keep_the_others_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "CHUNK", 4)
    batch = Batch(PLAIN, None)
    short, long = (batch.submit(Request(ids, max_new_tokens=12, seed=1)) for ids in ((1, 2), BEGINNING))
    assert [event.handle for event in batch.step()] == [short]
    for step in range(1, 8):  # 29 tokens, 2 of them beside the short prompt, then 4 at a time
        assert [event.handle for event in batch.step()] == [short] + [long] * (step == 7)


def test_a_short_prompt_does_not_wait_for_a_long_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever came first: prompts share what is read in a step."""
    monkeypatch.setattr(rooms, "CHUNK", 6)
    batch = Batch(PLAIN, None)
    handles = [batch.submit(Request(ids, max_new_tokens=3, seed=1)) for ids in (BEGINNING, (7, 8, 9, 10), (5, 6))]
    long, middle, short = handles
    count = counted(batch)
    assert [event.handle for event in batch.step()] == [short]
    assert sorted(tokens for _, tokens in count) == [2, 2, 2]
    assert {event.handle for event in batch.step()} == {short, middle}
    assert sum(tokens for _, tokens in count) == 2 + 2 + 2 + 1 + 2 + 4  # the second step: one token, and six of prompts
    events = drain(batch)
    assert events[-1].handle == long


def test_pytorch_shares_where_no_window_slides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "ready", lambda: None)
    for kind, shares in (("llama", True), ("gpt2", True), ("windows", False)):
        machine: Transformer = lively(DECODERS[kind])  # type: ignore[assignment]
        batch = Batch(machine, None)
        assert batch._engine.shares is shares
        requests = [Request(BEGINNING, max_new_tokens=6, seed=seed) for seed in range(3)]
        handles = [batch.submit(request) for request in requests]
        events = drain(batch)
        for handle, request in zip(handles, requests, strict=True):
            as_alone(machine, request, told(events, handle))
        assert [told(events, handle)[0].cached for handle in handles] == [0] + [28 * shares] * 2
        batch.submit(Request((*BEGINNING, 3), max_new_tokens=30))  # more room than the copy began with
        assert drain(batch)[0].cached == (29 if shares else 0)


def test_the_kernels_are_taken_when_they_are_there_and_nobody_writes() -> None:
    if library.ready() is None:
        pytest.skip("needs the kernels in C")
    request = Request((1, 2, 3), max_new_tokens=6, seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "ready", lambda: None)
        batch = Batch(MACHINE, None)
        first = batch.submit(request)
        events = batch.step()
    second = batch.submit(request)
    events += drain(batch)
    assert isinstance(batch._engine, InPyTorch)
    third = batch.submit(request)
    assert isinstance(batch._engine, InC)
    events += drain(batch)
    for handle in (first, second, third):
        assert [event.token for event in told(events, handle)] == alone(request)
