"""What was said, and when: segments, perhaps their words, and subtitles of either."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count


@dataclass(frozen=True)
class Word:
    """A word, with the space before it and the marks beside it, said from ``start`` to ``end``, in seconds."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Segment:
    """What was said from ``start`` to ``end``, in seconds; ``tokens`` with the times among them.

    temperature: what its window was written at, 0 where nothing was drawn. logprob: the mean log-probability of that
    window's tokens. words: with their times, where these were asked for.
    """

    start: float
    end: float
    text: str
    tokens: list[int] = field(repr=False)
    temperature: float = 0.0
    logprob: float = 0.0
    words: list[Word] = field(default_factory=list, repr=False)


@dataclass(frozen=True)
class Transcript:
    """What was said in ``seconds`` of sound. ``language``: its code, as it was given or heard; None where the model
    has one only. ``seed``: what draws came from, if there were any. ``notes`` say in sentences what the user should
    know."""

    text: str
    segments: list[Segment]
    language: str | None
    seconds: float
    seed: int = 0
    notes: list[str] = field(default_factory=list)

    def srt(self, words: bool = False) -> str:
        """Subtitles (SubRip), one for each segment, or for each of the ``words`` of a transcript that has them."""
        return "\n".join(cues(self.segments, words))


def cues(segments: Iterable[Segment], words: bool = False) -> Iterator[str]:
    """The subtitles of segments, or of their words, one after another."""
    number = count(1)
    for segment in segments:
        for said in segment.words if words else (segment,):
            if text := on_one_line(said.text):
                yield f"{next(number)}\n{_clock(said.start)} --> {_clock(said.end)}\n{text}\n"


def on_one_line(text: str) -> str:
    """The text without line ends, which would end a subtitle."""
    return " ".join(text.split())


def _clock(seconds: float) -> str:
    """3661.5 -> "01:01:01,500"."""
    whole = round(seconds * 1000)
    return f"{whole // 3600000:02}:{whole // 60000 % 60:02}:{whole // 1000 % 60:02},{whole % 1000:03}"
