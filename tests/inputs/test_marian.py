"""Marian's tokenizers, a SentencePiece model for each language and one vocabulary or two: ids as the reference's."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cutaway.errors import Refused
from cutaway.inputs.text import Tokenizer
from tests.inputs.conftest import CORPUS

TEXTS = [
    "", " ", "the fox", " the  fox ", "Once upon a time", "naïve café", "Übergröße", "東京 and Привет", "a\tb\nc",
    "😀 x",
    "\u200bzero\ufeffwidth", "e\u0301 ﬁ ½ Ⅳ", "▁▁ literal ▁", ">>fra<< the fox", ">>xyz<< the fox", "a >>fra<< b",
    ">> no code", ">>fra<<", "<< >>", ">>", "日本語" * 5, "x" * 300, "\u202eright to left\u202c", "12,345.67",
    "'\"“”‘’",
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:Recommended")
@pytest.mark.parametrize("separate", [False, True])
def test_ids_and_texts_are_the_reference_s(separate: bool, marian: Callable[..., Path]) -> None:
    transformers = pytest.importorskip("transformers", reason="compares with transformers, which is not installed")
    folder = marian(separate)
    reference = transformers.MarianTokenizer.from_pretrained(folder)
    ours = Tokenizer.open(folder)
    assert ours.eos == {0}
    for text in TEXTS:
        assert ours.encode(text) == reference(text).input_ids, text
        written = reference(text_target=text).input_ids
        assert ours.target.encode(text) == written, text
        assert ours.target.decode(written) == reference.decode(written, skip_special_tokens=True), text
    assert ours.target.decode([5, 6, 0, 7], special=True) == reference.decode([5, 6, 0, 7])
    if separate:
        assert ours.size != ours.target.size


def test_what_is_typed_is_no_control_token(marian: Callable[..., Path]) -> None:
    ours = Tokenizer.open(marian())
    for text in ("</s>", "<pad>", "a</s>b", ">>fra<< </s>", "<unk>"):
        assert not {0, ours.size - 1} & set(ours.encode(text)[:-1]), text


def test_pieces_and_a_stream_that_is_the_whole(marian: Callable[..., Path]) -> None:
    ours = Tokenizer.open(marian())
    shown = [piece.text for piece in ours.pieces(ours.encode(">>fra<< the fox"))]
    assert shown[0] == ">>fra<<"
    assert shown[-1] == "</s>"
    assert "".join(shown[1:-1]).replace("␣", " ").strip() == "the fox"

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.integers(0, ours.target.size - 1), max_size=20))
    def any_ids(ids: list[int]) -> None:
        stream = ours.target.stream()
        assert "".join([*map(stream.push, ids), stream.flush()]).strip() == ours.target.decode(ids)

    any_ids()


@pytest.mark.parametrize("content", ["[]", "{", '{"</s>": 0}', '{"<unk>": "one"}', '{"<unk>": -1}', '{"<unk>": 1e9}'])
def test_a_vocabulary_that_is_none_is_refused(content: str, marian: Callable[..., Path]) -> None:
    folder = marian()
    (folder / "vocab.json").write_text(content)
    with pytest.raises(Refused):
        Tokenizer.open(folder)


def test_a_broken_model_of_a_language_is_refused(marian: Callable[..., Path]) -> None:
    folder = marian()
    (folder / "target.spm").write_bytes(b"\x00\x01nothing")
    with pytest.raises(Refused, match=r"target\.spm"):
        Tokenizer.open(folder)


def test_t5_s_own_file_has_another_name(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="compares with transformers, which is not installed")
    trainer = pytest.importorskip("sentencepiece", reason="cuts the texts of T5").SentencePieceTrainer
    model = io.BytesIO()
    trainer.train(
        sentence_iterator=iter(CORPUS * 5), model_writer=model, vocab_size=140, hard_vocab_limit=False, minloglevel=2,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
    )  # fmt: skip
    (tmp_path / "spiece.model").write_bytes(model.getvalue())
    config = {"tokenizer_class": "T5Tokenizer", "eos_token": "</s>", "unk_token": "<unk>", "extra_ids": 0}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ours, reference = Tokenizer.open(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert ours.eos == {1}
    for text in TEXTS:
        assert ours.encode(text) == reference(text).input_ids, text
    reference.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").is_file()
    fast = Tokenizer.open(tmp_path)
    for text in TEXTS:
        assert fast.encode(text) == reference(text).input_ids, text
