"""The logit lens (nostalgebraist 2020): what the model would say if it stopped here.

Axes: T time, stop (2 per block, and the end: the stops of ``river``), V vocabulary. Every stop's stream goes through
the final norm and the unembedding, as only the last one does in the run. In early layers the stream does not yet speak
the unembedding's language: what the lens reads there does not say what the model knows (Belrose et al. 2023).
"""

from __future__ import annotations

from torch import Tensor

from .names import BEST


def lens(logits: Tensor) -> dict[str, Tensor]:
    """(T, stop, V) -> the most probable tokens at each stop, ``ids`` and ``p`` (T, stop, top); and of the token that is
    most probable at the end its probability ``final`` and its ``rank`` (T, stop), 0 being the first."""
    probabilities = logits.double().softmax(-1)
    ids = logits.topk(min(BEST, logits.shape[-1])).indices
    end = ids[:, -1:, :1].expand(*logits.shape[:-1], 1)
    return {
        "ids": ids.int(),
        "p": probabilities.gather(-1, ids).float(),
        "final": probabilities.gather(-1, end)[..., 0].float(),
        "rank": (logits > logits.gather(-1, end)).sum(-1).int(),
    }
