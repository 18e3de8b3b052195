"""What may be written next, whatever the model thinks of it: rules a checkpoint states for its decoding.

Shapes: B rows (beams), V vocabulary. Scores are logits or log-probabilities; a forbidden token gets minus infinity.
Every rule does what `transformers` does under the same name, in the same order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rules:
    """The settings; each at its default changes nothing. Lengths count the token a decoder starts with.

    repetition_penalty: divide positive scores of tokens already written by it, multiply negative ones (CTRL, 2019).
    no_repeat_ngram_size: no n tokens in a row are written twice (Paulus et al. 2017).
    bad_words_ids: sequences that are never completed. min_length: nothing ends before that many tokens.
    forced_bos_token_id, forced_eos_token_id: the first token, the last where the length runs out.
    suppress_tokens, begin_suppress_tokens: tokens never written, and not first.
    renormalize_logits: make log-probabilities of what the rules have left.
    """

    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    min_length: int = 0
    forced_bos_token_id: int | None = None
    forced_eos_token_id: tuple[int, ...] = ()
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    renormalize_logits: bool = False

    def __call__(
        self, scores: Tensor, written: Sequence[Sequence[int]], eos: Collection[int], start: int, last: bool
    ) -> Tensor:
        """Scores (B, V) under the rules, after each of B ``written`` sequences of one length.

        ``start``: how many of their tokens were there before the first was written; ``last``: no more than one token
        can follow.
        """
        if self == Rules():
            return scores
        scores = scores.clone()
        length = len(written[0])
        for row, tokens in zip(scores, written, strict=True):
            self._repeated(row, tokens, eos)
        if length < self.min_length:
            scores[:, list(eos)] = -torch.inf
        if self.forced_bos_token_id is not None and length == 1:
            _only(scores, [self.forced_bos_token_id])
        if self.forced_eos_token_id and last:
            _only(scores, self.forced_eos_token_id)
        scores[:, list(self.suppress_tokens)] = -torch.inf
        if length == start + (start == 1 and self.forced_bos_token_id is not None):
            scores[:, list(self.begin_suppress_tokens)] = -torch.inf
        return scores.log_softmax(-1) if self.renormalize_logits else scores

    def _repeated(self, row: Tensor, tokens: Sequence[int], eos: Collection[int]) -> None:
        """What depends on the tokens that one row has written."""
        if self.repetition_penalty != 1.0:
            seen = torch.tensor(sorted(set(tokens)), device=row.device)
            its = row[seen]
            row[seen] = torch.where(its < 0, its * self.repetition_penalty, its / self.repetition_penalty)
        forbidden = list(_completions(tokens, self.no_repeat_ngram_size))
        for *before, end in self.bad_words_ids:
            follows = len(before) <= len(tokens) and list(tokens[len(tokens) - len(before) :]) == before
            if follows and (before or end not in eos):  # the end itself is no bad word
                forbidden.append(end)
        row[forbidden] = -torch.inf


@dataclass(frozen=True)
class Leanings(Rules):
    """What a request of OpenAI's API adds to the logits, after the rules of every text.

    bias: pairs of a token and what is added to its logit. presence, frequency: what is taken off the logit of a token
    already generated, once, and for every time it was.
    """

    bias: tuple[tuple[int, float], ...] = ()
    presence: float = 0.0
    frequency: float = 0.0

    def __call__(
        self, scores: Tensor, written: Sequence[Sequence[int]], eos: Collection[int], start: int, last: bool
    ) -> Tensor:
        scores = super().__call__(scores, written, eos, start, last).clone()
        for row, tokens in zip(scores, written, strict=True):
            for token, added in self.bias:
                row[token] += added
            for token, count in Counter(tokens[start:]).items():
                row[token] -= self.presence + count * self.frequency
        return scores


@dataclass(frozen=True)
class Timestamps(Rules):
    """The rules of a text with times in it (Radford et al. 2022), after those of every text.

    Times are the tokens from ``first_time`` on, one for every 20 ms; ``most_initial`` is the last that may come first.
    A time begins the text; times come in pairs, but for one right before the end; none is before an earlier one; and
    where all times together are more probable than any one word, a time comes.
    """

    first_time: int = 0
    most_initial: int | None = None

    def __call__(
        self, scores: Tensor, written: Sequence[Sequence[int]], eos: Collection[int], start: int, last: bool
    ) -> Tensor:
        scores = super().__call__(scores, written, eos, start, last)
        for row, tokens in zip(scores, written, strict=True):
            self._timed(row, tokens[start:], min(eos))
        return scores

    def _timed(self, row: Tensor, tokens: Sequence[int], end: int) -> None:
        """One row (V,), in place, behind the ``tokens`` written so far; words are the tokens before ``end``."""
        row[self.first_time - 1] = -torch.inf  # <|notimestamps|>
        if not tokens:
            row[: self.first_time] = -torch.inf
            if self.most_initial is not None:
                row[self.first_time + self.most_initial + 1 :] = -torch.inf
        times = [token for token in tokens if token >= self.first_time]
        after_time = bool(tokens) and tokens[-1] >= self.first_time
        paired = len(tokens) < 2 or tokens[-2] >= self.first_time
        if after_time:
            row[slice(self.first_time, None) if paired else slice(end)] = -torch.inf
        if times:
            row[self.first_time : times[-1] + (0 if after_time and not paired else 1)] = -torch.inf
        if row[self.first_time :].logsumexp(-1) > row[: self.first_time].max():
            row[: self.first_time] = -torch.inf


NO_RULES = Rules()


def _completions(tokens: Sequence[int], size: int) -> set[int]:
    """The tokens that would make the last ``size`` - 1 and themselves a sequence that was written before."""
    if size < 1 or len(tokens) < size:
        return set()
    suffix = list(tokens[len(tokens) - size + 1 :])
    return {tokens[i + size - 1] for i in range(len(tokens) - size + 1) if list(tokens[i : i + size - 1]) == suffix}


def _only(scores: Tensor, tokens: Sequence[int]) -> None:
    """These tokens for certain, in place."""
    scores.fill_(-torch.inf)
    scores[:, list(tokens)] = 0
