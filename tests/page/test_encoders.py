"""The page with encoders: masks are filled, classes told, and every number is the one Python gives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

import cutaway
from tests.families.making import GPT2, make
from tests.tasks.encoders import BERT, byte_level, write

from .conftest import Server, Watch, open_stop
from .test_accessible import AXE
from .test_page import probabilities, type_text
from .test_takeaway import alone

TEXT = "The [MASK] sat on the [MASK]."
MOODS = ["anger", "joy", "sadness"]


@pytest.fixture(scope="module")
def masked(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("models") / "masked", BERT)


@pytest.fixture(scope="module")
def moods(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Path:
    classes = {
        "architectures": ["BertForSequenceClassification"],
        "id2label": {str(i): name for i, name in enumerate(MOODS)},
    }
    return write(tmp_path_factory.mktemp("models") / "moods", BERT | classes)


@pytest.fixture(scope="module")
def fills(masked: Path) -> Iterator[Server]:
    running = Server(masked)
    yield running
    running.kill()


@pytest.fixture(scope="module")
def tells(moods: Path) -> Iterator[Server]:
    running = Server(moods)
    yield running
    running.kill()


def opened(context: BrowserContext, server: Server, watch: Watch, text: str) -> Page:
    page = context.new_page()
    watch.on(page)
    page.goto(server.address)
    page.wait_for_selector('[data-origin="live"]')
    type_text(page, text)
    return page


def ids(page: Page) -> list[int]:
    return page.eval_on_selector_all("li[data-id]", "rows => rows.map(row => Number(row.dataset.id))")


def plain(page: Page) -> None:
    """The distribution as the model gives it."""
    page.get_by_role("button", name="Back to plain").click()


def test_each_mask_opens_into_what_fill_says(
    context: BrowserContext, fills: Server, watch: Watch, masked: Path
) -> None:
    page = opened(context, fills, watch, TEXT)
    plain(page)
    for blank in cutaway.load(masked).fill(TEXT):
        page.locator(".part.first .tokens button").nth(blank.position).click()
        likeliest = blank.top(5)
        assert ids(page)[:5] == [choice.id for choice in likeliest]
        assert probabilities(page)[:5] == pytest.approx([choice.p for choice in likeliest], abs=1e-6)
        assert sum(probabilities(page)) == pytest.approx(1)
    page.locator(".part.first .tokens button").nth(1).click()  # no mask: read, not filled
    expect(page.get_by_role("button", name="Fill one")).to_be_disabled()
    assert ids(page)[0] == cutaway.load(masked).run(TEXT)["logits[1]"].argmax().item()


def test_masks_are_filled_one_by_one_and_come_back_by_the_address(
    context: BrowserContext, fills: Server, watch: Watch, masked: Path
) -> None:
    page = opened(context, fills, watch, TEXT)
    model = cutaway.load(masked)
    page.locator(".part.first .tokens button").nth(6).click()  # the second mask first
    words = {id: model.pieces(tokens=[id])[0].text for id in ids(page)}
    chosen = next(id for id, word in words.items() if word.isalpha())  # some ids of this random model have no word
    page.locator(f'li[data-id="{chosen}"] button').click()
    expect(page.get_by_text("1 chosen by hand")).to_be_visible()
    assert page.input_value("#text") == f"The [MASK] sat on the {words[chosen]}."
    page.get_by_role("button", name="Fill one").click()
    expect(page.get_by_role("button", name="Fill one")).to_be_disabled()
    assert "[MASK]" not in page.input_value("#text")
    filled = page.input_value("#text")
    page.wait_for_timeout(500)  # the address waits for a pause
    again = context.new_page()
    watch.on(again)
    again.goto(page.url)
    expect(again.locator("#text")).to_have_value(filled)
    expect(again.get_by_role("button", name="Fill one")).to_be_disabled()


def test_a_logit_is_explained_down_to_the_layer_before_it(context: BrowserContext, fills: Server, watch: Watch) -> None:
    page = opened(context, fills, watch, TEXT)
    open_stop(page, "One more layer, unembedding")
    expect(page.locator(".opened")).to_contain_text("A layer before the unembedding")
    page.get_by_role("button", name="Term by term").click()
    arithmetic = page.locator(".arithmetic")
    expect(arithmetic).to_contain_text("The logit of ")
    expect(arithmetic).to_contain_text("they agree")
    arithmetic.locator('[role="gridcell"] button').first.click()
    expect(arithmetic).to_contain_text("of the vector that the unembedding reads")
    expect(arithmetic).to_contain_text("they agree")


def test_classes_stand_where_tokens_stood(context: BrowserContext, tells: Server, watch: Watch, moods: Path) -> None:
    page = opened(context, tells, watch, "The cat sat on the mat.")
    found = cutaway.load(moods).classify("The cat sat on the mat.")
    assert page.locator("li[data-id] .name").all_inner_texts() == [label.name for label in found.labels]
    assert probabilities(page) == pytest.approx([label.p for label in found.labels], abs=1e-6)
    for gone in ("From logits to one token", "Logit lens", "Play"):
        expect(page.get_by_text(gone)).to_have_count(0)
    open_stop(page, "One more layer, unembedding")
    expect(page.locator(".opened")).to_contain_text("One row for each class.")
    open_stop(page, "Open block 1")
    expect(page.locator(".opened .mlp-room")).to_be_visible()


@pytest.mark.parametrize("width", [1440])
def test_a_decoder_s_classes_are_read_off_its_last_token(context: BrowserContext, watch: Watch, tmp_path: Path) -> None:
    config = {
        **GPT2, "vocab_size": 330, "architectures": ["GPT2ForSequenceClassification"],
        "id2label": {str(i): name for i, name in enumerate(MOODS)},
    }  # fmt: skip
    make(tmp_path / "moods", config)
    byte_level().save(str(tmp_path / "moods/tokenizer.json"))
    server = Server(tmp_path / "moods")
    try:
        text = "The cat sat on the mat."
        page = opened(context, server, watch, text)
        model = cutaway.load(tmp_path / "moods")
        found = model.classify(text)
        assert page.locator("li[data-id] .name").all_inner_texts() == [label.name for label in found.labels]
        assert probabilities(page) == pytest.approx([label.p for label in found.labels], abs=1e-6)
        expect(page.get_by_text("Of the last one")).not_to_have_count(0)
        open_stop(page, "unembedding")
        page.get_by_role("button", name="Term by term").click()
        expect(page.locator(".arithmetic")).to_contain_text("they agree")
    finally:
        server.kill()


@pytest.mark.parametrize("width", [1440])
@pytest.mark.parametrize("kind", ["fills", "tells"])
def test_axe_finds_nothing(context: BrowserContext, watch: Watch, kind: str, request: pytest.FixtureRequest) -> None:
    page = opened(context, request.getfixturevalue(kind), watch, TEXT)
    open_stop(page, "One more layer, unembedding")
    page.wait_for_timeout(600)
    page.evaluate(AXE.read_text("utf-8"))
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
    assert [(one["id"], [node["html"][:120] for node in one["nodes"][:3]]) for one in found] == []


@pytest.mark.parametrize("width", [1440])
@pytest.mark.parametrize("kind", ["masked", "moods"])
def test_a_run_stands_alone(
    server: Server,
    browser: Browser,
    width: int,
    watch: Watch,
    tmp_path: Path,
    kind: str,
    request: pytest.FixtureRequest,
) -> None:
    model = cutaway.load(request.getfixturevalue(kind))
    model.run(TEXT).to_html(tmp_path / "run.html")
    page = alone(browser, tmp_path / "run.html", width, watch)
    best = model.fill(TEXT)[0].top(1)[0].text if kind == "masked" else model.classify(TEXT).labels[0].name
    assert page.locator("li[data-id] .name").first.inner_text() == best
    page.context.close()
