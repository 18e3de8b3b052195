"""Two drawings on one desk: what the page says of two runs is what Python says of them."""

from __future__ import annotations

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from cutaway import compare, load

from .conftest import Server, Watch

FIRST, SECOND = "A machine learning model", "A fashion model"


def start(page: Page) -> None:
    page.get_by_role("button", name="Compare").click()
    expect(page.locator(".drawing")).to_have_count(2)


def test_two_texts_part_where_python_says(page: Page) -> None:
    start(page)
    page.get_by_role("button", name="one word, two texts").click()
    expect(page.locator("#text1")).to_have_value(SECOND)
    model = load("stories")
    found = compare(model.run(FIRST), model.run(SECOND))
    expect(page.locator(".parts")).to_contain_text(f"They part at token {found.parts_at}:")
    page.get_by_text("As a table").last.press("Enter")
    table = page.locator(".found details tbody tr")
    expect(table).to_have_count(len(found.cosine))
    for _ in range(100):  # the comparison of the two runs before them may stand there yet
        texts = table.evaluate_all("rows => rows.map(row => row.querySelector('td').innerText)")
        shown = [float(text.replace("−", "-")) for text in texts]
        if shown == pytest.approx(found.cosine, abs=1e-3):
            break
        page.wait_for_timeout(100)
    assert shown == pytest.approx(found.cosine, abs=1e-3)
    first_change = page.locator(".found table").last.locator("tbody tr").first
    shares = [float(first_change.locator("td.number").nth(i).inner_text().rstrip(" %\u202f")) for i in (0, 1)]
    assert shares == pytest.approx([100 * found.changes[0].first, 100 * found.changes[0].second], abs=0.06)


def test_another_token_is_compared_when_another_is_chosen(page: Page) -> None:
    start(page)
    page.get_by_role("button", name="one word, two texts").click()
    for i, count in ((0, 8), (1, 4)):
        expect(page.locator(".drawing").nth(i)).to_have_attribute("data-tokens", str(count))
    with page.expect_response(lambda r: "/api/compare" in r.url and "at=1%2C3" in r.url):
        page.locator(".drawing").first.locator(".tokens button").nth(1).click()
        page.wait_for_timeout(100)


def test_two_seeds_draw_different_tokens_after_cold_and_hot_too(page: Page) -> None:
    start(page)
    page.get_by_role("button", name="one text, cold and hot").click()
    page.get_by_role("button", name="one text, two seeds").click()
    drawings = page.locator(".drawing")
    expect(page.locator(".parts")).to_contain_text("the same, token by token")
    for count in range(10, 13):
        page.get_by_role("button", name="Step both").click()
        for i in (0, 1):
            expect(drawings.nth(i)).to_have_attribute("data-tokens", str(count))
    expect(page.locator(".parts")).to_contain_text("They part at token")


def test_cold_and_hot_go_different_ways(page: Page) -> None:
    start(page)
    page.get_by_role("button", name="one text, cold and hot").click()
    drawings, text, model = page.locator(".drawing"), "Once upon a time, there was a", load("stories")
    length = len(model.tokens(text))
    for count in range(4):  # first the run of the text that the page proposes, then three steps
        if count:
            page.get_by_role("button", name="Step both").click()
        for i in (0, 1):
            expect(drawings.nth(i)).to_have_attribute("data-tokens", str(length + count))
        expect(page.locator(".parts")).to_contain_text("They part at token" if count else "the same, token by token")
    cold = model.generate(text, max_new_tokens=3, temperature=0, seed=7)
    hot = model.generate(text, max_new_tokens=3, temperature=5, seed=7)
    expect(page.locator("#text")).to_have_value(text + cold.text)
    expect(page.locator("#text1")).to_have_value(text + hot.text)


def test_b_goes_away_again(page: Page) -> None:
    start(page)
    page.get_by_role("button", name="Take B away").click()
    expect(page.locator(".drawing")).to_have_count(1)
    expect(page.get_by_role("button", name="Compare")).to_be_enabled()


def test_both_drawings_share_one_scale(page: Page) -> None:
    """A bar of the same probability is as long in A as in B."""
    start(page)
    page.get_by_role("button", name="one word, two texts").click()
    expect(page.locator("#text1")).to_have_value(SECOND)
    page.wait_for_timeout(300)
    measure = """() => [...document.querySelectorAll('.part.next li[data-id]')].map(
        row => [Number(row.dataset.p), row.querySelector('.fill').getBoundingClientRect().width])"""
    ratios = [width / p for p, width in page.evaluate(measure) if width > 4]
    assert max(ratios) == pytest.approx(min(ratios), rel=0.05)


def test_it_fits_a_phone(context: BrowserContext, page: Page, server: Server, watch: Watch) -> None:
    start(page)
    page.get_by_role("button", name="one word, two texts").click()
    page.wait_for_timeout(500)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
