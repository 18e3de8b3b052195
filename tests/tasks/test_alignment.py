"""When words are said: the reference's times of tokens to within a moment, and tokens made words as it makes them."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import cutaway
from cutaway.errors import Misuse, Refused
from cutaway.generate.loop import encode
from cutaway.inputs import audio
from cutaway.tasks.alignment import aligned, grouped, moments, token_times

from .conftest import Make
from .speech import EN, END, LONG, SHORT, START, TASK, UNTIMED, WORDS_ONLY, file

HEADS = [[0, 1], [1, 0], [1, 3]]
VARIED: dict[str, Any] = {**WORDS_ONLY, "repetition_penalty": 3.0}


@pytest.fixture
def generation() -> Any:
    return pytest.importorskip(
        "transformers.models.whisper.generation_whisper",
        reason="compares with transformers, which is not installed",
    )


# ------------------------------------------------------------------ as the reference does it


@pytest.mark.parametrize("seed", range(4))
def test_the_best_path_is_the_reference_s(generation: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for rows, columns in ((1, 1), (1, 9), (9, 1), (7, 30), (40, 25), (25, 200)):
        matrix = rng.normal(size=(rows, columns))
        if seed == 3:
            matrix = matrix.round()  # ties
        text, time = generation._dynamic_time_warping(-matrix)
        jumps = np.pad(np.diff(text), (1, 0), constant_values=1).astype(bool)
        assert moments(matrix) == time[jumps].tolist()


@pytest.mark.parametrize("width", [1, 3, 7])
def test_attention_is_smoothed_as_the_reference_smooths_it(generation: Any, width: int) -> None:
    attended = torch.rand(3, 5, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).softmax(-1)
    spread, mean = torch.std_mean(attended, dim=-2, keepdim=True, unbiased=False)
    theirs = generation._median_filter(((attended - mean) / spread)[None], width)[0].mean(0)
    np.testing.assert_allclose(aligned(attended.numpy(), width), theirs.numpy(), atol=1e-12)


@pytest.mark.parametrize("frames", [60, 37])
@pytest.mark.parametrize("seed", range(4))
def test_tokens_begin_when_the_reference_says(whisper: Make, generation: Any, seed: int, frames: int) -> None:
    """Its own extraction, from the attention of its own writing, of the heads that the file names."""
    folder = whisper(seed, alignment_heads=HEADS, **VARIED)
    ours, theirs = times_of(folder, frames)
    assert np.abs(np.array(ours) - theirs).max() <= 1


def test_other_heads_would_say_something_else(whisper: Make, generation: Any) -> None:
    """So the test above bites."""
    ours, theirs = times_of(whisper(2, alignment_heads=HEADS, **VARIED), 60)
    assert len(set(ours)) > 3
    for heads in ([[0, 0]], [[1, 1]], []):
        others, theirs = times_of(whisper(2, alignment_heads=heads, **VARIED), 60, theirs=HEADS)
        assert np.abs(np.array(others) - theirs).max() > 1


def times_of(folder: Any, frames: int, theirs: list[list[int]] | None = None) -> tuple[list[int], np.ndarray]:
    """When each token begins, in moments: ours, and the reference's."""
    import transformers

    heard = audio.log_mel(SHORT, 10, 60)[None]
    reference = transformers.WhisperForConditionalGeneration.from_pretrained(folder, attn_implementation="eager").eval()
    if theirs is not None:
        reference.generation_config.alignment_heads = theirs
    with torch.no_grad():
        found = reference.generate(
            heard, attention_mask=torch.arange(60)[None] < frames, language="en", return_timestamps=True,
            return_token_timestamps=True, force_unique_generate_call=True, return_dict_in_generate=True,
        )  # fmt: skip
    written = found["sequences"][0].tolist()
    prompt = [START, EN, TASK]
    assert written[:3] == prompt
    model = cutaway.load(folder)
    times = token_times(
        model.machine, encode(model.machine, heard), prompt, written[3:], model._speech, frames // 2, timed=True
    )
    # The reference's time of a token is that at which the next one begins, and its last two are one.
    return [end for _, end in times[:-1]], (found["token_timestamps"][0, 3:-1] / 0.02).round().numpy()


def test_all_heads_of_the_second_half_follow_where_the_file_names_none(whisper: Make) -> None:
    unnamed = times_without_reference(whisper(2, **WORDS_ONLY, alignment_heads=None))
    assert unnamed == times_without_reference(
        whisper(2, **WORDS_ONLY, alignment_heads=[[1, head] for head in range(4)])
    )
    assert unnamed != times_without_reference(
        whisper(2, **WORDS_ONLY, alignment_heads=[[0, head] for head in range(4)])
    )


def times_without_reference(folder: Any) -> Any:
    words = cutaway.load(folder).transcribe(SHORT, language="en", words=True, temperature=0).segments[0].words
    return [(word.start, word.end) for word in words]


# ------------------------------------------------------------------ tokens to words

TEXTS = [
    [" And", " so", ",", " my", " fel", "low", "."],
    [" (", "yes", ")", " he", "'", "s", ' "', "here", '"', "!"],
    ["a", "", "b", " ", " c", "", ""],
    [" -", " -", "x", "-", "y", " “", " “", " z"],
    ["你", "好", "。", "再", "见"],
    [""],
]


