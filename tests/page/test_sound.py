"""The page with a model that listens: the spectrogram, the moments that are read, and the numbers Python gives."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from playwright.sync_api import Browser, BrowserContext, Page, expect

import cutaway
from tools import random_model

from .conftest import Server, Watch
from .test_accessible import AXE
from .test_page import probabilities
from .test_two_stacks import river, write_one, written

RATE = 16_000


def tones() -> bytes:
    """Two seconds of a sound that changes, as a WAV file."""
    at = np.arange(2 * RATE) / RATE
    samples = 0.3 * np.sin(2 * np.pi * np.where(at < 1, 440, 1200) * at) * (0.5 + 0.5 * np.sin(2 * np.pi * 3 * at))
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()


@pytest.fixture(scope="module")
def listener(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "listener"
    random_model.save(folder, "whisper", layers=2, width=64, heads=4, context=32)
    return folder


@pytest.fixture(scope="module")
def listens(listener: Path) -> Iterator[Server]:
    running = Server(listener)
    yield running
    running.kill()


def heard(context: BrowserContext, server: Server, watch: Watch, content: bytes = b"") -> Page:
    page = context.new_page()
    watch.on(page)
    page.goto(server.address)
    sound = {"name": "tones.wav", "mimeType": "audio/wav", "buffer": content or tones()}
    page.set_input_files(".ear input[type=file]", sound)
    return page


@pytest.mark.parametrize("width", [1440])
def test_it_hears_what_python_hears(context: BrowserContext, listens: Server, watch: Watch, listener: Path) -> None:
    page = heard(context, listens, watch)
    expect(river(page, "read")).to_have_attribute("data-tokens", "150")
    page.get_by_role("button", name="Back to plain").click()
    model = cutaway.load(listener)
    for _ in range(2):
        record = model.run(sound=tones(), target=written(page)[1:])
        best = record["logits.last"].softmax(-1).topk(5)
        assert probabilities(page)[:5] == pytest.approx(best.values.tolist(), abs=1e-6)
        write_one(page)
    record = model.run(sound=tones(), target=written(page)[1:])
    said = page.locator(".said button")
    expect(said).to_have_count(2)
    told = [float(title.split()[4]) for title in said.evaluate_all("words => words.map(word => word.title)")]
    moments = [record[f"decoder.blocks.{layer}.cross.mean"][:-1].argmax(-1) for layer in range(2)]
    assert any(told == pytest.approx([(float(t) + 0.5) / 50 for t in its], abs=1e-3) for its in moments)
    said.first.click()  # follows the word, and plays from its moment
    expect(page.locator(".said .chosen")).to_have_count(1)
    page.wait_for_timeout(600)  # the address waits for a pause
    assert "more=" not in page.url  # what was written of a sound means nothing without it
    assert "tones" not in page.url
    assert page.locator("audio").evaluate("player => player.duration") == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize("width", [1440])
def test_what_is_no_sound_gets_a_sentence(context: BrowserContext, listens: Server, watch: Watch) -> None:
    watch.expected = ("400", "422")
    page = heard(context, listens, watch, b"not a sound at all, only some words")
    expect(page.locator(".notice")).to_contain_text("sound")


def test_axe_finds_nothing(context: BrowserContext, listens: Server, watch: Watch) -> None:
    page = heard(context, listens, watch)
    expect(river(page, "written")).to_have_attribute("data-tokens", "1")
    write_one(page)
    page.wait_for_timeout(1000)
    page.evaluate(AXE.read_text("utf-8"))
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
    assert [(one["id"], [node["html"][:120] for node in one["nodes"][:3]]) for one in found] == []
