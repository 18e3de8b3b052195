"""Two runs side by side: what ``compare`` says must be what a naive reading of both records gives."""

from __future__ import annotations

import math

import pytest
import torch

from cutaway import Model, compare, load
from cutaway.errors import Misuse
from tests.look.test_record import ran

FIRST, SECOND = "Once upon a time there was a little girl", "Once upon a time there lived a little girl"


@pytest.fixture(scope="module")
def stories() -> Model:
    return load("stories")


def test_a_run_equals_itself(stories: Model) -> None:
    found = compare(stories.run(FIRST), stories.run(FIRST))
    assert found.parts_at is None
    assert found.cosine == pytest.approx([1] * 11, abs=1e-12)
    assert found.distance == pytest.approx([0] * 11, abs=1e-12)
    assert found.divergence == pytest.approx(0, abs=1e-12)
    assert found.changes == []


def test_two_texts_part_where_their_tokens_do_and_nowhere_before(stories: Model) -> None:
    first, second = stories.run(FIRST), stories.run(SECOND)
    found = compare(first, second)
    at = found.parts_at
    assert at is not None
    assert first.tokens[:at] == second.tokens[:at]
    assert first.tokens[at] != second.tokens[at]
    before = compare(first, second, at=(at - 1, at - 1))  # nothing after a token is felt there
    assert before.cosine == pytest.approx([1] * 11, abs=1e-6)
    after = compare(first, second, at=(at, at))
    assert max(after.cosine) < 0.999


def test_the_numbers_are_those_of_a_plain_reading(stories: Model) -> None:
    first, second = stories.run(FIRST), stories.run(SECOND)
    found = compare(first, second, at=(-1, -2))
    assert found.at == (len(first.tokens) - 1, len(second.tokens) - 2)
    for stop, name in enumerate(first.stops()):
        a, b = first[name][-1].tolist(), second[name][-2].tolist()
        lengths = math.hypot(*a), math.hypot(*b)
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        apart = math.hypot(*(x - y for x, y in zip(a, b, strict=True)))
        assert found.cosine[stop] == pytest.approx(dot / lengths[0] / lengths[1], abs=1e-9)
        assert found.distance[stop] == pytest.approx(2 * apart / sum(lengths), abs=1e-9)
    p, q = (record["logits"][t].double().softmax(-1) for record, t in ((first, -1), (second, -2)))
    assert found.divergence == pytest.approx(float((p * (p / q).log()).sum()), abs=1e-5)
    assert found.moved == pytest.approx(float((p - q).clamp_min(0).sum()), abs=1e-5)
    largest = max(range(len(p)), key=lambda i: abs(float(p[i] - q[i])))
    assert found.changes[0].id == largest
    assert (found.changes[0].first, found.changes[0].second) == pytest.approx(
        (float(p[largest]), float(q[largest])), abs=1e-6
    )


def test_an_edit_parts_the_streams_but_not_the_tokens(stories: Model) -> None:
    cut = stories.run(FIRST, edit={"blocks.2.mlp.out": torch.zeros_like})
    found = compare(stories.run(FIRST), cut)
    assert found.parts_at is None
    assert found.distance[:6] == pytest.approx([0] * 6, abs=1e-12)
    assert min(found.distance[6:]) > 1e-3


def test_models_of_other_shapes_say_what_cannot_be_compared(stories: Model) -> None:
    found = compare(stories.run(FIRST), ran()[2])
    assert found.cosine is None
    assert found.changes is None
    assert len(found.notes) == 2


def test_a_text_that_begins_another(stories: Model) -> None:
    ids = stories.tokens(FIRST)
    assert compare(stories.run(tokens=ids[:4]), stories.run(tokens=ids)).parts_at == 4


def test_a_token_that_is_not_there(stories: Model) -> None:
    with pytest.raises(Misuse, match="no token 99"):
        compare(stories.run(FIRST), stories.run(FIRST), at=(99, 0))
