"""Models fetched by name: nothing before a person agrees, progress, stopping, what goes wrong, and the whole way."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, Route, expect

import cutaway
from cutaway import load
from tests.hub.fake_hub import FakeHub

from .conftest import Server, Watch, settled

GPT2 = "openai-community/gpt2"
OFFERS = [
    {
        "id": GPT2,
        "name": "gpt2",
        "family": "gpt2",
        "parameters": 124_439_808,
        "bytes": 548_000_000,
        "what": "GPT-2 small.",
    },
    {
        "id": "someone/large",
        "name": "large",
        "family": "llama",
        "parameters": 1_200_000_000,
        "bytes": 2_400_000_000,
        "what": "<b>A large one.</b>",
    },
]

# The event stream, told from the test instead of by the server.
STREAM = """
    window.EventSource = class {
        constructor() { window.stream = this; setTimeout(() => window.told({ state: 'ready' })) }
        close() {}
    }
    window.told = (event) => window.stream.onmessage({ data: JSON.stringify(event) })
"""


class Hub:
    """A page whose server offers models and is told what to say of downloads; ``posted`` is what the page asked for."""

    def __init__(self, page: Page) -> None:
        self.page, self.refusal = page, ""
        self.posted: list[tuple[str, Any]] = []
        page.add_init_script(STREAM)
        page.route("**/api/offers", lambda route: route.fulfill(json=OFFERS))
        for path in ("fetch", "fetch/cancel", "load/cancel"):
            page.route(f"**/api/{path}", self._posted)

    def _posted(self, route: Route) -> None:
        self.posted.append((route.request.url.rpartition("/api/")[2], json.loads(route.request.post_data or "")))
        if self.refusal:
            route.fulfill(status=409, json={"error": {"message": self.refusal, "fix": "Wait for it."}})
        else:
            route.fulfill(json={})

    def was_asked(self, *posted: tuple[str, Any]) -> None:
        """Wait for these requests, and for no others."""
        for _ in range(200):
            if len(self.posted) >= len(posted):
                break
            self.page.wait_for_timeout(50)
        assert self.posted == list(posted)

    def tell(self, **event: Any) -> None:
        self.page.evaluate("event => window.told(event)", event)

    def fetching(self, **news: Any) -> None:
        self.tell(state="ready", fetch={"model": GPT2, **news})


@pytest.fixture
def told(context: BrowserContext, server: Server, watch: Watch) -> Hub:
    page = context.new_page()
    watch.on(page)
    hub = Hub(page)
    page.goto(server.address)
    page.wait_for_selector('[data-origin="live"]')
    return hub


def test_nothing_is_fetched_before_a_person_agrees(told: Hub) -> None:
    page = told.page
    page.get_by_role("button", name="More models").click()
    expect(page.locator("[data-offer]")).to_have_count(2)
    expect(page.locator(f'[data-offer="{GPT2}"]')).to_contain_text("about 548 MB")
    expect(page.locator('[data-offer="someone/large"]')).to_contain_text("<b>A large one.</b>")
    page.get_by_role("button", name="Get gpt2").click()
    dialog = page.get_by_role("dialog")
    for what in (GPT2, "124 M parameters", "about 548 MB", "huggingface.co", "~/.cache/huggingface/hub"):
        expect(dialog).to_contain_text(what)
    dialog.get_by_role("button", name="Not now").click()
    expect(dialog).to_be_hidden()
    page.get_by_role("button", name="Get gpt2").click()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert told.posted == []
    page.get_by_role("button", name="Get gpt2").click()
    dialog.get_by_role("button", name="Download").click()
    expect(dialog).to_be_hidden()
    told.was_asked(("fetch", {"model": GPT2}))


def test_progress_in_bytes_and_time_and_a_way_to_stop(told: Hub) -> None:
    page, row = told.page, told.page.locator(".fetching")
    told.fetching(bytes=0, total=None)
    expect(row).to_contain_text("asking the hub")
    told.fetching(bytes=100_000_000, total=548_000_000)
    expect(row).to_contain_text("100 MB of 548 MB")
    page.wait_for_timeout(1_200)
    told.fetching(bytes=324_000_000, total=548_000_000)
    expect(row).to_contain_text("324 MB of 548 MB")
    expect(row).to_contain_text(re.compile(r"about \d s left"))
    assert row.locator("progress").evaluate("bar => bar.position") == pytest.approx(324 / 548)
    row.get_by_role("button", name="Cancel").click()
    told.was_asked(("fetch/cancel", {}))
    told.tell(state="ready")
    expect(row).to_have_count(0)


def test_what_goes_wrong_is_a_sentence(told: Hub, watch: Watch) -> None:
    watch.expected = ("409 (Conflict)",)
    page, row = told.page, told.page.locator(".fetching")
    told.fetching(bytes=1, total=548_000_000, error="The download broke off: no network. Start it again.")
    expect(row.get_by_role("alert")).to_have_text("The download broke off: no network. Start it again.")
    row.get_by_role("button", name="Try again").click()
    row.get_by_role("button", name="Dismiss").click()
    told.was_asked(("fetch", {"model": GPT2}), ("fetch/cancel", {}))
    told.refusal = "Another is being fetched."
    page.get_by_role("button", name="More models").click()
    page.get_by_role("button", name="Get gpt2").click()
    page.get_by_role("button", name="Download").click()
    expect(page.get_by_role("dialog")).to_contain_text("Another is being fetched. Wait for it.")


def test_without_a_server_the_list_says_so(told: Hub, watch: Watch) -> None:
    watch.expected = ("Failed to load resource",)
    told.page.route("**/api/offers", lambda route: route.abort())
    told.page.get_by_role("button", name="More models").click()
    expect(told.page.get_by_role("alert")).to_contain_text("the server does not answer")


def test_loading_is_shown_and_can_be_given_up(told: Hub) -> None:
    strip = told.page.locator(".strip")
    told.tell(state="starting", stage="reading gpt2: 312 of 548 MB")
    expect(strip).to_contain_text("reading gpt2: 312 of 548 MB")
    strip.get_by_role("button", name="Cancel").click()
    told.was_asked(("load/cancel", {}))
    asked: list[str] = []
    told.page.on("request", lambda request: asked.append(request.url))
    told.tell(state="ready")
    expect(strip).to_contain_text("live")
    assert not any(url.endswith("/api/run") for url in asked)  # else it would be loaded again


SERVE = """
import sys
from cutaway import hub
from cutaway.serve.app import look
hub.OFFERS = (hub.Offer("someone/tiny", "llama", 2_570_304, 10_300_000, "A tiny one."),)
sys.exit(look(browser=False))
"""


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeHub]:
    bundled = Path(cutaway.__file__).parent / "bundled/stories"
    shutil.copytree(bundled, tmp_path / "hub/someone/tiny")
    hub = FakeHub(tmp_path / "hub")
    yield hub
    hub.close()


@pytest.fixture
def offering(fake: FakeHub, server: Server, tmp_path: Path) -> Iterator[str]:
    """The address of a server that offers the model of the fake hub."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment = {**kept, "HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": fake.address}
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    )
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.kill()
    process.wait()


