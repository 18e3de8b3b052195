"""Sounds to learn from: recordings of one voice in a row, as another microphone in another room might have heard them.

Shapes: N samples, B sounds, M mel bins, F frames of 10 ms.

    recordings -- say --> a sound (N,) -- disturbed --> (N,) ... log-mel (B, M, F) -- changed --> (B, M, F)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cutaway.inputs.audio import RATE, Samples
from cutaway.training.recipe import Sounds
from cutaway.training.recordings import Recording

PIECE = 320  # samples: 20 ms
CHANGES = ("timed", "speed", "uneven", "quiet", "tilt", "above", "noise", "warp")  # which grow in proportion


@dataclass(frozen=True)
class Said:
    """Words in a sound (N,), each with the samples it begins and ends at. ``cut``: where one begins that the end of the
    window cuts off."""

    samples: Samples
    words: list[tuple[int, int, str]]
    cut: int | None = None

    @property
    def text(self) -> str:
        return " ".join(word for _, _, word in self.words)


def grown(how: Sounds, step: int) -> Sounds:
    """What is done to sounds at a step: at first to single words, and little; all of it from ``how.grow`` on. Whoever
    cannot yet tell words apart learns nothing from several of them in noise."""
    if step >= how.grow:
        return how
    share = step / how.grow
    changes = {name: getattr(how, name) * share for name in CHANGES}
    return replace(how, most=1 + int(how.most * share), hidden=int(how.hidden * share), **changes)


def say(voice: Sequence[Recording], how: Sounds, window: int, random: np.random.Generator, timed: bool) -> Said:
    """Some recordings of one voice one after another, all at one speed, with pauses between, somewhere in a window.

    What does not fit is left out; but with times one may begin that the end of the window cuts off, as in any sound
    that is longer than a window.
    """
    speed = 1 + random.uniform(-how.speed, how.speed)
    samples = np.zeros(window, np.float32)
    words: list[tuple[int, int, str]] = []
    place = 0 if random.random() < how.at_once else _up_to(RATE * how.pause, random)
    for _ in range(_count(how, random)):
        its = voice[int(random.integers(len(voice)))]
        sound = level(at_speed(its.samples, speed), random.uniform(-how.uneven, how.uneven))
        end = place + len(sound)
        if end > window:
            if timed and place < window:
                samples[place:] = sound[: window - place]
                return Said(samples, words, cut=place)
            break
        samples[place:end] = sound
        words.append((place, end, its.word))
        place = end + _up_to(RATE * how.pause, random)
    end = words[-1][1] if words else 0
    later = 0 if random.random() < how.at_once else _up_to(window - end, random)
    end += later
    silence = 0 if words and random.random() < how.at_once else _up_to(window - end, random)
    moved = np.concatenate([np.zeros(later, np.float32), samples])[: max(1, end + silence)]
    return Said(moved, [(begin + later, stop + later, word) for begin, stop, word in words])


def _up_to(most: float, random: np.random.Generator) -> int:
    return int(random.integers(1 + int(most)))


def _count(how: Sounds, random: np.random.Generator) -> int:
    """How many words are said."""
    kind = random.random()
    if kind < how.none:
        return 0
    return 1 if how.most == 1 or kind < how.none + how.alone else int(random.integers(2, how.most + 1))


def at_speed(samples: Samples, speed: float) -> Samples:
    """A sound (N,) as when its tape runs about so much faster: shorter and higher, or longer and lower; in whole pieces
    of 20 ms, since spectra of such lengths are quick to make."""
    if speed == 1:
        return samples
    before = math.ceil(len(samples) / PIECE)
    after = max(1, round(before / speed))
    spectrum = np.fft.rfft(samples, before * PIECE)[: after * PIECE // 2 + 1]
    return np.fft.irfft(spectrum, after * PIECE).astype(np.float32) * np.float32(after / before)


def level(samples: Samples, decibels: float) -> Samples:
    """A sound of mean power one, changed by ``decibels``; silence stays silent."""
    loudness = float(np.sqrt(np.mean(samples**2)))
    return samples * np.float32(10 ** (decibels / 20) / loudness if loudness else 0)


def disturbed(said: Said, how: Sounds, random: np.random.Generator) -> Said:
    """As other microphones and rooms would have it: duller or sharper, with something above 4 kHz, with noise; its peak
    at one, or below that by up to ``how.quiet``."""
    samples = said.samples
    tilt, above = random.uniform(-how.tilt, how.tilt), random.uniform(0, 1) * (random.random() < how.above)
    edges = np.diff(samples, prepend=np.float32(0))
    alternating = 1 - 2 * (np.arange(len(samples)) % 2)  # mirrors the spectrum about 4 kHz
    samples = (1 + tilt) * samples - tilt * edges + above * edges * alternating
    if random.random() < how.noise:
        samples = samples + noise(len(samples), random) * 10 ** (-random.uniform(5, 45) / 20)
    peak = float(np.abs(samples).max())
    loud = 10 ** (-random.uniform(0, how.quiet) / 20)
    return replace(said, samples=(samples * (loud / peak if peak else 0)).astype(np.float32))


def noise(count: int, random: np.random.Generator) -> Samples:
    """Noise of mean power one, from white to that of which each octave has half the power of the one below."""
    whole = 2 ** math.ceil(math.log2(count))
    spectrum = np.fft.rfft(random.standard_normal(whole, np.float32))
    falling = np.maximum(1, np.arange(len(spectrum), dtype=np.float32)) ** np.float32(-random.uniform(0, 1))
    return level(np.fft.irfft(spectrum * falling, whole)[:count].astype(np.float32), 0)


def changed(heard: Tensor, how: Sounds, random: np.random.Generator) -> Tensor:
    """Log-mel (B, M, F), each with its frequencies stretched as by a longer or shorter throat (Jaitly & Hinton 2013),
    and a band of them hidden (SpecAugment, Park et al. 2019)."""
    count, bins, _ = heard.shape
    rows = torch.arange(bins) * (1 + torch.from_numpy(random.uniform(-how.warp, how.warp, (count, 1)))).float()
    below = rows.floor().clamp(max=bins - 1)
    part = (rows - below).clamp(max=1)[..., None]
    lower, upper = below.long(), (below.long() + 1).clamp(max=bins - 1)
    row = torch.arange(count)[:, None]
    stretched = heard[row, lower] * (1 - part) + heard[row, upper] * part
    wide = torch.from_numpy(random.integers(how.hidden + 1, size=(count, 1)))
    first = torch.from_numpy(random.integers(bins, size=(count, 1)))
    hidden = (torch.arange(bins) >= first) & (torch.arange(bins) < first + wide)
    return torch.where(hidden[..., None], stretched.amin((1, 2), keepdim=True), stretched)
