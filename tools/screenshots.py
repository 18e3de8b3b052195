"""Take the pictures of README.md and docs/: the real page, with the real server and the bundled model.

python tools/screenshots.py [TRANSLATOR]   writes docs/images/page-1440.png, page-1440-opened.png, page-360.png, ...

TRANSLATOR: the model that `cutaway train translate` made; without it kinds-rivers.png stays as it is.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

IMAGES = Path(__file__).resolve().parents[1] / "docs/images"
SEVEN = IMAGES.parents[1] / "tests/golden/7_jackson_0.wav"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
SERVE = "import sys; from cutaway.serve.app import look; sys.exit(look(model=sys.argv[1] or None, browser=False))"
TEXT = "Once upon a time there was a"


def overview(page: Page) -> None:
    """The page as it opens."""


def opened(page: Page) -> None:
    """A block in the middle, opened, and beside it how one score was made."""
    page.get_by_role("button", name="Open block 2").click()
    page.wait_for_load_state("networkidle")
    page.locator(".attention .square canvas[tabindex]").first.focus()
    for key in ("ArrowLeft", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    page.locator(".arithmetic .terms").wait_for()
    page.locator(".opened").first.evaluate("panel => scrollTo(0, scrollY + panel.getBoundingClientRect().top - 200)")


def compare(page: Page) -> None:
    """One word, two texts."""
    page.get_by_role("button", name="Compare").click()
    page.get_by_role("button", name="one word, two texts").click()
    page.locator(".found table").first.wait_for(state="attached")
    page.wait_for_timeout(1000)
    page.locator(".found").first.evaluate("found => found.scrollIntoView(false)")


def lesson(page: Page) -> None:
    """A guess in the first lesson."""
    page.get_by_role("button", name="Lessons").click()
    page.get_by_role("button", name="Predict, sample, repeat").click()
    page.locator(".card").get_by_role("button", name="Skip").click()
    page.locator(".card .choices").wait_for()


def masks(page: Page) -> None:
    """Two masks, on the model that fills them."""
    page.select_option(".strip select", "words")
    page.get_by_role("button", name="Fill one").wait_for()
    page.fill("#text", '"Who are you?" [MASK] the [MASK], and opened the door.')
    page.wait_for_timeout(1500)


def patch(page: Page) -> None:
    """A digit, and what one of its patches reads."""
    page.select_option(".strip select", "digits")
    page.locator(".well .seen canvas").wait_for()
    page.locator(".tokens button").nth(12).click()
    page.wait_for_timeout(1500)


def sound(page: Page) -> None:
    """A spoken digit, written down."""
    page.select_option(".strip select", "spoken")
    page.set_input_files(".ear input[type=file]", SEVEN)
    page.locator(".heard").wait_for()
    page.get_by_role("button", name="Step", exact=True).click()
    page.locator(".said button").wait_for()
    page.locator(".said button").click()
    page.wait_for_timeout(1500)


def rivers(page: Page) -> None:
    """A sentence and its translation."""
    page.fill("#text", "A man in a red shirt rides a bicycle.")
    page.wait_for_timeout(1500)
    for written in range(9):
        page.get_by_role("button", name="Step", exact=True).click()
        page.locator(".written mark").nth(written).wait_for()


PICTURES = (
    ("page-1440", 1440, 740, "light", overview),
    ("page-1440-dark", 1440, 740, "dark", overview),
    ("page-1440-opened", 1440, 900, "light", opened),
    ("page-1440-compare", 1440, 930, "light", compare),
    ("page-1440-lesson", 1440, 840, "light", lesson),
    ("page-360", 360, 780, "light", overview),
    ("kinds-masks", 1440, 670, "light", masks),
    ("kinds-picture", 1440, 900, "light", patch),
    ("kinds-sound", 1440, 980, "light", sound),
)


def main() -> int:
    browser_path = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser_path is None:
        print("No Chromium is installed here.", file=sys.stderr)
        return 1
    IMAGES.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=FLAGS)
        with serving() as address:
            for name, *rest in PICTURES:
                take(browser, address, IMAGES / f"{name}.png", *rest)
        for translator in sys.argv[1:]:
            with serving(translator) as address:
                take(browser, address, IMAGES / "kinds-rivers.png", 1440, 1240, "light", rivers)
        browser.close()
    return 0


@contextlib.contextmanager
def serving(model: str = "") -> Iterator[str]:
    """The address of a server, which ends with the block."""
    command = [sys.executable, "-c", SERVE, model]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(20)


def take(
    browser: Browser, address: str, path: Path, width: int, height: int, scheme: str, prepare: Callable[[Page], None]
) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
    )
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector('[data-origin="live"]', timeout=120_000)
    page.fill("#text", TEXT)
    page.wait_for_timeout(700)
    prepare(page)
    page.wait_for_timeout(500)
    page.screenshot(path=path)
    context.close()
    print(f"{os.path.relpath(path)}  {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    raise SystemExit(main())
