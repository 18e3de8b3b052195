"""The page in a real headless Chromium, against the real server and the bundled model, with no network but loopback."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, Route, expect, sync_playwright

BUILT = Path(__file__).resolve().parents[2] / "src/cutaway/page/index.html"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
PATIENCE = 90_000  # milliseconds: importing torch on a busy machine takes its time
expect.set_options(timeout=30_000)
SERVE = "import sys; from cutaway.serve.app import look; sys.exit(look(model=sys.argv[1] or None, browser=False))"


def missing(what: str) -> None:
    """Skip for a reason; fail for the same reason where a browser was promised."""
    if os.environ.get("REQUIRE_BROWSER") == "1":
        pytest.fail(what)
    pytest.skip(what)


class Server:
    """`cutaway look --no-browser` as a process of its own; ``address`` is what it printed."""

    def __init__(self, model: str | Path = "") -> None:
        if not BUILT.is_file():
            missing("the page has not been built: run `make setup`")
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(model)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@dataclass
class Watch:
    """What a page did that a reader must never see: console errors, uncaught errors, requests to other machines."""

    complaints: list[str] = field(default_factory=list)
    expected: tuple[str, ...] = ()

    def on(self, page: Page) -> None:
        page.on("pageerror", lambda error: self.complaints.append(f"uncaught: {error}"))
        page.on("console", self._said)
        page.on("request", self._request)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.text} ({message.location['url']})")

    def _request(self, request: Request) -> None:
        if urlsplit(request.url.removeprefix("blob:")).hostname != "127.0.0.1":  # a blob is the page's own
            self.complaints.append(f"left the machine: {request.url}")

    def check(self) -> None:
        unexpected = [c for c in self.complaints if not any(part in c for part in self.expected)]
        assert unexpected == []


@pytest.fixture(scope="package")  # playwright keeps an event loop running until it is stopped
def browser() -> Iterator[Browser]:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        missing(f"no browser: none of {', '.join(BROWSERS)} is installed")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=list(FLAGS))
        yield chromium
        chromium.close()


@pytest.fixture(scope="package")
def server(browser: Browser) -> Iterator[Server]:
    running = Server()
    yield running
    running.kill()


@pytest.fixture(params=[1440, 360], ids=["1440", "360"])
def width(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def context(browser: Browser, width: int) -> Iterator[BrowserContext]:
    opened = browser.new_context(
        viewport={"width": width, "height": 900 if width > 800 else 780}, reduced_motion="reduce"
    )
    opened.set_default_timeout(PATIENCE)
    yield opened
    opened.close()


@pytest.fixture
def watch() -> Iterator[Watch]:
    watching = Watch()
    yield watching
    watching.check()


@pytest.fixture
def page(context: BrowserContext, server: Server, watch: Watch) -> Page:
    """The page with the live model's run on screen."""
    opened = context.new_page()
    watch.on(opened)
    opened.goto(server.address)
    opened.wait_for_selector('[data-origin="live"]')
    return opened


def settled(page: Page) -> None:
    """Waits until what was asked for is on screen: an answer that has come has still to be drawn."""
    expect(page.locator('.drawing[aria-busy="true"], .weave.dim')).to_have_count(0)


def open_stop(page: Page, name: str) -> None:
    """Opens a stop of the drawing and waits for what it shows: what has yet to come moves what is already there."""
    page.get_by_role("button", name=name).click()
    expect(page.locator(".opened .rooms > *").first).to_be_visible()
    expect(page.locator('.opened[aria-busy="true"]')).to_have_count(0)


def never(route: Route) -> None:
    """A request that gets no answer."""
