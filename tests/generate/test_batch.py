"""Several generations at once: each as if it were alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cutaway.generate import batch as rooms
from cutaway.generate.batch import Batch, Event, Request
from cutaway.generate.loop import generate
from cutaway.generate.rules import Leanings
from cutaway.generate.sampler import Sampler
from tests.families.making import LLAMA, random_model

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
