"""How soon the page answers: headless Chromium against the real server and the bundled model.

    python benchmarks/page.py [--starts 5]

Prints medians, each beside the limit it must hold: the document's arrival to the stored run painted, and to a page
that answers; what crosses before the picture and in all; a slider to the bars repainted; one more word typed to its run
painted, with the model's own forward beside it; a step; the pointer over a block. Then two thousand tokens on a random
model: wheel, pointer, zoom, memory. Then `make run` on a clone that is set up, to its address, to the first picture and
to the live model's.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tools import random_model

REPEATS = 15
STARTS = 5
ROOT = Path(__file__).resolve().parents[1]
TEXT = "Once upon a time there was a"
SERVE = "import sys; from cutaway.serve.app import look; sys.exit(look(model=sys.argv[1] or None, browser=False))"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--enable-precise-memory-info",
]  # fmt: skip

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
        const slider = document.querySelector('input[type=range][aria-label^="Temperature"]')
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

# Resolves when the blocks in sight have been painted and the frame that shows them is out.
FIRST_PICTURE = """new Promise(done => {
    const arrived = () => performance.getEntriesByType('navigation')[0].responseEnd
    const painted = () => {
        const inSight = [...document.querySelectorAll('.drawing .block canvas')]
            .filter(canvas => canvas.getBoundingClientRect().top < innerHeight)
        return inSight.length > 0 && inSight.every(canvas => canvas.width !== 300)  // 300: as it is born
    }
    const crossed = () => performance.getEntries()
        .filter(entry => /navigation|resource/.test(entry.entryType) && !/\\/api\\/|woff2$|svg$/.test(entry.name))
        .reduce((sum, entry) => sum + entry.encodedBodySize, 0)
    const look = () => {
        if (!painted()) return requestAnimationFrame(look)
        const bytes = crossed()
        requestAnimationFrame(() => setTimeout(() => alive(performance.now() - arrived(), bytes)))
    }
    const alive = (took, bytes) => document.querySelector('#page').inert
        ? setTimeout(() => alive(took, bytes), 2) : done([took, bytes, performance.now() - arrived()])
    look()
})"""

# Milliseconds of work from each event to everything painted again, the page resting a frame between two of them.
WORK = """async ([kind, count, by]) => {
    const canvas = document.querySelector('[data-block="2"] canvas'), box = canvas.getBoundingClientRect(), took = []
    for (let i = 0; i < count; i++) {
        await new Promise(done => requestAnimationFrame(() => setTimeout(done)))
        const at = { bubbles: true, cancelable: true, clientX: box.left + 0.1 * box.width + (i % 7) * 3,
                     clientY: box.top + 10 + (i * (box.height - 20)) / count, deltaY: by }
        const start = performance.now()
        canvas.dispatchEvent(kind === 'wheel' ? new WheelEvent(kind, at) : new PointerEvent(kind, at))
        await new Promise(done => {
            const line = new MessageChannel()
            line.port1.onmessage = done
            line.port2.postMessage(0)
        })
        took.push(performance.now() - start)
    }
    return took
}"""

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


def first_picture(browser: Browser, address: str) -> tuple[float, int, float]:
    """Milliseconds, the bytes that crossed for it, typefaces and icon apart, and the milliseconds to a page alive."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.add_init_script(f"window.firstPicture = {FIRST_PICTURE}")
    page.goto(address, wait_until="commit")
    took, crossed, alive = page.evaluate("window.firstPicture")
    context.close()
    return float(took), int(crossed), float(alive)


def bytes_in_all() -> int:
    """Everything the page can ever ask for, as it is sent; typefaces apart."""
    page = ROOT / "src/cutaway/page"
    sent = [path for path in page.rglob("*") if path.suffix in (".js", ".css", ".json", ".cutaway")]
    sent.append(page / "index.html")
    return sum((packed if (packed := Path(f"{path}.br")).is_file() else path).stat().st_size for path in sent)


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=5, help="how often `make run` is started")
    starts = parser.parse_args().starts
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        print("No Chromium is installed here.", file=sys.stderr)
        return 1
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        with serving() as address:
            measure(browser, address)
        random_model.save(Path(folder) / "random", context=2048)
        with serving(str(Path(folder) / "random")) as address:
            measure_long(browser, address)
        times = [start(browser) for _ in range(starts)]
        for i, what in enumerate(("its address", "the first picture", "the live model's picture")):
            if times:
                report(f"make run to {what}", [1000 * seconds[i] for seconds in times])
        browser.close()
    return 0


