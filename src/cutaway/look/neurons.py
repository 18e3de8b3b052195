"""What single neurons do: each adds its column of the down projection to the stream, as often as it is active.

Axes: T time, F hidden (neurons), D width, V vocabulary. Geva et al. 2021 ("Feed-Forward Layers Are Key-Value Memories")
read a neuron by the tokens its column raises.
"""

from __future__ import annotations

from torch import Tensor

from .names import BEST


def strength(hidden: Tensor, columns: Tensor) -> Tensor:
    """|hidden| times the length of the neuron's column: (T, F), (F, D) -> (T, F), how far it moves the stream."""
    moved: Tensor = hidden.float().abs() * columns.float().norm(dim=-1)
    return moved


def effect(columns: Tensor, unembedding: Tensor, gain: Tensor | None, centred: bool) -> Tensor:
    """The direction in which columns move the logits: (F, D), (V, D) -> (F, V).

    The final norm's ``gain`` (D,) is multiplied in, and a LayerNorm's centring done (``centred``); its division by the
    length of the stream, the same for all tokens of the vocabulary, is left out.
    """
    if centred:
        columns = columns - columns.mean(-1, keepdim=True)
    return (columns if gain is None else columns * gain) @ unembedding.T


def most(effect: Tensor, promotes: bool) -> dict[str, Tensor]:
    """The tokens whose logits are raised most, or lowered most: (F, V) -> ``ids`` and ``values`` (F, top)."""
    found = effect.float().topk(min(BEST, effect.shape[-1]), largest=promotes)
    return {"ids": found.indices.int(), "values": found.values}
