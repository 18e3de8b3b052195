"""The worker's desk: who has left is written for no longer, and the others go on."""

from __future__ import annotations

import gc
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
    after = 0
    while "cancelled" not in (message := said.get(timeout=30)):
        assert "part" in message
        after += 1
    assert after < 200  # of 4,800: what was said before it heard, and the step under way
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
