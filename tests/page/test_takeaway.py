"""What can be taken away from the page, and brought back: pictures, numbers, whole runs, the address."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
from playwright.sync_api import Browser, BrowserContext, Page, expect

import cutaway
from cutaway import load

from .conftest import Server, Watch
from .test_page import TEXT, step, tokens, type_text

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def panel(page: Page) -> Page:
    type_text(page, TEXT)
    page.locator(".takeaway summary").first.click()
    expect(page.get_by_role("button", name="Save .cutaway")).to_be_visible()
    return page


def taken(page: Page, name: str, folder: Path) -> Path:
    """What the button of that name hands over."""
    with page.expect_download() as waiting:
        page.get_by_role("button", name=name, exact=True).first.click()
    path = folder / waiting.value.suggested_filename
    waiting.value.save_as(path)
    return path


def dropped(page: Page, path: Path) -> None:
    """Drop a file on the page."""
    page.evaluate(
        """([name, bytes]) => {
            const data = new DataTransfer()
            data.items.add(new File([Uint8Array.from(bytes)], name))
            document.body.dispatchEvent(new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true }))
        }""",
        [path.name, list(path.read_bytes())],
    )


# ---- pictures


def test_every_picture_is_an_svg_with_real_text_that_needs_nothing_else(panel: Page, tmp_path: Path) -> None:
    panel.get_by_role("button", name="Open block 1").click()
    expect(panel.get_by_role("button", name="SVG of Block 1, opened")).to_be_visible()
    for name in ("The whole drawing", "Block 1, opened", "The next token"):
        source = taken(panel, f"SVG of {name}", tmp_path).read_text("utf-8")
        assert not re.search(r"(href|src|url)\s*=?\s*[\"'(]\s*(https?:|//|\.)|<script|<foreignObject|on\w+=", source)
        picture = ElementTree.fromstring(source)
        assert picture.findtext(f"{SVG}title") == name
        assert "stories" in (picture.findtext(f"{SVG}desc") or "")
        texts = ["".join(text.itertext()) for text in picture.iter(f"{SVG}text")]
        assert len(texts) > 10
        assert all(", " in text.get("font-family", "") for text in picture.iter(f"{SVG}text"))
        if name != "The next token":
            assert "␣upon" in texts
    whole = ElementTree.fromstring(next(tmp_path.glob("*whole-drawing*")).read_text("utf-8"))
    assert len(list(whole.iter(f"{SVG}path"))) > 100


def test_a_picture_is_light_and_tells_its_tokens_as_text_whatever_they_are(panel: Page, tmp_path: Path) -> None:
    type_text(panel, "<b>&amp; ]]> \u202e x")
    panel.get_by_role("button", name="Dark").click()
    source = taken(panel, "SVG of The whole drawing", tmp_path).read_text("utf-8")
    picture = ElementTree.fromstring(source)
    assert picture.find(f"{SVG}path").get("fill") == "#fbfaf6"  # type: ignore[union-attr]
    assert "U+202E" in "".join(picture.itertext())
    assert panel.evaluate("document.documentElement.dataset.theme") == "dark"


def test_a_png_has_twice_the_pixels(panel: Page, tmp_path: Path) -> None:
    png = taken(panel, "PNG of The draw", tmp_path).read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
    box = panel.locator('[data-picture="The draw"]').bounding_box()
    assert box is not None
    assert abs(width - 2 * (box["width"] + 32)) <= 2
    assert abs(height - 2 * (box["height"] + 32)) <= 2


# ---- the whole run


def alone(browser: Browser, file: Path, width: int, watch: Watch) -> Page:
    """A file opened by itself: no server, no network, and nothing may be asked for."""
    context = browser.new_context(viewport={"width": width, "height": 900}, offline=True, reduced_motion="reduce")
    page = context.new_page()
    watch.on(page)
    watch.expected = ("left the machine: file:", "left the machine: data:")
    page.goto(file.as_uri())
    page.wait_for_selector('[data-origin="stored"]')
    return page


def test_a_page_that_stands_alone_is_alive(
    panel: Page, browser: Browser, width: int, watch: Watch, tmp_path: Path
) -> None:
    panel.get_by_role("slider", name=re.compile("^Temperature")).fill("2")
    with panel.expect_response(lambda r: "/explain" in r.url):  # what is derived here goes along
        panel.get_by_role("button", name=re.compile("^Final norm")).first.click()
    panel.get_by_role("button", name="Open block 3").click()
    expect(panel).to_have_url(re.compile("open=3"))
    file = taken(panel, "A page that stands alone", tmp_path)
    assert file.suffix == ".html"
    assert file.stat().st_size < 5_000_000
    page = alone(browser, file, width, watch)
    expect(page.locator(".state")).to_contain_text("a stored run")
    expect(page.locator("section.opened")).to_contain_text("Block 3, opened")  # as it was looked at
    expect(page.get_by_role("slider", name=re.compile("^Temperature"))).to_have_value("2")
    assert page.locator(".part.first .piece").all_inner_texts() == panel.locator(".part.first .piece").all_inner_texts()
    expect(page.get_by_role("button", name="Step")).to_be_disabled()
    expect(page.locator("#text")).not_to_be_editable()
    before = page.locator("[data-p]").first.get_attribute("data-p")
    page.get_by_role("slider", name=re.compile("^Temperature")).fill("0.5")
    assert page.locator("[data-p]").first.get_attribute("data-p") != before
    for stop in ("Open block 0", "Embedding", "Final norm"):
        page.get_by_role("button", name=re.compile(f"^{stop}")).first.click()
        expect(page.locator("section.opened")).not_to_contain_text("not in this run")
    page.keyboard.press("Escape")
    expect(page.locator("section.opened")).to_have_count(0)
    page.locator('[data-block="0"] canvas').first.focus()
    page.keyboard.press("ArrowUp")
    expect(page.locator(".readout code")).to_contain_text("blocks.0.attn.pattern[")
    page.context.close()


@pytest.mark.parametrize("width", [1440])
def test_a_run_from_python_stands_alone_under_five_megabytes(
    server: Server, browser: Browser, width: int, watch: Watch, tmp_path: Path
) -> None:
    model = load("stories")
    text = "Once upon a time there was a little girl named Lily. She liked to play outside in the big garden all day."
    record = model.run(tokens=(model.tokens(text) * 2)[:32])
    record.to_html(tmp_path / "run.html")
    assert (tmp_path / "run.html").stat().st_size < 5_000_000
    opened = alone(browser, tmp_path / "run.html", width, watch)
    assert tokens(opened) == 32
    best = opened.locator("li[data-id]").first
    assert int(best.get_attribute("data-id") or -1) == record["logits"][-1].argmax().item()
    assert best.locator(".name").inner_text() == record.vocabulary()[record["logits"][-1].argmax().item()]
    opened.context.close()


@pytest.mark.parametrize("width", [1440])
def test_in_a_notebook_the_page_lives_in_a_frame(
    server: Server, browser: Browser, width: int, watch: Watch, tmp_path: Path
) -> None:
    shown = load("stories").run(TEXT)._repr_html_()
    (tmp_path / "notebook.html").write_text(f"<!doctype html><meta charset=utf-8><p>A cell</p>{shown}", "utf-8")
    context = browser.new_context(viewport={"width": width, "height": 900}, offline=True)
    cell = context.new_page()
    watch.on(cell)
    watch.expected = ("left the machine: file:", "left the machine: data:", "left the machine: about:")
    cell.goto((tmp_path / "notebook.html").as_uri())
    frame = cell.frame_locator("iframe")
    expect(frame.locator(".drawing")).to_have_attribute("data-origin", "stored")
    frame.get_by_role("button", name="Open block 2").click()
    expect(frame.locator("section.opened")).to_contain_text("Block 2, opened")
    context.close()


def test_a_saved_run_opens_in_python_and_on_the_page_again(panel: Page, tmp_path: Path) -> None:
    file = taken(panel, "Save .cutaway", tmp_path)
    record, now = cutaway.open(file), load("stories").run(TEXT)
    assert (record.text, record.tokens) == (TEXT, now.tokens)
    torch.testing.assert_close(record["blocks.2.attn.pattern"], now["blocks.2.attn.pattern"], rtol=1e-4, atol=1e-5)
    type_text(panel, "Something else")
    dropped(panel, file)
    expect(panel.locator(".drawing")).to_have_attribute("data-origin", "stored")
    assert panel.input_value("#text") == TEXT
    expect(panel.locator("p.told").first).to_contain_text("It stays until you type")
    assert panel.locator("li[data-id] .name").first.inner_text() == now.vocabulary()[now["logits"][-1].argmax().item()]
    type_text(panel, TEXT + " little")
    expect(panel.locator(".drawing")).to_have_attribute("data-origin", "live")


@pytest.mark.parametrize("width", [1440])
def test_of_a_file_that_is_no_run_a_sentence_says_why(panel: Page, tmp_path: Path) -> None:
    good = taken(panel, "Save .cutaway", tmp_path).read_bytes()
    for name, content, said in (
        ("photo.jpg", b"\xff\xd8\xff\xe0" * 100, "is no .cutaway file"),
        ("short.cutaway", good[: len(good) // 2], "is cut short"),
        ("later.cutaway", good.replace(b'\\"format\\":1', b'\\"format\\":2'), "newer Cutaway"),
        ("weights.cutaway", (16).to_bytes(8, "little") + b'{"__metadata__":', "is no .cutaway file"),
        ("empty.cutaway", (2).to_bytes(8, "little") + b"{}", "no run was recorded"),
        ("odd.cutaway", good.replace(b'\\"heads\\":6', b'\\"heads\\":7'), "contradicts itself"),
    ):  # fmt: skip
        (tmp_path / name).write_bytes(content)
        dropped(panel, tmp_path / name)
        expect(panel.locator("p.told").first).to_contain_text(said)
        expect(panel.locator("p.told").first).to_contain_text(name)
        expect(panel.locator(".drawing")).to_have_attribute("data-origin", "live")  # what was there stays


# ---- numbers


@pytest.mark.parametrize("width", [1440])
def test_numpy_and_a_spreadsheet_read_what_the_page_writes(panel: Page, tmp_path: Path) -> None:
    record = load("stories").run(TEXT)
    panel.get_by_label("Find a name").fill("3.attn.pattern")
    with np.load(taken(panel, "blocks.3.attn.pattern as NPZ", tmp_path)) as arrays:
        np.testing.assert_allclose(
            arrays["blocks.3.attn.pattern"], record["blocks.3.attn.pattern"], rtol=1e-4, atol=1e-6
        )
    panel.get_by_label("Index").fill("2, 5:8")
    table = taken(panel, "blocks.3.attn.pattern as CSV", tmp_path)
    rows = list(csv.reader(table.read_text("utf-8").splitlines()))
    assert rows[0][:3] == ["T", "T 0 On", "T 1 ce"]
    assert [row[0] for row in rows[1:]] == ["5 ␣there", "6 ␣was", "7 ␣a"]
    numbers = np.array([[float(cell) for cell in row[1:]] for row in rows[1:]])
    np.testing.assert_allclose(numbers, record["blocks.3.attn.pattern[2,5:8]"], rtol=1e-4, atol=1e-6)
    panel.get_by_label("Index").fill("99")
    panel.get_by_role("button", name="blocks.3.attn.pattern as CSV").click()
    expect(panel.locator(".takeaway")).to_contain_text("could not be had")


@pytest.mark.parametrize("width", [1440])
def test_the_names_are_those_of_python(panel: Page) -> None:
    record = load("stories").run(TEXT)
    for part in ("embed", "blocks.4.", "final", "logits", "river", "lens."):
        panel.get_by_label("Find a name").fill(part)
        for row in panel.locator(".takeaway li:has(code)").all():
            name = row.locator("code").inner_text()
            shape = [int(n.replace(",", "")) for n in re.findall(r"[\d,]+", row.locator(".quiet").inner_text())]
            assert tuple(shape) == record.shape(name), name


@pytest.mark.parametrize("width", [1440])
def test_the_python_on_the_page_makes_the_run(page: Page, context: BrowserContext, tmp_path: Path) -> None:
    text = 'He said "no\\way" \u202e ${x}'
    type_text(page, text)
    page.locator(".takeaway summary").first.click()
    snippet = page.locator(".takeaway pre").inner_text()
    assert "\u202e" not in snippet
    told = subprocess.run(
        [sys.executable, "-c", f"{snippet}\nassert run.text == {text!r}; print(*run.tokens)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert [int(id) for id in told.stdout.split()] == load("stories").tokens(text)
    step(page)
    expect(page.locator(".takeaway pre")).to_contain_text("model.run(tokens=[")


# ---- the address


def test_the_address_brings_back_what_was_looked_at(page: Page, watch: Watch) -> None:
    type_text(page, "The old king & queen #1 = 100%")
    page.get_by_role("slider", name=re.compile("^Temperature")).fill("0")
    page.get_by_label("Seed").fill("11")
    page.locator('[data-block="2"] select').first.select_option("4")
    page.get_by_role("button", name="Open block 2").click()
    step(page)
    step(page)
    page.locator(".tokens button").nth(1).click()
    expect(page).to_have_url(re.compile(r"more=.*%2C.*token=\d"))
    text, here = page.input_value("#text"), page.url
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto("about:blank")
    page.goto(here)
    page.wait_for_selector('[data-origin="live"]')
    expect(page.locator("#text")).to_have_value(text)
    expect(page.locator("section.opened")).to_contain_text("Block 2, opened")
    expect(page.get_by_role("slider", name=re.compile("^Temperature"))).to_have_value("0")
    expect(page.get_by_label("Seed")).to_have_value("11")
    expect(page.locator('[data-block="2"] select').first).to_have_value("4")
    expect(page.locator(".tokens button").nth(1)).to_have_attribute("aria-pressed", "true")
    assert [url for url in asked if "queen" in url] == []  # what stands behind the # stays here


def test_back_closes_what_was_opened(page: Page) -> None:
    page.get_by_role("button", name="Open block 1").click()
    expect(page).to_have_url(re.compile("open=1"))
    page.get_by_role("button", name="Open block 3").click()
    expect(page).to_have_url(re.compile("open=3"))
    page.go_back()
    expect(page.locator("section.opened")).to_contain_text("Block 1, opened")
    page.go_back()
    expect(page.locator("section.opened")).to_have_count(0)
    page.go_forward()
    expect(page.locator("section.opened")).to_contain_text("Block 1, opened")


@pytest.mark.parametrize("width", [1440])
def test_a_text_too_long_for_an_address_stays_out_of_it(page: Page) -> None:
    type_text(page, "word " * 1000)
    page.get_by_label("Seed").fill("12")
    page.locator(".takeaway summary").first.click()
    expect(page.locator(".takeaway")).to_contain_text("too long for an address")
    expect(page).to_have_url(re.compile("seed=12"))
    assert len(page.url) < 1000


def test_the_panel_fits_and_works_by_keyboard(panel: Page, width: int) -> None:
    assert panel.evaluate("document.documentElement.scrollWidth") <= width
    panel.locator(".takeaway summary").first.focus()
    panel.keyboard.press("Tab")
    assert panel.evaluate("document.activeElement.textContent.trim()") == "A page that stands alone"
    panel.keyboard.press("Tab")
    with panel.expect_download() as waiting:
        panel.keyboard.press("Enter")
    assert waiting.value.suggested_filename.endswith(".cutaway")
