"""Speech written down (Whisper, Radford et al. 2022): a window after another is heard, and what was said is written.

    samples --> log-mel of a window --> encoder --> decoder, behind <|startoftranscript|><|en|><|transcribe|> --> text

With times, the decoder writes when a segment begins and ends; the next window begins where the last whole one ended.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields

from torch import Tensor

from ..errors import Misuse, Refused
from ..generate.loop import generate, predictor
from ..generate.manner import Speech
from ..generate.rules import Rules, Timestamps
from ..generate.sampler import Sampler
from ..inputs.audio import HOP, RATE, Samples, log_mel, loudest
from ..inputs.text import Tokenizer
from ..model import spec
from ..model.transformer import Seq2Seq
from .see import placed

STEP = 2 * HOP / RATE  # seconds between two times, as between two of the encoder's positions


@dataclass(frozen=True)
class Segment:
    """What was said from ``start`` to ``end``, in seconds; ``tokens`` with the times among them."""

    start: float
    end: float
    text: str
    tokens: list[int] = field(repr=False)


@dataclass(frozen=True)
class Transcript:
    """What was said in ``seconds`` of sound. ``language``: its code, as it was given or heard; None where the model
    has one only. ``notes`` say in sentences what the user should know."""

    text: str
    segments: list[Segment]
    language: str | None
    seconds: float
    notes: list[str] = field(default_factory=list)

    def srt(self) -> str:
        """The segments as subtitles (SubRip)."""
        numbered = enumerate((segment for segment in self.segments if segment.text.strip()), 1)
        return "\n".join(f"{i}\n{_clock(s.start)} --> {_clock(s.end)}\n{s.text.strip()}\n" for i, s in numbered)


def _clock(seconds: float) -> str:
    """3661.5 -> "01:01:01,500"."""
    whole = round(seconds * 1000)
    return f"{whole // 3600000:02}:{whole // 60000 % 60:02}:{whole // 1000 % 60:02},{whole % 1000:03}"


def transcribe(
    machine: Seq2Seq,
    samples: Samples,
    speech: Speech,
    tokenizer: Tokenizer | None,
    language: str | None,
    timestamps: bool,
    progress: Callable[[float, float], None],
) -> Transcript:
    """Write down ``samples`` (N,). A sound longer than a window is written with times wherever the model knows them, so
    that no window begins within a word. Raises Misuse for a language or times that the model does not know."""
    if timestamps and speech.no_times is None:
        raise Misuse("The model's generation_config.json names no times.", "Leave timestamps out.")
    if language is not None and language not in speech.languages:
        known = ", ".join(sorted(speech.languages)) or "none by name"
        raise Misuse(f"The model does not know the language {language!r}.", f"It knows: {known}.")
    stem = machine.spec.source
    assert isinstance(stem, spec.Mel), "no other model is asked"
    frames, whole = 2 * stem.length, math.ceil(len(samples) / HOP)
    most = loudest(samples, stem.bins, frames)

    def window(first: int) -> Tensor:
        return placed(machine, log_mel(samples, stem.bins, frames, first, most))[None]

    language = language or speech.language or (spoken(machine, window(0), speech) if speech.languages else None)
    timed = speech.no_times is not None and (timestamps or whole > frames)
    prompt, rules = prompt_of(speech, language, timed), _rules(speech, timed)
    ends, room = speech.manner.eos, (speech.manner.max_new_tokens or machine.spec.context) + 1
    segments: list[Segment] = []
    first = 0
    while first < whole:
        progress(first * HOP / RATE, len(samples) / RATE)
        written = generate(
            machine,
            prompt,
            source=window(first),
            sampler=Sampler(temperature=0),
            rules=rules,
            max_new_tokens=max(1, min(room, machine.spec.context) - len(prompt)),
            eos=ends,
        ).finish()
        tokens = [token for token in written.tokens if token not in ends]
        steps = math.ceil(min(frames, whole - first) / 2)
        parts, done = parts_of(tokens, rules.first_time, steps) if isinstance(rules, Timestamps) else ([], steps)
        for begin, end, its in parts or [(0, steps, tokens)]:
            text = "" if tokenizer is None else tokenizer.decode(_words(its, rules))
            start, stop = (min((first / 2 + at) * STEP, len(samples) / RATE) for at in (begin, end))
            segments.append(Segment(start, stop, text, its))
        first += 2 * done
    progress(len(samples) / RATE, len(samples) / RATE)
    notes = list(speech.manner.warnings)
    if speech.manner.beams > 1:
        notes.append(f"The checkpoint asks for {speech.manner.beams} beams; speech is written with one.")
    return Transcript(
        "".join(segment.text for segment in segments).strip(), segments, language, len(samples) / RATE, notes
    )


def prompt_of(speech: Speech, language: str | None, timed: bool) -> list[int]:
    """What the decoder begins with: its start, the language, what to do with it, and perhaps that no times come."""
    told = list(speech.forced) if language is None else [speech.languages[language], speech.task or 0]
    untimed = [] if timed or speech.no_times is None else [speech.no_times]
    return [speech.manner.start, *told, *untimed]


def spoken(machine: Seq2Seq, mel: Tensor, speech: Speech) -> str:
    """The language that is most probable behind the start token, given a window (1, M, frames)."""
    logits = predictor(machine, mel)([[speech.manner.start]], None)[0]
    return max(speech.languages, key=lambda name: float(logits[speech.languages[name]]))


def parts_of(tokens: list[int], first_time: int, steps: int) -> tuple[list[tuple[int, int, list[int]]], int]:
    """Segments as (begin, end, tokens) and where the next window begins, in times of 20 ms from this one's beginning.

    A segment ends between two times. What follows the last such pair is cut off by the window, and heard again in the
    next, unless one time ends it: then nothing was said behind it. Without a pair the window is one segment.
    """
    time = [token >= first_time for token in tokens]
    cuts = [i for i in range(1, len(tokens)) if time[i - 1] and time[i]]
    one_ends = time[-2:] == [False, True]
    if not cuts:
        last = tokens[-1] - first_time if one_ends else 0
        return [(0, last or steps, tokens)], steps
    if one_ends:
        cuts.append(len(tokens))
    parts = [tokens[begin:end] for begin, end in zip([0, *cuts], cuts, strict=False)]
    timed = [(its[0] - first_time, its[-1] - first_time, its) for its in parts]
    done = steps if one_ends else min(timed[-1][1], steps)
    return timed, done or steps


def _rules(speech: Speech, timed: bool) -> Rules:
    """Those of the checkpoint, and with times theirs."""
    rules = speech.manner.rules
    if not timed or speech.no_times is None:
        return rules
    if not speech.manner.eos:
        raise Refused("The checkpoint does not say which token ends a text.", "Add eos_token_id to its config.json.")
    said = {each.name: getattr(rules, each.name) for each in fields(rules)}
    return Timestamps(**said, first_time=speech.no_times + 1, most_initial=speech.most_initial)


def _words(tokens: list[int], rules: Rules) -> list[int]:
    """The tokens without times."""
    return [token for token in tokens if not isinstance(rules, Timestamps) or token < rules.first_time]
