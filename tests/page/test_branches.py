"""Choosing a token by hand, going back, and the draws of every branch; the box one types in."""

from __future__ import annotations

import json
import re

from playwright.sync_api import Page, Request, expect

from cutaway import load
from cutaway.generate.sampler import Sampler, draw

from .conftest import Watch
from .test_page import TEXT, pieces, step, tokens, type_text, wait_for_tokens
from .test_sampling import listed, page_tokens


def pick(page: Page, place: int) -> int:
    """Append the token at a place of the list; its id."""
    before, token = tokens(page), listed(page)[place]
    page.locator("li[data-id] .name button").nth(place).click()
    wait_for_tokens(page, before + 1)
    return token


def branches(page: Page) -> None:
    page.get_by_role("button", name=re.compile("^Branches")).click()
    expect(page.locator(".branches")).to_be_visible()


def test_a_token_chosen_by_hand_takes_no_draw(page: Page) -> None:
    """Draws are those of Python's generate; after a choice the next draw has the step of those drawn so far."""
    model = load("stories")
    type_text(page, TEXT)
    step(page)
    step(page)
    ids = model.tokens(TEXT)
    drawn = model.generate(TEXT, max_new_tokens=2, temperature=0.8, seed=7).tokens
    assert page_tokens(page) == ids + drawn
    chosen = pick(page, 3)
    step(page)
    here = ids + drawn + [chosen]
    expected, _ = draw(Sampler(0.8).trace(model.next(tokens=here).logits).probabilities, 7, 2)
    assert page_tokens(page) == [*here, expected]
    assert page.locator("mark").count() == 4
    assert page.locator("mark.drawn").count() == 3
    page.get_by_role("button", name="Reset", exact=True).click()
    wait_for_tokens(page, len(ids))
    step(page)
    assert page_tokens(page) == ids + drawn[:1]  # from the start again


def test_branches_stay_and_can_be_returned_to(page: Page) -> None:
    type_text(page, TEXT)
    pick(page, 0)
    step(page)
    step(page)
    first, text = page_tokens(page), page.input_value("#text")
    branches(page)
    page.locator(".branches button.token").first.click()
    wait_for_tokens(page, len(first) - 2)
    assert page_tokens(page) == first[:-2]
    pick(page, 1)
    step(page)
    second = page_tokens(page)
    assert second[:-2] == first[:-2]
    assert second != first
    expect(page.get_by_role("button", name="Branches (2)")).to_be_visible()

    sent: list[dict[str, object]] = []
    page.on("request", lambda r: sent.append(posted(r)) if r.url.endswith("/api/run") else None)
    page.locator(".branches button.token").nth(2).click()  # the end of the first branch
    expect(page.locator("#text")).to_have_value(text)
    assert page_tokens(page) == first
    assert sent[-1]["tokens"] == first
    expect(page.locator(".branches [aria-current]")).to_have_count(1)

    page.locator(".branches button.token").first.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".readout")).to_contain_text("drawn with")
    page.keyboard.press("Delete")  # on screen: what it grew from takes its place
    wait_for_tokens(page, len(first) - 2)
    expect(page.get_by_role("button", name="Branches", exact=True)).to_be_visible()

    type_text(page, "The old king")
    step(page)
    type_text(page, "The old queen")
    expect(page.locator(".branches")).to_contain_text("The old king")
    page.locator(".branches button.token").last.click()
    wait_for_tokens(page, len(second))
    assert page.input_value("#text").startswith(TEXT)


def posted(request: Request) -> dict[str, object]:
    data: dict[str, object] = json.loads(request.post_data or "{}")
    return data


def test_a_full_context_says_so_and_takes_no_step(page: Page) -> None:
    page.fill("#text", "word " * 900)
    wait_for_tokens(page, 512)
    notice = page.locator(".notice")
    expect(notice).to_contain_text("kept the last 512.")
    expect(notice).not_to_contain_text("room")
    for name in ("Step", "Play"):
        expect(page.get_by_role("button", name=name)).to_be_disabled()
    expect(page.locator(".used")).to_contain_text("fills the model’s context")
    expect(page.locator("li[data-id] button:enabled")).to_have_count(0)
    type_text(page, TEXT)
    expect(page.get_by_role("button", name="Step")).to_be_enabled()


def test_a_text_of_a_hundred_thousand_characters_is_pasted(page: Page, watch: Watch) -> None:
    watch.expected = ("status of 413",)
    page.fill("#text", "The old king sat. " * 5_500)
    expect(page.locator(".notice")).to_contain_text("kept the last 512")
    assert (page.locator(".box").bounding_box() or {"height": 1000})["height"] < 220
    page.fill("#text", "The old king sat. " * 6_000)
    expect(page.locator(".notice")).to_contain_text("108,000 characters")
    expect(page.get_by_role("button", name="Step")).to_be_disabled()
    expect(page.locator(".used")).to_contain_text("has not been run")
    type_text(page, TEXT)
    wait_for_tokens(page, 8)


def test_a_word_of_a_hundred_thousand_letters_is_laid_out_at_once(page: Page) -> None:
    milliseconds = page.eval_on_selector(
        "#text",
        """async (box) => {
            const began = performance.now()
            box.value = 'x'.repeat(100_000)
            box.dispatchEvent(new Event('input', { bubbles: true }))
            await new Promise(requestAnimationFrame)
            document.querySelector('.mirror').getBoundingClientRect()
            return performance.now() - began
        }""",
    )
    assert milliseconds < 3000
    expect(page.locator(".notice")).to_contain_text("kept the last 512")


def test_an_unfinished_composition_is_not_run(page: Page) -> None:
    type_text(page, TEXT)
    asked: list[str] = []
    page.on("request", lambda r: asked.append(r.url) if r.url.endswith("/api/run") else None)
    page.focus("#text")
    page.keyboard.press("End")
    devtools = page.context.new_cdp_session(page)
    devtools.send("Input.imeSetComposition", {"text": "に", "selectionStart": 1, "selectionEnd": 1})
    devtools.send("Input.imeSetComposition", {"text": "にほ", "selectionStart": 2, "selectionEnd": 2})
    page.wait_for_timeout(400)
    assert asked == []
    assert page.input_value("#text") == TEXT + "にほ"
    with page.expect_response(lambda r: "/api/run" in r.url and r.ok):
        devtools.send("Input.insertText", {"text": "日本"})
    assert page.input_value("#text") == TEXT + "日本"
    assert len(asked) == 1


def test_right_to_left_lines_and_emoji_grow_too(page: Page) -> None:
    for text in ("שלום עולם", "one\ntwo\nthree\n", "👩‍👧‍👦 and é"):
        type_text(page, text)
        assert page.input_value("#text") == text
        step(page)
        pick(page, 2)
        assert page.input_value("#text").startswith(text)
        mirror = page.locator(".mirror").evaluate("m => m.textContent.replace(/\\u200b$/, '')")
        assert mirror == page.input_value("#text")
    assert len(pieces(page)) > 3
