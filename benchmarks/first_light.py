"""How long until the first picture, and from a keystroke to the next one? Medians, in headless Chromium.

    .venv/bin/python benchmarks/first_light.py [--runs 5]

1. `make run` on a set-up clone: from starting the command to its address, to the first picture in a browser that is
   already open, and to the live model behind it.
2. A word typed into the page, with the bundled model live: from the input event to the repainted picture, two frames
   later. The forward alone stands beside it, so that one sees what the rest costs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]

PAINTED = """() => new Promise(done => {
    const look = () => document.querySelector('.drawing canvas')
        ? requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now())))
        : requestAnimationFrame(look)
    look()
})"""

TYPE = """word => new Promise(done => {
    const drawing = document.querySelector('.drawing'), box = document.querySelector('textarea')
    const before = drawing.dataset.tokens, began = performance.now()
    new MutationObserver((_, observer) => {
        if (drawing.dataset.tokens === before) return
        observer.disconnect()
        requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - began)))
    }).observe(drawing, { attributes: true })
    box.value += word
    box.dispatchEvent(new InputEvent('input', { bubbles: true }))
})"""

FORWARD = """
import statistics, time, torch, cutaway
model = cutaway.load("stories")
ids = torch.tensor([model.tokens("Once upon a time there was a little" + " and" * 8)])
times = []
with torch.no_grad():
    for _ in range(30):
        began = time.perf_counter(); model.machine(ids); times.append(time.perf_counter() - began)
print(1000 * statistics.median(times[5:]), ids.shape[1])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    browser_path = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
    if browser_path is None:
        sys.exit("This needs Chromium.")
    subprocess.run(["make", "setup"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=FLAGS)
        starts = [_start(browser) for _ in range(runs)]
        stages = ("address printed", "first picture", "live model's picture")
        for stage, column in zip(stages, zip(*starts, strict=True), strict=True):
            print(f"make run -> {stage:22s} {statistics.median(column):6.2f} s   {_range(column, 's')}")
        with _Server() as server:
            page = _open(browser, server.address)
            _live(page)
            painted = page.evaluate("performance.getEntriesByType('paint').at(-1).startTime")
            print(f"document -> first paint              {painted:6.0f} ms")
            typed = [page.evaluate(TYPE, " and") for _ in range(8 + runs)][3:]
            print(f"keystroke -> picture                 {statistics.median(typed):6.0f} ms  {_range(typed, 'ms')}")
        browser.close()
    forward, length = subprocess.check_output([sys.executable, "-c", FORWARD], text=True).split()
    print(f"of which the forward of {length} tokens      {float(forward):6.1f} ms")


class _Server:
    """`make run` as a user types it, without opening a browser."""

    def __enter__(self) -> _Server:
        self.began = time.perf_counter()
        self.process = subprocess.Popen(
            ["make", "run", "ARGS=--no-browser"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, start_new_session=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.address = next(line.strip() for line in self.process.stdout if line.startswith("http"))
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait()

    def elapsed(self) -> float:
        return time.perf_counter() - self.began


def _start(browser: Browser) -> tuple[float, float, float]:
    with _Server() as server:
        printed = server.elapsed()
        page = _open(browser, server.address)
        first = server.elapsed()
        _live(page)
        live = server.elapsed()
        page.close()
    return printed, first, live


def _open(browser: Browser, address: str) -> Page:
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.goto(address, wait_until="commit")
    page.evaluate(PAINTED)
    return page


def _live(page: Page) -> None:
    page.wait_for_selector('.drawing[data-origin="live"]', timeout=120_000)
    page.evaluate(PAINTED)


def _range(values: tuple[float, ...] | list[float], unit: str) -> str:
    digits = 2 if unit == "s" else 0
    return f"[{min(values):.{digits}f} to {max(values):.{digits}f} {unit}, {len(values)} runs]"


if __name__ == "__main__":
    main()
