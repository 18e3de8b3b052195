"""Sound files to what a speech model hears, as the reference's feature extractor prepares it.

    file --> header checked --> decoded --> channels' mean --> 16 kHz --> a window --> log-mel (M, frames), float32

Shapes: N samples, M mel bins. A file is untrusted: what its header says is looked at before anything is decoded. A
long one is decoded and resampled piece by piece, once to see that all of it can be, and again as it is heard.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from cutaway.errors import Misuse, NotFound, Refused
from cutaway.families.config import Config, inside, read_json
from cutaway.model import spec

from .guard import first_line

RATE = 16_000  # samples a second that every Whisper hears
HOP, WINDOW = 160, 400  # samples: 10 and 25 ms
LONGEST = 4 * 3600  # seconds
KEPT = 600 * RATE  # samples: of a longer sound no more is held than is being heard
BLOCK = 2**22  # numbers decoded at once
LARGEST_FILE = 2**30  # bytes, of one that is not on disk
MOST_CHANNELS = 32
SLOWEST, FASTEST = 1_000, 768_000  # samples a second of a file
FILE = "preprocessor_config.json"
LARGEST_CONFIG = 4 * 2**20  # bytes; files before 2023 hold the mel filters, about 200 kB
_BEGINNINGS = (b"RIFF", b"RF64", b"fLaC", b"OggS", b"ID3", b"FORM", b"\xff\xf1", b"\xff\xfb", b"\xff\xf3", b"\xff\xfa")
_ORDERS: dict[bytes, Literal["little", "big"]] = {b"RIFF": "little", b"FORM": "big"}  # of a size's bytes
_UNKNOWN = 2**62  # frames: what a decoder says of a file whose header does not say
_CROSSINGS, _BETA, _PASS = 32, 10.0, 0.94  # of the resampler: half its length, its window, the band it keeps

Samples = np.ndarray[Any, np.dtype[np.float32]]
Source = str | os.PathLike[str] | bytes | np.ndarray[Any, Any]
"""A path, the content of a file, or samples: one channel, 16,000 a second, between -1 and 1."""
Again = Callable[[], io.BufferedReader | io.BytesIO]  # opens the file from its beginning


class Streamed:
    """A long sound, ``length`` samples of it, decoded as it is heard. A slice [a:b] reads on and holds what comes from
    a on; one that begins earlier decodes from the beginning again."""

    def __init__(self, blocks: Callable[[], Iterator[Samples]], length: int) -> None:
        self._decode, self._length = blocks, length
        self._blocks, self._held, self._begin = blocks(), np.zeros(0, np.float32), 0

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, part: slice) -> Samples:
        first, end, _ = part.indices(self._length)
        if first < self._begin:
            self._blocks, self._held, self._begin = self._decode(), self._held[:0], 0
        while self._begin + len(self._held) < end and (block := next(self._blocks, None)) is not None:
            past = max(0, min(first - self._begin, len(self._held)))
            self._held, self._begin = np.concatenate([self._held[past:], block]), self._begin + past
        return self._held[first - self._begin : end - self._begin]


Sound = Samples | Streamed


# --- opening -----------------------------------------------------------------------------------------------------


def open(source: Source) -> tuple[Sound, list[str]]:
    """(N,), one channel at 16 kHz, and a sentence for each thing a listener should know of the file.

    Raises NotFound where there is no file, Misuse for what is no file or holds no sound, Refused for one that is too
    long, damaged or no sound.
    """
    if isinstance(source, np.ndarray):
        return _checked(source), []
    if isinstance(source, bytes):
        return _opened(lambda: io.BytesIO(source), "The sound")
    path = Path(source)
    if path.is_dir():
        raise Misuse(f"{path} is a folder.", "Name a sound file.")
    if not path.is_file():
        raise NotFound(f"There is no file {path}.", "Name a sound file.")
    return _opened(lambda: path.open("rb"), str(path))


def _checked(samples: np.ndarray[Any, Any]) -> Samples:
    if samples.ndim != 1 or samples.dtype.kind != "f" or not len(samples) or not np.isfinite(samples).all():
        raise Misuse(
            f"An array of shape {samples.shape} and dtype {samples.dtype} is no sound.",
            "Give one channel of finite floats between -1 and 1, 16,000 a second.",
        )
    return samples.astype(np.float32)


def _opened(again: Again, name: str) -> tuple[Sound, list[str]]:
    with _sound(again, name) as opened:
        rate, stated = opened.samplerate, opened.frames / opened.samplerate
    kept: list[Samples] = []
    length, silent = 0, True
    for block in _decoded(again, name):
        length, silent = length + len(block), silent and not block.any()
        kept = [*kept, block] if length <= KEPT else []
    if not length:
        raise Misuse(f"{name} holds no sound: it is 0 s long.", "Give one that does.")
    sound = np.concatenate(kept) if length <= KEPT else Streamed(lambda: _decoded(again, name), length)
    return sound, [*_cut_short(again, name), *_remarks(name, length / RATE, silent, rate, stated)]


def _cut_short(again: Again, name: str) -> Iterator[str]:
    """A sentence where a WAV or AIFF file has fewer bytes than its header says; what is there passes for the whole."""
    with again() as file:
        kind, size = file.read(4), file.read(4)
        there = file.seek(0, io.SEEK_END)
    said = 8 + int.from_bytes(size, _ORDERS[kind]) if kind in _ORDERS else 0
    if there + 8 < said < 2**32:  # some count the header too; the largest number is a length that was not known
        yield f"{name} ends early: its header says {said:,} bytes, and {there:,} are there."


def _decoded(again: Again, name: str) -> Iterator[Samples]:
    """The file from its beginning, at 16 kHz, piece by piece."""
    with _sound(again, name) as opened:
        yield from _resampled(_blocks(opened, name), opened.samplerate)


@contextlib.contextmanager
def _sound(again: Again, name: str) -> Iterator[Any]:
    """The file, opened by soundfile once its header has been looked at; what fails is Refused."""
    import soundfile  # here, so that all else works where there is no libsndfile

    with again() as file:
        beginning = file.read(4)
        file.seek(0)
        if not beginning.startswith(_BEGINNINGS):
            raise Refused(f"{name} is no sound that can be read.", "Give a WAV, FLAC, MP3, Ogg or AIFF file.")
        # Without the file's name, by which soundfile would guess what is in it.
        nameless = SimpleNamespace(read=file.read, readinto=file.readinto, seek=file.seek, tell=file.tell)
        try:
            with soundfile.SoundFile(nameless) as opened:
                _check_header(name, opened.samplerate, opened.channels, opened.frames)
                yield opened
        except (soundfile.SoundFileError, RuntimeError) as error:  # also over a file that ends too early, or is damaged
            raise Refused(
                f"{name} cannot be decoded: {first_line(error)}.", "It may be cut short; fetch it again."
            ) from None


def _check_header(name: str, rate: int, channels: int, frames: int) -> None:
    if not SLOWEST <= rate <= FASTEST:
        raise Refused(
            f"{name} has {rate:,} samples a second; read are {SLOWEST:,} to {FASTEST:,}.", "Convert it to 16,000."
        )
    if channels > MOST_CHANNELS:
        raise Refused(f"{name} has {channels} channels; at most {MOST_CHANNELS} are read.", "Mix it down to one.")
    if frames < _UNKNOWN and frames > LONGEST * rate:
        raise _too_long(name)


def _too_long(name: str) -> Refused:
    return Refused(f"{name} is longer than {LONGEST // 3600} hours.", "Cut it into parts.")


def _blocks(opened: Any, name: str) -> Iterator[Samples]:
    """The mean of the channels (N,), ten seconds at a time, or less of many channels."""
    heard = 0
    at_once = min(10 * opened.samplerate, BLOCK // opened.channels)
    for block in opened.blocks(at_once, dtype="float32", always_2d=True):
        heard += len(block)
        if heard > LONGEST * opened.samplerate:
            raise _too_long(name)
        if not np.isfinite(block).all():
            raise Refused(f"{name} holds samples that are no finite numbers.", "Fetch or export it again.")
        yield block.mean(1)


def _remarks(name: str, seconds: float, silent: bool, rate: int, stated: float) -> Iterator[str]:
    if stated < LONGEST and seconds < 0.99 * stated:
        yield f"{name} ends early: its header says {stated:.1f} s, and {seconds:.1f} s are there."
    if silent:
        yield f"{name} is silent from beginning to end."
    if rate < RATE:
        yield f"{name} has {rate:,} samples a second, so it holds nothing above {rate / 2:,.0f} Hz."


# --- resampling --------------------------------------------------------------------------------------------------


def _resampled(blocks: Iterator[Samples], rate: int) -> Iterator[Samples]:
    """Blocks at ``rate`` as blocks at 16 kHz, as many seconds of them."""
    if rate == RATE:
        yield np.zeros(0, np.float32)
        yield from blocks
        return
    resampler, read = _Resampler(rate), 0
    for block in blocks:
        read += len(block)
        resampler.hold(block)
        yield from resampler.made()
    resampler.hold(np.zeros(resampler.reach + 1, np.float32))
    yield from resampler.made(math.ceil(read * RATE / rate))
    yield np.zeros(0, np.float32)


class _Resampler:
    """A sinc under a Kaiser window, cut off below half the lower of two rates.

    Sample n stands at n * rate / 16,000 of the input. It is a sum over the inputs around it, whose weights depend on
    the fraction only, and so repeat after some samples (Smith, Digital Audio Resampling, 2002). ``reach``: how many
    inputs there are on either side.
    """

    def __init__(self, rate: int) -> None:
        band = _PASS * min(1.0, RATE / rate)  # of half the input's rate
        self.rate, self.reach = rate, math.ceil(_CROSSINGS / band)
        phases = RATE // math.gcd(rate, RATE)
        fractions = np.arange(phases) * rate % RATE / RATE
        distance = np.arange(-self.reach, self.reach + 1) - fractions[:, None]  # (phases, taps)
        window = np.i0(_BETA * np.sqrt(np.maximum(0, 1 - (distance / (self.reach + 1)) ** 2))) / np.i0(_BETA)
        self._weights = (band * np.sinc(band * distance) * window).astype(np.float32)
        self._held = np.zeros(self.reach, np.float32)
        self._begin, self._next = -self.reach, 0  # where ``_held`` begins in the input, and the next sample to make

    def hold(self, block: Samples) -> None:
        self._held = np.concatenate([self._held, block])

    def made(self, end: int | None = None) -> Iterator[Samples]:
        """Every sample before ``end``, and whose inputs are all there, that was not made before; a second a time."""
        there = (self._begin + len(self._held) - self.reach - 1) * RATE // self.rate + 1
        end = there if end is None else min(there, end)
        windows = sliding_window_view(self._held, 2 * self.reach + 1) if end > self._next else None
        while windows is not None and self._next < end:
            n = np.arange(self._next, min(end, self._next + RATE))
            first = n * self.rate // RATE - self.reach - self._begin
            yield np.einsum("nt,nt->n", windows[first], self._weights[n % len(self._weights)])
            self._next += len(n)
        past = max(0, self._next * self.rate // RATE - self.reach - self._begin)
        self._held, self._begin = self._held[past:], self._begin + past


# --- log-mel -----------------------------------------------------------------------------------------------------


def log_mel(samples: Sound, bins: int, frames: int, first: int = 0, loudest: float | None = None) -> Tensor:
    """(M, frames), float32: ``frames`` * 10 ms of ``samples`` (N,) from frame ``first`` on, and silence behind them.

    The power of 25 ms under a Hann window, every 10 ms; in ``bins`` triangles; log10, nothing more than 8 below the
    ``loudest``, else below the loudest of these frames; (x + 4) / 4 (Radford et al. 2022).
    """
    levels = _levels(samples, bins, first, frames)
    most = float(levels.max()) if loudest is None else loudest
    return ((levels.clamp(min=most - 8) + 4) / 4).float()


def loudest(samples: Sound, bins: int, frames: int) -> float:
    """The highest level, log10 of a power, that any frame of ``samples`` (N,) has; ``frames`` are looked at at once."""
    starts = range(0, math.ceil(len(samples) / HOP), frames)
    return max(float(_levels(samples, bins, first, frames).max()) for first in starts)


def _levels(samples: Sound, bins: int, first: int, frames: int) -> Tensor:
    """(M, frames), float64: log10 of the power; the sound is mirrored at its beginning, and silence behind its end."""
    begin, count = first * HOP - WINDOW // 2, (frames - 1) * HOP + WINDOW
    before = max(0, -begin)
    heard = torch.zeros(count, dtype=torch.float64)
    its = torch.from_numpy(samples[max(0, begin) : max(0, begin + count)])
    heard[before : before + len(its)] = its
    heard[:before] = heard[before + 1 : 2 * before + 1].flip(0)
    window = torch.hann_window(WINDOW, dtype=torch.float64)
    spectrum = torch.stft(heard, WINDOW, HOP, window=window, center=False, return_complex=True)  # (201, frames)
    return (mel_filters(bins) @ spectrum.abs() ** 2).clamp(min=1e-10).log10()


def mel_filters(bins: int) -> Tensor:
    """(M, 201): triangles of equal area, equally wide on Slaney's mel scale, from 0 to 8,000 Hz."""
    hertz = torch.linspace(0, RATE / 2, WINDOW // 2 + 1, dtype=torch.float64)
    corners = _hertz(torch.linspace(0, _mel(RATE / 2), bins + 2, dtype=torch.float64))  # (M + 2)
    rising = (hertz - corners[:-2, None]) / corners.diff()[:-1, None]
    falling = (corners[2:, None] - hertz) / corners.diff()[1:, None]
    return torch.minimum(rising, falling).clamp(min=0) * (2 / (corners[2:] - corners[:-2]))[:, None]


_KNEE, _STEP = 15.0, math.log(6.4) / 27  # linear to 1,000 Hz, which is 15 mel; then a factor of 6.4 in 27 mel


def _mel(hertz: float) -> float:
    return _KNEE + math.log(hertz / 1000) / _STEP if hertz > 1000 else hertz * _KNEE / 1000


def _hertz(mel: Tensor) -> Tensor:
    return torch.where(mel > _KNEE, 1000 * torch.exp(_STEP * (mel - _KNEE)), mel * 1000 / _KNEE)


def check_preparation(folder: Path, stem: spec.Mel) -> list[str]:
    """A sentence for each thing of preprocessor_config.json that nobody here understands.

    Raises Refused for a sound that is prepared in another way than ``log_mel`` does it for this stem.
    """
    path = inside(folder, FILE)
    if not path.is_file():
        return []
    c = Config(read_json(path, LARGEST_CONFIG), file=FILE)
    c.only("feature_extractor_type", "WhisperFeatureExtractor")
    c.only("feature_size", stem.bins)
    c.only("sampling_rate", RATE)
    c.only("hop_length", HOP)
    c.only("n_fft", WINDOW)
    c.only("dither", 0.0, 0)
    c.only("padding_value", 0.0, 0)
    c.only("padding_side", "right")
    c.only("do_normalize", False)
    frames = 2 * stem.length
    c.only("nb_max_frames", frames)
    c.only("n_samples", frames * HOP)
    if c.integer("chunk_length", None) not in (None, frames * HOP / RATE):
        c.only("chunk_length")
    c.ignore("mel_filters", "processor_class", "return_attention_mask")
    return c.warnings()
