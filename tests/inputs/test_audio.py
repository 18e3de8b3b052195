"""Sounds as a model hears them: the reference's log-mel, files of every kind and rate, and files that are none."""

from __future__ import annotations

import io
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from cutaway.errors import CutawayError, Misuse, NotFound, Refused
from cutaway.inputs import audio
from cutaway.model import spec

ASSETS = Path(__file__).parents[3] / "shared" / "weights" / "whisper-assets"
assets = pytest.mark.skipif(not ASSETS.is_dir(), reason="Whisper's filters and clips are not beside the repository")


def tone(rate: int, hertz: float = 1000, seconds: float = 2.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def written(samples: np.ndarray, rate: int, kind: str = "WAV", subtype: str | None = "FLOAT") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


def refusal(source: object, kind: type[CutawayError] = Refused) -> str:
    with pytest.raises(kind) as caught:
        audio.open(source)
    assert type(caught.value) is kind
    assert caught.value.fix
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------ log-mel


@pytest.mark.parametrize("bins", [80, 128])
def test_log_mel_is_the_reference_s(bins):
    transformers = pytest.importorskip("transformers", reason="compares with transformers, which is not installed")
    noise = np.random.default_rng(0).normal(0, 0.1, 70_000).astype(np.float32)
    noise[20_000:30_000] *= 1e-4
    extract = transformers.WhisperFeatureExtractor(feature_size=bins)
    theirs = extract(noise, sampling_rate=16_000, return_tensors="pt").input_features[0]
    ours = audio.log_mel(noise, bins, 3000)
    assert ours.shape == (bins, 3000)
    assert float((ours - theirs).abs().max()) <= 1e-5 * float(theirs.max() - theirs.min())


@assets
@pytest.mark.parametrize("bins", [80, 128])
def test_the_filters_are_those_whisper_was_trained_with(bins):
    theirs = np.load(ASSETS / "mel_filters.npz")[f"mel_{bins}"]
    np.testing.assert_allclose(audio.mel_filters(bins).numpy(), theirs, rtol=0, atol=1e-7 * theirs.max())


@assets
def test_a_recording_is_heard_as_whisper_s_own_tools_hear_it():
    """44.1 kHz, two channels, to 16 kHz: as another resampler made it, but for the band where the two cut off."""
    samples, notes = audio.open(ASSETS / "jfk.flac")
    theirs = np.load(ASSETS / "jfk.npy").astype(np.float32).ravel()
    assert notes == []
    assert len(samples) == len(theirs)
    assert np.abs(samples - theirs).max() < 2e-3


def test_too_long_a_sound_loses_its_end_and_a_short_one_ends_in_silence():
    noise = np.random.default_rng(0).normal(0, 0.1, 5000).astype(np.float32)
    assert torch.equal(audio.log_mel(noise, 10, 20), audio.log_mel(noise[:3240], 10, 20))  # the last 25 ms end there
    behind = np.concatenate([noise[:1600], np.zeros(1600, np.float32)])
    assert torch.equal(audio.log_mel(noise[:1600], 10, 20), audio.log_mel(behind, 10, 20))


def test_windows_of_a_long_sound_are_parts_of_the_whole():
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    noise[9000:] *= 0.01
    whole, most = audio.log_mel(noise, 10, 100), audio.loudest(noise, 10, 30)
    for first in (0, 20, 62):
        window = audio.log_mel(noise, 10, 30, first, most)
        torch.testing.assert_close(window, whole[:, first : first + 30], rtol=0, atol=1e-6)
    assert float(audio.log_mel(noise, 10, 30, 90, most)[:, 12:].max()) == pytest.approx((most - 8 + 4) / 4)


# ------------------------------------------------------------------ long sounds


@pytest.mark.parametrize("rate", [16_000, 22_050])
def test_a_long_sound_is_heard_piece_by_piece_as_if_it_were_held_whole(monkeypatch, tmp_path, rate):
    content = written(np.random.default_rng(0).normal(0, 0.1, (3 * rate, 2)).astype(np.float32), rate)
    whole, notes = audio.open(content)
    monkeypatch.setattr(audio, "KEPT", 1000)
    monkeypatch.setattr(audio, "BLOCK", 5000)
    (tmp_path / "long.wav").write_bytes(content)
    for source in (content, tmp_path / "long.wav"):
        sound, same = audio.open(source)
        assert isinstance(sound, audio.Streamed)
        assert (len(sound), same) == (len(whole), notes)
        for first, end in ((0, 700), (500, 9000), (8999, 9000), (20_000, 99_999), (100, 300), (47_999, 60_000)):
            np.testing.assert_allclose(sound[first:end], whole[first:end], rtol=0, atol=1e-6)
        assert audio.loudest(sound, 10, 60) == pytest.approx(audio.loudest(whole, 10, 60))
        for first in (0, 60, 57, 290):
            theirs = audio.log_mel(whole, 10, 60, first, 1.0)
            torch.testing.assert_close(audio.log_mel(sound, 10, 60, first, 1.0), theirs, rtol=0, atol=1e-5)


def test_the_memory_a_long_sound_takes_does_not_grow_with_it(monkeypatch, tmp_path):
    """Fifteen minutes are 58 MB of samples."""
    monkeypatch.setattr(audio, "KEPT", 60 * 16_000)
    with soundfile.SoundFile(tmp_path / "long.flac", "w", 16_000, 1) as file:
        for _ in range(15):
            file.write(np.zeros(60 * 16_000, np.float32))
    tracemalloc.start()
    sound, notes = audio.open(tmp_path / "long.flac")
    for first in range(0, len(sound) // audio.HOP, 3000):
        audio.log_mel(sound, 80, 3000, first, 0.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(sound) == 15 * 60 * 16_000
    assert peak < 30e6
    assert "silent" in notes[0]


def test_a_file_that_changes_while_it_is_heard(monkeypatch, tmp_path):
    monkeypatch.setattr(audio, "KEPT", 1000)
    (tmp_path / "long.wav").write_bytes(written(tone(16_000), 16_000))
    sound, _ = audio.open(tmp_path / "long.wav")
    (tmp_path / "long.wav").write_bytes(b"no sound any more")
    with pytest.raises(Refused, match="no sound"):
        sound[:1000]


# ------------------------------------------------------------------ rates, channels, formats


@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 44_100, 44_101, 48_000, 96_000])
def test_a_tone_stays_what_it_is_at_another_rate(rate):
    samples, _ = audio.open(written(tone(rate), rate))
    assert samples.shape == (32_000,)
    assert np.abs(samples - tone(16_000))[500:-500].max() < 1e-5


@pytest.mark.parametrize("rate", [22_050, 44_100, 48_000])
def test_what_16_khz_cannot_hold_is_cut_off_and_does_not_come_back_as_another_tone(rate):
    samples, _ = audio.open(written(tone(rate, 9000), rate))
    assert np.abs(samples)[500:-500].max() < 1e-5
    samples, _ = audio.open(written(tone(rate, 7000), rate))
    assert np.abs(samples)[500:-500].max() > 0.49


def test_pieces_of_a_long_sound_join_without_a_seam():
    noise = np.random.default_rng(0).normal(0, 0.1, 100_000).astype(np.float32)
    whole = np.concatenate(list(audio._resampled(iter([noise]), 44_100)))
    for cuts in ([1, 2, 3], [50, 44_100, 44_101], range(1000, 100_000, 777)):
        pieces = np.concatenate(list(audio._resampled(iter(np.split(noise, list(cuts))), 44_100)))
        np.testing.assert_allclose(pieces, whole, rtol=0, atol=1e-7)


def test_channels_are_mixed():
    both = np.stack([tone(16_000), np.zeros(32_000, np.float32)], 1)
    np.testing.assert_allclose(audio.open(written(both, 16_000))[0], tone(16_000) / 2, atol=1e-7)


@pytest.mark.parametrize(
    ("kind", "subtype", "off"),
    [
        ("WAV", "PCM_16", 1e-4), ("FLAC", "PCM_16", 1e-4), ("AIFF", "PCM_16", 1e-4), ("OGG", "VORBIS", 0.1),
        ("MP3", None, 0.1),
    ],
)  # fmt: skip
def test_every_kind_of_file(kind, subtype, off, tmp_path):
    (tmp_path / "sound.raw").write_bytes(written(tone(16_000), 16_000, kind, subtype))  # its name says nothing
    samples, notes = audio.open(tmp_path / "sound.raw")
    assert notes == []
    assert abs(len(samples) - 32_000) < 3000  # MP3 comes in frames
    assert np.abs(samples[4000:28_000]).max() == pytest.approx(0.5, abs=off)


# ------------------------------------------------------------------ what is remarkable, and what is refused


def test_silence_and_narrow_bands_are_said():
    assert audio.open(written(np.zeros(800, np.float32), 16_000))[1] == ["The sound is silent from beginning to end."]
    (note,) = audio.open(written(tone(8000), 8000))[1]
    assert note == "The sound has 8,000 samples a second, so it holds nothing above 4,000 Hz."


def test_no_file_a_folder_and_no_sound(tmp_path):
    assert "no file" in refusal(tmp_path / "x.wav", NotFound)
    assert "is a folder" in refusal(tmp_path, Misuse)
    assert "0 s long" in refusal(written(np.zeros(0, np.float32), 16_000), Misuse)
    assert "0 s long" in refusal(written(np.zeros(0, np.float32), 44_100), Misuse)
    for content in (b"", b"x" * 1000, b"RIFF", b"fLaC" + b"\0" * 100, b"%PDF-1.7", b"\x89PNG\r\n"):
        refusal(content)


def test_a_file_cut_short():
    whole = written(np.random.default_rng(0).normal(0, 0.1, 64_000), 16_000, "FLAC", "PCM_16")
    for part in (5, 50, len(whole) // 3, len(whole) - 100):
        try:
            _, (note,) = audio.open(whole[:part])
        except Refused as error:
            note = str(error)
        assert "ends early" in note or "cannot be decoded" in note or "0 s" in note


@pytest.mark.parametrize("kind", ["WAV", "AIFF"])
def test_a_file_without_its_end_is_said_to_be_one(kind):
    whole = written(tone(16_000), 16_000, kind, "PCM_16")
    assert audio.open(whole)[1] == []
    (note,) = audio.open(whole[:20_001])[1]
    assert f"its header says {len(whole):,} bytes, and 20,001 are there" in note
    unknown = whole[:4] + b"\xff\xff\xff\xff" + whole[8:]  # as written into a pipe
    assert audio.open(unknown)[1] == []


def test_headers_are_looked_at_before_anything_is_decoded(monkeypatch):
    monkeypatch.setattr(audio, "_blocks", lambda *_: pytest.fail("decoded"))
    monkeypatch.setattr(audio, "LONGEST", 3600)
    assert "longer than 1 hours" in refusal(written(np.zeros(3_700_000, np.float32), 1000, subtype="PCM_U8"))
    assert "33 channels" in refusal(written(np.zeros((10, 33), np.float32), 16_000))
    assert "999 samples a second" in refusal(written(tone(999), 999))


def test_a_header_that_lies_about_the_length_is_found_out(monkeypatch):
    monkeypatch.setattr(audio, "LONGEST", 1)
    monkeypatch.setattr(audio, "_check_header", lambda *_: None)
    assert "longer" in refusal(written(tone(16_000, seconds=11), 16_000))


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_samples_that_are_no_numbers(number):
    samples = tone(16_000)
    samples[77] = number
    assert "no finite numbers" in refusal(written(samples, 16_000))
    assert "is no sound" in refusal(samples, Misuse)


@pytest.mark.parametrize("array", [np.zeros((2, 9)), np.zeros(0), np.zeros(9, np.int16)], ids=["2D", "empty", "ints"])
def test_arrays_that_are_no_sound(array):
    assert "is no sound" in refusal(array, Misuse)


# ------------------------------------------------------------------ preprocessor_config.json

STEM = spec.Mel(16, 80, 1500)
REFERENCE = {
    "chunk_length": 30, "feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 80, "hop_length": 160,
    "n_fft": 400, "n_samples": 480_000, "nb_max_frames": 3000, "padding_side": "right", "padding_value": 0.0,
    "processor_class": "WhisperProcessor", "return_attention_mask": False, "sampling_rate": 16_000, "dither": 0.0,
    "mel_filters": [[0.0]],
}  # fmt: skip


def test_what_the_reference_writes_is_understood(tmp_path):
    assert audio.check_preparation(tmp_path, STEM) == []
    (tmp_path / audio.FILE).write_text(json.dumps(REFERENCE))
    assert audio.check_preparation(tmp_path, STEM) == []
    (tmp_path / audio.FILE).write_text(json.dumps({**REFERENCE, "reverb": 1}))
    assert "reverb" in audio.check_preparation(tmp_path, STEM)[0]


@pytest.mark.parametrize(
    "says",
    [
        {"feature_extractor_type": "Wav2Vec2FeatureExtractor"}, {"feature_size": 128}, {"sampling_rate": 8000},
        {"hop_length": 320}, {"n_fft": 512}, {"dither": 0.1}, {"chunk_length": 15}, {"nb_max_frames": 1500},
        {"n_samples": 1}, {"padding_value": 1.0}, {"padding_side": "left"}, {"do_normalize": True},
    ],
    ids=lambda says: next(iter(says)),
)  # fmt: skip
def test_another_preparation_is_refused(says, tmp_path):
    (tmp_path / audio.FILE).write_text(json.dumps({**REFERENCE, **says}))
    with pytest.raises(Refused, match=next(iter(says))):
        audio.check_preparation(tmp_path, STEM)
