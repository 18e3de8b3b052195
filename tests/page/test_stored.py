"""The run shipped with the page is one of the model shipped with the package."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
import torch

import cutaway

WEB = Path(__file__).resolve().parents[2] / "web"
RUN, WORDS = WEB / "stored/first.cutaway", WEB / "public/stored/first.vocabulary.json"
AGAIN = "the bundled model has changed: run `python tools/stored_run.py`, then `make setup`"


def test_the_stored_run_is_what_the_bundled_model_does_now() -> None:
    stored, model = cutaway.open(RUN), cutaway.load("stories")
    assert stored.model.fingerprint == model.card.fingerprint, AGAIN
    now = model.run(stored.text)
    assert stored.tokens == now.tokens, AGAIN
    for name in stored.tensors:
        torch.testing.assert_close(stored[name], now[name], rtol=1e-4, atol=1e-4, msg=f"{name}: {AGAIN}")
    words = json.loads(WORDS.read_text("utf-8"))
    assert words == [piece.text for piece in model.tokenizer.pieces(list(range(model.tokenizer.size)))], AGAIN


def test_the_stored_run_has_what_the_page_paints_and_is_small() -> None:
    stored = cutaway.open(RUN)
    blocks = range(len(stored.spec.stack.blocks))
    painted = {"embed", "river", "logits.last"}
    painted |= {f"blocks.{i}.{name}" for i in blocks for name in ("attn.pattern", "attn.kinds", "mlp.hidden")}
    painted |= {f"lens.{what}[-1]" for what in ("ids", "p", "final", "rank")}
    assert painted <= stored.tensors.keys()
    assert RUN.stat().st_size + WORDS.stat().st_size < 400_000


def test_the_stored_run_is_in_the_built_page() -> None:
    built = Path(cutaway.__file__).parent / "page"
    if not built.is_dir():
        pytest.skip("the page has not been built: run `make setup`")
    older = "the page is older than the stored run: run `make setup`"
    assert base64.b64encode(RUN.read_bytes()).decode() in (built / "index.html").read_text("utf-8"), older
    assert (built / "stored" / WORDS.name).read_bytes() == WORDS.read_bytes(), older
