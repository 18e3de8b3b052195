"""What the heads of one layer do in this text: a score from 0 to 1 for each kind of reading.

Axes: H heads, T time (readers, then what they read). A pattern is (H, T, T) or (T, T), its rows sum to 1. A score is
the mean over the readers for which its notion is defined, and 0 where there is none. It says where a head looks, not
why, nor that the model needs it (Jain & Wallace 2019, "Attention is not Explanation").

Kinds of heads were named by Clark et al. 2019 ("What Does BERT Look At?": previous token, first token, broad), Voita et
al. 2019 ("Analyzing Multi-Head Self-Attention": positional heads) and Olsson et al. 2022 ("In-context Learning and
Induction Heads": prefix matching).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .names import BINS, KINDS

__all__ = ["KINDS", "bins", "coarse", "even", "kinds", "label"]


def kinds(pattern: Tensor, ids: Tensor, visible: Tensor) -> Tensor:
    """Every score of each head in the order of KINDS: (H, T, T) -> (H, kind). ``visible`` (T, T): who may read whom."""
    pattern = pattern.float()
    scores = (
        previous(pattern),
        first(pattern),
        itself(pattern),
        same(pattern, ids),
        induction(pattern, ids),
        local(pattern),
        broad(pattern, visible),
    )
    return torch.stack(scores, -1)


def even(ids: Tensor, visible: Tensor) -> Tensor:
    """What a head scores that reads all it may read evenly, (kind,): the measure of the others in this very text."""
    return kinds(visible / visible.sum(-1, keepdim=True), ids, visible)


def label(scores: Tensor, even: Tensor) -> str:
    """What a head with these scores (kind,) is called: by the kind whose weight is furthest above that of even reading,
    by a tenth at least, else broad."""
    above = (scores - even)[:-1]  # broad, the last, is no share of weight
    return KINDS[int(above.argmax())] if above.max() >= 0.1 else "broad"


def previous(pattern: Tensor) -> Tensor:
    """The weight on the token just before, from the second token on."""
    return _mean(_back(pattern, 1).sum(-1), pattern.shape[-1] - 1)


def first(pattern: Tensor) -> Tensor:
    """The weight on the first token of the text, from the second token on: where a head rests with nothing to do."""
    return _mean(pattern[..., 1:, 0].sum(-1), pattern.shape[-1] - 1)


def itself(pattern: Tensor) -> Tensor:
    """The weight on the reading token itself, from the second token on (the first often has no choice)."""
    return _mean(_back(pattern, 0)[..., 1:].sum(-1), pattern.shape[-1] - 1)


def same(pattern: Tensor, ids: Tensor) -> Tensor:
    """The weight on earlier copies of the reading token, over the readers that have one."""
    copies = (ids[:, None] == ids[None, :]).tril(-1)
    return _mean((pattern * copies).sum((-1, -2)), copies.any(-1).sum())


def induction(pattern: Tensor, ids: Tensor) -> Tensor:
    """The weight on what followed earlier copies of the reading token, over the readers that have one: in "A B ... A"
    the second A reads B (the prefix-matching score of Olsson et al. 2022)."""
    followed = (ids[:, None] == ids.roll(1)[None, :]).tril()  # the token before the one that is read
    followed[:, 0] = False
    return _mean((pattern * followed).sum((-1, -2)), followed.any(-1).sum())


def local(pattern: Tensor) -> Tensor:
    """The weight on the tokens 2, 3 and 4 back, from the third token on; 1 back is ``previous``, 0 back ``itself``."""
    weight = sum(_back(pattern, n).sum(-1) for n in (2, 3, 4))
    return _mean(torch.as_tensor(weight), pattern.shape[-1] - 2)


def broad(pattern: Tensor, visible: Tensor) -> Tensor:
    """How evenly the weight is spread: a row's entropy over the largest it can have, the log of how many tokens it may
    read, over the readers that have a choice. 1 is the plain mean of them all."""
    most = visible.sum(-1).float().log()
    entropy = torch.special.entr(pattern).sum(-1)
    choosers = most > 0
    return _mean((entropy[..., choosers] / most[choosers]).sum(-1), choosers.sum())


def _back(pattern: Tensor, n: int) -> Tensor:
    """The weight each reader puts on the token ``n`` back."""
    return pattern.diagonal(-n, -2, -1)


def _mean(total: Tensor, readers: int | Tensor) -> Tensor:
    return total / max(int(readers), 1)


def bins(length: int) -> list[int]:
    """Where the bins of a text begin, and its end: bin i of n holds the tokens from i*length//n on; n is 64 at most."""
    count = min(BINS, length)
    return [i * length // count for i in range(count + 1)]


def coarse(pattern: Tensor) -> Tensor:
    """A pattern by bins of tokens, (..., T, T) -> (..., bin, bin): the weight that the mean reader of a bin puts on all
    tokens of another. Rows sum to 1."""
    edges = torch.tensor(bins(pattern.shape[-1]), device=pattern.device)
    time = torch.arange(pattern.shape[-1], device=pattern.device)
    member = ((time[:, None] >= edges[:-1]) & (time[:, None] < edges[1:])).float()  # (T, bin)
    return (member / member.sum(0)).T @ pattern.float() @ member
