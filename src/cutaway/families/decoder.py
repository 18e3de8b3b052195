"""What stands on a decoder, as config.json's ``architectures`` says:

...ForSequenceClassification     the last token -> classes, by one matrix without a bias
...ForCausalLM, ...              every token -> the vocabulary
"""

from __future__ import annotations

from ..model import spec
from .config import CLASSES, Config
from .names import Rule


def head(c: Config, vocabulary: int, *, tied: bool, bias: bool = False, softcap: float | None = None) -> spec.Head:
    """The head; ``tied``, ``bias`` and ``softcap`` are those of one that continues texts."""
    if c.architecture().endswith(CLASSES):
        return spec.Head(c.classes(), pool="last")
    return spec.Head(vocabulary, tied=tied, bias=bias, softcap=softcap)


def head_rules(s: spec.Transformer, *unembedding: str) -> list[Rule]:
    """The rows of a table for the head; ``unembedding``: what files call that of one that continues texts."""
    classifies = s.head is not None and s.head.pool is not None
    return [Rule(theirs, ("head.out",)) for theirs in (("score",) if classifies else unembedding)]
