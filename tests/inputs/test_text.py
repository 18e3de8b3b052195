"""Text to ids and back, for every kind of tokenizer file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutaway.errors import Misuse, NotFound
from cutaway.inputs.text import MAX_CHARACTERS, Tokenizer, readable, visible

TEXTS = [
    "Once upon a time", " two  spaces ", "the fox\n\nsleeps\tnow", "naïve 東京 😀👩‍👩‍👧 नमस्ते", "it'll cost 12345,67",
    "مرحبا بالعالم", "a\u0000b", "e\u0301\u0301", "\u202eright to left\u202c", "<tool> calls", "", "\r\n", "�",
]  # fmt: skip

JSON_KINDS = ["byte_level", "unigram", "byte_fallback", "wordpiece"]


# --- the real thing: GPT-2's tokenizer, its published test cases -----------------------------------------------------


def gpt2_cases(folder: Path) -> list[tuple[str, list[int]]]:
    texts = (folder / "ggml-vocab-gpt-2.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    answers = (folder / "ggml-vocab-gpt-2.out").read_text(encoding="utf-8").split("\n")
    return [(text, [int(i) for i in line.split()]) for text, line in zip(texts, answers, strict=False)]


@pytest.mark.parametrize("form", ["tokenizer.json", "vocab.json and merges.txt"])
def test_every_published_case_of_gpt2(form: str, shared: Path, tmp_path: Path) -> None:
    source = shared / "weights" / "gpt2-tokenizer"
    for name in ["tokenizer.json"] if form == "tokenizer.json" else ["vocab.json", "merges.txt"]:
        (tmp_path / name).write_bytes((source / name).read_bytes())
    tokenizer = Tokenizer.open(tmp_path)
    cases = gpt2_cases(source)
    assert len(cases) >= 47
    for text, ids in cases:
        assert tokenizer.encode(text) == ids, text
        assert tokenizer.decode(ids) == text
        stream = tokenizer.stream()
        assert "".join([*map(stream.push, ids), stream.flush()]) == text
    assert tokenizer.size == 50257
    if form != "tokenizer.json":
        assert tokenizer.eos == {50256}
        assert tokenizer.special == {50256}
    assert 50256 not in tokenizer.encode("a<|endoftext|>")


# --- agreement with the reference ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", JSON_KINDS)
def test_ids_and_text_are_the_reference_libraries(kind: str, request: pytest.FixtureRequest, write: Any) -> None:
    transformers = pytest.importorskip("transformers", reason="is the reference for tokenizers")
    folder = write("tokenizer.json", request.getfixturevalue(kind), config={"model_type": "gpt2"})
    tokenizer = Tokenizer.open(folder)
    reference = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    for text in TEXTS:
        ids = reference(text)["input_ids"]
        assert tokenizer.encode(text) == ids, text
        expected = reference.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert tokenizer.decode(ids) == expected


@pytest.mark.parametrize(
    "config", [{}, {"add_bos_token": True}, {"add_eos_token": True, "add_bos_token": True}], ids=str
)
def test_gpt2_files_honour_the_config_as_the_reference_does(
    config: dict[str, Any], byte_level: str, write: Any, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers", reason="is the reference for tokenizers")
    model = json.loads(byte_level)["model"]
    write("merges.txt", "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in model["merges"]))
    named = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "unk_token": "<|im_end|>"}
    write("vocab.json", json.dumps(model["vocab"]), tokenizer_config=named | config, config={"model_type": "gpt2"})
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path)
    tokenizer = Tokenizer.open(tmp_path)
    for text in ["Once upon a time", " it's  12345\n"]:
        assert tokenizer.encode(text) == reference(text)["input_ids"]
    assert tokenizer.bos == reference.bos_token_id
    assert tokenizer.eos == {reference.eos_token_id}


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_sentencepiece_models(kind: str, sentencepiece_models: dict[str, bytes], write: Any) -> None:
    import sentencepiece

    reference = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_models[kind])
    tokenizer = Tokenizer.open(write("tokenizer.model", sentencepiece_models[kind]))
    assert tokenizer.size == reference.get_piece_size()
    assert (tokenizer.bos, tokenizer.eos) == (1, {2})
    for text in ["the small fox", "naïve café", "a <keep> b", "東京"]:
        assert tokenizer.encode(text) == [1, *reference.encode(text)]
        assert tokenizer.decode(tokenizer.encode(text)) == reference.decode(reference.encode(text))
    assert {1, 2}.isdisjoint(tokenizer.encode("<s></s>")[1:])
    if kind == "bpe":  # the rest is spelt in bytes
        assert tokenizer.decode(tokenizer.encode("fox 😀 ☃")) == "fox 😀 ☃"
        assert "⟨F0⟩" in [piece.text for piece in tokenizer.pieces(tokenizer.encode("😀"))]


def test_a_real_sentencepiece_vocabulary(shared: Path, write: Any) -> None:
    """Llama's form (byte fallback, a space in front), with the vocabulary of a trained model and its published ids."""
    proto = pytest.importorskip("sentencepiece.sentencepiece_model_pb2", reason="writes the model file").ModelProto()
    folder = shared / "weights" / "stories260K"
    kinds = {
        "<unk>": proto.SentencePiece.UNKNOWN,
        "<s>": proto.SentencePiece.CONTROL,
        "</s>": proto.SentencePiece.CONTROL,
    }
    for piece, score in json.loads((folder / "tok512.json").read_text(encoding="utf-8")):
        kind = (
            proto.SentencePiece.BYTE
            if piece.startswith("<0x")
            else kinds.get(piece.strip(), proto.SentencePiece.NORMAL)
        )
        shown = piece.strip() if kind == proto.SentencePiece.CONTROL else piece.replace(" ", "▁")
        proto.pieces.add(piece=shown, score=score, type=kind)
    proto.trainer_spec.model_type = proto.trainer_spec.BPE
    proto.trainer_spec.byte_fallback = True
    proto.normalizer_spec.add_dummy_prefix = True
    proto.normalizer_spec.remove_extra_whitespaces = False
    tokenizer = Tokenizer.open(write("tokenizer.model", proto.SerializeToString()))
    reference = json.loads((folder / "reference.json").read_text(encoding="utf-8"))
    assert tokenizer.encode(reference["prompt"]) == reference["prompt_ids"]
    assert tokenizer.encode(reference["story"]) == reference["story_ids"]
    assert tokenizer.decode(reference["story_ids"]) == reference["story"]
    assert tokenizer.decode_after(reference["prompt_ids"], reference["story_ids"][5:]) == reference["story"][16:]
    assert tokenizer.decode(tokenizer.encode("a snowman: ☃\n")) == "a snowman: ☃\n"
    assert not {1, 2} & set(tokenizer.encode("<s></s>")[1:])


