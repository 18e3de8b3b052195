"""From a logit down to single weights: at each level the numbers on screen are the record's, and they add up."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from cutaway import load
from cutaway.look import Record
from cutaway.look.explain import RULES

from .conftest import open_stop
from .test_page import TEXT, type_text

WEB = Path(__file__).resolve().parents[2] / "web/src"
PANEL = ".arithmetic"
#: The page's run may go on from what was typed before; then its products had fewer rows than the record's here.
ROUNDING = 1e-5
SCROLL = """(grid, top) => new Promise(done => {
    grid.scrollTop = top
    requestAnimationFrame(() => requestAnimationFrame(done))
})"""


@pytest.fixture(scope="module")
def record() -> Record:
    return load("stories").run(TEXT)


def number(page: Page, name: str) -> float:
    return float(page.locator(f"{PANEL} dl").get_attribute(f"data-{name}") or "nan")


def terms(page: Page) -> list[list[tuple[str, float]]]:
    """The factors of every term with their values, read from the rows as the list is scrolled through."""
    expect(page.locator(f"{PANEL} dl")).to_be_visible()  # while the answer is on its way there is no list at all
    more = page.locator(f"{PANEL} button.more")
    if more.count() and more.inner_text().startswith("and"):
        more.click()
    grid = page.locator(f"{PANEL} .terms")
    count = int(grid.get_attribute("aria-rowcount") or 0)
    read = """rows => rows.map(row => [Number(row.dataset.row), [...row.querySelectorAll('[data-value]')].map(
        factor => [factor.dataset.cell ?? factor.title, Number(factor.dataset.value)])])"""
    found: dict[int, list[tuple[str, float]]] = {}
    for top in range(0, 30 * count + 1, 300):
        grid.evaluate(SCROLL, top)
        found |= {at: [tuple(f) for f in factors] for at, factors in grid.locator("[data-row]").evaluate_all(read)}
        if len(found) == count:
            break
    assert sorted(found) == list(range(count)), "rows are missing from the list"
    return [found[at] for at in range(count)]


def steps(page: Page) -> list[tuple[str, float]]:
    read = "steps => steps.map(step => [step.dataset.step, Number(step.dataset.value)])"
    return [tuple(step) for step in page.locator(f"{PANEL} [data-step]").evaluate_all(read)]


def open_logit(page: Page) -> None:
    open_stop(page, "Final norm")
    page.get_by_role("button", name="Term by term").click()
    expect(page.locator(f"{PANEL} dl")).to_be_visible()


def descend(page: Page, cell: str) -> None:
    """Follow the factor that stands in ``cell``."""
    terms(page)  # brings every row of the list into being; the wanted one may still be out of sight
    grid = page.locator(f"{PANEL} .terms")
    button = page.locator(f'{PANEL} [data-cell="{cell}"]').first
    for top in range(0, 20_000, 300):
        if button.count():
            break
        grid.evaluate(SCROLL, top)
    button.click()
    expect(page.locator(PANEL)).to_have_attribute("data-explains", cell)


def test_a_logit_is_followed_down_to_a_weight(page: Page, record: Record) -> None:
    type_text(page, TEXT)
    open_logit(page)
    last, token = len(record.tokens) - 1, int(record["logits"][-1].argmax())
    trail = [
        f"logits[{last},{token}]",
        f"final[{last},3]",
        f"blocks.4.resid_post[{last},3]",
        f"blocks.4.mlp.out[{last},3]",
        f"blocks.4.mlp.hidden[{last},7]",
        f"blocks.4.mlp.gate[{last},7]",
        f"blocks.4.mlp.in[{last},11]",
        f"blocks.4.resid_mid[{last},11]",
        f"blocks.4.attn.out[{last},11]",
        f"blocks.4.attn.z[{last},1,2]",
        f"blocks.4.attn.pattern[1,{last},2]",
        f"blocks.4.attn.scores[1,{last},2]",
        f"blocks.4.attn.q_rot[{last},1,5]",
        f"blocks.4.attn.q[{last},1,5]",
    ]
    for depth, cell in enumerate(trail):
        if depth:
            descend(page, cell)
        expect(page.locator(f"{PANEL} dl")).to_be_visible()
        expected = record.explain(cell)
        shown, rows = number(page, "recorded"), terms(page)
        assert shown == pytest.approx(expected.value, rel=ROUNDING, abs=ROUNDING), cell
        scale = max(1.0, sum(abs(term.value) for term in expected.terms))
        assert number(page, "total") == pytest.approx(shown, abs=1e-5 * scale), cell
        assert [op for op, _ in steps(page)] == [step.op for step in expected.steps if step.op != "subtract"]
        assert steps(page)[-1][1] == pytest.approx(number(page, "total"), abs=1e-12)
        if expected.term == "product":  # worked out once more from what is on screen alone
            again = math.fsum(math.prod(value for _, value in factors) for factors in rows)
            assert again == pytest.approx(steps(page)[0][1], abs=1e-9 * scale), cell
        for factors in rows:
            for name, value in factors:
                if re.match(r"(weights|blocks|final|embed|logits)\b", name):
                    assert float(record[name]) == pytest.approx(value, rel=ROUNDING, abs=ROUNDING), name
        expect(page.locator(f"{PANEL} .verdict")).to_contain_text("✓")

    weight = "weights.stack.blocks.4.attn.q.weight[37,0]"
    descend(page, weight)
    shown = float(page.locator(f"{PANEL} .value").get_attribute("data-recorded") or "nan")
    assert shown == pytest.approx(float(record[weight]), abs=1e-9)
    assert page.locator(f"{PANEL} nav li").count() == len(trail) + 1


def test_escape_and_the_trail_lead_back(page: Page, record: Record) -> None:
    type_text(page, TEXT)
    open_logit(page)
    last = len(record.tokens) - 1
    descend(page, f"final[{last},5]")
    descend(page, f"blocks.4.resid_post[{last},5]")
    page.keyboard.press("Escape")
    expect(page.locator(PANEL)).to_have_attribute("data-explains", f"final[{last},5]")
    page.locator(f"{PANEL} nav button").first.click()
    expect(page.locator(PANEL)).to_have_attribute("data-explains", re.compile(r"^logits\["))
    page.keyboard.press("Escape")
    expect(page.locator(PANEL)).to_have_count(0)
    expect(page.locator("section.opened")).to_have_count(1)


def test_terms_are_read_and_followed_by_keyboard(page: Page) -> None:
    type_text(page, TEXT)
    open_logit(page)
    page.locator(f'{PANEL} .terms [tabindex="0"]').focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
    focused = "document.activeElement.dataset.cell"
    assert page.evaluate(focused).startswith("weights.stem.tokens.weight[")
    page.keyboard.press("End")  # the last of all terms is brought on screen
    expect(page.locator(f'{PANEL} [data-row="191"] button:focus')).to_have_count(1)
    page.keyboard.press("ArrowLeft")
    cell = page.evaluate(focused)
    page.keyboard.press("Enter")
    expect(page.locator(PANEL)).to_have_attribute("data-explains", cell)
    expect(page.locator(f"{PANEL} .terms button:focus")).to_have_count(1)  # and on from there


def test_any_token_is_found_and_its_logit_opened(page: Page, record: Record) -> None:
    type_text(page, TEXT)
    open_stop(page, "Final norm")
    page.get_by_role("searchbox").fill("drag")
    page.get_by_role("button", name="dragon").click()
    page.get_by_role("button", name="Term by term").click()
    expect(page.locator(f"{PANEL} dl")).to_be_visible()
    cell = page.locator(PANEL).get_attribute("data-explains") or ""
    assert number(page, "recorded") == pytest.approx(float(record[cell]), rel=ROUNDING, abs=ROUNDING)


def test_every_rule_has_a_sentence_and_a_formula() -> None:
    """A rule added to look/explain must be said and drawn too."""
    sentences = (WEB / "messages/en/numbers.ts").read_text()
    formulas = (WEB / "formulas/index.ts").read_text()
    for rule in RULES:
        assert f"'number.{rule}':" in sentences, f"no sentence says what {rule} is"
        rule = rule.replace("cross.", "attn.")  # one attention as the other
        assert f"case '{rule}':" in formulas, f"no formula says how {rule} is made"


def test_nothing_runs_over_the_edge(page: Page, width: int) -> None:
    type_text(page, TEXT)
    open_logit(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
