"""Windows that go wrong: written again while a threshold of the reference is crossed, left out where nobody speaks."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import cutaway
from cutaway.errors import Misuse, Refused
from cutaway.generate.loop import encode
from cutaway.generate.manner import Doubts
from cutaway.inputs import audio
from cutaway.tasks.attempts import LADDER, Attempt, Writer
from cutaway.tasks.transcribe import _rules

from .conftest import Make
from .speech import EN, END, LONG, SHORT, SILENT, START, TASK, TIME

OFF = {"logprob_threshold": None, "compression_ratio_threshold": None, "no_speech_threshold": None}
NOBODY = "0.0 to 0.6 s"


def reference_of(folder: Any) -> Any:
    transformers = pytest.importorskip("transformers", reason="compares with transformers, which is not installed")
    return transformers.WhisperForConditionalGeneration.from_pretrained(folder).eval()


def long_form(reference: Any, sound: np.ndarray, **settings: Any) -> list[list[int]]:
    """What the reference writes of a sound longer than its window, segment by segment; what lies behind its end is
    silence, as in the original, where the reference puts zeros."""
    frames = math.ceil(len(sound) / audio.HOP)
    heard = audio.log_mel(sound, 10, frames + 60)[None]
    reference._get_input_segment = lambda *, seek, **_: heard[:, :, int(seek[0]) : int(seek[0]) + 60]
    with torch.no_grad():
        theirs = reference.generate(
            heard[:, :, :frames], language="en", return_timestamps=True, return_segments=True, **settings
        )
    segments = [segment["tokens"].tolist() for segment in theirs["segments"][0]]
    # Of two times that end a window it keeps the second as well.
    return [its[:-1] if len(its) > 2 and its[-2] >= TIME and its[-1] >= TIME else its for its in segments]


# ------------------------------------------------------------------ as the reference does it


@pytest.mark.parametrize("previous", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_a_long_sound_is_written_as_the_reference_writes_it(whisper: Make, seed: int, previous: bool) -> None:
    folder = whisper(seed, condition_on_prev_tokens=previous)
    ours = cutaway.load(folder).transcribe(LONG, language="en", temperature=0)
    theirs = long_form(reference_of(folder), LONG, condition_on_prev_tokens=previous)
    assert len(theirs) > 3
    assert [segment.tokens for segment in ours.segments] == theirs


def test_what_went_before_is_read_only_where_the_file_says_so(whisper: Make) -> None:
    written = [
        cutaway.load(whisper(condition_on_prev_tokens=says)).transcribe(LONG, language="en", temperature=0).segments
        for says in (None, False, True)
    ]
    assert written[0] == written[1] != written[2]


@pytest.mark.parametrize("seed", range(3))
def test_silent_windows_are_left_out_as_the_reference_leaves_them_out(whisper: Make, seed: int) -> None:
    found = silences(whisper(seed))
    least = (min(found) + max(found)) / 2
    says = {"no_speech_threshold": least, "logprob_threshold": -0.5}
    folder = whisper(seed, **says)
    ours = cutaway.load(folder).transcribe(LONG, language="en", temperature=0)
    theirs = long_form(reference_of(folder), LONG, temperature=(0.0,), **says)
    assert [segment.tokens for segment in ours.segments] == theirs
    assert any("Nobody seems to speak from " in note for note in ours.notes)
    assert ours.segments


def silences(folder: Any) -> list[float]:
    """How probable silence is in some windows of the long sound."""
    machine, found = cutaway.load(folder).machine, []
    for first in (0, 60, 120):
        with torch.no_grad():
            heard = machine.encode(audio.log_mel(LONG, 10, 60, first)[None])
            logits = machine.logits(machine.stream(torch.tensor([[START]]), heard))[0, -1]
        found.append(float(logits.softmax(-1)[SILENT]))
    return found


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_an_attempt_is_measured_as_the_reference_measures_it(whisper: Make, temperature: float) -> None:
    """The mean log-probability and the ratio of zlib, over the tokens that were written."""
    folder = whisper(1, compression_ratio_threshold=1.35)
    model, reference = cutaway.load(folder), reference_of(folder)
    heard = encode(model.machine, audio.log_mel(SHORT, 10, 60)[None])
    prompt = [START, EN, TASK]
    writer = Writer(model.machine, model._speech, _rules(model._speech, True), model.tokenizer, (temperature,), 5)
    attempt = writer.write(heard, prompt, 0)
    written = torch.tensor(attempt.tokens)
    assert attempt.ratio == reference._retrieve_compression_ratio(written, 340)
    with torch.no_grad():
        logits = reference(
            encoder_outputs=(heard.memory,), decoder_input_ids=torch.tensor([prompt + attempt.tokens[:-1]])
        ).logits[0, len(prompt) - 1 :]
    scores = []
    for i, row in enumerate(logits.double()):
        so_far = prompt + attempt.tokens[:i]
        scores.append(writer.rules(row[None], [so_far], [END], len(prompt), last=False)[0] / (temperature or 1))
    theirs = reference._retrieve_avg_logprobs(scores, written, temperature)
    assert attempt.logprob == pytest.approx(float(theirs), abs=1e-5)


# ------------------------------------------------------------------ which attempt is kept


class Scripted(Writer):
    """Attempts with given measures, one for each temperature."""

    def _attempt(self, heard: Any, prompt: Any, temperature: float, seed: int) -> Any:
        return replace(self.script[temperature], temperature=temperature)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("logprobs", "ratios", "kept"),
    [
        ([-0.9, -0.1], [2.4, 1], 0.0),
        ([-1.1, -0.9, -0.1], [1, 1, 1], 0.2),
        ([-0.1, -0.1, -0.1], [2.41, 2.5, 2.3], 0.4),
        ([-2, -3, -4, -5, -6, -7], [9] * 6, 1.0),
    ],
)
def test_the_first_plausible_attempt_is_kept_and_else_the_last(logprobs: Any, ratios: Any, kept: float) -> None:
    speech: Any = SimpleNamespace(doubts=Doubts(silence=None), no_times=None)
    writer = Scripted(None, speech, None, None, LADDER, 0)  # type: ignore[arg-type]
    script = {t: Attempt([1], t, p, r) for t, p, r in zip(LADDER, logprobs, ratios, strict=False)}
    object.__setattr__(writer, "script", script)
    assert writer.write(None, [], 0).temperature == kept  # type: ignore[arg-type]


def test_a_random_model_is_doubted_and_drawn_from_again(whisper: Make) -> None:
    model = cutaway.load(whisper(no_speech_threshold=1))
    written = model.transcribe(SHORT, language="en", seed=5)
    assert written.segments[0].temperature == 1
    assert written.seed == 5
    assert any("One window was drawn" in note and "seed 5" in note for note in written.notes)
    assert written == model.transcribe(SHORT, language="en", seed=5)
    assert written.text != model.transcribe(SHORT, language="en", seed=6).text
    certain = model.transcribe(SHORT, language="en", temperature=0)
    assert certain.segments[0].temperature == 0
    assert not any("drawn" in note for note in certain.notes)


def test_without_thresholds_nothing_is_doubted(whisper: Make) -> None:
    believing = cutaway.load(whisper(**OFF)).transcribe(SHORT, language="en")
    assert believing.segments[0].temperature == 0


def test_repetition_alone_is_a_reason(whisper: Make) -> None:
    folder = whisper(**{**OFF, "compression_ratio_threshold": 0.1})
    assert cutaway.load(folder).transcribe(SHORT, language="en").segments[0].temperature == 1


def test_every_window_draws_otherwise(whisper: Make) -> None:
    """Two windows of the same sound, drawn at the same temperature."""
    folder = whisper(no_timestamps_token_id=None, begin_suppress_tokens=None, **OFF)
    model = cutaway.load(folder)
    one, other = model.transcribe(np.tile(SHORT[:4800], 4), language="en", temperature=1.0, seed=1).segments
    assert one.tokens != other.tokens


def test_a_silent_sound_says_nothing(whisper: Make) -> None:
    model = cutaway.load(whisper(no_speech_threshold=0.0))
    written = model.transcribe(np.zeros(9600, np.float32), language="en")
    assert (written.text, written.segments) == ("", [])
    assert any(NOBODY in note for note in written.notes)


def test_a_token_of_another_name_is_no_silence(whisper: Make) -> None:
    folder = whisper(no_speech_threshold=0.0)
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace("<|nospeech|>", "<|music|>"))
    assert cutaway.load(folder).transcribe(SHORT, language="en", temperature=0).segments


# ------------------------------------------------------------------ what makes no sense


@pytest.mark.parametrize(
    "says",
    [
        {"logprob_threshold": "x"}, {"compression_ratio_threshold": -1}, {"no_speech_threshold": -2},
        {"condition_on_prev_tokens": 3}, {"prev_sot_token_id": 999},
    ],
    ids=str,
)  # fmt: skip
def test_thresholds_that_make_no_sense(whisper: Make, says: dict[str, Any]) -> None:
    with pytest.raises(Refused, match=next(iter(says))):
        cutaway.load(whisper(**says)).transcribe(SHORT)


@pytest.mark.parametrize("temperature", [-1, (), (0, math.nan)])
def test_temperatures_that_make_no_sense(whisper: Make, temperature: Any) -> None:
    with pytest.raises(Misuse, match="temperature"):
        cutaway.load(whisper()).transcribe(SHORT, temperature=temperature)