def test_sentencepiece_flags(sentencepiece_models: dict[str, bytes], write: Any) -> None:
    folder = write("tokenizer.model", sentencepiece_models["bpe"], tokenizer_config={"add_bos_token": False})
    plain = Tokenizer.open(folder).encode("the fox")
    folder = write("tokenizer.model", sentencepiece_models["bpe"], tokenizer_config={"add_eos_token": True})
    assert Tokenizer.open(folder).encode("the fox") == [1, *plain, 2]
    folder = write("tokenizer.model", sentencepiece_models["bpe"], tokenizer_config={"tokenizer_class": "T5Tokenizer"})
    assert Tokenizer.open(folder).encode("the fox") == [*plain, 2]


# --- special tokens --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", JSON_KINDS)
@pytest.mark.parametrize("around", ["{}", "a{}b", " {} {}", "{}{}"])
def test_typed_special_tokens_stay_text(kind: str, around: str, tokenizer_of: Any) -> None:
    tokenizer = tokenizer_of(kind)
    unknown = {tokenizer._engine.id_of(token) for token in ("<unk>", "[UNK]")}
    template = tokenizer.encode("")
    for i in tokenizer.special - unknown:
        typed = around.replace("{}", tokenizer.decode([i], special=True))
        ids = tokenizer.encode(typed)
        assert [t for t in ids if t in tokenizer.special - unknown] == template
        if kind in {"byte_level", "byte_fallback"}:
            assert tokenizer.decode(ids) == typed


def test_added_tokens_that_are_not_special_are_matched(tokenizer_of: Any) -> None:
    tokenizer = tokenizer_of("byte_level")
    assert [piece.text for piece in tokenizer.pieces(tokenizer.encode("<tool>"))] == ["<|bos|>", "<tool>"]


