"""How soon the page answers: headless Chromium against the real server and the bundled model.

    python benchmarks/page.py

Prints medians: `make run` on a clone that is set up, to its address, to the first picture and to the live model's; the
document's arrival to the stored run painted; a slider to the bars repainted; one more word typed to its run painted,
with the model's own forward beside it; a step. And the bytes that cross before the first picture.
"""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

REPEATS = 15
STARTS = 5
ROOT = Path(__file__).resolve().parents[1]
TEXT = "Once upon a time there was a"
SERVE = "import sys; from cutaway.serve.app import look; sys.exit(look(browser=False))"
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]

# Resolves with the milliseconds from an action to the frame after the drawing shows what it led to.
TIMED = """async ([action, watched, attribute]) => {
    const target = document.querySelector(watched)
    const before = target.getAttribute(attribute)
    const start = performance.now()
    const changed = new Promise(done => {
        const watcher = new MutationObserver(() => {
            if (target.getAttribute(attribute) !== before) { watcher.disconnect(); done() }
        })
        watcher.observe(target, { attributes: true })
    })
    if (action.slide !== undefined) {
        const slider = document.querySelector('input[type=range]')
        slider.value = action.slide
        slider.dispatchEvent(new Event('input', { bubbles: true }))
    } else if (action.text !== undefined) {
        const box = document.querySelector('#text')
        box.value = action.text
        box.dispatchEvent(new Event('input', { bubbles: true }))
    } else [...document.querySelectorAll('button')].find(b => b.textContent.trim() === 'Step').click()
    await changed
    await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))
    return performance.now() - start
}"""

FIRST_PICTURE = """new Promise(done => {
    const arrived = () => performance.getEntriesByType('navigation')[0].responseEnd
    const look = () => document.querySelector('.block canvas') && document.querySelector('.drawing')
        ? requestAnimationFrame(() => done(performance.now() - arrived()))
        : requestAnimationFrame(look)
    look()
})"""

FORWARD = """
import statistics, sys, time, torch, cutaway
model = cutaway.load("stories")
ids, times = torch.tensor([model.tokens(sys.argv[1])]), []
with torch.no_grad():
    for _ in range(30):
        began = time.perf_counter(); model.machine(ids); times.append(time.perf_counter() - began)
print(f"the forward alone of {ids.shape[1]} tokens: median {1000 * statistics.median(times[5:]):.1f} ms")
"""


def timed(page: Page, action: dict[str, object], watched: str = ".drawing", attribute: str = "data-tokens") -> float:
    return float(page.evaluate(TIMED, [action, watched, attribute]))


def first_picture(browser: Browser, address: str) -> tuple[float, int]:
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    sizes: list[int] = []
    page.on("requestfinished", lambda r: sizes.append(r.sizes()["responseBodySize"] if "/api/" not in r.url else 0))
    page.add_init_script(f"window.firstPicture = {FIRST_PICTURE}")
    page.goto(address, wait_until="commit")
    took = float(page.evaluate("window.firstPicture"))
    page.wait_for_timeout(300)
    context.close()
    return took, sum(sizes)


def start(browser: Browser) -> tuple[float, float, float]:
    """Seconds from `make run` to its address, to the first picture in a waiting browser, to the live model's."""
    began = time.perf_counter()
    command = ["make", "run", "ARGS=--no-browser"]
    run = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    )
    assert run.stdout is not None
    try:
        address = next(line.strip() for line in run.stdout if line.startswith("http"))
        printed = time.perf_counter() - began
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(address, wait_until="commit")
        page.evaluate(FIRST_PICTURE)
        first = time.perf_counter() - began
        page.wait_for_selector('[data-origin="live"]', timeout=120_000)
        live = time.perf_counter() - began
        page.close()
    finally:
        os.killpg(run.pid, signal.SIGTERM)
        run.wait()
    return printed, first, live


def main() -> int:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        print("No Chromium is installed here.", file=sys.stderr)
        return 1
    server = subprocess.Popen(
        [sys.executable, "-c", SERVE], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert server.stdout is not None
    address = server.stdout.readline().strip()
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
            measure(browser, address)
            starts = [start(browser) for _ in range(STARTS)]
            for i, what in enumerate(("its address", "the first picture", "the live model's picture")):
                report(f"make run to {what}", [1000 * seconds[i] for seconds in starts])
            browser.close()
    finally:
        server.terminate()
        server.wait(20)
    return 0


def measure(browser: Browser, address: str) -> None:
    page = browser.new_context(viewport={"width": 1440, "height": 900}, reduced_motion="reduce").new_page()
    page.goto(address)
    page.wait_for_selector('[data-origin="live"]', timeout=120_000)
    pictures = [first_picture(browser, address) for _ in range(REPEATS)]
    report("document to stored run painted", [took for took, _ in pictures])
    print(f"bytes before the live model: {statistics.median(size for _, size in pictures):,.0f} (fonts included)")
    slides = [0.3 + 0.2 * i for i in range(REPEATS)]
    report("slider to bars", [timed(page, {"slide": s}, "[data-p]", "data-p") for s in slides])
    texts = [TEXT + " little" * (i + 1) for i in range(REPEATS)]
    report("one more word typed to its run painted", [timed(page, {"text": text}) for text in texts])
    subprocess.run([sys.executable, "-c", FORWARD, texts[REPEATS // 2]], check=True)
    report("step", [timed(page, {}) for _ in range(REPEATS)])


def report(what: str, took: list[float]) -> None:
    print(f"{what}: median {statistics.median(took):.0f} ms, worst {max(took):.0f} ms of {len(took)}")


if __name__ == "__main__":
    raise SystemExit(main())
