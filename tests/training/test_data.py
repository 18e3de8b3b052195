from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from cutaway.errors import Misuse, NotFound, Refused
from cutaway.training.data import Sampler, read_corpus, read_tokens, windows, write_tokens
from cutaway.training.recipe import Source
from cutaway.training.tokenizer import END, PATTERNS, save_tokenizer, train_tokenizer

from .conftest import tell


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(tell(1, 20).split(END), 320, "llama3")


@given(st.text())
def test_any_text_comes_back(text: str) -> None:
    for pattern in PATTERNS:
        ids = TRAINED[pattern].encode(text, add_special_tokens=False).ids
        if END not in text:
            assert TRAINED[pattern].decode(ids, skip_special_tokens=False) == text


TRAINED = {pattern: train_tokenizer([tell(3, 5)], 300, pattern) for pattern in PATTERNS}


def test_tokenizer_files_open_in_transformers(tokenizer: Tokenizer, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="compares with transformers, which is not installed")
    save_tokenizer(tokenizer, tmp_path, 16)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "Once upon a time, 12345 foxes\n\n didn't  sleep: ☂ é\t."
    assert theirs(text).input_ids == tokenizer.encode(text).ids
    assert theirs.decode(theirs(text).input_ids) == text
    assert (theirs.bos_token, theirs.eos_token, len(theirs)) == (END, END, tokenizer.get_vocab_size())


def test_patterns_cut_as_published() -> None:
    def cut(pattern: str, text: str) -> list[str]:
        return [text[a:b] for _, (a, b) in TRAINED[pattern].pre_tokenizer.pre_tokenize_str(text)]

    assert cut("gpt2", "I'LL say 1234.\n\nNo") == ["I", "'", "LL", " say", " 1234", ".", "\n", "\n", "No"]
    assert cut("llama3", "I'LL say 1234.\n\nNo") == ["I", "'LL", " say", " ", "123", "4", ".\n\n", "No"]


def test_token_file_holds_every_document_and_its_end(tokenizer: Tokenizer, tmp_path: Path) -> None:
    documents = ["the fox", "the old hare ☂"]
    write_tokens(documents, tokenizer, 0, tmp_path / "train.bin")
    tokens = read_tokens(tmp_path / "train.bin")
    assert isinstance(tokens.ids, np.memmap)
    assert tokens.ids.dtype == np.uint16
    assert [tokenizer.decode(part.tolist()) for part in np.split(tokens.ids, np.flatnonzero(tokens.ids == 0))] == [
        *documents,
        "",
    ]
    assert tokens.bytes == sum(len(d.encode()) for d in documents)
    assert tokens.bits_per_byte(np.log(2)) == pytest.approx(len(tokens.ids) / tokens.bytes)


def test_truncated_token_file_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "train.bin"
    write_tokens(["the fox and the hare"], tokenizer, 0, path)
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(Refused, match=r"train\.bin"):
        read_tokens(path)


def test_windows_are_copies_of_the_file() -> None:
    ids = np.arange(100, dtype=np.uint16)
    batch = windows(ids, np.array([0, 50]), 5)
    assert batch.tolist() == [[0, 1, 2, 3, 4], [50, 51, 52, 53, 54]]
    batch[0, 0] = 9
    assert ids[0] == 0


@given(st.integers(40, 400), st.integers(1, 8), st.integers(1, 9), st.integers(0, 2**31))
def test_an_epoch_visits_every_window_once(tokens: int, window: int, batch: int, seed: int) -> None:
    sampler = Sampler(tokens, window, batch, seed)
    steps = -(-2 * sampler.per_epoch // batch)
    starts = np.concatenate([sampler.starts(step) for step in range(steps)])
    for epoch in (starts[: sampler.per_epoch], starts[sampler.per_epoch : 2 * sampler.per_epoch]):
        ordered = np.sort(epoch)
        assert (np.diff(ordered) == window).all()
        assert ordered[0] >= 0
        assert ordered[-1] + window + 1 <= tokens


def test_the_order_depends_on_seed_epoch_and_step_alone() -> None:
    sampler = Sampler(10_000, 8, 4, 7)
    late = sampler.starts(500)
    assert (Sampler(10_000, 8, 4, 7).starts(500) == late).all()
    assert (Sampler(10_000, 8, 4, 8).starts(500) != late).any()
    in_eights = Sampler(10_000, 8, 8, 7)
    assert (np.concatenate([sampler.starts(0), sampler.starts(1)]) == in_eights.starts(0)).all()
    first, second = (np.concatenate([sampler.starts(e * sampler.per_epoch // 4 + i) for i in range(9)]) for e in (0, 1))
    assert (first != second).any()


def test_too_little_text_for_one_window() -> None:
    with pytest.raises(Misuse, match="too few"):
        Sampler(tokens=20, window=16, batch=1, seed=1)


def test_corpus_formats_licences_and_repeats(tmp_path: Path) -> None:
    tales = [tell(seed, 1) for seed in range(10, 16)]
    with gzip.open(tmp_path / "books.txt.gz", "wt") as file:
        file.write(f"CHAPTER I\n{tales[0]}\nCHAPTER II\n{tales[1]}\n\nANOTHER BOOK\n{tales[2]}")
    stories = [
        {"title": "a", "pages": [tales[3], "The  end of it."], "license": "CC-BY"},
        {"title": "b", "pages": [tales[4]], "license": "CC-BY-NC"},
        {"title": "c", "sections": [tales[5]]},
    ]
    (tmp_path / "stories.jsonl").write_text("\n".join(map(json.dumps, stories)))
    (tmp_path / "valid.txt").write_text(tales[5])
    corpus, dropped = read_corpus(
        [
            Source("books", train="books.txt.gz"),
            Source("stories", train="stories.jsonl", without_licence="NC"),
            Source("text", valid="valid.txt"),
        ],
        tmp_path,
    )
    assert corpus["train"] == [tales[0], tales[1], tales[2], tales[3] + "\nThe end of it."]
    assert corpus["valid"] == [tales[5]]
    assert dropped["repeats"] == len(tales[5])
    assert dropped["licence"] > 0


def test_held_out_titles_never_change_split(tmp_path: Path) -> None:
    stories = [{"title": str(n), "pages": [tell(n, 1)]} for n in range(200)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, stories)))
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, stories[::-1])))
    one, two = (read_corpus([Source("stories", train=f"{n}.jsonl", hold_out=0.1)], tmp_path)[0] for n in "ab")
    assert {split: set(documents) for split, documents in one.items()} == {s: set(d) for s, d in two.items()}
    assert 5 < len(one["valid"]) < 40
    assert 5 < len(one["test"]) < 40


def test_missing_and_damaged_data(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="data="):
        read_corpus([Source("text", train="absent.txt")], tmp_path)
    whole = gzip.compress(tell(1, 3).encode())
    (tmp_path / "cut.txt.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    (tmp_path / "odd.jsonl").write_text('{"title": "a", "pages": ["b"]}\n{"title": "c"}')
    for name, kind in (("cut.txt.gz", "text"), ("latin.txt", "text"), ("odd.jsonl, line 2", "stories")):
        with pytest.raises(Refused, match=name):
            read_corpus([Source(kind, train=name.split(",")[0])], tmp_path)
