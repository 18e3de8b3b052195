"""What a reader does, from the first picture to a text that keeps growing, at a desk's width and at a phone's."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from cutaway import load

from .conftest import Server, Watch, never, settled

TEXT = "Once upon a time there was a"
COLOURS = """canvas => {
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height)
    return new Set(new Uint32Array(data.buffer)).size
}"""


def type_text(page: Page, text: str) -> None:
    """Type, and wait until the run of that text is on screen."""
    with page.expect_response(lambda r: "/api/run" in r.url and r.ok):
        page.fill("#text", text)
    settled(page)


def pieces(page: Page) -> list[str]:
    return page.locator(".part.first .piece").all_inner_texts()


def tokens(page: Page) -> int:
    return int(page.get_attribute(".drawing", "data-tokens") or 0)


def wait_for_tokens(page: Page, count: int) -> None:
    expect(page.locator(".drawing")).to_have_attribute("data-tokens", str(count))


def probabilities(page: Page) -> list[float]:
    return [float(p) for p in page.eval_on_selector_all("[data-p]", "rows => rows.map(row => row.dataset.p)")]


def step(page: Page) -> None:
    before = tokens(page)
    page.get_by_role("button", name="Step").click()
    wait_for_tokens(page, before + 1)


def slide(page: Page, name: str, value: float) -> None:
    page.get_by_role("slider", name=re.compile(f"^{name}")).fill(str(value))


def test_a_text_brings_its_patterns_along_while_they_are_few(page: Page) -> None:
    """How many tokens a text has the page knows of what it had before, and of what was typed since."""
    asked: list[list[dict[str, str]]] = []
    page.on("request", lambda r: asked.append(r.post_data_json["want"]) if r.url.endswith("/api/run") else None)
    long = "Once upon a time there was a little girl who lived in a big house near the forest with her dog. " * 4
    type_text(page, long)
    type_text(page, long + "S")
    wanted = [{entry["name"] for entry in want} for want in asked]
    assert "blocks.*.attn.pattern" not in wanted[0]  # as many tokens as characters would be too many
    assert "blocks.*.attn.pattern" in wanted[1]


def test_a_stored_run_is_painted_before_any_model_is_there(
    context: BrowserContext, server: Server, watch: Watch
) -> None:
    page = context.new_page()
    watch.on(page)
    page.route("**/api/**", never)
    page.goto(server.address)
    page.wait_for_selector('[data-origin="stored"]')
    page.wait_for_timeout(200)
    for canvas in page.locator(".block canvas").all():
        assert canvas.evaluate(COLOURS) > 20
    assert sum(probabilities(page)) == pytest.approx(1, abs=1e-9)
    expect(page.locator(".state")).to_contain_text("stored run")
    before = probabilities(page)
    slide(page, "Temperature", 2)
    assert probabilities(page) != before  # the sliders need no server
    expect(page.get_by_role("button", name="Step")).to_be_disabled()


def test_a_drawing_that_is_to_change_is_busy_until_it_has(page: Page) -> None:
    page.route("**/api/run", never)
    page.fill("#text", "cat cat")
    expect(page.locator(".drawing")).to_have_attribute("aria-busy", "true")
    page.unroute("**/api/run")
    type_text(page, "cat cat cat")
    expect(page.locator(".drawing")).to_have_attribute("aria-busy", "false")


def test_steps_that_come_quickly_are_all_taken(page: Page) -> None:
    type_text(page, TEXT)
    before = tokens(page)
    page.get_by_role("button", name="Step").evaluate("button => { button.click(); button.click(); button.click() }")
    wait_for_tokens(page, before + 3)
    expect(page.get_by_text("3 drawn")).to_be_visible()


def test_text_to_tokens_to_plates_to_bars(page: Page) -> None:
    type_text(page, TEXT + " little")
    type_text(page, TEXT)
    record = load("stories").run(TEXT)
    assert pieces(page) == [piece["text"] for piece in record.pieces]
    assert page.locator(".block").count() == len(record.spec.stack.blocks)
    for canvas in page.locator(".block canvas").all():
        assert canvas.evaluate(COLOURS) > 20
    shown = page.eval_on_selector_all("[data-id]", "rows => rows.map(row => Number(row.dataset.id))")
    expected = record["logits"][-1].argsort(descending=True)[:11].tolist()
    assert shown[:11] == expected
    assert sum(probabilities(page)) == pytest.approx(1, abs=1e-9)


def test_the_address_can_bring_a_text(context: BrowserContext, server: Server, watch: Watch) -> None:
    page = context.new_page()
    watch.on(page)
    page.goto(server.address + "&text=The%20old%20king")
    page.wait_for_selector('[data-origin="live"]')
    assert page.input_value("#text") == "The old king"
    assert "".join(pieces(page)) == "The␣old␣king"


def test_sliders_change_the_bars_at_once_and_without_the_server(page: Page) -> None:
    asked: list[str] = []
    # The parts of the page that are fetched ahead may come at any time; the server is asked under /api.
    page.on("request", lambda request: asked.append(request.url) if "/api/" in request.url else None)
    plain = probabilities(page)
    slide(page, "Temperature", 5)
    hot = probabilities(page)
    assert max(hot[:-1]) < max(plain[:-1])
    slide(page, "Top-k", 0)
    assert sorted(probabilities(page))[-1] == 1
    expect(page.locator(".steps")).to_contain_text("keeps 1 of")
    slide(page, "Top-k", 60)
    slide(page, "Temperature", 0)
    expect(page.locator(".steps")).to_contain_text("argmax")
    assert probabilities(page)[0] == 1
    assert asked == []


def test_step_appends_the_token_that_was_drawn(page: Page) -> None:
    type_text(page, TEXT)
    before, drawn = tokens(page), page.locator("li[data-drawn] .name").inner_text()
    step(page)
    assert tokens(page) == before + 1
    assert pieces(page)[-1] == drawn
    assert page.input_value("#text").startswith(TEXT)
    page.get_by_role("button", name="Reset").click()
    wait_for_tokens(page, before)
    assert page.input_value("#text") == TEXT


def test_play_runs_until_stopped(page: Page) -> None:
    type_text(page, TEXT)
    before = tokens(page)
    page.get_by_role("button", name="Play").click()
    expect(page.locator(".drawing")).not_to_have_attribute("data-tokens", re.compile(f"^({before}|{before + 1})$"))
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("button", name="Play")).to_be_enabled()
    page.wait_for_timeout(2_000)  # what was under way may still arrive
    after = tokens(page)
    page.wait_for_timeout(1_500)
    assert tokens(page) == after


def test_the_same_seed_draws_the_same_tokens_here_and_in_python(page: Page) -> None:
    type_text(page, TEXT)
    before = tokens(page)
    page.get_by_label("Seed").fill("11")
    slide(page, "Temperature", 1)
    for _ in range(4):
        step(page)
    drawn = page.input_value("#text")
    assert drawn == TEXT + load("stories").generate(TEXT, max_new_tokens=4, temperature=1.0, seed=11).text
    page.get_by_role("button", name="Reset").click()
    wait_for_tokens(page, before)
    for _ in range(4):
        step(page)
    assert page.input_value("#text") == drawn


HOSTILE = [
    "<script>document.title='gone'</script>",
    "<b>bold</b> <img src=x onerror=alert(1)>",
    "${1+1} {{x}} &lt;",
    "two\nlines\tand a tab",
    "zero\u200bwidth \u202eright to left\u202c \u0000 \u2066x",
    "👩‍👧 é ß 漢字 שלום",
]


def test_whatever_is_typed_is_drawn_as_text(page: Page, watch: Watch) -> None:
    watch.expected = ("willReadFrequently",)  # this test reads the canvas again and again; the page never does
    elements = page.evaluate("document.querySelectorAll('script, b, img').length")
    unseen = re.compile("[\u0000-\u001f\u200b\u202a-\u202e\u2066-\u2069]")
    for text in HOSTILE:
        type_text(page, text)
        assert page.locator('[data-block="0"] canvas').evaluate(COLOURS) > 3
        assert page.evaluate("document.querySelectorAll('script, b, img').length") == elements
        assert page.title() == "Cutaway"
        assert [piece for piece in pieces(page) if unseen.search(piece)] == []
        step(page)


def test_a_block_opens_in_place_and_every_number_has_a_name(page: Page) -> None:
    type_text(page, TEXT)
    page.get_by_role("button", name="Open block 1").focus()
    page.keyboard.press("Enter")
    opened = page.locator("section.opened")
    expect(opened).to_contain_text("Block 1, opened")
    record = load("stories").run(TEXT)
    head = int(page.locator('[data-block="1"] select').input_value())
    cell = page.locator(".opened .rows canvas")
    cell.focus()
    for key in ("ArrowUp", "ArrowLeft", "ArrowLeft"):
        page.keyboard.press(key)
    name, _, shown = page.locator(".readout code").first.inner_text().partition(" = ")
    assert name.startswith(f"blocks.1.attn.pattern[{head},{len(record.tokens) - 2},")
    value = record[name].item()
    if "10" not in shown:
        assert float(shown) == pytest.approx(value, rel=1e-2, abs=1e-4)
    strongest = record["blocks.1.mlp.strength"][-1].argmax().item()
    expect(opened.locator(".ranked tbody tr").first).to_contain_text(str(strongest))
    page.keyboard.press("Escape")
    expect(opened).to_have_count(0)


def test_the_ends_of_the_drawing_open_too(page: Page) -> None:
    type_text(page, TEXT)
    record = load("stories").run(TEXT)
    page.get_by_role("button", name="Embedding", exact=True).click()
    opened = page.locator("section.opened")
    expect(opened).to_contain_text(f"row {record.tokens[-1]:,} of a learned table of {record.spec.head.size:,} rows")
    page.get_by_role("button", name="Final norm").click()
    expect(opened).to_have_count(1)
    largest = record["logits"][-1].max().item()
    expect(opened).to_contain_text(f"{largest:.2f}" if largest >= 10 else f"{largest:.3f}")
    expect(opened.get_by_role("img", name="final vector").first).to_be_visible()  # asked for as a slice, it has arrived


def test_keys_read_a_block_without_a_mouse(page: Page) -> None:
    page.locator('[data-block="0"] canvas').focus()
    page.keyboard.press("ArrowUp")
    expect(page.locator(".readout code")).to_contain_text("blocks.0.attn.pattern[")
    page.keyboard.press("Enter")
    expect(page.locator("section.opened")).to_have_count(1)


def test_nothing_is_wider_than_the_screen(page: Page, width: int) -> None:
    type_text(page, "An " + "extraordinarily " * 12 + "long sentence with many words in it")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.get_by_role("button", name="Open block 0").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_of_a_text_longer_than_the_context_the_page_says_what_is_kept(page: Page) -> None:
    page.fill("#text", "word " * 900)
    expect(page.locator(".notice")).to_contain_text("kept the last 512")
    assert tokens(page) == 512
    type_text(page, TEXT)
    expect(page.locator(".notice")).to_be_hidden()


def test_an_empty_text_is_answered_with_a_sentence(page: Page) -> None:
    page.fill("#text", "")
    expect(page.locator(".notice")).to_contain_text("Write")
    assert tokens(page) > 0  # the last drawing stays
    type_text(page, TEXT)
    expect(page.locator(".notice")).to_be_hidden()


@pytest.mark.parametrize("width", [1440])
def test_a_lost_server_leaves_the_drawing_and_says_so(context: BrowserContext, watch: Watch) -> None:
    watch.expected = ("ERR_", "api/")
    alone = Server()
    try:
        page = context.new_page()
        watch.on(page)
        with page.expect_response(re.compile(r"/Fetching-.*\.js")):  # the last of what is fetched ahead
            page.goto(alone.address)
        page.wait_for_selector('[data-origin="live"]')
        before = pieces(page)
        alone.kill()
        expect(page.locator(".notice")).to_contain_text("does not answer")
        assert pieces(page) == before
        slide(page, "Temperature", 0)
        assert probabilities(page)[0] == 1
        page.get_by_role("button", name="Open block 0").click()  # what was never opened before opens too
        expect(page.locator(".opened")).to_be_visible()
        page.get_by_role("button", name="Lessons").click()
        expect(page.get_by_text("Seven tours")).to_be_visible()
        page.get_by_role("button", name="Compare").click()
        expect(page.get_by_text("Comparing needs both runs live.")).to_be_visible()
    finally:
        alone.kill()


def test_dark_and_light(page: Page) -> None:
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_role("button", name="Dark").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    page.reload()
    page.wait_for_selector('[data-origin="live"]')
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
