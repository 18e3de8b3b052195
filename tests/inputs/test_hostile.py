"""Tokenizer files made to break the reader: one clear sentence each, and the process lives on."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from cutaway.errors import Refused
from cutaway.inputs import guard
from cutaway.inputs.text import Tokenizer

PLAIN: dict[str, Any] = {
    "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
    "pre_tokenizer": None, "post_processor": None, "decoder": None,
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "x": 2, "\x00": 3}, "merges": []},
}  # fmt: skip


def split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


HOSTILE: dict[str, dict[str, Any]] = {
    "a template token that is not there": {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [],
            "special_tokens": {},
        }
    },
    "a bad charsmap": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "////////////////"}},
    "a catastrophic pattern": {"pre_tokenizer": split("(a+)+$")},
    "another catastrophic pattern": {"pre_tokenizer": split("(x+x+)+y")},
    "a pattern that is none": {"pre_tokenizer": split("(a")},
    "a merge of nothing": {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}},
    "no model": {"model": None},
    "a model nobody knows": {"model": {"type": "Oracle"}},
    "an empty Unigram": {"model": {"type": "Unigram", "unk_id": 5, "vocab": []}},
}


@pytest.mark.parametrize("crafted", HOSTILE.values(), ids=HOSTILE)
def test_a_crafted_file_is_refused(crafted: dict[str, Any], write: Any, capfd: pytest.CaptureFixture[str]) -> None:
    start = time.monotonic()
    with pytest.raises(Refused) as caught:
        Tokenizer.open(write("tokenizer.json", json.dumps(PLAIN | crafted)))
    assert time.monotonic() - start < 20
    assert "tokenizer.json" in caught.value.message
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 500
    assert capfd.readouterr().err == ""  # the panic's own trace is not for users


@pytest.mark.parametrize(
    "harmless",
    [
        {"padding": {"strategy": {"Fixed": 0}, "direction": "Right", "pad_to_multiple_of": 0, "pad_id": 0,
                     "pad_type_id": 0, "pad_token": "x"}},
        {"truncation": {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 5}},
    ],
    ids=["padding to length 0", "a stride beyond the length"],
)  # fmt: skip
def test_settings_we_drop_can_do_no_harm(harmless: dict[str, Any], write: Any) -> None:
    assert Tokenizer.open(write("tokenizer.json", json.dumps(PLAIN | harmless))).encode("ab") == [0, 1]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", b""), ("tokenizer.json", b"{"), ("tokenizer.json", b"\xff\xfe"), ("tokenizer.json", b"[]"),
        ("tokenizer.json", b'{"a":' * 50_000), ("tokenizer.model", b""), ("tokenizer.model", b"not a model"),
    ],
    ids=["empty", "cut short", "not UTF-8", "a list", "nested deeply", "empty model", "no model"],
)  # fmt: skip
def test_broken_files_are_refused(name: str, content: bytes, write: Any) -> None:
    with pytest.raises(Refused, match=name.replace(".", r"\.")):
        Tokenizer.open(write(name, content))


def test_broken_configs_are_refused(write: Any) -> None:
    folder: Path = write("tokenizer.json", json.dumps(PLAIN))
    for content in ("{", "[1]", "[" * 100_000):
        (folder / "tokenizer_config.json").write_text(content)
        with pytest.raises(Refused, match=r"tokenizer_config\.json"):
            Tokenizer.open(folder)


def test_gpt2_files_that_do_not_fit(write: Any) -> None:
    write("merges.txt", "a b\n")
    with pytest.raises(Refused, match=r"merges\.txt does not fit"):
        Tokenizer.open(write("vocab.json", '{"a": 0}'))
    with pytest.raises(Refused, match="not a map from tokens to ids"):
        Tokenizer.open(write("vocab.json", '{"a": "b"}'))
    write("merges.txt", "alone\n")
    with pytest.raises(Refused, match="'alone' is not a pair"):
        Tokenizer.open(write("vocab.json", '{"a": 0}'))


def test_large_files_are_refused_unread(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cutaway.inputs.engines.MAX_FILE_BYTES", 1000)
    with pytest.raises(Refused, match="5,000 bytes long; at most 1,000"):
        Tokenizer.open(write("tokenizer.json", b" " * 5000))


def test_a_tokenizer_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Refused, match="still at work after"):
        guard.guarded("The tokenizer hangs", lambda: time.sleep(5), seconds=0.05)


def test_a_panic_becomes_an_error_but_an_interrupt_stays_one() -> None:
    panic = type("PanicException", (BaseException,), {})

    def fail(error: BaseException) -> None:
        raise error

    with pytest.raises(Refused, match="It broke: oh dear"):
        guard.guarded("It broke", lambda: fail(panic("oh dear\nat line 5")))
    for seconds in (None, 5.0):
        with pytest.raises(KeyboardInterrupt):
            guard.guarded("It broke", lambda: fail(KeyboardInterrupt()), seconds)
