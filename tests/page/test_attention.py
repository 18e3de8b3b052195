"""The opened attention: what its tables, squares and words say is what the record holds; keys reach every number."""

from __future__ import annotations

import math
import re
from typing import cast
from urllib.parse import parse_qs, urlsplit

import pytest
import torch
from playwright.sync_api import Locator, Page, expect

from cutaway import Record, load
from cutaway.look.heads import KINDS, bins, label
from cutaway.model import spec

from .conftest import Watch, open_stop
from .test_page import TEXT, type_text

LAYER, HEAD = 3, 1
ATTENTION = f"blocks.{LAYER}.attn"
# How many different colours lie inside one cell of a square of `size` cells a side.
COLOURS_IN_CELL = """(canvas, [column, row, size]) => {
    const side = canvas.width / size, inner = Math.floor(side * 0.6)
    const [x, y] = [column, row].map(at => Math.round((at + 0.15) * side))
    const { data } = canvas.getContext('2d').getImageData(x, y, inner, inner)
    return new Set(new Uint32Array(data.buffer)).size
}"""


@pytest.fixture
def opened(page: Page) -> Page:
    """The attention of one block opened on TEXT, one head chosen."""
    type_text(page, TEXT)
    return open_head(page)


def open_head(page: Page) -> Page:
    open_stop(page, f"Open block {LAYER}")
    page.locator(f'[data-head="{HEAD}"]').click()
    expect(page.locator(f'[data-head="{HEAD}"]')).to_have_attribute("aria-pressed", "true")
    return page


@pytest.fixture(scope="module")
def record() -> Record:
    return load("stories").run(TEXT)


def attention(record: Record) -> spec.Attention:
    assert isinstance(record.spec, spec.Transformer)
    return record.spec.stack.blocks[LAYER].attn


