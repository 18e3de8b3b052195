"""The worker's desk: who has left is written for no longer, and the others go on."""

from __future__ import annotations

import gc
import json
import queue
from typing import Any

import pytest

import cutaway
from cutaway import hub
from cutaway.serve import openai
from cutaway.serve.desk import Desk
from cutaway.serve.limits import Limits
from cutaway.serve.worker import Reply

pytestmark = pytest.mark.skipif(not hub.bundled(), reason="no model is bundled in this checkout")


def test_who_has_left_is_written_for_no_longer() -> None:
    desk = Desk(cutaway.load("stories"))
    said: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    body = b'{"model":"stories","prompt":"Once","max_tokens":400,"n":12,"ignore_eos":true,"seed":1}'
    desk.take(Reply(1, said.put), openai.completion(body, Limits()).work)
    for _ in range(20):
        said.get(timeout=30)
    desk.leave(1)
    after = -said.qsize()  # what was said before it heard: on busy cores this thread may have come to it late
    while "cancelled" not in (message := said.get(timeout=30)):
        assert "part" in message
        after += 1
    assert after < 200  # of 4,800: the step under way
    assert desk._tickets == {}
    desk.take(Reply(2, said.put), openai.completion(body.replace(b"400", b"2"), Limits()).work)
    while "answer" not in (message := said.get(timeout=30)):
        assert message["id"] == 2


def test_a_long_prompt_is_no_standstill() -> None:
    desk = Desk(cutaway.load("stories"))
    said: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    prompt = b'{"model":"stories","prompt":%s,"max_tokens":1}' % str([5] * 500).encode()
    desk.take(Reply(1, said.put), openai.completion(prompt, Limits()).work)
    heard = [said.get(timeout=30) for _ in range(4)]
    assert [next(key for key in message if key != "id") for message in heard] == ["part", "beat", "part", "answer"]


def heard(said: queue.SimpleQueue[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    """What is said until a request ends."""
    messages = [said.get(timeout=60)]
    while messages[-1].get("id") != number or "answer" not in messages[-1]:
        messages.append(said.get(timeout=60))
    return messages


def test_a_small_request_begins_during_one_of_many_texts() -> None:
    desk = Desk(cutaway.load("stories"))
    said: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    many = b'{"model":"stories","prompt":"Once","max_tokens":300,"n":40,"ignore_eos":true,"seed":1}'
    few = b'{"model":"stories","prompt":"The dog","max_tokens":5,"ignore_eos":true,"seed":1}'
    desk.take(Reply(1, said.put), openai.completion(many, Limits()).work)
    for _ in range(100):
        said.get(timeout=30)
    desk.take(Reply(2, said.put), openai.completion(few, Limits()).work)
    messages = heard(said, 2)
    ended = [message for message in messages if message.get("id") == 1 and "end" in message.get("part", {})]
    assert ended == []  # of the forty none had to end first
    desk.leave(1)


def test_who_has_fewest_texts_under_way_goes_first() -> None:
    desk = Desk(cutaway.load("stories"))
    said: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    prompts = [[5 + place] * (40 + 9 * place) for place in range(10)]  # they end one after the other
    many = {"model": "stories", "prompt": prompts, "n": 4, "max_tokens": 60, "ignore_eos": True, "seed": 1}
    few = b'{"model":"stories","prompt":"The dog","max_tokens":5,"ignore_eos":true,"seed":1}'
    for number in range(1, 7):
        desk.take(Reply(number, said.put), openai.completion(json.dumps(many).encode(), Limits()).work)
    running: set[int] = set()
    while len(running) < 6:  # each of the six has a text under way
        message = said.get(timeout=60)
        running |= {message["id"]} if "i" in message.get("part", {}) else set()
    desk.take(Reply(7, said.put), openai.completion(few, Limits()).work)
    messages = heard(said, 7)
    read = next(place for place, message in enumerate(messages) if message.get("id") == 7)
    first = next(place for place, one in enumerate(messages) if one.get("id") == 7 and "i" in one["part"])
    ended = [message for message in messages[read:first] if "end" in message.get("part", {})]
    assert len(ended) <= 2  # the first after it came; and one that ended while it was taken
    for number in range(1, 7):
        desk.leave(number)


@pytest.mark.parametrize(
    "asked", ['"max_tokens":8', '"max_tokens":2,"n":3,"logprobs":3,"echo":true', '"stop":"\\u00e9"']
)
def test_nothing_of_a_request_waits_for_the_garbage_collector(asked: str) -> None:
    """Tensors in a cycle stay until the oldest generation is collected: thousands of requests later."""
    desk = Desk(cutaway.load("stories"))
    said: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    body = f'{{"model":"stories","prompt":"Once upon","seed":1,{asked}}}'.encode()

    def write(number: int) -> None:
        desk.take(Reply(number, said.put), openai.completion(body, Limits()).work)
        while "answer" not in said.get(timeout=30):
            pass

    def held() -> int:
        return sum(type(one).__name__ in ("_Writing", "Generation") for one in gc.get_objects())

    write(1)
    gc.collect()
    gc.disable()
    try:
        for number in range(2, 12):
            write(number)
        assert held() <= 6  # of the last request: its end is sent a moment before it is let go
    finally:
        gc.enable()
