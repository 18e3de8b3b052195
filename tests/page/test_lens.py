"""The logit lens on the page is the record's: tokens, probabilities, and the way of the finally likeliest token."""

from __future__ import annotations

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from cutaway import load
from cutaway.look.record import Record

from .conftest import Server, Watch, never
from .test_page import TEXT, type_text


@pytest.fixture(scope="module")
def record() -> Record:
    return load("stories").run(TEXT)


def open_lens(page: Page) -> None:
    page.get_by_role("button", name="Logit lens").click()
    page.wait_for_selector(".lens .cell")


@pytest.fixture
def lens(page: Page) -> Page:
    type_text(page, TEXT)
    open_lens(page)
    return page


def tokens(page: Page, stop: int) -> list[int]:
    cells = page.locator(f'.lens [data-stop-place="{stop}"]')
    ids: list[int] = cells.evaluate_all("cells => cells.map(cell => Number(cell.dataset.id))")
    return ids


def matches(page: Page, record: Record, token: int) -> None:
    stops = len(record.stops())
    assert len(tokens(page, stops - 1)) in (3, 10)
    for stop in range(stops):
        shown = tokens(page, stop)
        assert shown == record[f"lens.ids[{token},{stop}]"].tolist()[: len(shown)]
    first = record[f"lens.rank[{token}]"].tolist().index(0)
    expect(page.locator(".lens .plain")).to_have_attribute("data-first", str(first))


def test_each_stop_shows_the_tokens_of_the_record(lens: Page, record: Record) -> None:
    matches(lens, record, len(record.tokens) - 1)
    best = record["logits"][-1].argmax().item()
    assert tokens(lens, len(record.stops()) - 1)[0] == best
    expect(lens.locator(".lens .note")).to_contain_text("does not speak the unembedding’s language yet")


def test_it_follows_the_chosen_token(lens: Page, record: Record) -> None:
    lens.locator(".tokens button").nth(3).click()
    expect(lens.locator(".lens [data-stop-place]").first).to_have_attribute(
        "data-id", str(record["lens.ids[3,0,0]"].item())
    )
    matches(lens, record, 3)


def test_each_cell_is_read_with_keys(lens: Page, record: Record, width: int) -> None:
    picture = lens.locator(".lens canvas")
    picture.focus()
    back, down = ("ArrowUp", "ArrowRight") if width < 700 else ("ArrowLeft", "ArrowDown")
    for key in (back, back, down):  # the first brings the cursor, to the last stop
        picture.press(key)
    t, stop = len(record.tokens) - 1, len(record.stops()) - 2
    code = lens.locator(".readout code")
    expect(code).to_contain_text(f"lens.p[{t},{stop},1]")
    assert float(code.inner_text().rpartition("= ")[2]) == pytest.approx(
        record[f"lens.p[{t},{stop},1]"].item(), rel=1e-3
    )
    picture.press("Enter")
    expect(lens.locator("section.opened")).to_contain_text(f"Block {len(record.spec.stack.blocks) - 1}, opened")


def test_nothing_is_wider_than_the_screen(lens: Page) -> None:
    assert lens.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_the_stored_run_has_the_lens_of_its_last_token(context: BrowserContext, server: Server, watch: Watch) -> None:
    page = context.new_page()
    watch.on(page)
    page.route("**/api/**", never)
    page.goto(server.address)
    page.wait_for_selector('[data-origin="stored"]')
    open_lens(page)
    record = load("stories").run(page.input_value("#text"))
    matches(page, record, len(record.tokens) - 1)
    page.locator(".tokens button").first.click()
    expect(page.locator(".lens")).to_contain_text("for the others it needs the live model")