@pytest.mark.parametrize("spaced", [True, False])
@pytest.mark.parametrize("pieces", TEXTS, ids="".join)
def test_words_are_those_of_the_reference(pieces: list[str], spaced: bool) -> None:
    words = pytest.importorskip("transformers.models.whisper.tokenization_whisper", reason="compares with transformers")
    whole = [piece for piece in pieces if piece]  # the reference's own pieces are whole characters
    tokens = list(range(len(whole)))
    stub = SimpleNamespace(
        decode=lambda ids, decode_with_timestamps: "".join(whole[i] for i in ids), eos_token_id=10**6
    )
    theirs, _, places = words._combine_tokens_into_words(stub, tokens, "english" if spaced else "chinese")
    ours = grouped(whole, spaced)
    assert ours == places
    assert ["".join(whole[i] for i in its) for its in ours] == theirs
    assert [i for its in grouped(pieces, spaced) for i in its] == list(range(len(pieces)))


def test_half_a_character_is_no_word() -> None:
    assert grouped(["", "é", "", "", "好", "a", ""], spaced=False) == [[0, 1], [2, 3, 4], [5, 6]]


# ------------------------------------------------------------------ what a user gets


@pytest.mark.parametrize("sound", [SHORT, LONG], ids=["short", "long"])
@pytest.mark.parametrize("timestamps", [False, True])
def test_the_words_of_a_transcript(whisper: Make, sound: np.ndarray, timestamps: bool) -> None:
    model = cutaway.load(whisper(3, **WORDS_ONLY))
    said = model.transcribe(sound, language="en", words=True, temperature=0, timestamps=timestamps)
    plain = model.transcribe(sound, language="en", temperature=0, timestamps=timestamps)
    assert said.text == plain.text
    for segment, without in zip(said.segments, plain.segments, strict=True):
        assert "".join(word.text for word in segment.words).strip() == segment.text.strip() == without.text.strip()
        assert without.words == []
        ends = [time for word in segment.words for time in (word.start, word.end)]
        assert ends == sorted(ends)
        assert all(0 <= end <= said.seconds for end in ends)
    assert said.srt(words=True).count(" --> ") == sum(len(segment.words) for segment in said.segments)


def test_a_model_without_times_times_its_words_all_the_same(whisper: Make) -> None:
    folder = whisper(1, no_timestamps_token_id=None, begin_suppress_tokens=None)
    words = [
        word for its in cutaway.load(folder).transcribe(LONG, words=True, temperature=0).segments for word in its.words
    ]
    assert words[0].start == 0
    assert words[-1].end > 1.8


def test_the_first_word_of_a_text_without_times_may_begin_late(whisper: Make) -> None:
    """The row that asks for the first token is the prompt's last, which the alignment reads as well."""
    model = cutaway.load(whisper(2))
    heard = encode(model.machine, audio.log_mel(SHORT, 10, 60)[None])
    times = token_times(
        model.machine, heard, [START, EN, TASK, UNTIMED], [7, 8, 9, END], model._speech, 25, timed=False
    )
    assert len(times) == 4
    assert times[0][0] == 0
    assert times[-1][1] == 25
    assert [end for _, end in times[:-1]] == [begin for begin, _ in times[1:]]


def test_words_that_cannot_be_had(whisper: Make) -> None:
    for heads in ([[0, 9]], [[7, 0]]):
        with pytest.raises(Refused, match="alignment_heads names heads beyond the decoder's 2 blocks of 4 heads"):
            cutaway.load(whisper(alignment_heads=heads)).transcribe(SHORT, words=True)
    for heads in ("x", [3], [[0, -1]]):
        with pytest.raises(Refused, match="alignment_heads"):
            cutaway.load(whisper(alignment_heads=heads)).transcribe(SHORT)
    folder = whisper()
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(Misuse, match="no tokenizer"):
        cutaway.load(folder).transcribe(SHORT, words=True)


@pytest.mark.parametrize("width", [4, 0, "x"])
def test_a_median_that_makes_no_sense(whisper: Make, width: Any) -> None:
    folder = whisper()
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, "median_filter_width": width}))
    with pytest.raises(Refused, match="median_filter_width"):
        cutaway.load(folder).transcribe(SHORT)


def test_the_command_prints_words(whisper: Make, tmp_path: Any, capsys: Any) -> None:
    from cutaway.cli import call

    folder = whisper(3, **WORDS_ONLY)
    talk = tmp_path / "talk.wav"
    talk.write_bytes(file(SHORT))
    model = cutaway.load(folder)
    words = model.transcribe(talk, language="en", words=True, temperature=0).segments[0].words
    timed = model.transcribe(talk, language="en", words=True, temperature=0, timestamps=True)

    def told(*options: str) -> str:
        asked = ["--language", "en", "--temperature", "0", "--words", *options]
        assert call(["transcribe", str(talk), "-m", str(folder), *asked]) == 0
        return capsys.readouterr().out

    assert len(told().splitlines()) == len(words) > 1
    assert told().split()[:2] == [f"{words[0].start:.2f}", f"{words[0].end:.2f}"]
    assert told("--srt").rstrip() == timed.srt(words=True).rstrip()
    assert json.loads(told("--json"))["segments"][0]["words"] == [vars(word) for word in words]
