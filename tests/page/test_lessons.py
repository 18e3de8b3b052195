"""The seven tours, each taken to its end: every guess is answered from the run on screen, every deed goes on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from cutaway import load

from .test_page import type_text

TEXT = "Once upon a time there was a king"
LESSONS = {
    "Predict, sample, repeat": 5,
    "Tokens and embeddings": 5,
    "Inside a block": 5,
    "Attention: query, key, value": 5,
    "Many heads and the mask": 6,
    "The MLP": 5,
    "Unembedding and temperature": 6,
}


#: The card covers nothing of what its step points at, or, of what is higher than the rest of the window, not its head.
CLEAR = """() => {
    const [card, target] = ['.card', '.overlay rect'].map((one) => document.querySelector(one)?.getBoundingClientRect())
    if (!card || !target || card.right <= target.left || card.left >= target.right) return true
    const [top, bottom] = [Math.max(0, target.top), Math.min(innerHeight, target.bottom)]
    const covered = Math.max(0, Math.min(card.bottom, bottom) - Math.max(card.top, top))
    return covered < 3 || (target.height > innerHeight - card.height - 34 && covered < 0.7 * (bottom - top))
}"""


def button(name: str) -> Callable[[Page], None]:
    return lambda page: page.get_by_role("button", name=name, exact=True).first.click()


def click(selector: str) -> Callable[[Page], None]:
    return lambda page: page.locator(selector).first.click()


def enter(selector: str) -> Callable[[Page], None]:
    """Walk into a picture with the keyboard and ask how the number there was made."""

    def act(page: Page) -> None:
        page.wait_for_load_state("networkidle")  # a picture is made anew when its numbers arrive
        page.locator(selector).first.focus()
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")

    return act


def open_block(page: Page) -> None:
    page.locator('[data-stop="1"] h2 button').first.click()


def another_token(page: Page) -> None:
    page.locator(".tokens button[aria-pressed=false]").first.click()


def play_and_stop(page: Page) -> None:
    button("Play")(page)
    expect(page.locator(".card .then")).to_be_visible(timeout=60_000)
    button("Stop")(page)


def slide(value: str) -> Callable[[Page], None]:
    return lambda page: page.get_by_role("slider", name="Temperature").first.fill(value)


def another_head(page: Page) -> None:
    page.locator(".opened .heads button[aria-pressed=false]").first.click()


def down_to_a_query(page: Page) -> None:
    score = page.locator('.arithmetic [data-cell*="attn.scores"]')
    if score.count():
        score.first.click()
    page.locator('.arithmetic [data-cell*="attn.q_rot"]').first.click()


DEEDS: dict[str, Callable[[Page], None]] = {
    "predict.text": lambda page: page.fill("#text", TEXT + " who"),
    "predict.step": button("Step"),
    "predict.play": play_and_stop,
    "tokens.choose": another_token,
    "tokens.open": click('[data-stop="embedding"] h2 button'),
    "tokens.twice": lambda page: page.fill("#text", TEXT + " and a king"),
    "inside.open": open_block,
    "inside.number": click(".opened .norm button"),
    "attention.open": open_block,
    "attention.score": enter(".attention .square canvas[tabindex]"),
    "attention.terms": down_to_a_query,
    "heads.open": open_block,
    "heads.pick": another_head,
    "heads.earlier": another_token,
    "mlp.open": open_block,
    "mlp.alone": another_token,
    "mlp.neuron": enter(".mlp-room canvas[tabindex]"),
    "temperature.open": click('[data-stop="end"] h2 button'),
    "temperature.logit": enter(".opened canvas[tabindex]"),
    "temperature.slide": slide("2"),
    "temperature.zero": slide("0"),
    "temperature.cut": lambda page: page.get_by_role("slider", name="Top-k").first.fill("20"),
}


def begin(page: Page, lesson: str) -> None:
    type_text(page, TEXT)
    page.get_by_role("button", name="Lessons").click()
    page.get_by_role("button", name=lesson).click()
    expect(page.locator(".card")).to_be_visible()


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_lesson_can_be_taken_to_its_end(page: Page, lesson: str) -> None:
    begin(page, lesson)
    card = page.locator(".card")
    for at in range(1, LESSONS[lesson] + 1):
        expect(card.locator(".head")).to_contain_text(f"{at} of {LESSONS[lesson]}")
        name = card.get_attribute("data-step") or ""
        assert "{" not in card.inner_text(), name  # every sentence is filled
        if card.locator(".choices button").count():
            assert card.locator(".then").count() == 0, name  # nothing is given away before the guess
            card.locator(".choices button").first.click()
        elif name in DEEDS:
            assert card.get_by_role("button", name="Next").count() == 0, name
            DEEDS[name](page)
        if name in DEEDS or card.locator(".choices button").count():
            expect(card.locator(".then"), name).to_be_visible()
            assert "{" not in card.inner_text(), name
        box = card.bounding_box()
        assert box is not None
        page.wait_for_function(CLEAR, timeout=5000)
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= page.viewport_size["width"]  # type: ignore[index]
        card.locator(".main").click()
    expect(card).to_have_count(0)
    page.get_by_role("button", name="Lessons").click()
    expect(page.get_by_role("button", name=lesson)).to_contain_text("taken")


def test_the_right_answers_are_the_models(page: Page) -> None:
    record = load("stories").run(TEXT)
    begin(page, "Tokens and embeddings")
    page.locator(".choices button", has_text=str(len(record.tokens))).click()
    expect(page.locator(".card .then")).to_contain_text("Right.")
    page.get_by_role("button", name="End the lesson").click()
    begin(page, "Predict, sample, repeat")
    DEEDS["predict.text"](page)
    page.locator(".card .main").click()
    longer = load("stories").next(TEXT + " who").top(1)[0]
    page.locator(".choices button", has_text=longer.text).first.click()
    expect(page.locator(".card .then")).to_contain_text("Right.")
    expect(page.locator(".card .then")).to_contain_text(f"{100 * longer.p:.1f}")
