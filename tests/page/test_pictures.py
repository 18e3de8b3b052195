"""The page with a model that sees: a drawing, a file, patches, and every number the one Python gives."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, expect

import cutaway
from tests.families.making import make
from tests.families.variants import IMAGE

from .conftest import Server, Watch, open_stop, settled
from .test_accessible import AXE
from .test_page import probabilities
from .test_takeaway import alone

NAMES = {str(i): name for i, name in enumerate(["cat", "dog", "house", "tree"])}
GREY = {
    "model_type": "vit", "architectures": ["ViTForImageClassification"], **IMAGE, "num_channels": 1, "id2label": NAMES,
    "label2id": {name: int(i) for i, name in NAMES.items()},
}  # fmt: skip
SIDE = 24


@pytest.fixture(scope="module")
def folder(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make(tmp_path_factory.mktemp("models") / "sees", GREY)
    size = {"height": SIDE, "width": SIDE}
    says = {"image_processor_type": "ViTImageProcessor", "size": size, "image_mean": [0.5], "image_std": [0.5]}
    (made / "preprocessor_config.json").write_text(json.dumps(says))
    return made


@pytest.fixture(scope="module")
def sees(folder: Path) -> Iterator[Server]:
    running = Server(folder)
    yield running
    running.kill()


@pytest.fixture(scope="module")
def photo() -> bytes:
    levels = np.random.default_rng(1).integers(0, 256, (40, 60)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def page(context: BrowserContext, sees: Server, watch: Watch) -> Page:
    opened = context.new_page()
    watch.on(opened)
    opened.goto(sees.address)
    opened.wait_for_selector('[data-origin="live"]')  # the drawing that stands there is looked at by itself
    return opened


def shown(page: Page, photo: bytes) -> None:
    with page.expect_response(lambda r: "/api/run" in r.url and r.ok):
        page.locator('input[type="file"]').first.set_input_files(
            {"name": "photo.png", "mimeType": "image/png", "buffer": photo}
        )
    settled(page)


def test_a_file_is_seen_as_python_sees_it(page: Page, folder: Path, photo: bytes) -> None:
    shown(page, photo)
    found = cutaway.load(folder).see(photo)
    assert page.locator("li[data-id] .name").all_inner_texts() == [label.name for label in found.labels]
    assert probabilities(page) == pytest.approx([label.p for label in found.labels], abs=1e-6)
    for gone in ("Step", "From logits to one token", "Logit lens", "Branches"):
        expect(page.get_by_text(gone, exact=True)).to_have_count(0)


def test_drawing_runs_the_model(page: Page) -> None:
    before = probabilities(page)
    pad = page.locator(".pad canvas")
    box = pad.bounding_box()
    assert box is not None
    with page.expect_response(lambda r: "/api/run" in r.url and r.ok):
        page.mouse.move(box["x"] + 20, box["y"] + 20)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] - 20, box["y"] + box["height"] - 20, steps=4)
        page.mouse.up()
    page.wait_for_timeout(500)
    assert probabilities(page) != before
    page.get_by_role("button", name="Clear").click()
    settled(page)


def test_the_picture_shows_what_is_read_where(page: Page, folder: Path, photo: bytes) -> None:
    shown(page, photo)
    record = cutaway.load(folder).run(image=photo)
    picture = page.locator(".well .seen canvas")
    picture.focus()
    picture.press("ArrowRight")
    layers = len(record.spec.stack.blocks)
    head = int(page.locator(f'[data-block="{layers - 1}"] select').input_value()) if layers else 0
    told = page.locator(".readout").inner_text()
    weight = float(record[f"blocks.{layers - 1}.attn.pattern[{head},0,2]"])
    assert f"{100 * weight:.1f}" in told or f"{100 * weight:.2f}" in told
    picture.press("Enter")
    expect(page.locator('.tokens [aria-pressed="true"]').first).to_contain_text("0, 1")


def test_an_opened_block_and_the_embedding_show_the_picture_too(page: Page, photo: bytes) -> None:
    shown(page, photo)
    open_stop(page, "Open block 0")
    expect(page.locator(".opened .attention .seen")).to_be_visible()
    page.keyboard.press("Escape")
    page.locator('[data-stop="embedding"] h2 button').click()
    expect(page.locator(".opened")).to_contain_text("Patches like")
    expect(page.locator(".opened .seen")).to_be_visible()
    expect(page.locator(".opened")).not_to_contain_text("not in this run")


@pytest.mark.parametrize("width", [1440])
def test_axe_finds_nothing(page: Page, photo: bytes) -> None:
    shown(page, photo)
    page.locator('[data-stop="embedding"] h2 button').click()
    expect(page.locator(".opened .seen")).to_be_visible()
    page.wait_for_timeout(600)
    page.evaluate(AXE.read_text("utf-8"))
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
    assert [(one["id"], [node["html"][:120] for node in one["nodes"][:3]]) for one in found] == []


@pytest.mark.parametrize("width", [1440])
def test_a_run_stands_alone(
    server: Server, browser: Browser, width: int, watch: Watch, tmp_path: Path, folder: Path, photo: bytes
) -> None:
    model = cutaway.load(folder)
    model.run(image=photo).to_html(tmp_path / "run.html")
    page = alone(browser, tmp_path / "run.html", width, watch)
    assert page.locator("li[data-id] .name").first.inner_text() == model.see(photo).labels[0].name
    expect(page.locator(".well .seen canvas")).to_be_visible()
    expect(page.get_by_text("Choose a picture")).to_have_count(0)
    page.context.close()
