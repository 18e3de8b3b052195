"""From logits to one token: every number of the table, the bar and the panels, against the sampler in Python."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from cutaway import load
from cutaway.generate.sampler import Sampler, draw, uniform

from .test_page import TEXT, probabilities, slide, step, type_text

ALL = Sampler(temperature=0.7, top_k=50, top_p=0.9, min_p=0.02, repetition_penalty=1.3)


def dial(page: Page, name: str, value: object) -> None:
    field = page.get_by_label(f"{name}, typed as a number")
    field.fill(str(value))
    field.press("Tab")


def turn_all(page: Page) -> None:
    dial(page, "Repetition penalty", 1.3)
    dial(page, "Temperature", 0.7)
    dial(page, "Top-k", 50)
    dial(page, "Top-p", 0.9)
    dial(page, "Min-p", 0.02)


def stage(page: Page, name: str) -> list[dict[str, Any]]:
    """The cells of one column, from the first token to everything else."""
    return page.eval_on_selector_all(
        f'[data-stage="{name}"]',
        """cells => cells.map(cell => ({
            text: cell.querySelector('.number')?.innerText ?? '', cut: cell.classList.contains('cut'),
            gone: cell.classList.contains('gone'), rest: Number(cell.dataset.rest),
            left: cell.querySelector('.left')?.innerText.replace(',', '') }))""",
    )


def number(text: str) -> float:
    text = text.replace("−", "-").replace(",", "")
    return float(text.removesuffix("%").strip()) / 100 if "%" in text else float(text)


def listed(page: Page) -> list[int]:
    return page.eval_on_selector_all("li[data-id]", "rows => rows.map(row => Number(row.dataset.id))")


def test_every_stage_shows_what_the_sampler_does(page: Page) -> None:
    type_text(page, TEXT)
    turn_all(page)
    record = load("stories").run(TEXT)
    logits = record["logits"][-1].double().numpy()
    ids = listed(page)
    trace = ALL.trace(logits, record.tokens)

    penalised = np.array([x if i not in record.tokens else x / 1.3 if x > 0 else x * 1.3 for i, x in enumerate(logits)])
    steps = [Sampler(1.0, repetition_penalty=1.3), Sampler(0.7, repetition_penalty=1.3)]
    steps += [Sampler(0.7, 50, repetition_penalty=1.3), Sampler(0.7, 50, 0.9, repetition_penalty=1.3), ALL]
    names = ["repetition penalty", "temperature", "top-k", "top-p", "min-p"]
    still = np.arange(logits.size) >= 0
    for name, sampler in zip(names, steps, strict=True):
        cells = stage(page, name)
        p = sampler.trace(logits, record.tokens).probabilities
        assert cells[-1]["rest"] == pytest.approx(1 - p[ids].sum(), abs=1e-6)
        assert int(cells[-1]["left"]) == np.count_nonzero(p) - np.count_nonzero(p[ids])
        for i, cell in zip(ids, cells, strict=False):
            assert cell["gone"] == (not still[i]), (name, i)
            assert cell["cut"] == (still[i] and p[i] == 0), (name, i)
        still = p > 0
    for i, raw, after, divided in zip(
        ids, stage(page, "logits"), stage(page, "repetition penalty"), stage(page, "temperature"), strict=False
    ):
        assert number(raw["text"]) == pytest.approx(logits[i], rel=1e-3)
        assert number(after["text"]) == pytest.approx(penalised[i], rel=1e-3)
        assert number(divided["text"]) == pytest.approx(penalised[i] / 0.7, rel=1e-3)
    for i, cell in zip(ids, stage(page, "softmax"), strict=False):
        if trace.probabilities[i] > 0.0001:
            assert number(cell["text"]) == pytest.approx(trace.probabilities[i], rel=5e-3)
    assert sum(probabilities(page)) == pytest.approx(1, abs=1e-9)


def test_a_cell_says_its_arithmetic(page: Page, width: int) -> None:
    type_text(page, TEXT)
    record = load("stories").run(TEXT)
    best = listed(page)[0]
    logit = record["logits"][-1, best].item()
    page.locator('[data-cell="0 3"]').focus()
    readout = page.locator(".readout")
    expect(readout).to_contain_text(f"{logit:.3f} ÷ 0.8 = {logit / 0.8:.3f}"[:8])
    page.keyboard.press("End")
    if width > 800:
        expect(readout).to_contain_text("lower ids hold")
        page.keyboard.press("ArrowLeft")
    expect(readout).to_contain_text("exp(")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    expect(readout).to_contain_text(f"logits[{len(record.tokens) - 1}, {best}]")


def test_any_temperature_can_be_typed_and_all_goes_back_to_plain(page: Page) -> None:
    type_text(page, TEXT)
    dial(page, "Temperature", 40)
    logits = load("stories").run(TEXT)["logits"][-1]
    expected = Sampler(40.0).trace(logits).probabilities
    assert probabilities(page)[:11] == pytest.approx(sorted(expected, reverse=True)[:11], rel=1e-4)
    dial(page, "Temperature", -1)
    expect(page.get_by_label("Temperature, typed as a number")).to_have_value("40")  # not one the sampler takes
    turn_all(page)
    page.get_by_role("button", name="Back to plain").click()
    expect(page.get_by_role("button", name="Back to plain")).to_be_disabled()
    assert max(probabilities(page)[:-1]) == pytest.approx(max(Sampler().trace(logits).probabilities), rel=1e-4)
    dial(page, "Temperature", 0)
    expect(page.locator(".steps")).to_contain_text("argmax")
    expect(page.locator(".draw")).to_contain_text("Nothing is drawn")


def test_the_draw_is_told_with_its_numbers_and_walked_by_key(page: Page) -> None:
    type_text(page, TEXT)
    logits = load("stories").run(TEXT)["logits"][-1]
    p = Sampler(0.8).trace(logits).probabilities
    token, u = draw(p, 7, 0)
    assert u == uniform(7, 0)
    told = page.locator(".draw > p")
    expect(told).to_contain_text(f"u = {u:.4f}")
    expect(told).to_contain_text(f"between {p[:token].sum():.4f} and {p[: token + 1].sum():.4f}")
    page.locator(".draw summary").click()
    expect(page.locator(".draw details")).to_contain_text(str(u))
    page.locator(".draw canvas").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".readout")).to_contain_text(f"id {token}:")
    page.keyboard.press("Home")
    expect(page.locator(".readout")).to_contain_text("from 0.0000")
    page.keyboard.press("End")
    expect(page.locator(".readout")).to_contain_text("to 1.0000")


def test_what_was_expected_at_a_typed_and_at_a_drawn_token(page: Page, width: int) -> None:
    type_text(page, TEXT)
    slide(page, "Temperature", 1.5)
    step(page)
    step(page)
    slide(page, "Temperature", 0.3)  # the panel shows the settings of then
    model = load("stories")
    record = model.run(tokens=page_tokens(page))
    logits = record["logits"].double().numpy()
    column = page.locator(".part.first .tokens button")
    panel = page.locator(".predicted")

    column.nth(4).focus()
    expect(panel).to_have_attribute("data-token", "4")
    real = record.tokens[4]
    plain = Sampler().trace(logits[3]).probabilities
    rank = 1 + int((plain > plain[real]).sum())
    expect(panel).to_contain_text(f"rank {rank:,} of 4,096")
    shown = panel.locator(f'li[data-id="{real}"]').get_attribute("data-probability")
    assert float(shown or 0) == pytest.approx(plain[real], rel=1e-4)

    last = len(record.tokens) - 1
    column.nth(last).focus()
    expect(panel).to_have_attribute("data-token", str(last))
    p = Sampler(1.5).trace(logits[last - 1]).probabilities
    token, u = draw(p, 7, 1)
    assert token == record.tokens[last]
    expect(panel).to_contain_text("T = 1.5")
    expect(panel).to_contain_text(f"u = {u:.4f} lies between {p[:token].sum():.4f} and {p[: token + 1].sum():.4f}")
    box = panel.bounding_box()
    assert box
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width
    page.keyboard.press("Escape")
    expect(panel).to_have_count(0)

    page.locator("mark").first.scroll_into_view_if_needed()
    word = page.locator("mark").first.bounding_box()
    assert word
    page.mouse.move(word["x"] + word["width"] - 3, word["y"] + word["height"] / 2)
    expect(panel).to_have_attribute("data-token", str(last - 1))
    column.nth(0).focus()
    expect(panel).to_contain_text("first token")


def page_tokens(page: Page) -> list[int]:
    return [int(i) for i in page.locator(".part.first .tokens .id").all_inner_texts()]


def test_a_large_vocabulary_leaves_the_section_on_one_screen(page: Page, width: int) -> None:
    turn_all(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    expect(page.get_by_role("grid", name=re.compile("each step"))).to_be_visible()
