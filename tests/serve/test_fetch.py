"""A model fetched through the server from a hub on 127.0.0.1: told, stopped, gone on with, failed, and then run."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cutaway import hub
from cutaway.serve.app import build
from cutaway.serve.fetch import COMMAND, Fetch
from cutaway.serve.gate import Gate
from cutaway.serve.limits import Limits
from cutaway.serve.problem import Problem
from cutaway.serve.supervisor import Supervisor
from tests.families.making import GPT2, make
from tests.hub.fake_hub import FakeHub
from tests.serve.served import PORT, TOKEN, application, client_of, is_alive
from tests.serve.test_app import linux, soon
from tests.serve.test_worker import ask, run, supervised, until

OFFER = hub.Offer("someone/tiny", "gpt2", 300_000, 1_400_000, "A tiny one.")


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    make(tmp_path / "hub" / OFFER.id, {**GPT2, "vocab_size": 4_000, "n_embd": 64})
    fake = FakeHub(tmp_path / "hub")
    for name in [name for name in os.environ if name.startswith("HF_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_ENDPOINT", fake.address)
    monkeypatch.setattr(hub, "OFFERS", (OFFER,))
    yield fake
    fake.close()


class Fetched:
    """A Fetch and everything it told."""

    def __init__(self, command: tuple[str, ...] = COMMAND) -> None:
        self.told: list[dict] = []
        self.landed = 0
        self.fetch = Fetch(lambda news: self.told.append(news or {}), self._land, command)

    async def _land(self) -> None:
        self.landed += 1

    async def end(self) -> dict:
        while not {"done", "error"} & self.told[-1].keys():
            await asyncio.sleep(0.01)
        return self.told[-1]

    async def bytes(self, least: int) -> None:
        while self.told[-1].get("bytes", 0) < least:
            assert "error" not in self.told[-1], self.told[-1]
            await asyncio.sleep(0.01)


def test_progress_is_told_and_the_end(fake: FakeHub) -> None:
    async def test() -> None:
        fake.slow = 0.02
        one = Fetched()
        one.fetch.start(OFFER.id)
        assert one.told[0] == {"model": OFFER.id, "bytes": 0, "total": None}
        began = time.monotonic()
        last = await one.end()
        assert last == {"model": OFFER.id, "bytes": last["total"], "total": last["total"], "done": True}
        assert last["total"] == (fake.folder / OFFER.id / "model.safetensors").stat().st_size
        assert 3 < len(one.told) < 6 + 4 * (time.monotonic() - began)
        assert one.landed == 1

    run(test)


def test_a_cancelled_download_goes_on_from_there(fake: FakeHub) -> None:
    async def test() -> None:
        fake.slow = 0.02
        one = Fetched()
        one.fetch.start(OFFER.id)
        await one.bytes(500_000)
        await one.fetch.cancel()
        assert one.told[-1] == {}
        assert one.landed == 0
        assert [entry for entry in hub.cached() if entry.problem is None] == []
        fake.slow = 0
        again = Fetched()
        again.fetch.start(OFFER.id)
        assert (await again.end())["done"]
        begins = [begin for name, begin in fake.asked if name == "model.safetensors"]
        assert begins[0] == 0
        assert begins[1] >= 500_000
        assert [entry.problem for entry in hub.cached()] == [None]

    run(test)


def test_one_at_a_time(fake: FakeHub) -> None:
    async def test() -> None:
        fake.slow = 0.05
        one = Fetched()
        one.fetch.start(OFFER.id)
        one.fetch.start(OFFER.id)  # already under way
        with pytest.raises(Problem, match="someone/tiny is being fetched"):
            one.fetch.start("someone/else")
        await one.fetch.cancel()  # while its process is being started
        await one.fetch.cancel()
        assert one.told[-1] == {}

    run(test)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("offline", "the hub cannot be reached"),
        ("family", "mixtral"),
        ("damaged", "arrived damaged"),
        ("missing", "There is no model called"),
        ("killed", "exit code"),
        ("absent", "cannot be started"),
    ],
)
def test_what_goes_wrong_is_a_sentence(fake: FakeHub, monkeypatch: pytest.MonkeyPatch, fault: str, says: str) -> None:
    folder, command = fake.folder / OFFER.id, COMMAND
    if fault == "offline":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    elif fault == "family":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "model_type": "mixtral"}))
    elif fault == "damaged":
        fake.damaged = True
    elif fault == "missing":
        folder.rename(folder.with_name("moved"))
    elif fault == "killed":
        command = (COMMAND[0], "-c", "import os; os.kill(os.getpid(), 9)")
    else:
        command = ("/nowhere/python",)

    async def test() -> None:
        one = Fetched(command)
        one.fetch.start(OFFER.id)
        last = await one.end()
        assert says in last["error"]
        assert "\n" not in last["error"]
        assert one.landed == 0
        one.fetch.start(OFFER.id)  # it can be tried again
        await one.fetch.cancel()

    run(test)


@linux
def test_a_download_whose_server_is_gone_ends(fake: FakeHub) -> None:
    async def test() -> None:
        fake.slow = 0.5
        process = await asyncio.create_subprocess_exec(*COMMAND, OFFER.id, stdin=-1, stdout=-1)
        assert await process.stdout.readline()
        process.stdin.close()
        async with asyncio.timeout(10):
            await process.wait()
        assert not is_alive(process.pid)

    run(test)


@pytest.fixture
def gate(page: Path) -> Gate:
    return application(page)


def test_only_what_is_offered_can_be_fetched(fake: FakeHub, gate: Gate) -> None:
    with client_of(gate) as client:
        offers = client.get("/api/offers").json()
        assert offers == [
            {
                "id": "someone/tiny",
                "name": "tiny",
                "family": "gpt2",
                "parameters": 300_000,
                "bytes": 1_400_000,
                "what": "A tiny one.",
            }
        ]
        for model in ("someone/else", "https://example.org/x", "../tiny", "", "small"):
            assert client.post("/api/fetch", json={"model": model}).status_code == 404
        for body in ({}, {"model": 1}, {"model": OFFER.id, "else": 1}, []):
            assert client.post("/api/fetch", json=body).status_code == 400
        assert client.post("/api/fetch", content="model=x").status_code == 415
        assert client.get("/api/fetch").status_code in (404, 405)
        assert fake.asked == []
        assert client.post("/api/fetch/cancel", json={}).status_code == 200


def test_what_is_listed_is_not_offered(fake: FakeHub, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "OFFERS", (replace(OFFER, id="small"), OFFER))
    with client_of(gate) as client:
        assert [offer["id"] for offer in client.get("/api/offers").json()] == [OFFER.id]
        assert client.post("/api/fetch", json={"model": "small"}).status_code == 404


def test_the_state_goes_on_beside_the_download(fake: FakeHub, page: Path) -> None:
    async def test() -> None:
        fake.slow = 0.02
        async with supervised() as supervisor:
            await until(supervisor, "ready")
            supervisor.fetch.start(OFFER.id)
            while not supervisor.state.get("fetch", {}).get("bytes"):
                await asyncio.sleep(0.01)
            assert b"other" in await ask(supervisor, "echo", "other")
            assert supervisor.state["model"] == "other"
            assert supervisor.state["fetch"]["model"] == OFFER.id
            assert supervisor.state["state"] == "ready"
            await supervisor.fetch.cancel()
            assert "fetch" not in supervisor.state
            supervisor.fetch.start(OFFER.id)  # and stopping the server ends it

    run(test)


def test_the_whole_way(fake: FakeHub, page: Path) -> None:
    """Offered, fetched, listed and run, with the real worker."""
    supervisor = Supervisor(limits=replace(Limits(), run_seconds=250))
    with client_of(build(supervisor, port=PORT, token=TOKEN, page=page)) as client:
        listed = [model["id"] for model in client.get("/api/models").json()]
        assert OFFER.id not in listed
        assert client.post("/api/fetch", json={"model": OFFER.id}).status_code == 200
        assert soon(lambda: "done" in supervisor.state.get("fetch", {}), 60)
        assert [model["id"] for model in client.get("/api/models").json()] == [*listed, OFFER.id]
        assert client.get("/api/offers").json() == []
        answer = client.post(
            "/api/run", json={"model": OFFER.id, "tokens": [1, 2, 3], "want": [{"name": "logits.last"}]}
        )
        assert answer.status_code == 200, answer.text
        client.post("/api/fetch/cancel", json={})  # dismissed
        assert "fetch" not in supervisor.state
