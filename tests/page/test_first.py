"""The first picture: in the document before the page's script has come, and the same elements once it has."""

from __future__ import annotations

import pytest
from playwright.sync_api import BrowserContext, Route, expect

from .conftest import Server, Watch

# The pictures of the drawing, as the browser keeps them, and the words beside them. Only the chosen one of a list's
# options stands from the beginning.
PICTURES = "[...document.querySelectorAll('.drawing canvas')].map(canvas => canvas.toDataURL())"
WORDS = """(() => {
    const weave = document.querySelector('.weave').cloneNode(true)
    weave.querySelectorAll('option').forEach(option => option.remove())
    return weave.textContent
})()"""


@pytest.fixture
def width() -> int:
    return 1440


def test_it_stands_before_the_script_and_is_taken_over_as_it_is(
    context: BrowserContext, server: Server, watch: Watch
) -> None:
    page = context.new_page()
    held: list[Route] = []
    watch.on(page)
    page.route("**/assets/page-*.js", lambda route: held.append(route))
    page.goto(server.address)
    expect(page.locator("#page[inert] .end canvas[width]")).to_be_visible()  # sized and painted in one task
    page.evaluate("document.fonts.ready")
    before = page.evaluate(PICTURES), page.evaluate(WORDS)
    assert len(set(before[0])) == len(before[0]) > 5
    page.evaluate("document.querySelector('.drawing').was = 'in the document'")

    # Nothing is asked of the server from here on, so that what is compared stays the stored run.
    page.route("**/api/**", lambda route: route.abort())
    watch.expected = ("Failed to load resource",)
    page.wait_for_timeout(300)
    [route] = held
    route.continue_()
    expect(page.locator("#page[inert]")).to_have_count(0)
    page.wait_for_timeout(500)
    assert page.evaluate("document.querySelector('.drawing').was") == "in the document"
    assert (page.evaluate(PICTURES), page.evaluate(WORDS)) == before


@pytest.mark.parametrize(("across", "down"), [(360, 780), (1440, 1400)])
def test_another_screen_is_drawn_by_the_script(
    context: BrowserContext, server: Server, watch: Watch, across: int, down: int
) -> None:
    page = context.new_page()
    watch.on(page)
    page.set_viewport_size({"width": across, "height": down})
    page.route("**/assets/page-*.js", lambda route: None)
    page.goto(server.address, wait_until="domcontentloaded")
    expect(page.locator(".drawing")).to_have_count(0)


def test_a_stored_run_whose_words_do_not_come_leaves_the_page_to_the_live_one(
    context: BrowserContext, server: Server, watch: Watch
) -> None:
    page = context.new_page()
    watch.on(page)
    watch.expected = ("Failed to load resource",)
    page.route("**/stored/first.vocabulary.json", lambda route: route.abort())
    page.goto(server.address)
    expect(page.locator('.drawing[data-origin="live"]')).to_be_visible(timeout=90_000)
