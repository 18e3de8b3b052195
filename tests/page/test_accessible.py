"""The page for everybody: axe-core finds nothing, the keyboard reaches all of it, colours can be told apart."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

import cutaway

from .conftest import PATIENCE, Server, Watch, missing

AXE = Path(__file__).resolve().parents[2] / "web/node_modules/axe-core/axe.min.js"
CSS = Path(__file__).resolve().parents[2] / "web/src/app.css"
SENTENCE = "Once upon a time there was a little girl who lived in a big house near the forest with her dog. "


def open_stop(stop: str) -> Callable[[Page], None]:
    def act(page: Page) -> None:
        page.locator(f'[data-stop="{stop}"] h2 button').click()
        expect(page.locator("section.opened")).to_be_visible()
        page.wait_for_timeout(600)

    return act


def explain_a_number(page: Page) -> None:
    open_stop("2")(page)
    square = page.locator(".opened .attention canvas[tabindex]").last
    square.focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    expect(page.locator(".arithmetic")).to_be_visible()
    page.wait_for_timeout(600)


def compare(page: Page) -> None:
    page.get_by_role("button", name="Compare").click()
    page.get_by_role("button", name="one word, two texts").click()
    page.wait_for_timeout(1200)


def take_away(page: Page) -> None:
    page.get_by_text("Take away", exact=True).first.click()
    page.wait_for_timeout(600)


def lessons(page: Page) -> None:
    page.get_by_role("button", name="Lessons").click()
    page.wait_for_timeout(300)


def in_a_lesson(page: Page) -> None:
    lessons(page)
    page.get_by_role("button", name="Tokens and embeddings").click()
    page.wait_for_timeout(500)


def guessed(page: Page) -> None:
    in_a_lesson(page)
    page.locator(".card .choices button").first.click()
    expect(page.locator(".card .then")).to_be_visible()


def expected_here(page: Page) -> None:
    page.locator(".tokens button").nth(3).hover()
    expect(page.locator(".predicted li").first).to_be_visible()


def long_text(page: Page) -> None:
    page.get_by_label("Text").first.fill(SENTENCE * 17)
    expect(page.locator(".drawing")).to_have_attribute("data-tokens", re.compile("^(39|4..)"))
    open_stop("1")(page)
    expect(page.locator(".opened canvas.overview")).to_be_visible()


def tables(page: Page) -> None:
    open_stop("1")(page)
    for table in page.locator("details[data-table] > summary").all():
        table.press("Enter")


def logit_lens(page: Page) -> None:
    page.get_by_role("button", name="Logit lens").click()
    page.wait_for_selector(".lens .cell")


def offers(page: Page) -> None:
    page.get_by_role("button", name="More models").click()
    page.wait_for_selector("[data-offer]")


def consent(page: Page) -> None:
    offers(page)
    page.locator(".get").first.click()


def branched(page: Page) -> None:
    page.get_by_role("button", name="Step", exact=True).click()
    page.wait_for_timeout(700)


STATES: dict[str, Callable[[Page], None]] = {
    "first": lambda page: None,
    "embedding": open_stop("embedding"),
    "block": open_stop("1"),
    "end": open_stop("end"),
    "arithmetic": explain_a_number,
    "compare": compare,
    "take away": take_away,
    "lessons": lessons,
    "in a lesson": in_a_lesson,
    "guessed": guessed,
    "expected here": expected_here,
    "long text": long_text,
    "tables": tables,
    "branched": branched,
    "lens": logit_lens,
    "offers": offers,
    "consent": consent,
}


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (360, "dark")])  # no colour hangs on the width
def test_axe_finds_nothing(browser: Browser, server: Server, watch: Watch, width: int, scheme: Any) -> None:
    if not AXE.is_file():
        missing("axe-core is not installed: run `make setup`")
    context = browser.new_context(
        viewport={"width": width, "height": 900}, reduced_motion="reduce", color_scheme=scheme
    )
    context.set_default_timeout(PATIENCE)
    told = []
    for state, reach in STATES.items():
        page = context.new_page()
        watch.on(page)
        page.goto(server.address)
        page.wait_for_selector('[data-origin="live"]')
        reach(page)
        page.evaluate(AXE.read_text(encoding="utf-8"))
        found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
        told += [f"{state}: {v['id']}: {v['help']}: {v['nodes'][0]['html'][:160]}" for v in found["violations"]]
        page.close()
    context.close()
    assert told == []


def test_the_keyboard_reaches_every_control_and_shows_where_it_is(page: Page) -> None:
    open_stop("1")(page)
    page.wait_for_selector(".draw canvas")
    page.locator("h1").click()  # the Tab key goes on from here
    count = page.evaluate(
        """() => [...document.querySelectorAll(
            'a[href], button, input, select, textarea, summary, [tabindex="0"]')].filter(
            e => !e.disabled && e.checkVisibility() && e.tabIndex >= 0).length"""
    )
    seen: set[str] = set()
    for _ in range(count + 30):
        page.keyboard.press("Tab")
        where = page.evaluate(
            """() => {
                const e = document.activeElement
                if (!e || e === document.body) return null
                const style = getComputedStyle(e)
                const box = e.closest('.box')
                const visible = (style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 1)
                    || (box && getComputedStyle(box).boxShadow !== 'none')
                const label = (e.getAttribute('aria-label') || e.textContent || e.id || e.name || '').trim()
                e.dataset.reached ??= String(document.querySelectorAll('[data-reached]').length)
                return [e.dataset.reached, visible, `${e.tagName} ${label.slice(0, 60)}`]
            }"""
        )
        if where is None:  # past the last control: nothing holds the focus
            break
        number, visible, label = where
        assert visible, f"no focus is to be seen on {label}"
        seen.add(number)
    else:
        raise AssertionError("the Tab key never leaves the page")
    assert len(seen) >= 0.98 * count


def test_the_keyboard_reads_the_cells_of_every_picture(page: Page) -> None:
    open_stop("1")(page)
    page.wait_for_load_state("networkidle")
    page.wait_for_selector(".draw canvas")
    page.mouse.move(0, 0)  # a picture that scrolls away under the pointer ends what is read
    read = page.locator(".readout")
    pictures = page.locator('canvas[tabindex="0"]:not([role="slider"])')
    assert pictures.count() > 15
    for i in range(pictures.count()):
        picture = pictures.nth(i)
        picture.focus()
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowRight")
        label = picture.get_attribute("aria-label")
        assert label
        assert read.is_visible(), f"no cell is read out of {label}"
        assert re.search(r"(\]|\bp) = ", read.inner_text()), label
    unnamed = "canvas:not([aria-hidden]):not([aria-label]), canvas[tabindex][aria-hidden]"
    expect(page.locator(unnamed)).to_have_count(0)


def test_strips_of_keys_and_values_are_read_row_by_row(page: Page) -> None:
    open_stop("1")(page)
    read = page.locator(".readout")
    page.locator('.body canvas[data-of="key"]').first.focus()
    expect(read).to_contain_text("k_rot[0,0,0] = ")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    expect(read).to_contain_text("k_rot[1,0,1] = ")
    for _ in range(2):
        page.keyboard.press("Tab")
    expect(read).to_contain_text(re.compile(r"attn\.v\[1,\d,0\] = "))
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    expect(page.locator(".arithmetic")).to_have_attribute("data-explains", re.compile(r"attn\.v\[1,\d,0\]"))
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.dataset.of") == "value"


def test_escape_closes_what_was_opened_last_and_returns_the_focus(page: Page) -> None:
    def focused() -> str:
        return str(page.evaluate("document.activeElement.textContent.trim()"))

    explain_a_number(page)
    page.keyboard.press("Escape")
    expect(page.locator(".arithmetic")).to_have_count(0)
    assert page.evaluate("document.activeElement.tagName") == "CANVAS"
    page.keyboard.press("Escape")
    expect(page.locator("section.opened")).to_have_count(0)
    assert focused() == "Block 2"

    lessons(page)
    page.locator(".menu button").first.focus()
    page.keyboard.press("Escape")
    expect(page.locator(".menu")).to_have_count(0)
    assert focused() == "Lessons"
    in_a_lesson(page)
    page.keyboard.press("Escape")
    expect(page.locator(".card")).to_have_count(0)
    assert focused() == "Lessons"

    consent(page)
    expect(page.locator("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).not_to_be_visible()
    assert page.evaluate("document.activeElement.className").startswith("get")
    page.keyboard.press("Escape")
    expect(page.locator(".offers")).to_have_count(0)
    assert focused() == "More models"


def test_nothing_is_wider_than_the_window(page: Page) -> None:
    for stop in ("embedding", "1", "end"):
        open_stop(stop)(page)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), stop


def test_the_table_of_the_drawing_tells_what_it_draws(page: Page) -> None:
    page.locator(".drawing > details > summary").click()
    record = cutaway.load().run(page.get_by_label("Text").first.input_value())
    table = page.locator(".drawing > details table")
    head = int(re.findall(r"head (\d+)", table.locator("th").nth(2).inner_text())[0])
    for t, row in enumerate(table.locator("tbody tr").all()):
        start, reads, after = [cell.inner_text() for cell in row.locator("td").all()[:3]]
        assert float(start) == pytest.approx(record["blocks.0.resid_pre"][t].norm().item(), rel=1e-5)
        assert float(after) == pytest.approx(record["blocks.0.resid_post"][t].norm().item(), rel=1e-5)
        weights = record["blocks.0.attn.pattern"][head, t]
        assert float(reads.split("%")[0]) == pytest.approx(100 * weights.max().item(), abs=0.06)
        assert reads.endswith(f"token {weights.argmax().item()}")


def test_a_very_large_screen_has_no_very_long_lines(browser: Browser, server: Server, watch: Watch) -> None:
    page = browser.new_context(viewport={"width": 3840, "height": 2160}, reduced_motion="reduce").new_page()
    page.set_default_timeout(PATIENCE)
    watch.on(page)
    page.goto(server.address)
    page.wait_for_selector('[data-origin="live"]')
    for part in ("main > .stage", ".drawing", ".sampling"):
        assert page.locator(part).bounding_box()["width"] <= 2300, part  # type: ignore[index]
    page.context.close()


# How three kinds of colour-blind eyes see sRGB (Machado, Oliveira and Fernandes 2009, severity 1), on linear light.
BLIND = {
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}


def linear(hex_colour: str) -> list[float]:
    parts = [int(hex_colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]


def lab(rgb: list[float]) -> tuple[float, float, float]:
    """CIE L*a*b* of linear sRGB."""
    r, g, b = (min(1.0, max(0.0, c)) for c in rgb)
    xyz = (
        (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.9505,
        0.2126 * r + 0.7152 * g + 0.0722 * b,
        (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.089,
    )
    x, y, z = (c ** (1 / 3) if c > 0.008856 else 7.787 * c + 16 / 116 for c in xyz)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def colours(theme: str) -> dict[str, str]:
    blocks = re.findall(r":root(\[data-theme='dark'\])? \{(.*?)\n\}", CSS.read_text(encoding="utf-8"), re.DOTALL)
    found: dict[str, str] = {}
    for dark, body in blocks:
        if theme == "dark" or not dark:
            found |= dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", body))
    return found


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("eyes", BLIND)
@pytest.mark.parametrize("pair", [("weight-minus", "weight-plus"), ("drawn", "thread-chosen"), ("query", "key")])
def test_colours_that_must_be_told_apart_can_be(theme: str, eyes: str, pair: tuple[str, str]) -> None:
    """CIE76 differences above 20 are seen at a glance; sign is also told by direction and by a written minus."""
    seen = []
    for name in pair:
        rgb = linear(colours(theme)[name])
        seen.append(lab([sum(m * c for m, c in zip(row, rgb, strict=True)) for row in BLIND[eyes]]))
    difference = sum((a - b) ** 2 for a, b in zip(*seen, strict=True)) ** 0.5
    assert difference > 20, f"{difference:.0f}"
