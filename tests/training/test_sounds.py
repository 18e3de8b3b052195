"""Learning from recordings: the archive, how words are said, what is to be written, and what is left in the end."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import cutaway
from cutaway import cli
from cutaway.errors import Failed, Misuse, NotFound, Refused
from cutaway.families import checkpoint
from cutaway.inputs import audio
from cutaway.training import sounds, state, train
from cutaway.training.recipe import Sounds, resolve
from cutaway.training.recordings import Recording, recordings
from cutaway.training.saying import Said, at_speed, changed, disturbed, grown, level, noise, say

WINDOW = 16_000
RECIPE = """
task = "transcribe"
data = "{data}"
run = "{run}"
threads = 1
batch = 8
steps = 20
warmup = 10
lr = 5e-3
log_every = 5
save_every = 10
validate_every = 10
validate_windows = 4

[[sources]]
format = "spoken"
train = "said.tar.gz"

[sounds]
test_below = 2
valid_below = 3
most = 2
grow = 50
timed = 0.3
none = 0.1
pause = 0.1
speed = 0.1
noise = 0.5
above = 0.5
tilt = 0.3
quiet = 20.0
uneven = 3.0
warp = 0.05
hidden = 2

[sounds.words]
0 = "low"
1 = "high"

[model]
model_type = "whisper"
architectures = ["WhisperForConditionalGeneration"]
is_encoder_decoder = true
num_mel_bins = 10
max_source_positions = 50
max_target_positions = 12
d_model = 24
encoder_layers = 1
encoder_attention_heads = 2
encoder_ffn_dim = 32
decoder_layers = 1
decoder_attention_heads = 2
decoder_ffn_dim = 32
init_std = 0.05
"""


def tone(hertz: float, seconds: float = 0.2, rate: int = 8000) -> np.ndarray:
    at = np.arange(int(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * hertz * at)).astype(np.float32)


def wav(samples: np.ndarray, rate: int = 8000) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, samples, rate, format="WAV")
    return content.getvalue()


def pack(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., str]:
    """Two words, a low tone and a high one, said by two voices six times each."""
    random = np.random.default_rng(0)
    files = {}
    for label, hertz in (("0", 300), ("1", 1500)):
        for speaker, pitch in (("ann", 1.1), ("bob", 0.9)):
            for index in range(6):
                its = tone(hertz * pitch * random.uniform(0.95, 1.05), random.uniform(0.15, 0.25))
                files[f"said/{label}_{speaker}_{index}.wav"] = wav(its)
    pack(tmp_path / "said.tar.gz", {**dict(reversed(files.items())), "said/README.md": b"two words"})

    def write(run: str = "run", text: str = RECIPE) -> str:
        path = tmp_path / f"{run}.toml"
        path.write_text(text.format(data=tmp_path.as_posix(), run=(tmp_path / run).as_posix()))
        return str(path)

    return write


@pytest.fixture
def learned(recipe: Callable[..., str], tmp_path: Path) -> sounds.Transcribe:
    return sounds.Transcribe(resolve(recipe()), tmp_path / "prepared")


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def random(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def test_training_tells_tones_apart_and_leaves_a_model_that_transcribes(recipe: Callable[..., str]) -> None:
    result = train(recipe(), ["steps=250", "validate_every=100"])
    assert result.measured["accuracy"]["test"] == 1
    assert result.measured["accuracy_of_several"]["test"] >= 0.3
    assert result.confusion == [[4, 0], [0, 4]]
    assert (result.seen, result.unit) == (2000, "sounds")
    assert {path.name for path in result.model.iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json",
        "special_tokens_map.json", "tokenizer_config.json",
    }  # fmt: skip
    assert checkpoint.open(result.model, strict=True).config["dtype"] == "float32"
    model = cutaway.load(result.model)
    assert model.transcribe(wav(tone(300))).text == "low"
    assert model.transcribe(wav(tone(1500))).text == "high"
    timed = model.transcribe(wav(tone(1500)), timestamps=True).segments
    assert all(0 <= segment.start <= segment.end <= 0.2 for segment in timed)
    silent = np.zeros(4000, np.float32)
    assert len(model.transcribe(np.concatenate([tone(300, rate=16_000), silent] * 4)).segments) > 1  # several windows


def test_a_stopped_run_goes_on_to_the_same_weights(recipe: Callable[..., str], stopped: Callable[..., None]) -> None:
    whole = train(recipe("whole"))
    stopped(lambda: train(recipe("broken")), at=7)
    broken = train(recipe("broken"))
    one, two = (run.run / "checkpoints/step-00000020" / state.TENSORS for run in (whole, broken))
    assert one.read_bytes() == two.read_bytes()
    assert broken.measured == whole.measured


def test_a_batch_depends_on_seed_and_step_alone(learned: sounds.Transcribe) -> None:
    made = [learned._made(which[1], sounds._random(*which)) for which in ((1, 5), (1, 5), (1, 6), (2, 5))]
    heard = [learned._heard(said) for said, _ in made]
    assert torch.equal(heard[0], heard[1])
    assert made[0][1] == made[1][1]
    assert not torch.equal(heard[0], heard[2])
    assert not torch.equal(heard[0], heard[3])


def test_a_step_that_is_not_finite_names_its_sounds(
    recipe: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = sounds.Transcribe.loss
    poisoned = lambda self, model, step: original(self, model, step) * (float("nan") if step == 3 else 1)  # noqa: E731
    monkeypatch.setattr(sounds.Transcribe, "loss", poisoned)
    with pytest.raises(Failed, match=r"step 3.*, sounds of \[.*(low|high)"):
        train(recipe())


# --- what is to be written ---------------------------------------------------------------------------------------


def test_what_is_written_of_a_sound(learned: sounds.Transcribe) -> None:
    silence = np.zeros(WINDOW, np.float32)
    two = Said(silence, [(320, 3200, "low"), (3500, 6400, "high")])
    named = learned.tokenizer.pieces

    def written(said: Said, timed: bool) -> tuple[list[str], int]:
        ids, told = learned.target(said, timed)
        return [piece.text for piece in named(ids)], told

    start, untimed, end = "<|startoftranscript|>", "<|notimestamps|>", "<|endoftext|>"
    assert written(two, False) == ([start, untimed, "␣low", "␣high", end], 2)
    times = "<|0.02|>", "<|0.20|>", "<|0.22|>", "<|0.40|>"
    assert written(two, True) == ([start, times[0], "␣low", *times[1:3], "␣high", times[3], end], 1)
    cut = written(replace(two, cut=12_800), True)[0]
    assert cut[-3:] == ["<|0.40|>", "<|0.80|>", end]
    assert written(Said(silence, []), False) == ([start, untimed, end], 2)
    assert written(Said(silence, []), True) == ([start, "<|0.00|>", end], 1)


def test_what_is_told_beforehand_and_what_fills_up_costs_nothing(learned: sounds.Transcribe) -> None:
    sure = torch.nn.Module()
    size = learned.config["vocab_size"]
    sure.forward = lambda heard, ids: torch.zeros(*ids.shape, size)  # type: ignore[assignment]
    targets = [([1, 2, 3], 2), ([1, 2, 3, 4, 5], 1)]
    nats = learned._loss(sure, torch.zeros(2, 10, 100), targets, "sum")
    assert nats.item() == pytest.approx(5 * np.log(size), rel=1e-5)


def test_the_table_counts_what_was_taken_for_what(
    learned: sounds.Transcribe, monkeypatch: pytest.MonkeyPatch, recipe: Callable[..., str]
) -> None:
    answers = iter(["high", "low", "low low", ""] + ["high"] * 3 + ["low"] + [""] * 16)
    monkeypatch.setattr(sounds.Transcribe, "written", lambda self, model, samples: next(answers))
    machine = sounds.Seq2Seq(sounds.describe(learned.config)[1])  # type: ignore[arg-type]
    measures, table = learned._measures("test", machine)
    assert table == [[1, 1], [1, 3]]
    assert measures["accuracy"] == 4 / 8
    assert measures["accuracy_of_several"] == 0


# --- how words are said ------------------------------------------------------------------------------------------

VOICE = [
    Recording(word, "ann", i, tone(hertz, 0.2, 16_000))
    for i, (word, hertz) in enumerate((("low", 300), ("high", 1500)))
]


def test_words_stand_where_they_are_said_to_stand() -> None:
    how, counts = Sounds(most=3, alone=0.3, none=0.1, pause=0.2, speed=0.1, uneven=3.0), set()
    for seed in range(200):
        said = say(VOICE, how, WINDOW, random(seed), timed=bool(seed % 2))
        counts.add(len(said.words))
        assert 1 <= len(said.samples) <= WINDOW
        spoken = np.zeros(len(said.samples), bool)
        ends = 0
        for begin, end, _ in said.words:
            assert ends <= begin < end <= len(said.samples)
            assert 2880 <= end - begin <= 3520
            assert said.samples[begin:end].std() == pytest.approx(1, rel=0.45)
            spoken[begin:end], ends = True, end
        if said.cut is None:
            assert not said.samples[~spoken].any()
        else:
            assert seed % 2
            assert ends <= said.cut < WINDOW == len(said.samples)
    assert counts == {0, 1, 2, 3}


def test_what_is_done_to_sounds_grows() -> None:
    how = Sounds(most=4, grow=100, timed=0.4, speed=0.2, uneven=4.0, quiet=40.0, noise=0.6, warp=0.1, hidden=8)
    first, half, last = (grown(how, step) for step in (0, 50, 100))
    assert (first.most, first.timed, first.quiet, first.hidden) == (1, 0, 0, 0)
    assert (half.most, half.timed, half.quiet, half.hidden) == (3, 0.2, 20.0, 4)
    assert last == how
    assert grown(replace(how, grow=0), 0).most == 4


def test_a_word_that_the_window_cuts_off() -> None:
    how = Sounds(most=9, alone=0.0, pause=0.1, at_once=1.0)
    timed, untimed = ([say(VOICE, how, WINDOW, random(seed), kind) for seed in range(20)] for kind in (True, False))
    cut = [said for said in timed if said.cut is not None]
    assert len(cut) > 5
    assert all(said.words[-1][1] <= said.cut and said.samples[said.cut :].any() for said in cut)
    assert all(said.cut is None and said.words for said in untimed)


def test_speed_level_and_noise() -> None:
    its = tone(500, 0.5, 16_000)
    for speed in (0.8, 1.25):
        faster = at_speed(its, speed)
        assert len(faster) == pytest.approx(len(its) / speed, abs=160)
        loudest = np.abs(np.fft.rfft(faster)).argmax() / len(faster) * 16_000
        assert loudest == pytest.approx(500 * speed, rel=0.03)
        assert faster.std() == pytest.approx(its.std(), rel=0.02)
    assert at_speed(its, 1.0) is its
    assert len(at_speed(its[:5], 1.1)) == 320
    assert level(its, 6.0).std() == pytest.approx(10 ** (6 / 20), rel=1e-3)
    assert not level(np.zeros(5, np.float32), 6.0).any()
    assert np.mean(noise(16_000, random()) ** 2) == pytest.approx(1, abs=1e-3)


def test_what_is_disturbed_in_a_sound() -> None:
    said = Said(tone(1000, 0.5, 16_000), [(0, 8000, "low")])
    plain = disturbed(said, Sounds(), random()).samples
    np.testing.assert_allclose(plain, said.samples / np.abs(said.samples).max(), atol=1e-6)
    power = np.abs(np.fft.rfft(disturbed(said, Sounds(above=1.0), random(1)).samples))
    assert power.argmax() == 500  # 1,000 Hz, and its mirror image
    assert power[2000:].argmax() == 1500
    assert power[3500] > 0.01 * power[500]
    levels = [np.abs(disturbed(said, Sounds(quiet=40.0), random(seed)).samples).max() for seed in range(30)]
    assert 0.01 <= min(levels) < 0.05 < 0.5 < max(levels) <= 1
    loud = disturbed(said, Sounds(noise=1.0), random()).samples
    assert loud.dtype == np.float32
    assert np.abs(loud - plain).max() > 1e-3


def test_what_is_changed_in_what_is_heard() -> None:
    heard = torch.zeros(40, 20, 5)
    heard[:, 10] = 1  # one frequency sounds
    assert torch.equal(changed(heard, Sounds(), random()), heard)
    places = changed(heard, Sounds(warp=0.2), random())[:, :, 0].argmax(1)
    assert places.min() <= 9
    assert places.max() >= 11
    hidden = changed(heard + 1, Sounds(hidden=8), random())
    assert hidden.amin() == 1
    assert 0 < (hidden[:, 10, 0] == 1).float().mean() < 0.6


# --- files -------------------------------------------------------------------------------------------------------


def test_what_is_in_an_archive(recipe: Callable[..., str], tmp_path: Path) -> None:
    recipe()
    its = recordings(tmp_path / "said.tar.gz", {"0": "low"})
    assert [(one.word, one.speaker, one.index) for one in its[:3]] == [("low", "ann", i) for i in range(3)]
    assert {one.word for one in its} == {"low", "1"}
    with tarfile.open(tmp_path / "said.tar.gz") as archive:
        content = archive.extractfile("said/0_ann_2.wav").read()  # type: ignore[union-attr]
    assert np.array_equal(its[2].samples, audio.open(content)[0])


def test_splits_do_not_overlap(learned: sounds.Transcribe, recipe: Callable[..., str]) -> None:
    indices = {split: {its.index for its in some} for split, some in learned.splits.items()}
    assert indices == {"train": {3, 4, 5}, "valid": {2}, "test": {0, 1}}
    without = sounds.read(resolve(recipe(), ["sounds.leave_out=bob"]))
    assert {split: len(some) for split, some in without.items()} == {"train": 6, "valid": 2, "test": 12}
    assert {its.speaker for its in without["test"]} == {"bob"}
    assert {its.speaker for its in without["train"] + without["valid"]} == {"ann"}


def test_archives_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "x.tar.gz"
    with pytest.raises(NotFound, match="data="):
        recordings(path, {})
    pack(path, {"0_ann_0.txt": b"no sound"})
    with pytest.raises(Refused, match="holds no recordings"):
        recordings(path, {})
    pack(path, {"0_ann_0.wav": b"RIFF, but no more"})
    with pytest.raises(Refused, match="cannot be decoded"):
        recordings(path, {})
    pack(path, {"0_ann_0.wav": wav(tone(300))})
    whole = path.read_bytes()
    for damaged in (b"", b"no archive", whole[: len(whole) // 2], whole[:40] + b"\xff" * 400 + whole[440:]):
        path.write_bytes(damaged)
        with pytest.raises(Refused, match=r"damaged|decoded"):
            recordings(path, {})


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("sources=[]", "none to validate on"),
        ("sounds.valid_below=0", "none to validate on"),
        ("sounds.test_below=9", "no recordings to train on"),
        ("sounds.leave_out=eve", "no recording of a speaker eve"),
        ("sounds.most=0", "sounds.most must be at least 1"),
        ("sounds.most=4", "need 15 positions, the decoder has 12"),
        ("sounds.noise=2", "sounds.noise must be from 0 to 1"),
        ("sounds.speed=1", "sounds.speed must be at least 0 and below 1"),
        ("sounds.quiet=-1", "sounds.quiet must be at least 0"),
        ("sounds.words={0 = 1}", "sounds.words must be a table of words"),
        ("sounds.echo=1", "No recipe has a key sounds.echo"),
        ("model={model_type = 'gpt2', n_embd = 8, n_head = 1, n_layer = 1, n_positions = 9}", "no model that hears"),
    ],
)
def test_mistakes_are_named(recipe: Callable[..., str], override: str, says: str) -> None:
    with pytest.raises(Misuse, match=says):
        train(recipe(), [override])


def test_transformers_writes_what_the_exported_model_writes(recipe: Callable[..., str]) -> None:
    transformers = pytest.importorskip("transformers", reason="compares with transformers, which is not installed")
    result = train(recipe())
    theirs = transformers.WhisperForConditionalGeneration.from_pretrained(result.model, dtype="float32").eval()
    processor = transformers.WhisperProcessor.from_pretrained(result.model)
    samples = np.concatenate([tone(300, rate=16_000), tone(1500, rate=16_000)])
    heard = processor(samples, sampling_rate=16_000, return_tensors="pt").input_features
    ours = audio.log_mel(samples, 10, 100)[None]
    assert (heard - ours).abs().max() < 1e-4
    ids = torch.tensor([processor.tokenizer(" low high").input_ids])
    with torch.no_grad():
        reference = theirs(ours, decoder_input_ids=ids).logits
        logits = checkpoint.open(result.model).load()(ours, ids)
        assert (logits - reference).abs().max() <= 1e-5 * reference.abs().max()
        written = theirs.generate(ours, return_timestamps=False)
    text = processor.batch_decode(written, skip_special_tokens=True)[0].strip()
    assert cutaway.load(result.model).transcribe(samples, temperature=0).text == text


def test_the_command_prints_what_was_measured_and_the_table(
    recipe: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.call(["train", recipe(), "steps=2"]) == 0
    model, valid, test, _, title, columns, *rows = capsys.readouterr().out.splitlines()
    assert model.endswith("parameters, 2 steps, 16 sounds")
    assert [line.split(":")[0] for line in (valid, test)] == ["valid", "test"]
    assert "sounds of the test" in title
    assert columns.split() == ["low", "high"]
    assert cli.call(["train", recipe(), "steps=2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [[int(word) for word in row.split()[1:]] for row in rows[:2]] == told["confusion"]
    assert told["sounds"] == 16
