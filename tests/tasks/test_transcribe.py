"""Speech written down: token for token as the reference does it, in windows, with times; and who is not asked."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import cutaway
from cutaway.errors import Misuse, Refused
from cutaway.generate.rules import Timestamps
from cutaway.inputs import audio
from cutaway.tasks.transcribe import parts_of
from cutaway.tasks.transcript import Segment, Transcript
from tests.families.making import make

from .speech import DE, EN, END, GENERATION, LONG, SHORT, START, TASK, TIME, UNTIMED, WORDS_ONLY, file


@pytest.mark.parametrize("timestamps", [False, True])
@pytest.mark.parametrize("language", [None, "en", "de"])
@pytest.mark.parametrize("seed", range(4))
def test_what_is_written_is_what_the_reference_writes(whisper, seed, language, timestamps):
    transformers = pytest.importorskip("transformers", reason="compares with transformers, which is not installed")
    folder = whisper(seed)
    ours = cutaway.load(folder).transcribe(SHORT, language=language, timestamps=timestamps, temperature=0)
    reference = transformers.WhisperForConditionalGeneration.from_pretrained(folder).eval()
    with torch.no_grad():
        theirs = reference.generate(
            audio.log_mel(SHORT, 10, 60)[None], language=language, return_timestamps=timestamps, return_segments=True,
            force_unique_generate_call=True,
        )  # fmt: skip
    sequence = theirs["sequences"] if isinstance(theirs, dict) else theirs
    told = [token for token in sequence[0].tolist() if token != END]
    prompt = [START, {"en": EN, "de": DE}[ours.language], TASK, *([] if timestamps else [UNTIMED])]
    if told[: len(prompt)] == prompt:
        told = told[len(prompt) :]
    assert told
    parts = [its for _, _, its in parts_of(told, TIME, 25)[0]] if timestamps else [told]
    assert [segment.tokens for segment in ours.segments][: len(parts)] == parts
    assert timestamps or len(ours.segments) == 1


def test_the_rules_of_times_are_the_reference_s():
    transformers = pytest.importorskip("transformers", reason="compares with transformers, which is not installed")
    settings = transformers.GenerationConfig(
        no_timestamps_token_id=UNTIMED, eos_token_id=END, bos_token_id=END, max_initial_timestamp_index=10
    )
    theirs = transformers.WhisperTimeStampLogitsProcessor(settings, begin_index=3)
    ours = Timestamps(first_time=TIME, most_initial=10)
    generator = torch.Generator().manual_seed(0)
    begin, word, a, b = [START, EN, TASK], 7, TIME + 4, TIME + 9
    for more in (
        [],
        [a],
        [a, word],
        [a, word, b],
        [a, word, b, b],
        [a, word, b, b, word],
        [a, a],
        [word],
        [word, word],
    ):
        for spread in (1.0, 8.0):
            scores = spread * torch.randn(1, 340, generator=generator)
            want = theirs(torch.tensor([begin + more]), scores.clone())
            assert torch.equal(ours(scores, [begin + more], [END], 3, last=False), want)


# ------------------------------------------------------------------ windows and segments


@pytest.mark.parametrize(
    ("times", "parts", "done"),
    [
        ([7, 8], [(0, 30, 2)], 30),  # no times: one segment
        ([TIME, 7, TIME + 9], [(0, 9, 3)], 30),  # nothing is said after 9
        ([TIME, 7, TIME + 9, TIME + 9, 8], [(0, 9, 3)], 9),  # 8 is cut off, and heard again
        ([TIME, 7, TIME + 9, TIME + 11, 8, TIME + 20], [(0, 9, 3), (11, 20, 3)], 30),
        ([TIME, 7, TIME + 9, TIME + 11, 8, TIME + 20, TIME + 20], [(0, 9, 3), (11, 20, 3)], 20),
        ([TIME, TIME], [(0, 0, 1)], 30),  # it goes on all the same
        ([], [(0, 30, 0)], 30),
    ],
)
def test_a_window_is_cut_where_times_come_in_pairs(times, parts, done):
    found, its = parts_of(times, TIME, 30)
    assert [(begin, end, len(tokens)) for begin, end, tokens in found] == parts
    assert its == done


def test_a_long_sound_is_heard_to_its_end_in_segments_that_do_not_go_back(whisper):
    heard: list[tuple[float, float]] = []
    written = cutaway.load(whisper()).transcribe(file(LONG), progress=lambda *so_far: heard.append(so_far))
    assert written.seconds == 2.5
    assert heard[0] == (0.0, 2.5)
    assert heard[-1] == (2.5, 2.5)
    assert heard == sorted(heard)
    assert len(heard) > 4  # windows of 0.6 s
    assert all(0 <= one.start <= one.end <= 2.5 for one in written.segments)
    assert all(one.start <= other.start for one, other in zip(written.segments, written.segments[1:], strict=False))
    assert any(token >= TIME for segment in written.segments for token in segment.tokens)
    assert "<|" not in written.text


def test_a_model_without_times_hears_one_window_after_another(whisper):
    written = cutaway.load(whisper(no_timestamps_token_id=None, begin_suppress_tokens=None)).transcribe(LONG)
    assert [round(segment.start, 6) for segment in written.segments] == [0, 0.6, 1.2, 1.8, 2.4]
    assert written.segments[-1].end == 2.5
    with pytest.raises(Misuse, match="names no times"):
        cutaway.load(whisper(no_timestamps_token_id=None)).transcribe(SHORT, timestamps=True)


def test_subtitles():
    said = [Segment(0, 1.5, " And so", []), Segment(1.5, 2, " ", []), Segment(3661.5, 3662.0004, " my fellow", [])]
    assert Transcript("", said, None, 4000).srt() == (
        "1\n00:00:00,000 --> 00:00:01,500\nAnd so\n\n2\n01:01:01,500 --> 01:01:02,000\nmy fellow\n"
    )


# ------------------------------------------------------------------ what the checkpoint says


def test_one_language_only(whisper):
    folder = whisper(lang_to_id=None, task_to_id=None, is_multilingual=False, forced_decoder_ids=[[1, UNTIMED]])
    model = cutaway.load(folder)
    assert model.transcribe(SHORT).language is None
    with pytest.raises(Misuse, match="does not know the language 'en'. It knows: none by name"):
        model.transcribe(SHORT, language="en")


def test_a_language_that_the_file_means_is_not_asked_for(whisper):
    for says in ({"language": "de"}, {"forced_decoder_ids": [[1, DE], [2, TASK], [3, UNTIMED]]}):
        assert cutaway.load(whisper(**says)).transcribe(SHORT).language == "de"


def test_a_language_that_the_model_lacks(whisper):
    with pytest.raises(Misuse, match="does not know the language 'tlh'. It knows: de, en"):
        cutaway.load(whisper()).transcribe(SHORT, language="tlh")


@pytest.mark.parametrize(
    "says",
    [
        {"lang_to_id": {"<|en|>": 999}}, {"lang_to_id": [1]}, {"task_to_id": {}}, {"forced_decoder_ids": [[2, 5]]},
        {"forced_decoder_ids": [1]}, {"no_timestamps_token_id": -1}, {"task": "translate"}, {"language": "fr"},
        {"max_initial_timestamp_index": "x"},
    ],
    ids=str,
)  # fmt: skip
def test_a_generation_config_that_makes_no_sense(whisper, says):
    with pytest.raises(Refused, match=next(iter(says))):
        cutaway.load(whisper(**says)).transcribe(SHORT)


def test_notes_say_what_was_not_done(whisper):
    folder = whisper(num_beams=5, reverb=3)
    (folder / "preprocessor_config.json").write_text(json.dumps({"feature_size": 10, "echo": 1}))
    notes = cutaway.load(folder).transcribe(file(np.zeros(4000, np.float32), 8000)).notes
    for word in ("silent", "4,000 Hz", "reverb", "5 beams", "echo"):
        assert any(word in note for note in notes)


def test_each_kind_says_what_it_does(whisper, tmp_path_factory):
    model = cutaway.load(whisper())
    for ask in (lambda: model.translate("a"), lambda: model.next("a"), lambda: model.see("x.png")):
        with pytest.raises(Misuse, match="writes down what is said"):
            ask()
    with pytest.raises(Misuse, match="hears sounds"):
        model.run("a text")
    with pytest.raises(Misuse, match="does not write down what is said: it continues a text"):
        cutaway.load(make(tmp_path_factory.mktemp("llama"))).transcribe(SHORT)


# ------------------------------------------------------------------ a run, recorded


def test_both_sides_of_a_run_have_names(whisper):
    model = cutaway.load(whisper(language="de"))
    record = model.run(sound=SHORT, target="Ja")
    begin = [START, DE, TASK, UNTIMED]
    assert record.tokens[:4] == begin
    assert model.text(record.tokens[4:]) == "Ja"
    assert set(model.names()) <= set(record.names())
    torch.testing.assert_close(record["encoder.frames"], audio.log_mel(SHORT, 10, 60), rtol=0, atol=0)
    assert record.axes("encoder.frames") == ("M", "R")
    assert record.shape("encoder.embed") == (30, 32)
    assert record.shape("decoder.blocks.1.cross.pattern") == (4, len(record.tokens), 30)
    with torch.no_grad():
        logits = model.machine(audio.log_mel(SHORT, 10, 60)[None], torch.tensor([record.tokens]))[0]
    torch.testing.assert_close(record["logits"], logits, rtol=0, atol=1e-5)
    said = model.transcribe(SHORT, temperature=0).segments[0].tokens
    first = model.run(sound=SHORT)["logits.last"]
    first[[*GENERATION["suppress_tokens"], *GENERATION["begin_suppress_tokens"]]] = -torch.inf
    assert said[:1] == [int(first.argmax())]


def test_a_run_of_a_sound_comes_back_from_its_file(whisper, tmp_path):
    record = cutaway.load(whisper()).run(sound=file(LONG), target=[65, 66])
    assert "2.5 s; one window" in record.settings["notes"][0]
    record.save(tmp_path / "run.cutaway")
    opened = cutaway.open(tmp_path / "run.cutaway")
    assert opened.tokens == record.tokens
    for name in ("encoder.frames", "encoder.blocks.0.attn.pattern", "decoder.blocks.1.cross.mean", "logits.last"):
        torch.testing.assert_close(opened[name], record[name])


def test_a_run_may_be_changed_at_the_frames(whisper):
    model = cutaway.load(whisper(language="en"))
    silent = model.run(sound=SHORT, edit={"encoder.frames": torch.zeros_like})
    assert float((silent["logits"] - model.run(sound=SHORT)["logits"]).abs().max()) > 1e-3


def test_a_run_reads_one_thing_that_the_model_understands(whisper, tmp_path_factory):
    model = cutaway.load(whisper())
    with pytest.raises(Misuse, match="one of them"):
        model.run("a text", sound=SHORT)
    with pytest.raises(Misuse, match="no token id"):
        model.run(sound=SHORT, target=[999])
    assert "29 of them" not in str(model.run(sound=SHORT, target=[65] * 28).settings)
    assert "28 of them" in str(model.run(sound=SHORT, target=[65] * 29).settings)
    with pytest.raises(Misuse, match="does not write down what is said"):
        cutaway.load(make(tmp_path_factory.mktemp("llama"))).run(sound=SHORT)


# ------------------------------------------------------------------ the command


def test_the_command_prints_what_python_says(whisper, tmp_path, capsys):
    from cutaway.cli import call

    folder = whisper(1)
    talk = tmp_path / "talk.wav"
    talk.write_bytes(file(LONG))
    expected = cutaway.load(folder).transcribe(talk, language="de", timestamps=True, temperature=0)

    def told(*words: str) -> str:
        assert call(["transcribe", str(talk), "-m", str(folder), "--language", "de", "--temperature", "0", *words]) == 0
        return capsys.readouterr().out

    assert len(told("--timestamps").splitlines()) == len(expected.segments)
    assert told("--srt").count(" --> ") == sum(bool(segment.text.strip()) for segment in expected.segments)
    said = json.loads(told("--json", "--timestamps"))
    assert (said["text"], said["language"], said["seconds"]) == (expected.text, "de", 2.5)
    assert said["segments"] == [asdict(segment) for segment in expected.segments]
    assert told()
    assert call(["transcribe", str(talk), "-m", str(folder), "--srt", "--json"]) == 2
    assert call(["transcribe", str(talk), "-m", str(folder), "--language", "tlh"]) == 2
    assert call(["transcribe", str(tmp_path / "none.wav"), "-m", str(folder)]) == 3
    (tmp_path / "talk.wav").write_bytes(b"RIFF and no sound")
    assert call(["transcribe", str(talk), "-m", str(folder)]) == 4


@pytest.mark.parametrize("to", ["int8", "int4"])
def test_quantised_it_writes_the_same_from_its_folder_twice(whisper, tmp_path, to):
    folder = whisper(**WORDS_ONLY)
    small = cutaway.load(cutaway.quantize(folder, tmp_path / "small", to))
    asked = cutaway.load(folder, quantize=to)
    heard = [model.transcribe(LONG, language="en", words=True, seed=3) for model in (small, small, asked)]
    assert heard[0].text
    assert heard[0] == heard[1] == heard[2]


def test_the_command_records_a_run_of_a_sound(whisper, tmp_path, capsys):
    from cutaway.cli import call

    folder = whisper(1)
    talk = tmp_path / "talk.wav"
    talk.write_bytes(file(SHORT))
    assert call(["run", "--sound", str(talk), "--target", "Ja", "-m", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{folder}: 6 tokens, ")
    assert lines[1].split() == ["encoder.frames", "M", "R", "10×60"]
    assert call(["explain", "encoder.conv1[3,2]", "--sound", str(talk), "--target", "Ja", "-m", str(folder)]) == 0
    assert "number 3, frame 2\n" in capsys.readouterr().out
    assert call(["names", str(folder)]) == 0
    assert "M mel bins, R frames of 10 ms, S moments of 20 ms" in capsys.readouterr().err
    assert call(["run", "--sound", str(talk)]) == 0
    assert capsys.readouterr().out.startswith("spoken: 2 tokens, ")
    assert call(["run", "text", "--sound", str(talk), "-m", str(folder)]) == 2
    assert call(["run", "text", "-m", str(folder)]) == 2


def test_a_sound_comes_from_standard_input(whisper, capsys, monkeypatch):
    from cutaway.cli import call

    folder = whisper(1)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(file(SHORT))))
    assert call(["transcribe", "-", "-m", str(folder), "--temperature", "0"]) == 0
    assert capsys.readouterr().out.rstrip("\n") == cutaway.load(folder).transcribe(SHORT, temperature=0).text
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(file(SHORT))))
    monkeypatch.setattr("cutaway.inputs.audio.LARGEST_FILE", 99)
    assert call(["transcribe", "-", "-m", str(folder)]) == 2


# ------------------------------------------------------------------ what people give it


def tone(rate: int, channels: int = 1) -> np.ndarray:
    wave = 0.3 * np.sin(np.arange(rate // 2) * 2 * np.pi * 440 / rate)
    return np.repeat(wave[:, None], channels, 1).astype(np.float32)


@pytest.mark.parametrize(
    ("sound", "code", "said"),
    [
        (file(np.zeros(8000, np.float32)), 0, "is silent from beginning to end."),
        (file(np.zeros(0, np.float32)), 2, "holds no sound: it is 0 s long. Give one that does."),
        (file(tone(8000), 8000), 0, "has 8,000 samples a second, so it holds nothing above 4,000 Hz."),
        (file(tone(48_000, 6), 48_000), 0, None),
        (file(tone(16_000, 33)), 4, "has 33 channels; at most 32 are read. Mix it down to one."),
        (file(tone(16_000))[:9000], 0, "ends early: its header says 32,080 bytes, and 9,000 are there."),
        (file(tone(16_000))[:30], 4, "cannot be decoded: "),
        (b"%PDF-1.7 and no sound at all", 4, "is no sound that can be read. Give a WAV, FLAC, MP3, Ogg or AIFF file."),
        (b"", 4, "is no sound that can be read."),
    ],
    ids=["silent", "0 s", "8 kHz", "six channels", "33 channels", "cut short", "hardly begun", "no sound", "empty"],
)
def test_one_sentence_says_what_is_the_matter_with_a_sound(whisper, tmp_path, capsys, sound, code, said):
    from cutaway.cli import call

    folder = whisper(1)
    talk = tmp_path / "talk.wav"
    talk.write_bytes(sound)
    assert call(["transcribe", str(talk), "-m", str(folder), "--language", "en", "--temperature", "0"]) == code
    lines = capsys.readouterr().err.splitlines()
    about = [line for line in lines if str(talk) in line]
    assert len(about) == (said is not None)
    assert said is None or said in " ".join(lines)
    assert code == 0 or len(lines) <= 2  # what, and what to do


@pytest.mark.parametrize(
    ("says", "what"),
    [
        ({"architectures": ["WhisperForAudioClassification"]}, "a head that Cutaway does not read yet"),
        ({"architectures": ["WhisperForCausalLM"]}, "a head that Cutaway does not read yet"),
        ({"architectures": ["WhisperEncoderModel"]}, "an encoder alone"),
        ({"model_type": "wav2vec2", "architectures": ["Wav2Vec2Model"]}, "wav2vec2"),
    ],
    ids=["classes", "decoder", "encoder", "another kind"],
)
def test_a_checkpoint_that_cannot_write_speech_down(whisper, capsys, says, what):
    from cutaway.cli import call

    folder = whisper()
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, **says}))
    assert call(["transcribe", "talk.wav", "-m", str(folder)]) == 4
    assert what in capsys.readouterr().err


def test_interrupted_what_is_printed_stays(whisper, tmp_path, capsys, monkeypatch):
    from cutaway.cli import call
    from cutaway.tasks.attempts import Writer

    folder = whisper(1)
    talk = tmp_path / "talk.wav"
    talk.write_bytes(file(LONG))
    expected = cutaway.load(folder).transcribe(talk, language="en", temperature=0, stream=True)
    first = next(expected)
    write = Writer.write

    def interrupted(self, heard, prompt, window):
        if window == 1:
            raise KeyboardInterrupt
        return write(self, heard, prompt, window)

    monkeypatch.setattr(Writer, "write", interrupted)
    asked = ["transcribe", str(talk), "-m", str(folder), "--language", "en", "--temperature", "0", "--timestamps"]
    assert call(asked) == 130
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == [f"{first.start:.2f}", f"{first.end:.2f}"]


def test_segments_come_as_they_are_written(whisper):
    model = cutaway.load(whisper(1))
    heard: list[float] = []
    under_way = model.transcribe(LONG, temperature=0, stream=True, progress=lambda so_far, _: heard.append(so_far))
    assert (heard, under_way.segments) == ([], [])
    first = next(under_way)
    assert (heard, under_way.segments[0]) == ([0.0], first)
    assert under_way.finish() == model.transcribe(LONG, temperature=0, seed=under_way.seed)
    under_way.close()
    assert next(under_way, None) is None