@contextlib.contextmanager
def serving(model: str = "") -> Iterator[str]:
    """The address of a server, which ends with the block."""
    server = subprocess.Popen(
        [sys.executable, "-c", SERVE, model], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert server.stdout is not None
    try:
        yield server.stdout.readline().strip()
    finally:
        server.terminate()
        server.wait(20)


def measure(browser: Browser, address: str) -> None:
    page = browser.new_context(viewport={"width": 1440, "height": 900}, reduced_motion="reduce").new_page()
    page.goto(address)
    page.wait_for_selector('[data-origin="live"]', timeout=120_000)
    pictures = [first_picture(browser, address) for _ in range(REPEATS)]
    report("document to stored run painted", [took for took, _, _ in pictures], limit=250)
    report("document to a page that answers", [alive for _, _, alive in pictures])
    size("before the first picture", max(crossed for _, crossed, _ in pictures), limit=180_000)
    size("in all", bytes_in_all(), limit=400_000)
    slides = [0.3 + 0.2 * i for i in range(REPEATS)]
    report("slider to bars", [timed(page, {"slide": s}, "[data-p]", "data-p") for s in slides], limit=50)
    report("pointer over a block", page.evaluate(WORK, ["pointermove", 40, 0]), limit=16)
    texts = [TEXT + " little" * (i + 1) for i in range(REPEATS)]
    report("one more word typed to its run painted", [timed(page, {"text": text}) for text in texts], limit=150)
    subprocess.run([sys.executable, "-c", FORWARD, texts[REPEATS // 2]], check=True)
    report("step", [timed(page, {}) for _ in range(REPEATS)])
    page.close()


def measure_long(browser: Browser, address: str) -> None:
    """Two thousand tokens, 12 layers."""
    page = browser.new_context(viewport={"width": 1440, "height": 900}, reduced_motion="reduce").new_page()
    page.goto(address)
    page.wait_for_selector('[data-origin="live"]', timeout=120_000)
    page.fill("#text", TEXT.replace(" a", " a little dog.") * 180)
    page.wait_for_selector('.drawing:not([data-tokens="8"])', timeout=120_000)
    page.wait_for_timeout(3000)
    print(f"{page.get_attribute('.drawing', 'data-tokens')} tokens:")
    report("  pointer over a block", page.evaluate(WORK, ["pointermove", 40, 0]), limit=16)
    report("  wheel, a row at a time", page.evaluate(WORK, ["wheel", 60, -25]))
    report("  wheel, a page at a time", page.evaluate(WORK, ["wheel", 60, -500]))
    for _ in range(3):
        page.get_by_role("button", name="More tokens, smaller").click()
    page.wait_for_timeout(3000)
    report("  wheel, rows a third as high", page.evaluate(WORK, ["wheel", 60, 60]))
    for _ in range(60):  # all of the text has been in sight once
        page.evaluate(WORK, ["wheel", 2, 300])
        page.wait_for_timeout(100)
    size("  memory of the page's script", page.evaluate("performance.memory.usedJSHeapSize"), limit=500_000_000)
    page.close()


def report(what: str, took: list[float], limit: int | None = None) -> None:
    must = "" if limit is None else f" (must: < {limit})"
    spread = f"best {min(took):.1f}, worst {max(took):.1f} of {len(took)}"
    print(f"{what}: median {statistics.median(took):.1f} ms{must}, {spread}", flush=True)


def size(what: str, found: int, limit: int) -> None:
    print(f"bytes {what.strip()}: {found:,} (must: < {limit:,})")


if __name__ == "__main__":
    raise SystemExit(main())