def test_the_whole_way(context: BrowserContext, fake: FakeHub, offering: str, watch: Watch) -> None:
    """Offered, agreed to, stopped, gone on with, chosen and run."""
    page = context.new_page()
    watch.on(page)
    page.goto(offering)
    page.wait_for_selector('[data-origin="live"]')
    row = page.locator(".fetching")

    def download() -> None:
        page.get_by_role("button", name="More models").click()
        page.get_by_role("button", name="Get tiny").click()
        page.get_by_role("button", name="Download").click()

    fake.slow = 0.02
    download()
    expect(row).to_contain_text(re.compile(r"[1-9.]+ MB of [\d.]+ MB"))
    row.get_by_role("button", name="Cancel").click()
    expect(row).to_have_count(0)
    fake.slow = 0
    download()
    expect(row).to_contain_text("someone/tiny is here.")
    started = [start for name, start in fake.asked if name == "model.safetensors"]
    assert started[0] == 0 < started[-1]  # it went on where it was stopped
    row.get_by_role("button", name="Use it").click()
    expect(page.locator(".strip select")).to_have_value("someone/tiny")
    with page.expect_response(lambda r: "/api/run" in r.url and r.ok) as answered:
        page.fill("#text", "The old king")
    assert json.loads(answered.value.request.post_data or "")["model"] == "someone/tiny"
    settled(page)
    best = load("stories").run("The old king")["logits"][-1].argmax().item()
    assert int(page.locator("[data-id]").first.get_attribute("data-id") or -1) == best
