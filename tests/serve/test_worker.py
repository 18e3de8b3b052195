"""The worker behind the server: cancelled, killed, dying, hanging, overrun, and the next request works."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from io import FileIO

import pytest
from starlette.testclient import TestClient

from cutaway.serve import wire
from cutaway.serve.problem import Problem
from cutaway.serve.supervisor import Supervisor
from tests.serve.served import FAKE, LIMITS


@contextlib.asynccontextmanager
async def supervised(*options: str, **limits: float) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor((*FAKE, *options), replace(LIMITS, **limits))
    supervisor.start()
    try:
        yield supervisor
    finally:
        await supervisor.stop()


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await test()

    asyncio.run(bounded())


async def ask(supervisor: Supervisor, text: str, model: str = "small") -> bytes:
    fields = {"model": model, "given": {"text": text}, "want": []}
    return (await supervisor.ask("run", loaded=model, **fields))[1]


async def until(supervisor: Supervisor, state: str) -> dict:
    while supervisor.state["state"] != state:
        await asyncio.sleep(0.005)
    return supervisor.state


async def first(events: AsyncIterator[dict | None], count: int) -> AsyncIterator[dict]:
    """The next events that are not silence."""
    async for event in events:
        if event is not None:
            yield event
            count -= 1
        if not count:
            return


async def status(work: Awaitable) -> int:
    with pytest.raises(Problem) as caught:
        await work
    assert caught.value.message
    return caught.value.status


def test_the_first_model_is_loaded_unasked() -> None:
    async def test() -> None:
        async with supervised() as supervisor:
            assert (await until(supervisor, "ready"))["model"] == "small"
            assert [model["id"] for model in supervisor.models] == ["small", "other", "broken", "deadly", "large"]

    run(test)


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("refuse", 400, "The text is empty."),
        ("fail", 500, "The model failed: RuntimeError: shapes do not match."),
        ("panic", 500, "The model failed: Panic: index out of range."),
        ("memory", 503, "MemoryError"),
        ("die", 503, "SIGKILL"),
        ("nonsense", 503, "spoke nonsense"),
    ],
)
def test_what_goes_wrong_is_said_and_the_next_request_works(text: str, code: int, says: str) -> None:
    async def test() -> None:
        async with supervised() as supervisor:
            with pytest.raises(Problem) as caught:
                await ask(supervisor, text)
            assert caught.value.status == code
            assert says in caught.value.message
            assert b"echo" in await ask(supervisor, "echo")

    run(test)


def test_a_worker_that_dies_is_told_and_replaced_with_the_same_model() -> None:
    async def test() -> None:
        async with supervised() as supervisor:
            await ask(supervisor, "echo", "other")
            events = supervisor.events()
            assert (await anext(events))["model"] == "other"
            os.kill(int(await ask(supervisor, "pid", "other")), signal.SIGKILL)
            told = [event async for event in first(events, 4)]
            assert [event["state"] for event in told] == ["failed", "starting", "starting", "ready"]
            assert "SIGKILL" in told[0]["message"]
            assert told[-1]["model"] == "other"

    run(test)


def test_a_cancelled_run_stops_by_itself_and_the_process_lives() -> None:
    async def test() -> None:
        async with supervised(grace_seconds=30) as supervisor:
            pid = await ask(supervisor, "pid")
            long = asyncio.create_task(ask(supervisor, "slow 100"))
            await asyncio.sleep(0.05)
            long.cancel()
            assert await ask(supervisor, "pid") == pid

    run(test)


def test_a_run_that_does_not_listen_is_killed_after_its_grace() -> None:
    async def test() -> None:
        async with supervised() as supervisor:
            pid = await ask(supervisor, "pid")
            long = asyncio.create_task(ask(supervisor, "deaf 100"))
            await asyncio.sleep(0.05)
            long.cancel()
            assert await ask(supervisor, "pid") != pid
            with pytest.raises(ProcessLookupError):
                os.kill(int(pid), 0)

    run(test)


def test_a_cancelled_request_that_waited_never_starts_and_its_neighbour_is_unharmed() -> None:
    async def test() -> None:
        async with supervised() as supervisor:
            assert await ask(supervisor, "count") == b"1"
            first = asyncio.create_task(ask(supervisor, "slow 1"))
            await asyncio.sleep(0.05)
            waiting = asyncio.create_task(ask(supervisor, "count"))
            last = asyncio.create_task(ask(supervisor, "count"))
            await asyncio.sleep(0.05)
            waiting.cancel()
            assert b"slow" in await first
            assert await last == b"3"

    run(test)


def test_the_queue_is_bounded() -> None:
    async def test() -> None:
        async with supervised() as supervisor:
            await until(supervisor, "ready")
            running = asyncio.create_task(ask(supervisor, "slow 1"))
            await asyncio.sleep(0.05)
            waiting = [asyncio.create_task(ask(supervisor, "echo")) for _ in range(LIMITS.queue)]
            await asyncio.sleep(0)
            with pytest.raises(Problem) as caught:
                await ask(supervisor, "echo")
            assert caught.value.status == 503
            assert caught.value.headers["Retry-After"] == "1"
            waiting[0].cancel()
            await asyncio.sleep(0)
            waiting[0] = asyncio.create_task(ask(supervisor, "echo"))  # whoever left makes room at once
            await asyncio.gather(running, *waiting)

    run(test)


def test_a_request_has_a_deadline() -> None:
    async def test() -> None:
        async with supervised(run_seconds=2, grace_seconds=30) as supervisor:
            await until(supervisor, "ready")
            assert await status(ask(supervisor, "slow 100")) == 503
            assert b"echo" in await ask(supervisor, "echo")

    run(test)


def test_a_request_while_the_worker_starts_says_so() -> None:
    async def test() -> None:
        async with supervised("--late", "100", run_seconds=0.5) as supervisor:
            while supervisor.state["stage"] != "importing torch":
                await asyncio.sleep(0.01)
            assert (await supervisor.listed())[0]["id"] == "small"
            with pytest.raises(Problem, match="still being loaded") as caught:
                await ask(supervisor, "echo")
            assert caught.value.headers["Retry-After"] == "5"
            assert supervisor.state["stage"] == "importing torch"

    run(test)


def test_a_worker_that_cannot_start_is_not_started_for_ever() -> None:
    async def test() -> None:
        async with supervised("--never") as supervisor:
            with pytest.raises(Problem, match="No module named 'torch'"):
                await ask(supervisor, "echo")
            state = await until(supervisor, "failed")
            assert "No module named 'torch'" in state["message"]
            first = supervisor.process
            await asyncio.sleep(0.3)
            assert supervisor.process is first
            with pytest.raises(Problem, match="No module named 'torch'"):
                await ask(supervisor, "echo")  # asked for again, it is tried again
            assert supervisor.process is not first

    run(test)


def test_a_worker_that_is_not_there_at_all() -> None:
    async def test() -> None:
        supervisor = Supervisor(("/nowhere/python",), LIMITS)
        supervisor.start()
        await until(supervisor, "failed")
        with pytest.raises(Problem, match="cannot be started"):
            await ask(supervisor, "echo")
        await supervisor.stop()

    run(test)


def test_a_model_that_does_not_load_leaves_the_others_working() -> None:
    async def test() -> None:
        async with supervised() as supervisor:
            assert await status(ask(supervisor, "echo", "broken")) == 422
            assert supervisor.state["state"] == "failed"
            assert "ends in the middle" in supervisor.state["message"]
            assert await status(ask(supervisor, "echo", "deadly")) == 503
            assert b"small" in await ask(supervisor, "echo")

    run(test)


def test_a_client_that_goes_does_not_stop_a_load_for_the_others() -> None:
    async def test() -> None:
        async with supervised("--late", "0.3") as supervisor:
            impatient = asyncio.create_task(ask(supervisor, "echo", "other"))
            await asyncio.sleep(0.05)
            impatient.cancel()
            assert b"other" in await ask(supervisor, "echo", "other")

    run(test)


def test_models_stay_loaded_side_by_side() -> None:
    async def test() -> None:
        async with supervised() as supervisor:
            for model in ("small", "other", "small", "other"):
                assert await ask(supervisor, "loads", model) == (
                    b"1" if supervisor.state["loaded"] == ["small"] else b"2"
                )
                assert supervisor.state["model"] == model
            assert supervisor.state["loaded"] == ["other", "small"]

    run(test)


def test_a_worker_killed_with_several_models_loaded_comes_back_and_answers_for_each() -> None:
    async def test() -> None:
        async with supervised() as supervisor:
            await ask(supervisor, "echo", "other")
            await ask(supervisor, "echo", "small")
            assert supervisor.state["loaded"] == ["small", "other"]
            assert await status(ask(supervisor, "die", "other")) == 503
            assert (await until(supervisor, "ready"))["loaded"] == ["other"]  # the one used last, unasked
            assert b"small" in await ask(supervisor, "echo", "small")
            assert b"other" in await ask(supervisor, "echo", "other")
            assert await ask(supervisor, "loads", "small") == b"2"

    run(test)


def test_another_model_can_be_chosen_while_one_is_loaded() -> None:
    async def test() -> None:
        async with supervised() as supervisor:
            pid = await ask(supervisor, "pid")
            slow = asyncio.create_task(ask(supervisor, "echo", "large"))
            while "reading large" not in supervisor.state["stage"]:
                await asyncio.sleep(0.005)
            other = asyncio.create_task(ask(supervisor, "pid", "other"))
            await asyncio.sleep(0.05)
            assert "reading large" in supervisor.state["stage"]  # somebody still waits for it
            slow.cancel()
            async with asyncio.timeout(3):
                assert await other == pid
            assert supervisor.state["loaded"] == ["other", "small"]

    run(test)


def test_a_load_can_be_stopped_and_the_models_before_it_stay() -> None:
    async def test() -> None:
        async with supervised() as supervisor:
            await ask(supervisor, "echo")
            loading = asyncio.create_task(ask(supervisor, "echo", "large"))
            while "reading large" not in supervisor.state["stage"]:
                await asyncio.sleep(0.005)
            supervisor.stop_loading()
            assert await status(loading) == 409
            assert supervisor.state["state"] == "ready"
            assert supervisor.state["loaded"] == ["small"]
            supervisor.stop_loading()  # nothing to stop
            assert await ask(supervisor, "loads") == b"1"

    run(test)


def test_what_the_worker_prints_is_not_taken_for_an_answer() -> None:
    async def test() -> None:
        async with supervised() as supervisor:
            assert b"print" in await ask(supervisor, "print")

    run(test)


def test_large_answers_arrive_whole() -> None:
    async def test() -> None:
        async with supervised() as supervisor:
            for size in (0, 1, 65_536, 5_000_001):
                assert await ask(supervisor, f"big {size}") == b"x" * size

    run(test)


def test_ctrl_c_in_the_terminal_does_not_reach_the_worker() -> None:
    async def test() -> None:
        async with supervised() as supervisor:
            pid = await ask(supervisor, "pid")
            os.kill(int(pid), signal.SIGINT)
            assert await ask(supervisor, "pid") == pid

    run(test)


def test_stopping_leaves_no_process() -> None:
    async def test() -> None:
        async with supervised() as supervisor:
            pid = int(await ask(supervisor, "pid"))
            running = asyncio.create_task(ask(supervisor, "deaf 100"))
            await asyncio.sleep(0.05)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        running.cancel()

    run(test)


def test_the_api(client: TestClient) -> None:
    assert client.get("/api/models").json()[0]["id"] == "small"
    answer = client.post(
        "/api/run", json={"model": "small", "tokens": [1, 2], "want": [{"name": "blocks.*.z", "at": -1}]}
    )
    assert answer.content == b"('small', {'tokens': [1, 2]}, [{'name': 'blocks.*.z', 'at': '-1'}])"
    assert answer.headers["content-type"] == "application/octet-stream"
    slice_ = client.get(f"/api/records/{answer.headers['x-record']}/tensor", params={"name": "blocks.0.z", "at": "-1"})
    assert slice_.headers["x-shape"] == "2,1"
    assert slice_.content == b"\0\0\0\0\0\0\x80\x3f"
    gone = client.get(f"/api/records/{answer.headers['x-record']}/tensor", params={"name": "missing"})
    assert gone.status_code == 404
    assert gone.json() == {"error": {"message": "There is no such record.", "fix": "Run the text again."}}
    kept = f"/api/records/{answer.headers['x-record']}"
    explained = client.get(f"{kept}/explain", params={"cell": "blocks.0.attn.scores[2,5,-4]"})
    assert explained.json() == {"cell": "blocks.0.attn.scores[2,5,-4]", "terms": [], "value": "-inf"}
    pair = {"first": answer.headers["x-record"], "second": "0" * 16, "at": "3,-1"}
    assert client.get("/api/compare", params=pair).json() == [answer.headers["x-record"], "0" * 16, [3, -1]]
    assert client.get("/api/compare", params=pair | {"at": "3"}).status_code == 400
    assert client.get("/api/compare", params=pair | {"second": "../x"}).status_code == 404
    file = client.get(f"{kept}/file?include=blocks.*.z&include=logits&weights=stem.*")
    assert file.content == b"(['blocks.*.z', 'logits'], ['stem.*'])"
    assert client.get(f"{kept}/file").content == b"([], [])"
    assert client.get("/api/models/small/vocabulary").json() == ["a", "b"]
    assert client.get("/api/models/nothing/vocabulary").status_code == 404


def test_events_begin_with_the_state_and_stay_alive() -> None:
    async def test() -> None:
        async with supervised() as supervisor:
            await until(supervisor, "ready")
            events = supervisor.events()
            assert (await anext(events))["state"] == "ready"
            assert await anext(events) is None  # after a silence: a comment keeps the connection
            supervisor.close()
            with pytest.raises(StopAsyncIteration):
                await anext(events)

    run(test)


def test_a_slow_listener_costs_a_bounded_queue() -> None:
    async def test() -> None:
        async with supervised() as supervisor:
            events = supervisor.events()
            await anext(events)
            for number in range(1000):
                supervisor._tell("busy", str(number))
            kept = [await anext(events) for _ in range(5)]
            assert [event["stage"] for event in kept] == ["968", "969", "970", "971", "972"]
            await events.aclose()
            assert not supervisor._listeners

    run(test)


def test_listeners_are_bounded() -> None:
    async def test() -> None:
        async with supervised(streams=2) as supervisor:
            events = [supervisor.events() for _ in range(3)]
            await anext(events[0])
            await anext(events[1])
            assert await status(anext(events[2])) == 503
            for one in events:
                await one.aclose()

    run(test)


def test_events_are_lines_of_json(client: TestClient) -> None:
    from cutaway.serve.live import _line

    assert _line({"state": "ready", "message": "a\nb"}) == b'data: {"state": "ready", "message": "a\\nb"}\n\n'
    assert json.loads(_line({"message": "é"})[6:]) == {"message": "é"}
    assert _line(None) == b":\n\n"


RESTING = """
from cutaway.serve.worker import serve

class Engine:
    def __init__(self, tell):
        self.tell, self.left = tell, 3
    def start(self):
        pass
    def rest(self):
        self.left -= 1
        self.tell({"left": self.left})
        return self.left > 0
    def vocabulary(self, check, model):
        self.left = 2
        return {"model": model}, b""

serve(Engine)
"""


def test_it_rests_while_nobody_asks() -> None:
    with subprocess.Popen([sys.executable, "-c", RESTING], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        answers = FileIO(worker.stdout.fileno(), closefd=False)

        def heard(count: int) -> list[dict]:
            return [frame[0] for frame in (wire.read(answers) for _ in range(count)) if frame is not None]

        assert heard(4) == [{"event": {"started": True}}, *({"event": {"left": left}} for left in (2, 1, 0))]
        worker.stdin.write(wire.pack({"id": 1, "do": "vocabulary", "model": "a"}))
        worker.stdin.flush()
        assert heard(3) == [{"id": 1, "answer": {"model": "a"}}, *({"event": {"left": left}} for left in (1, 0))]