def number(text: str) -> float:
    """A number as the page writes it: a true minus, ∞, powers of ten, a share in percent."""
    text = text.replace("−", "-").replace("∞", "inf").replace("\u202f", "")
    if text.endswith("%"):
        return float(text[:-1].removeprefix("<").removeprefix(">")) / 100
    if " × 10" in text:
        digits, _, power = text.partition(" × 10")
        return float(digits) * 10.0 ** int(power.translate(str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")))
    return float(text)


def table(page: Page, caption: str) -> list[list[str]]:
    """The rows in sight of a picture's table, opened."""
    details = page.locator(f'details[data-table="{caption}"]')
    if details.get_attribute("open") is None:
        details.locator("summary").press("Enter")
    rows = page.get_by_role("region", name=caption).locator("tbody tr[aria-rowindex]")
    expect(rows.first).to_be_visible()
    script = "rows => rows.map(row => [...row.cells].map(cell => cell.textContent))"
    return cast(list[list[str]], rows.evaluate_all(script))


def square(page: Page) -> torch.Tensor:
    return torch.tensor([[number(cell) for cell in row[1:]] for row in table(page, "The cells as a table")])


def show(page: Page, choice: str) -> None:
    page.locator(".choice label", has_text=re.compile(f"^{choice}$")).click()


def cell_canvas(page: Page) -> Locator:
    return page.locator(".opened .cells > canvas")


def test_the_square_holds_the_record_before_and_after_mask_and_softmax(
    opened: Page, record: Record, watch: Watch
) -> None:
    watch.expected = ("willReadFrequently",)  # this test reads the canvas twice; the page never does
    scores, pattern = record[f"{ATTENTION}.scores"][HEAD], record[f"{ATTENTION}.pattern"][HEAD]
    length = len(record.tokens)
    behind = torch.ones(length, length).triu(1).bool()
    assert square(opened) == pytest.approx(pattern, abs=1e-5)
    show(opened, "scores")
    assert square(opened) == pytest.approx(scores, abs=1e-5)
    assert cell_canvas(opened).evaluate(COLOURS_IN_CELL, [length - 2, 0, length]) <= 3  # one colour, perhaps a minus
    show(opened, "after mask")
    masked = square(opened)
    assert torch.isneginf(masked).equal(behind)
    assert masked[~behind] == pytest.approx(scores[~behind], abs=1e-5)
    assert cell_canvas(opened).evaluate(COLOURS_IN_CELL, [length - 2, 0, length]) > 3  # hatched, and −∞ written in it


def test_readers_can_be_the_columns(opened: Page, record: Record) -> None:
    show(opened, "each column reads")
    pattern = record[f"{ATTENTION}.pattern"][HEAD]
    assert square(opened) == pytest.approx(pattern.T, abs=1e-5)
    expect(opened.locator(".square .axis").first).to_contain_text("reads to")
    cell = opened.locator(".opened .rows canvas")
    cell.focus()
    opened.keyboard.press("ArrowLeft")  # from the last reader to the one before
    expect(opened.locator(".readout code").first).to_contain_text(f"{ATTENTION}.pattern[{HEAD},{len(pattern) - 2},")


def test_heads_are_named_for_what_the_record_says_they_do(opened: Page, record: Record) -> None:
    kinds = record[f"{ATTENTION}.kinds"]
    for head, scores in enumerate(kinds):
        kind = label(scores, record[f"{ATTENTION}.even"])
        score = scores[KINDS.index(kind)].item()
        card = opened.locator(f'[data-head="{head}"]')
        expect(card).to_have_attribute("data-kind", kind)
        assert float(card.locator(".kind").inner_text().split()[-1]) == pytest.approx(score, abs=0.0051)
    shown = [
        [number(cell) for cell in row[1:]]
        for row in table(opened, "Share of each head’s weight by kind, over this text")
    ]
    assert torch.tensor(shown) == pytest.approx(kinds, abs=1e-5)


def test_heads_are_ranked_by_what_the_chosen_token_reads(opened: Page, record: Record) -> None:
    last = record[f"{ATTENTION}.pattern"][:, -1]
    telling = last[:, 1:-1].max(-1).values
    shown = opened.eval_on_selector_all("[data-head]", "cards => cards.map(card => Number(card.dataset.head))")
    assert shown == telling.argsort(descending=True).tolist()
    attn = attention(record)
    group = attn.heads // attn.kv_heads
    for head in range(attn.heads):
        expect(opened.locator(f'[data-head="{head}"] small')).to_have_text(f"k/v {head // group}")


def test_over_all_heads(opened: Page, record: Record) -> None:
    for over in ("mean", "max"):
        opened.locator(f'[data-over="{over}"]').click()
        assert square(opened) == pytest.approx(record[f"{ATTENTION}.{over}"], abs=1e-5)
    assert record[f"{ATTENTION}.mean"].numpy() == pytest.approx(
        record[f"{ATTENTION}.pattern"].mean(0).numpy(), abs=1e-6
    )


def test_words_say_how_much_they_are_read(opened: Page, record: Record) -> None:
    pattern = record[f"{ATTENTION}.pattern"][HEAD]

    def check(reader: int) -> None:
        for token in range(len(pattern)):
            weight = pattern[reader, token].item()
            said = opened.locator(f'.attention [data-word="{token}"] small').inner_text().strip()
            assert (number(said) if said else 0) == pytest.approx(weight if weight >= 0.01 else 0, abs=6e-4)

    check(len(pattern) - 1)
    opened.locator('.attention [data-word="4"]').focus()
    check(4)
    opened.locator('.attention [data-word="3"]').click()
    expect(opened.locator('.attention [data-word="3"]')).to_have_attribute("aria-pressed", "true")
    check(3)


def test_keys_reach_a_cell_and_explain_it(opened: Page, record: Record) -> None:
    cell = opened.locator(".opened .rows canvas")
    cell.focus()
    for key in ("ArrowUp", "ArrowLeft", "ArrowLeft"):
        opened.keyboard.press(key)
    name = opened.locator(".readout code").first.inner_text().partition(" =")[0]
    opened.keyboard.press("Enter")
    panel = opened.locator("[data-explains]")
    expect(panel).to_have_attribute("data-explains", name)
    recorded = float(opened.locator("[data-recorded]").get_attribute("data-recorded") or "nan")
    assert recorded == pytest.approx(record[name].item(), abs=1e-7)


def test_a_row_from_query_to_output(opened: Page, record: Record) -> None:
    last = len(record.tokens) - 1
    scores, pattern = record[f"{ATTENTION}.scores"][HEAD, last], record[f"{ATTENTION}.pattern"][HEAD, last]
    rows = table(opened, "All numbers of this row")
    assert [number(row[2]) for row in rows] == pytest.approx(scores.tolist(), abs=1e-5)
    assert [number(row[4]) for row in rows] == pytest.approx(pattern.tolist(), abs=1e-5)
    scale = attention(record).scale
    expect(opened.locator('.attention [data-formula="attn.scores"]').first).to_contain_text(f"{scale:.4f}")
    opened.locator('[data-from="1"] [data-of="scores"]').click()
    expect(opened.locator("[data-explains]")).to_have_attribute("data-explains", f"{ATTENTION}.scores[{HEAD},{last},1]")


def test_of_a_long_text_only_parts_are_fetched(page: Page, width: int) -> None:
    text = "Tom lived in a big cave. One day Tom went to the river to play with his friend Lily. " * 11
    asked: list[tuple[str, str | None]] = []

    def note(url: str) -> None:
        query = parse_qs(urlsplit(url).query)
        if "/tensor" in url:
            asked.append((query["name"][0], query.get("at", [None])[0]))

    page.on("request", lambda request: note(request.url))
    type_text(page, text)
    open_head(page)
    record = load("stories").run(text)
    length = len(record.tokens)
    assert length > 200
    page.locator(".overview").click(position={"x": 60, "y": 100})
    edges = bins(length)
    first, end, reads, reads_end = map(int, re.findall(r"\d+", page.locator(".whole figcaption").inner_text())[:4])
    for name, at in asked:
        assert at is not None or not re.search(r"(pattern|scores|mean|max)$", name), (name, at)
        for axis in (at or "").split(",") if re.search(r"(pattern|scores)$", name) else []:
            span = [int(part) for part in axis.split(":") if part]
            assert len(span) < 2 or span[1] - span[0] <= 64
    wanted = record[f"{ATTENTION}.pattern[{HEAD},{first}:{end + 1},{reads}:{reads_end + 1}]"]
    shown = square(page)
    assert shown == pytest.approx(wanted[: len(shown)], abs=1e-5)
    assert abs((first + end) / 2 - length * 100 / 144) < length / len(edges) + 2
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    left_out = [number(said.split(", ")[1].removesuffix(" …")) for said in page.locator(".line .out").all_inner_texts()]
    assert math.fsum(left_out) <= 1
