"""The page with an encoder and a decoder: two rivers, what joins them, and every number the one Python gives."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

import cutaway
from tools import random_model

from .conftest import Server, Watch
from .test_accessible import AXE
from .test_page import probabilities, type_text
from .test_takeaway import alone, dropped

TEXT = "The little dog ran to the river."


@pytest.fixture(scope="module")
def rewriter(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "rewriter"
    random_model.save(folder, "marian", layers=3, width=64, heads=4, context=64)
    return folder


@pytest.fixture(scope="module")
def rewrites(rewriter: Path) -> Iterator[Server]:
    running = Server(rewriter)
    yield running
    running.kill()


def opened(context: BrowserContext, server: Server, watch: Watch, text: str = TEXT) -> Page:
    page = context.new_page()
    watch.on(page)
    page.goto(server.address)
    page.wait_for_selector('[data-origin="live"]')
    type_text(page, text)
    expect(page.locator(".drawing")).to_have_count(2)
    return page


def test_a_text_brings_no_more_along_than_what_is_read_needs(
    context: BrowserContext, watch: Watch, tmp_path: Path
) -> None:
    """What is written is short; what is read was long before, and still is."""
    random_model.save(tmp_path / "deep", "marian", layers=24, width=16, heads=8, context=512)
    server = Server(tmp_path / "deep")
    try:
        page = opened(context, server, watch)
        asked: list[list[dict[str, str]]] = []
        page.on("request", lambda r: asked.append(r.post_data_json["want"]) if r.url.endswith("/api/run") else None)
        type_text(page, TEXT * 20)
        type_text(page, TEXT * 20 + "s")
    finally:
        server.kill()
    assert len(asked) == 2
    assert not [entry for want in asked for entry in want if entry["name"].endswith("attn.pattern")]


def river(page: Page, which: str) -> Locator:
    return page.get_by_role(
        "region", name={"read": "The drawing of what is read", "written": "The drawing"}[which], exact=True
    )


def write_one(page: Page) -> int:
    """Steps once; how many tokens are written then."""
    before = int(river(page, "written").get_attribute("data-tokens") or 0)
    page.get_by_role("button", name="Step", exact=True).click()
    expect(river(page, "written")).to_have_attribute("data-tokens", str(before + 1))
    return before + 1


def opened_head(page: Page) -> Locator:
    """The cross-attention of block 1, opened at head 3."""
    river(page, "written").get_by_role("button", name="Open block 1").click()
    crossing = page.get_by_role("group", name="Cross-attention")
    crossing.locator('[data-head="3"]').click()
    return crossing


def written(page: Page) -> list[int]:
    """The ids of what the decoder reads."""
    return [int(id) for id in river(page, "written").locator(".part.first .id").all_inner_texts()]


def test_two_rivers_and_the_next_token_python_gives(
    context: BrowserContext, rewrites: Server, watch: Watch, rewriter: Path
) -> None:
    page = opened(context, rewrites, watch)
    model = cutaway.load(rewriter)
    page.get_by_role("button", name="Back to plain").click()
    for count in (1, 2, 3):
        ids = written(page)
        assert len(ids) == count
        record = model.run(TEXT, target=ids[1:])
        assert river(page, "read").get_attribute("data-tokens") == str(len(record.source))
        best = record["logits.last"].softmax(-1).topk(5)
        assert probabilities(page)[:5] == pytest.approx(best.values.tolist(), abs=1e-6)
        assert write_one(page) == count + 1
    assert page.input_value("#text") == TEXT  # what is written stands by itself
    assert len(page.locator(".written mark").all()) == 3


@pytest.mark.parametrize("width", [1440])
def test_the_alignment_is_the_cross_attention_of_the_record(
    context: BrowserContext, rewrites: Server, watch: Watch, rewriter: Path
) -> None:
    page = opened(context, rewrites, watch)
    write_one(page)
    alignment = page.get_by_role("region", name="Which word reads which")
    record = cutaway.load(rewriter).run(TEXT, target=written(page)[1:])
    for head in ("mean", "2"):
        alignment.get_by_label("Block whose cross-attention is shown").select_option("1")
        alignment.get_by_label("Head of the cross-attention shown").select_option(head)
        expected = record["decoder.blocks.1.cross." + ("mean" if head == "mean" else "pattern[2]")]
        square = alignment.locator("canvas[tabindex]")
        square.press("ArrowRight")
        for _ in range(len(record.source)):
            square.press("ArrowLeft")
        square.press("ArrowUp")
        name = "mean[0,0]" if head == "mean" else "pattern[2,0,0]"
        told = page.locator(".readout code").first
        expect(told).to_contain_text(f"decoder.blocks.1.cross.{name}")
        shown = float(told.inner_text().partition("=")[2].strip().split()[0].replace("−", "-"))
        assert shown == pytest.approx(float(expected[0, 0]), rel=2e-3)


@pytest.mark.parametrize("width", [1440])
def test_a_block_of_the_decoder_shows_what_it_reads_of_the_encoder(
    context: BrowserContext, rewrites: Server, watch: Watch, rewriter: Path
) -> None:
    page = opened(context, rewrites, watch)
    write_one(page)
    crossing = opened_head(page)
    record = cutaway.load(rewriter).run(TEXT, target=written(page)[1:])
    row = record["decoder.blocks.1.cross.pattern[3,-1]"]
    shown = crossing.locator(".flow .line[data-from]")
    expect(shown).to_have_count(len(record.source))
    for i, percent in enumerate(crossing.locator('.flow [data-of="pattern"]').all_inner_texts()):
        assert float(percent.rstrip("\u202f%")) / 100 == pytest.approx(float(row[i]), abs=6e-4)
    river(page, "read").get_by_role("button", name="Open block 0").click()  # each river opens by itself
    expect(page.locator("section.opened")).to_have_count(2)
    told = page.locator("section.opened", has_text="What a neuron promotes is not told for this model")
    expect(told).to_have_count(1)  # the encoder's: its neurons move no logits by themselves


@pytest.mark.parametrize("width", [1440])
def test_a_weight_is_followed_from_the_decoder_into_the_encoder(
    context: BrowserContext, rewrites: Server, watch: Watch
) -> None:
    page = opened(context, rewrites, watch)
    write_one(page)
    crossing = opened_head(page)
    crossing.locator('.flow [data-of="pattern"]').first.click()
    arithmetic = page.locator(".arithmetic")
    followed = (
        ("its share after the softmax", 0),  # the scores, of which
        ("before the softmax: query times key", 1),  # the keys
        ("of the key of .*, as the encoder left it", 0),  # unrotated
        ("of the key of .*, as the encoder left it", 0),  # what the encoder left
        ("of the final vector of .*, which every block of the decoder reads", 0),
    )
    for sentence, factor in followed:
        expect(arithmetic.locator(".sentence").first).to_have_text(re.compile(sentence))
        expect(arithmetic).to_contain_text(re.compile("they agree|the same number"))
        arithmetic.locator('.terms [role="gridcell"] button').nth(factor).click()
    expect(arithmetic.locator(".sentence").first).to_contain_text("as block 2 leaves it")


@pytest.mark.parametrize("width", [1440])
def test_the_address_brings_back_what_was_written(context: BrowserContext, rewrites: Server, watch: Watch) -> None:
    page = opened(context, rewrites, watch)
    for _ in range(2):
        write_one(page)
    ids = written(page)
    page.wait_for_timeout(600)  # the address waits for a pause
    again = context.new_page()
    watch.on(again)
    again.goto(page.url)
    expect(river(again, "written")).to_have_attribute("data-tokens", "3")
    assert written(again) == ids
    again.get_by_role("button", name="Reset").click()
    expect(river(again, "written")).to_have_attribute("data-tokens", "1")


@pytest.mark.parametrize("width", [1440])
def test_a_run_stands_alone(
    server: Server, browser: Browser, width: int, watch: Watch, tmp_path: Path, rewriter: Path
) -> None:
    record = cutaway.load(rewriter).run(TEXT, target=[300, 400])
    record.to_html(tmp_path / "run.html")
    page = alone(browser, tmp_path / "run.html", width, watch)
    assert probabilities(page)[:3] == pytest.approx(
        (record["logits.last"] / 0.8).softmax(-1).topk(3).values.tolist(), abs=1e-6
    )
    river(page, "written").get_by_role("button", name="Open block 2").click()
    page.get_by_role("group", name="Cross-attention").locator('[data-head="1"]').click()
    expect(page.locator(".cross .flow .line[data-from]")).to_have_count(len(record.source))
    page.context.close()


def test_axe_finds_nothing(context: BrowserContext, rewrites: Server, watch: Watch) -> None:
    page = opened(context, rewrites, watch)
    write_one(page)
    river(page, "written").get_by_role("button", name="Open block 1").click()
    page.wait_for_timeout(1200)
    page.evaluate(AXE.read_text("utf-8"))
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
    assert [(one["id"], [node["html"][:120] for node in one["nodes"][:3]]) for one in found] == []


@pytest.mark.parametrize("width", [1440])
def test_its_numbers_are_taken_away_and_the_run_comes_back(
    context: BrowserContext, rewrites: Server, watch: Watch, rewriter: Path, tmp_path: Path
) -> None:
    page = opened(context, rewrites, watch)
    write_one(page)
    record = cutaway.load(rewriter).run(TEXT, target=written(page)[1:])
    page.locator(".takeaway summary").first.click()
    for sought in ("blocks.1.cross", "encoder.blocks.0", "decoder.blocks.2", "river", "logits", "final"):
        page.locator(".takeaway input[type=search]").fill(sought)
        for row in page.locator(".takeaway li:has(code)").all():
            name, shape = row.locator("code").inner_text(), row.locator(".quiet").inner_text()
            sizes = tuple(int(part.split()[1].replace(",", "")) for part in shape.split(" × "))
            assert (name, sizes) == (name, record.shape(name))
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Save .cutaway", exact=True).click()
    path = tmp_path / "run.cutaway"
    waiting.value.save_as(path)
    again = cutaway.open(path)
    assert (again.tokens, again.source) == (record.tokens, record.source)
    assert again["decoder.blocks.1.cross.pattern"].allclose(record["decoder.blocks.1.cross.pattern"], atol=1e-6)
    other = opened(context, rewrites, watch, "Another text.")
    dropped(other, path)
    expect(river(other, "written")).to_have_attribute("data-tokens", "2")
    assert written(other) == record.tokens
