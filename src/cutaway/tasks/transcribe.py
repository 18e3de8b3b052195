"""Speech written down (Whisper, Radford et al. 2022): a window after another is heard, and what was said is written.

    samples --> log-mel of a window --> encoder --> decoder, behind <|startoftranscript|><|en|><|transcribe|> --> text

With times, the decoder writes when a segment begins and ends; the next window begins where the last whole one ended.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, fields

from ..errors import Misuse, Refused
from ..generate.loop import Encoded, Source, encode, predictor
from ..generate.manner import Speech
from ..generate.rules import Rules, Timestamps
from ..generate.sampler import Sampler, pick_seed
from ..inputs.audio import HOP, RATE, Sound, log_mel, loudest
from ..inputs.text import Tokenizer
from ..model import spec
from ..model.transformer import Seq2Seq
from .alignment import SPACELESS, grouped, token_times
from .attempts import LADDER, Attempt, Writer, words_among
from .see import placed
from .transcript import Segment, Transcript, Word

STEP = 2 * HOP / RATE  # seconds between two times, as between two of the encoder's positions
STEADY = 0.5  # the next window reads what was said below this temperature only
SPANS = 5  # of silence that a note names


@dataclass(frozen=True)
class Wish:
    """What a user asks of a transcript. The temperatures are tried in turn until the text is plausible."""

    language: str | None = None
    timestamps: bool = False
    words: bool = False
    temperatures: tuple[float, ...] = LADDER
    seed: int | None = None


class Transcription(Iterator[Segment]):
    """Speech being written down: iterate for its Segments, or ``finish()`` it. ``close()`` cancels it.

    language, segments, notes: as far as they are known by then. seed: what draws come from, picked if none was given. A
    sound longer than a window is written with times wherever the model knows them, so that no window begins within a
    word. Raises Misuse for a language, times or words that the model does not know.
    """

    def __init__(
        self,
        machine: Seq2Seq,
        samples: Sound,
        speech: Speech,
        tokenizer: Tokenizer | None,
        wish: Wish,
        progress: Callable[[float, float], None],
    ) -> None:
        _check(speech, tokenizer, wish)
        assert isinstance(machine.spec.source, spec.Mel), "no other model is asked"
        self._machine, self._samples, self._stem = machine, samples, machine.spec.source
        self._speech, self._tokenizer, self._wish = speech, tokenizer, wish
        self._frames, self._whole = 2 * self._stem.length, math.ceil(len(samples) / HOP)
        self._timed = speech.no_times is not None and (wish.timestamps or self._whole > self._frames)
        self.language = wish.language or speech.language
        self.seconds = len(samples) / RATE
        self.segments: list[Segment] = []
        self.seed = pick_seed() if wish.seed is None else wish.seed
        self.notes = list(speech.manner.warnings)
        if speech.manner.beams > 1:
            self.notes.append(f"The checkpoint asks for {speech.manner.beams} beams; speech is written with one.")
        rules = _rules(speech, self._timed)
        self._writer = Writer(machine, speech, rules, tokenizer, wish.temperatures, self.seed)
        self._steps = self._run(progress)

    def __next__(self) -> Segment:
        return next(self._steps)

    def close(self) -> None:
        """Stop here; no further window is heard."""
        self._steps.close()

    def finish(self) -> Transcript:
        """Write what is left and return the whole."""
        for _ in self:
            pass
        text = "".join(segment.text for segment in self.segments).strip()
        return Transcript(text, self.segments, self.language, self.seconds, self.seed, self.notes)

    def _run(self, progress: Callable[[float, float], None]) -> Generator[Segment, None, None]:
        one = self._whole <= self._frames
        most = None if one else loudest(self._samples, self._stem.bins, self._frames)
        silent: list[tuple[float, float]] = []
        first, number, drawn, steady = 0, 0, 0, True
        while first < self._whole:
            progress(first * HOP / RATE, self.seconds)
            mel = log_mel(self._samples, self._stem.bins, self._frames, first, most)
            heard = encode(self._machine, placed(self._machine, mel)[None])
            if self.language is None and self._speech.languages:
                self.language = spoken(self._machine, heard, self._speech)
            prompt = [*(self._earlier() if steady else []), *prompt_of(self._speech, self.language, self._timed)]
            attempt = self._writer.write(heard, prompt, number)
            steps = math.ceil(min(self._frames, self._whole - first) / 2)
            done = steps
            if attempt.silent:
                silent.append((first * HOP / RATE, min((first / 2 + steps) * STEP, self.seconds)))
            else:
                segments, done = self._segments_of(attempt, heard, prompt, first, steps)
                for segment in segments:
                    self.segments.append(segment)
                    yield segment
            first, number = first + 2 * done, number + 1
            drawn, steady = drawn + (attempt.temperature > 0), attempt.temperature < STEADY
        progress(self.seconds, self.seconds)
        self.notes += _remarks(silent, drawn, self.seed)

    def _segments_of(
        self, attempt: Attempt, heard: Encoded, prompt: list[int], first: int, steps: int
    ) -> tuple[list[Segment], int]:
        """What was said in the window that begins with frame ``first``, and where in it the next one begins."""
        tokens = [token for token in attempt.tokens if token not in self._speech.manner.eos]
        rules = self._writer.rules
        parts, done = parts_of(tokens, rules.first_time, steps) if isinstance(rules, Timestamps) else ([], steps)
        times: list[tuple[int, int]] = []
        if self._wish.words:
            times = token_times(self._machine, heard, prompt, attempt.tokens, self._speech, steps, self._timed)
        segments, place = [], 0

        def second(step: int) -> float:
            return min((first / 2 + step) * STEP, self.seconds)

        for begin, end, its in parts or [(0, steps, tokens)]:
            said = words_among(its, rules, self._speech)
            text = "" if self._tokenizer is None else self._tokenizer.decode(said)
            words = [
                Word(second(start), second(stop), word)
                for start, stop, word in self._words(its, times[place : place + len(its)])
            ]
            segments.append(Segment(second(begin), second(end), text, its, attempt.temperature, attempt.logprob, words))
            place += len(its)
        return segments, done

    def _words(self, tokens: list[int], times: list[tuple[int, int]]) -> Iterator[tuple[int, int, str]]:
        """The words that ``tokens`` make, with the moments at which they begin and end."""
        if not times or self._tokenizer is None:
            return
        said = set(words_among(tokens, self._writer.rules, self._speech))
        kept = [(token, time) for token, time in zip(tokens, times, strict=True) if token in said]
        stream = self._tokenizer.stream()
        pieces = [stream.push(token) for token, _ in kept]
        if pieces:
            pieces[-1] += stream.flush()
        for places in grouped(pieces, self.language not in SPACELESS):
            text = "".join(pieces[i] for i in places)
            if text.strip():
                yield kept[places[0]][1][0], kept[places[-1]][1][1], text

    def _earlier(self) -> list[int]:
        """What the decoder reads of earlier windows, where the checkpoint asks for it: as much as half its context."""
        if self._speech.previous is None or not self.segments:
            return []
        most = self._machine.spec.context // 2 - 1
        return [self._speech.previous, *[token for segment in self.segments for token in segment.tokens][-most:]]


def _check(speech: Speech, tokenizer: Tokenizer | None, wish: Wish) -> None:
    if wish.timestamps and speech.no_times is None:
        raise Misuse("The model's generation_config.json names no times.", "Leave timestamps out.")
    if wish.language is not None and wish.language not in speech.languages:
        known = ", ".join(sorted(speech.languages)) or "none by name"
        raise Misuse(f"The model does not know the language {wish.language!r}.", f"It knows: {known}.")
    if wish.words and tokenizer is None:
        raise Misuse("Words need text, and this model has no tokenizer.", "Leave words out.")
    if not wish.temperatures:
        raise Misuse("There is no temperature to write at.", "Give one, or several to try in turn.")
    for temperature in wish.temperatures:
        Sampler(temperature)  # says what is wrong with it


def _remarks(silent: list[tuple[float, float]], drawn: int, seed: int) -> list[str]:
    """What a reader of the transcript should know of windows that were left out, or drawn."""
    notes = []
    if silent:
        spans = ", ".join(f"{begin:.1f} to {end:.1f} s" for begin, end in silent[:SPANS])
        more = f" and {len(silent) - SPANS} more" if len(silent) > SPANS else ""
        notes.append(f"Nobody seems to speak from {spans}{more}; nothing was written there.")
    if drawn:
        windows = "One window was" if drawn == 1 else f"{drawn} windows were"
        notes.append(f"{windows} drawn, as what is most probable made no sense there; seed {seed}.")
    return notes


def prompt_of(speech: Speech, language: str | None, timed: bool) -> list[int]:
    """What the decoder begins with: its start, the language, what to do with it, and perhaps that no times come."""
    told = list(speech.forced) if language is None else [speech.languages[language], speech.task or 0]
    untimed = [] if timed or speech.no_times is None else [speech.no_times]
    return [speech.manner.start, *told, *untimed]


def spoken(machine: Seq2Seq, window: Source, speech: Speech) -> str:
    """The language that is most probable behind the start token, given a window, (1, M, frames) or encoded."""
    logits = predictor(machine, window)([[speech.manner.start]])[0]
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
