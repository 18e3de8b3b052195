"""A window of speech written down, and again with more left to chance where that went wrong (Radford et al. 2022).

temperature 0 --> text --> repetitive, or improbable? --> temperature 0.2 --> text --> ... --> temperature 1
                     \\--> improbable, and nobody speaks? --> nothing
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, replace

from ..generate.loop import Encoded, generate, predictor
from ..generate.manner import Speech
from ..generate.rules import Rules, Timestamps
from ..generate.sampler import Sampler, uniform
from ..inputs.text import Tokenizer
from ..model.transformer import Seq2Seq

LADDER = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
SILENT = ("<|nospeech|>", "<|nocaptions|>")  # what the token before that of no times is called, where it means silence


@dataclass(frozen=True)
class Attempt:
    """What was written of a window at one temperature.

    tokens: with the end, where it came to one. logprob: the mean log-probability of a token, among those that the rules
    allow. ratio: the bytes of the text over those that zlib makes of them. silence: how probable it is that nobody
    speaks; None where there was no reason to ask. silent: so probable that nothing counts as said.
    """

    tokens: list[int]
    temperature: float
    logprob: float
    ratio: float
    silence: float | None = None
    silent: bool = False


@dataclass(frozen=True)
class Writer:
    """Who writes windows down: at one of ``temperatures`` after another, until there is nothing to doubt."""

    machine: Seq2Seq
    speech: Speech
    rules: Rules
    tokenizer: Tokenizer | None
    temperatures: tuple[float, ...]
    seed: int

    def write(self, heard: Encoded, prompt: list[int], window: int) -> Attempt:
        """The first attempt that is plausible, else the last, of the window of that number."""
        for turn, temperature in enumerate(self.temperatures):
            number = window * len(self.temperatures) + turn
            attempt = self._judged(self._attempt(heard, prompt, temperature, _child(self.seed, number)), heard)
            if attempt.silent or not self._implausible(attempt):
                break
        return attempt

    def _attempt(self, heard: Encoded, prompt: list[int], temperature: float, seed: int) -> Attempt:
        manner, context = self.speech.manner, self.machine.spec.context
        room = context - len(prompt)
        steps = list(
            generate(
                self.machine,
                prompt,
                source=heard,
                sampler=Sampler(temperature),
                rules=self.rules,
                max_new_tokens=max(1, min(manner.max_new_tokens or room, room)),
                seed=seed,
                eos=manner.eos,
            )
        )
        tokens = [step.id for step in steps]
        logprob = sum(math.log(step.p_allowed) if step.p_allowed else -math.inf for step in steps) / len(steps)
        return Attempt(tokens, temperature, logprob, self._ratio(tokens))

    def _ratio(self, tokens: list[int]) -> float:
        """How far zlib shortens what was written: the more it repeats itself, the further."""
        if self.speech.doubts.token_ratio is not None:
            width = int(math.log2(self.machine.spec.target.vocabulary) / 8) + 1
            written = b"".join(token.to_bytes(width, "little") for token in tokens)
        else:
            said = words_among(tokens, self.rules, self.speech)
            written = b"" if self.tokenizer is None else self.tokenizer.decode(said).strip().encode()
        return len(written) / len(zlib.compress(written))

    def _judged(self, attempt: Attempt, heard: Encoded) -> Attempt:
        """The attempt, and whether it is what a model makes up where nobody speaks."""
        doubts, silence = self.speech.doubts, self._silence_token
        if doubts.silence is None or silence is None or not _less(attempt.logprob, doubts.logprob, unstated=True):
            return attempt
        logits = predictor(self.machine, heard)([[self.speech.manner.start]])[0]
        p = float(logits.double().softmax(-1)[silence])
        return replace(attempt, silence=p, silent=p > doubts.silence)

    def _implausible(self, attempt: Attempt) -> bool:
        doubts = self.speech.doubts
        most = doubts.token_ratio if doubts.token_ratio is not None else doubts.text_ratio
        return _less(attempt.logprob, doubts.logprob) or (most is not None and attempt.ratio > most)

    @property
    def _silence_token(self) -> int | None:
        """The token that stands for silence, None where the model has none."""
        token = None if self.speech.no_times is None else self.speech.no_times - 1
        if token is None or self.tokenizer is None or self.tokenizer.pieces([token])[0].text in SILENT:
            return token
        return None


def words_among(tokens: list[int], rules: Rules, speech: Speech) -> list[int]:
    """The tokens that are neither times nor the end."""
    first_time = rules.first_time if isinstance(rules, Timestamps) else math.inf
    return [token for token in tokens if token < first_time and token not in speech.manner.eos]


def _less(value: float, least: float | None, unstated: bool = False) -> bool:
    return unstated if least is None else value < least


def _child(seed: int, number: int) -> int:
    """A seed of its own for each attempt, so that no two draw alike."""
    return int(uniform(seed, number) * 2**53)