def test_tokens_named_in_the_config_are_special(byte_level: str, write: Any) -> None:
    data = json.loads(byte_level)
    data["added_tokens"] = [token for token in data["added_tokens"] if not token["special"]]
    folder = write("tokenizer.json", json.dumps(data), tokenizer_config={"eos_token": {"content": "<|im_end|>"}})
    tokenizer = Tokenizer.open(folder)
    assert tokenizer.eos == {2}
    assert tokenizer.special == {2}


def test_the_ends_of_a_text_come_from_three_files(byte_level: str, write: Any) -> None:
    folder = write(
        "tokenizer.json",
        byte_level,
        tokenizer_config={"eos_token": "<|im_end|>", "bos_token": "<|bos|>"},
        generation_config={"eos_token_id": [2, 7]},
        config={"eos_token_id": 9, "bos_token_id": 5},
    )
    tokenizer = Tokenizer.open(folder)
    assert tokenizer.eos == {2, 7, 9}
    assert tokenizer.bos == 0
    (folder / "tokenizer_config.json").unlink()
    assert Tokenizer.open(folder).bos == 5
    for name in ("generation_config.json", "config.json"):
        (folder / name).unlink()
    assert Tokenizer.open(folder).eos is None


def test_tokens_only_the_config_knows_are_appended(byte_level: str, write: Any) -> None:
    size = Tokenizer.open(write("tokenizer.json", byte_level)).size
    extra = {str(size): {"content": "<|more|>", "special": True}, str(size + 5): {"content": "<|gap|>"}}
    tokenizer = Tokenizer.open(write("tokenizer.json", byte_level, tokenizer_config={"added_tokens_decoder": extra}))
    assert tokenizer.size == size + 1
    assert size in tokenizer.special
    assert tokenizer.decode([size], special=True) == "<|more|>"


def test_truncation_and_padding_in_the_file_are_ignored(byte_level: str, write: Any, tokenizer_of: Any) -> None:
    data = json.loads(byte_level)
    data["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    data["padding"] = {
        "strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "<|bos|>",
    }  # fmt: skip
    folder = write("tokenizer.json", json.dumps(data))
    text = "Once upon a time there was a small fox."
    assert Tokenizer.open(folder).encode(text) == tokenizer_of("byte_level").encode(text)


# --- decoding, whole and streamed ------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", TEXTS)
def test_round_trip(text: str, tokenizer_of: Any) -> None:
    tokenizer = tokenizer_of("byte_level")
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=60))
@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback"])
def test_any_text_survives(kind: str, text: str, tokenizer_of: Any) -> None:
    tokenizer = tokenizer_of(kind)
    text = text.replace("▁", " ")  # byte_fallback's own sign for a space
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(max_examples=100, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("kind", [*JSON_KINDS, "bpe", "unigram_model"])
def test_streamed_is_whole(kind: str, data: st.DataObject, tokenizer_of: Any) -> None:
    tokenizer = tokenizer_of(kind)
    ids = data.draw(st.lists(st.integers(0, tokenizer.size - 1), max_size=30))
    stream = tokenizer.stream()
    parts = [stream.push(i) for i in ids]
    assert "".join(parts) + stream.flush() == tokenizer.decode(ids)


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback"])
def test_a_stream_never_shows_half_a_character(kind: str, tokenizer_of: Any) -> None:
    tokenizer = tokenizer_of(kind)
    text = "the 👩‍👩‍👧 sees 東京 नमस्ते the end."
    stream = tokenizer.stream()
    parts = [stream.push(i) for i in tokenizer.encode(text)]
    assert "�" not in "".join(parts)
    assert "".join(parts) + stream.flush() == text
    assert sum(bool(part) for part in parts) > 10  # and it does not wait for the end


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.sampled_from("the fox é😀\n "), max_size=20), cut=st.integers(0, 30))
@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback"])
def test_a_stream_goes_on_from_the_text_before(kind: str, text: str, cut: int, tokenizer_of: Any) -> None:
    tokenizer = tokenizer_of(kind)
    ids = tokenizer.encode(text)
    before, after = ids[:cut], ids[cut:]
    if "�" not in (begun := tokenizer.decode(before)):
        assert begun + tokenizer.decode_after(before, after) == tokenizer.decode(ids)


