"""A text of two thousand tokens: rows that glide and zoom, and every number read out is the record's."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

import cutaway
from cutaway.look.record import Record
from tools.random_model import save

from .conftest import PATIENCE, Watch

SENTENCE = "Once upon a time there was a little girl who lived in a big house near the forest with her dog. "
SERVE = (
    "import sys; from cutaway.serve.app import COMMAND, serve; from cutaway.serve.models import identity; "
    "model = sys.argv[1]; sys.exit(serve((*COMMAND, model), query={'model': identity(model)}, browser=False))"
)
LAYERS, CONTEXT = 12, 2048


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "random"
    save(folder, "llama", LAYERS, width=64, heads=4, context=CONTEXT)
    return folder


@pytest.fixture(scope="module")
def record(folder: Path) -> Record:
    model = cutaway.load(folder)
    text = SENTENCE * 200
    while len(model.tokens(text)) > 2000:
        text = text[: -len(SENTENCE)]
    record = model.run(text)
    assert len(record.tokens) > 1900
    return record


@pytest.fixture(scope="module")
def random_server(browser: Browser, folder: Path) -> Iterator[str]:
    process = subprocess.Popen([sys.executable, "-c", SERVE, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.kill()
    process.wait()


@pytest.fixture
def long(browser: Browser, random_server: str, record: Record, watch: Watch) -> Iterator[Page]:
    """The long text on the random model, its end in sight."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, reduced_motion="reduce")
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    watch.on(page)
    page.goto(random_server)
    page.wait_for_selector('[data-origin="live"]')
    page.fill("#text", record.text or "")
    expect(page.locator(".drawing")).to_have_attribute("data-tokens", str(len(record.tokens)), timeout=PATIENCE)
    yield page
    context.close()


def span(page: Page) -> tuple[int, int]:
    """The first and the last token in sight, as the page says."""
    found = re.search(r"tokens ([\d,]+) to ([\d,]+) of", page.locator(".shown").inner_text())
    assert found, page.locator(".shown").inner_text()
    return int(found[1].replace(",", "")), int(found[2].replace(",", ""))


def told(page: Page, name: str) -> tuple[list[int], float]:
    """Indices and value of the number that is read out."""
    code = page.locator(".readout code")
    expect(code).to_contain_text(name)
    line = code.inner_text().replace("−", "-")
    found = re.fullmatch(r"\S+?\[([\d, ]+)\] = (-?[\d.]+)(?: × 10(\S+))?", line)
    assert found, line
    exponent = int(found[3].translate(str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-"))) if found[3] else 0
    return [int(i) for i in found[1].split(",")], float(found[2]) * 10.0**exponent


def test_in_the_middle_of_a_long_text_every_number_is_the_record_s(long: Page, record: Record) -> None:
    map = long.get_by_role("slider", name=re.compile("whole text"))
    box = map.bounding_box()
    assert box
    map.click(position={"x": box["width"] / 2, "y": box["height"] / 2})
    first, last = span(long)
    assert first < len(record.tokens) / 2 < last

    strip = long.locator(".embedding canvas")
    for share in (0.2, 0.7):  # once the rows have come
        place = strip.bounding_box()
        assert place
        long.wait_for_timeout(500)
        strip.hover(position={"x": place["width"] * share, "y": place["height"] / 2})
        (token, index), value = told(long, "embed[")
        assert first <= token <= last
        assert value == pytest.approx(record["embed"][token, index].item(), rel=2e-3)

    block = long.locator('[data-block="1"] canvas')
    block.focus()
    for _ in range(4):
        long.keyboard.press("ArrowUp")
    for _ in range(3):
        long.keyboard.press("ArrowLeft")
    (head, to, source), value = told(long, "blocks.1.attn.pattern[")
    assert value == pytest.approx(record[f"blocks.1.attn.pattern[{head},{to},{source}]"].item(), rel=5e-2)

    map.click(position={"x": box["width"] / 2, "y": box["height"] / 2})
    place = block.bounding_box()
    assert place
    long.wait_for_timeout(500)
    block.hover(position={"x": place["width"] * 0.75, "y": place["height"] / 2})
    (token, neuron), value = told(long, "blocks.1.mlp.hidden[")
    assert value == pytest.approx(record[f"blocks.1.mlp.hidden[{token},{neuron}]"].item(), rel=2e-3, abs=1e-6)


def test_the_wheel_moves_the_rows_and_zooming_out_shows_the_whole_text(long: Page, record: Record) -> None:
    count = len(record.tokens)
    assert span(long)[1] == count - 1
    names = long.locator(".part.first .piece")
    long.locator('[data-block="0"] canvas').hover()
    long.mouse.wheel(0, -5000)
    expect(long.locator(".shown")).not_to_contain_text(f"to {count - 1:,} of")
    first, last = span(long)
    expect(names).to_have_text([piece["text"] for piece in record.pieces[first : last + 1]])
    out = long.get_by_role("button", name="More tokens, smaller")
    while out.is_enabled():
        before = long.locator(".shown").inner_text()
        out.click()
        expect(long.locator(".shown")).not_to_have_text(before)
    expect(long.locator(".shown")).to_contain_text(f"all {count:,} tokens")
    block = long.locator('[data-block="0"] canvas')
    block.focus()
    long.wait_for_timeout(3000)  # the mean over a bin is taken from every row of the pattern
    long.keyboard.press("ArrowUp")
    (head, to, source), value = told(long, "blocks.0.attn.coarse[")
    assert value == pytest.approx(record[f"blocks.0.attn.coarse[{head},{to},{source}]"].item(), rel=5e-2)


def test_no_request_brings_a_whole_square_or_more_rows_than_are_looked_at(long: Page, record: Record) -> None:
    asked: list[int] = []
    long.on("response", lambda r: asked.append(int(r.headers.get("content-length", 0))) if "/tensor" in r.url else None)
    map = long.get_by_role("slider", name=re.compile("whole text"))
    map.focus()
    long.keyboard.press("Home")
    expect(long.locator(".shown")).to_contain_text("tokens 0 to")
    for _ in range(20):
        long.keyboard.press("PageDown")
        long.wait_for_timeout(60)
    long.wait_for_timeout(1500)
    assert asked
    assert max(asked) <= 32 * len(record.tokens) * 4  # a chunk of one head's rows
    assert long.evaluate("performance.memory.usedJSHeapSize") < 500e6


def test_the_map_of_the_blocks_brings_any_of_them_into_sight(long: Page) -> None:
    last = long.locator(f'[data-block="{LAYERS - 1}"]')
    expect(last).not_to_be_in_viewport(ratio=0.9)
    map = long.get_by_role("slider", name=re.compile("All blocks"))
    map.focus()
    long.keyboard.press("End")
    expect(last).to_be_in_viewport(ratio=0.9)
    long.keyboard.press("Enter")
    expect(long.locator("section.opened")).to_contain_text(f"Block {LAYERS - 1}")
