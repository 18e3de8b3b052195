"""A record as one HTML page: what is inside it, and what is said where there can be none."""

from __future__ import annotations

import base64
import gzip
import html
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import ClassVar

import pytest
import safetensors.torch
import torch

import cutaway
from cutaway import load
from cutaway.errors import Failed, Misuse
from cutaway.look import ModelCard, run
from cutaway.look import html as pages
from cutaway.look.record import Record
from tests.model import machines
from tests.tasks.encoders import BERT, write

TEMPLATE = f"<!doctype html><title>Cutaway</title><div id=page></div>{pages.PLACE}<script type=module>1</script>"


@pytest.fixture(autouse=True)
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page that stands in for the built one, so that these tests need no Node."""
    template = tmp_path / "standalone.html"
    template.write_text(TEMPLATE)
    monkeypatch.setattr(pages, "TEMPLATE", template)
    return template


@pytest.fixture(scope="module")
def record() -> Record:
    return cutaway.load("stories").run('The "old" <king> & </script> said')


def inside(page: str) -> bytes:
    found = re.findall(r'<script type="application/octet-stream" id="run">([A-Za-z0-9+/=]+)</script>', page)
    assert len(found) == 1
    planes = gzip.decompress(base64.b64decode(found[0]))  # of bytes: see web/src/takeaway/pack.ts
    whole = len(planes) // 4
    return b"".join(bytes(four) for four in zip(*(planes[i * whole : (i + 1) * whole] for i in range(4)), strict=True))


def test_the_record_comes_back_out_of_the_page(record: Record, tmp_path: Path) -> None:
    record.to_html(tmp_path / "run.html")
    page = (tmp_path / "run.html").read_text("utf-8")
    assert page.startswith("<!doctype html>")
    assert page.endswith("<script type=module>1</script>")
    (tmp_path / "run.cutaway").write_bytes(inside(page))
    again = cutaway.open(tmp_path / "run.cutaway")
    assert again.text == record.text
    assert again.tokens == record.tokens
    assert again.vocabulary() == [piece.text for piece in cutaway.load("stories").tokenizer.pieces(range(4096))]
    for name in ("blocks.3.attn.pattern", "blocks.0.mlp.hidden", "blocks.4.mlp.promotes.ids", "lens.p", "logits.last"):
        assert name in again.tensors
        torch.testing.assert_close(again[name], record[name], rtol=0, atol=0)


def test_every_stop_opens_without_a_model(record: Record) -> None:
    names = safetensors.torch.load(inside(pages.page(record))).keys()
    for block in range(5):
        for kind in ("q", "k", "v", "scores", "pattern", "z", "kinds", "out", "in", "mean", "max"):
            assert f"blocks.{block}.attn.{kind}" in names
        for kind in ("up", "gate", "hidden", "strength", "out", "in", "promotes.ids", "demotes.values"):
            assert f"blocks.{block}.mlp.{kind}" in names


def test_the_weights_a_stop_opens_with_go_along(record: Record) -> None:
    inside_it = safetensors.torch.load(inside(pages.page(record)))
    likeliest = int(record["logits"][-1].argmax())
    row = inside_it[f"weights.stem.tokens.weight[{likeliest}]"]
    torch.testing.assert_close(row, record.weights["stem.tokens.weight"][likeliest], rtol=0, atol=0)
    strongest = int(record["blocks.2.mlp.strength"][-1].argmax())
    column = inside_it[f"weights.stack.blocks.2.mlp.down.weight.T[{strongest}]"]
    torch.testing.assert_close(column, record.weights["stack.blocks.2.mlp.down.weight"][:, strongest], rtol=0, atol=0)


def test_of_two_stacks_both_sides_go_along(tmp_path: Path) -> None:
    source, ids = machines.tokens(1, 9), machines.tokens(1, 6, seed=2)
    told = {"tokens": ids[0].tolist(), "source": source[0].tolist()}
    kept = run(machines.lively(machines.T5), [source, ids], ModelCard("tiny"), **told)
    taken = pages.shown(kept)
    kept.save(tmp_path / "run.cutaway", include=taken)
    opened = cutaway.open(tmp_path / "run.cutaway")
    for name in ("encoder.river", "decoder.river", "encoder.alike", "lens.p", "decoder.blocks.1.cross.mean"):
        assert name in opened.tensors
        torch.testing.assert_close(opened[name], kept[name], rtol=0, atol=0)
    for side, branches in (("encoder", ("attn",)), ("decoder", ("attn", "cross"))):
        for branch in branches:
            for kind in ("q", "k", "v", "scores", "pattern", "z", "out", "in", "mean", "max"):
                assert f"{side}.blocks.1.{branch}.{kind}" in opened.tensors
        strongest = int(kept[f"{side}.blocks.1.mlp.strength"][-1].argmax())
        assert f"weights.{side}.blocks.1.mlp.down.weight.T[{strongest}]" in taken
    assert f"weights.target.tokens.weight[{int(kept['logits.last'].argmax())}]" in taken


def test_what_is_too_dear_stays_behind(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "DEAREST", 10_000)
    few = pages.shown(record)
    assert "blocks.0.attn.pattern" in few
    assert "blocks.0.mlp.promotes.ids" not in few  # 448 neurons × 4,096 tokens on the way to it
    monkeypatch.setattr(pages, "MOST", 500)
    assert sum(record[name].numel() for name in pages.shown(record) if not name.startswith("weights.")) <= 500


def test_a_notebook_gets_a_frame_that_can_reach_nothing(record: Record) -> None:
    class Frame(HTMLParser):
        attributes: ClassVar[dict[str, str | None]] = {}

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag == "iframe"
            Frame.attributes = dict(attrs)

    frame = Frame()
    frame.feed(record._repr_html_())
    assert frame.attributes["srcdoc"] == pages.page(record)
    assert frame.attributes["sandbox"] == "allow-scripts allow-downloads"  # not allow-same-origin
    assert "src" not in frame.attributes


def test_too_large_a_page_is_a_sentence_in_a_notebook_and_a_refusal_on_disk(
    record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "LARGEST_IN_NOTEBOOK", 1000)
    said = record._repr_html_()
    assert "<iframe" not in said
    assert "more than a notebook should hold" in said
    assert "<king>" not in said  # the text is escaped
    assert html.escape(repr(record)) in said
    monkeypatch.setattr(pages, "LARGEST", 1000)
    with pytest.raises(Misuse, match="more than a browser opens"):
        record.to_html(tmp_path / "run.html")
    assert not (tmp_path / "run.html").exists()


def test_without_a_built_page_a_sentence_says_so(record: Record, built: Path, tmp_path: Path) -> None:
    built.unlink()
    with pytest.raises(Failed, match="has not been built"):
        record.to_html(tmp_path / "run.html")
    assert "has not been built" in record._repr_html_()
    built.write_text("<!doctype html>no place")
    with pytest.raises(Failed, match="no place"):
        record.to_html(tmp_path / "run.html")


def test_a_file_with_an_impossible_vocabulary_is_refused(record: Record, tmp_path: Path) -> None:
    from cutaway.look import file

    tensors, metadata = file.pack(record, {"embed": record["embed"]}, vocabulary=[1, 2])
    safetensors.torch.save_file(tensors, tmp_path / "bad.cutaway", metadata)
    with pytest.raises(cutaway.errors.Refused, match="vocabulary"):
        cutaway.open(tmp_path / "bad.cutaway")


def test_a_run_that_no_page_shows_says_so(tmp_path: Path) -> None:
    vectors = load(write(tmp_path / "vectors", BERT | {"architectures": ["BertModel"]}))
    with pytest.raises(Misuse, match="does not show runs of this kind"):
        vectors.run("a cat").to_html(tmp_path / "run.html")