def test_the_space_between_what_was_there_and_what_is_new(byte_fallback: str, write: Any) -> None:
    tokenizer = Tokenizer.open(write("tokenizer.json", byte_fallback))
    _, first, second = tokenizer.encode("the the")
    assert tokenizer.decode([second]) == "the"
    assert tokenizer.decode_after([first], [second]) == " the"


def test_an_unfinished_character_comes_out_at_the_end(tokenizer_of: Any) -> None:
    tokenizer = tokenizer_of("byte_level")
    first_bytes = [i for i in tokenizer.encode("😀") if i not in tokenizer.special][:2]
    stream = tokenizer.stream()
    assert [stream.push(i) for i in first_bytes] == ["", ""]
    assert stream.flush() == "�" == tokenizer.decode(first_bytes)


# --- readable pieces -------------------------------------------------------------------------------------------------


def test_pieces_are_readable(tokenizer_of: Any) -> None:
    tokenizer = tokenizer_of("byte_level")
    ids = tokenizer.encode(" the\n\t😀")
    pieces = tokenizer.pieces(ids)
    assert [piece.id for piece in pieces] == ids
    assert pieces[0].special
    assert pieces[0].text == "<|bos|>"
    assert "".join(piece.text for piece in pieces[1:]) == "␣the↵⇥⟨F0⟩⟨9F⟩⟨98⟩⟨80⟩"
    assert b"".join(piece.bytes or b"" for piece in pieces[1:]).decode() == " the\n\t😀"
    assert tokenizer.pieces([10**6])[0].text == "⟨1000000⟩"


def test_pieces_of_other_kinds(byte_fallback: str, wordpiece: str, write: Any) -> None:
    tokenizer = Tokenizer.open(write("tokenizer.json", byte_fallback))
    assert [piece.text for piece in tokenizer.pieces(tokenizer.encode("the\né"))] == [
        "<s>", "␣the", "↵", "⟨C3⟩", "⟨A9⟩",
    ]  # fmt: skip
    tokenizer = Tokenizer.open(write("tokenizer.json", wordpiece))
    assert [piece.text for piece in tokenizer.pieces(tokenizer.encode("the foxes"))] == [
        "[CLS]", "the", "fox", "##es", "[SEP]",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b" a\n\t", "␣a↵⇥"), ("\u200b\u202e\u0000\r\x1b".encode(), "⟨U+200B⟩⟨U+202E⟩⟨U+0000⟩⟨U+000D⟩⟨U+001B⟩"),
        (b"\xe2\x80", "⟨E2 80⟩"), (b" \xf0\x9f", "␣⟨F0 9F⟩"), (b"\x98\x80", "⟨98 80⟩"), (b"\xffa", "⟨FF⟩a"),
        ("\u0301".encode(), "◌\u0301"), ("e\u0301".encode(), "e\u0301"), ("\ufe0f".encode(), "⟨U+FE0F⟩"),
        ("\u00a0\u2028".encode(), "⟨U+00A0⟩⟨U+2028⟩"), ("東京".encode(), "東京"), (b"", ""),
    ],
)  # fmt: skip
def test_readable(raw: bytes, shown: str) -> None:
    assert readable(raw) == shown


@given(st.binary(max_size=12))
def test_readable_shows_everything(raw: bytes) -> None:
    assert not set(readable(raw)) & set("\n\t\x00\x1b\u200b\u202e")
    try:
        assert readable(raw) == visible(raw.decode())
    except UnicodeDecodeError:
        assert "⟨" in readable(raw)


# --- input that is not good ------------------------------------------------------------------------------------------


def test_bad_text_is_one_clear_sentence(tokenizer_of: Any) -> None:
    tokenizer = tokenizer_of("byte_level")
    with pytest.raises(Misuse, match="1,048,576 characters; at most 1,000,000"):
        tokenizer.encode("a" * 2**20)
    with pytest.raises(Misuse, match=r"lone surrogate, U\+D800, is at character 2"):
        tokenizer.encode("ab\ud800")
    with pytest.raises(Misuse, match="bytes, not a string"):
        tokenizer.encode(b"ab")  # type: ignore[arg-type]
    for ids in ([-1], [2**40]):
        with pytest.raises(Misuse, match="not a token id"):
            tokenizer.decode(ids)
    assert tokenizer.encode("") == [0]
    assert len(tokenizer.encode("the " * (MAX_CHARACTERS // 4))) > 100_000


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="has no tokenizer"):
        Tokenizer.open(tmp_path)
