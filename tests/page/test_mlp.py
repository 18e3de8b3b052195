"""An opened MLP: its neurons on the page are those of the record, in order, with what they promote."""

from __future__ import annotations

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from cutaway import load
from cutaway.look.record import Record

from .conftest import Server, Watch, never, open_stop
from .test_page import TEXT, type_text

LAYER = 2


@pytest.fixture(scope="module")
def record() -> Record:
    return load("stories").run(TEXT)


@pytest.fixture
def room(page: Page) -> Page:
    """The page with one block's MLP open on the last token."""
    type_text(page, TEXT)
    open_stop(page, f"Open block {LAYER}")
    page.wait_for_selector(".mlp-room .strength i, .mlp-room .raises .token", state="attached")
    return page


def test_the_rooms_of_a_block_are_one_click_apart(room: Page) -> None:
    rooms = room.locator(".opened nav button")
    for name, place in (("MLP", ".mlp-room"), ("Attention", ".attention"), ("From query to output", ".flow")):
        rooms.get_by_text(name, exact=True).click()
        room.wait_for_function(
            """place => {
                const top = document.querySelector(`.opened ${place}`).getBoundingClientRect().top
                const bar = document.querySelector('.opened nav').getBoundingClientRect()
                return bar.top >= 0 && bar.bottom <= top && top < bar.bottom + 40
            }""",
            arg=place,
        )


def listed(page: Page) -> list[int]:
    return page.eval_on_selector_all(".ranked [data-neuron]", "rows => rows.map(row => Number(row.dataset.neuron))")


def moved(page: Page, column: int) -> list[tuple[int, float]]:
    """Token ids and changes of their logits in one of the two lists of the neuron shown large."""
    page.wait_for_selector(".moves .lists")
    rows = page.locator(".moves .lists > div").nth(column).locator("li")
    found = rows.evaluate_all("rows => rows.map(row => [Number(row.dataset.id), Number(row.dataset.moved)])")
    return [(token, change) for token, change in found]


def number(shown: str) -> float:
    return float(shown.replace("−", "-").replace("+", ""))


def test_neurons_are_ranked_by_how_far_they_move_the_stream(room: Page, record: Record) -> None:
    strength = record[f"blocks.{LAYER}.mlp.strength[-1]"]
    assert listed(room) == strength.argsort(descending=True)[:10].tolist()
    hidden = record[f"blocks.{LAYER}.mlp.hidden[-1]"]
    first = room.locator(".ranked [data-neuron]").first
    shown = number(first.locator("td.number").last.inner_text())
    assert shown == pytest.approx(hidden[listed(room)[0]].item(), rel=1e-3)


def test_sparsity_is_counted(room: Page, record: Record) -> None:
    hidden, strength = record[f"blocks.{LAYER}.mlp.hidden[-1]"].abs(), record[f"blocks.{LAYER}.mlp.strength[-1]"]
    profile = room.locator(".profile")
    expect(profile).to_have_attribute("data-tenth", str((hidden > 0.1 * hidden.max()).sum().item()))
    expect(profile).to_have_attribute("data-hundredth", str((hidden > 0.01 * hidden.max()).sum().item()))
    share = (strength.topk(10).values.sum() / strength.sum()).item()
    assert float(profile.get_attribute("data-share") or 0) == pytest.approx(share, rel=1e-5)


@pytest.mark.parametrize("sign", [1, -1])
def test_what_a_neuron_raises_and_lowers_is_its_column_times_its_value(room: Page, record: Record, sign: int) -> None:
    place = f"blocks.{LAYER}.mlp"
    hidden = record[f"{place}.hidden[-1]"]
    neuron = next(n for n in listed(room) if hidden[n] * sign > 0)
    room.locator(f'[data-neuron="{neuron}"] th button').click()
    expect(room.locator("[data-shown]")).to_have_attribute("data-shown", str(neuron))
    up, down = ("promotes", "demotes") if sign > 0 else ("demotes", "promotes")
    for column, way in ((0, up), (1, down)):
        page = moved(room, column)
        assert [token for token, _ in page] == record[f"{place}.{way}.ids[{neuron}]"].tolist()
        expected = record[f"{place}.{way}.values[{neuron}]"] * hidden[neuron]
        assert [change for _, change in page] == pytest.approx(expected.tolist(), rel=1e-4)
        assert all((change > 0) == (column == 0) for _, change in page)
    words = room.locator(f'[data-neuron="{neuron}"] .raises .token').inner_text()
    assert words == room.locator(".moves .lists .token").first.inner_text()


def test_any_number_is_explained(room: Page, record: Record) -> None:
    neuron, last = listed(room)[0], len(record.tokens) - 1
    room.locator(f'[data-neuron="{neuron}"] td.number button').last.click()
    expect(room.get_by_role("grid", name=f"Terms of blocks.{LAYER}.mlp.hidden[{last},{neuron}]")).to_be_visible()


def test_the_field_is_read_with_keys(room: Page, record: Record) -> None:
    field = room.locator(".ranked .field canvas")
    field.focus()
    field.press("ArrowDown")
    field.press("ArrowLeft")
    token, neuron = len(record.tokens) - 2, listed(room)[1]
    expect(room.locator(".readout code")).to_contain_text(f"blocks.{LAYER}.mlp.hidden[{token},{neuron}]")
    shown = room.locator(".readout code").inner_text().rpartition("= ")[2]
    if "10" not in shown:
        expected = record[f"blocks.{LAYER}.mlp.hidden[{token},{neuron}]"].item()
        assert number(shown) == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_nothing_is_wider_than_the_screen(room: Page) -> None:
    assert room.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_a_stored_run_says_what_it_did_not_bring(context: BrowserContext, server: Server, watch: Watch) -> None:
    page = context.new_page()
    watch.on(page)
    page.route("**/api/**", never)
    page.goto(server.address)
    page.wait_for_selector('[data-origin="stored"]')
    open_stop(page, f"Open block {LAYER}")
    room = page.locator(".mlp-room")
    expect(room).to_contain_text("Ranked by the magnitude of hidden")
    expect(room).to_contain_text("this run did not bring up")
    hidden = load("stories").run(TEXT)[f"blocks.{LAYER}.mlp.hidden[-1]"]
    assert listed(page)[:5] == hidden.abs().argsort(descending=True)[:5].tolist()
