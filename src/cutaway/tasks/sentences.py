"""Sentence vectors (Reimers & Gurevych 2019): the stream of a text's tokens pooled into one vector.

Shapes: N sentences, T time, D width.

    ids (N,T) -> stream (N,T,D) -> pooled over the tokens that are there (N,D) -> perhaps length 1
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import Refused
from ..families.config import inside, parse_json, read_json, shown
from ..model.transformer import Transformer
from ..native.product import in_turn

LARGEST_FILE = 2**20  # bytes of a pooling's configuration; real ones have some hundred

#: Tokens, padding included, that go through the machine at once. More is no faster on a CPU and takes more memory.
BATCH_TOKENS = 2048


@dataclass(frozen=True)
class Pooling:
    """How a stream becomes a vector. ``modes``: of MODES, side by side; ``length``: the longest text, in tokens."""

    modes: tuple[str, ...] = ("mean",)
    normalize: bool = False
    length: int | None = None
    lower: bool = False


def _mean(stream: Tensor, there: Tensor) -> Tensor:
    return (stream * there).sum(1) / there.sum(1)


#: Streams (N, T, D), and 1 where there is a token (N, T, 1) -> (N, D).
MODES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cls": lambda stream, there: stream[:, 0],
    "max": lambda stream, there: stream.masked_fill(there == 0, -torch.inf).amax(1),
    "mean": _mean,
    "mean_sqrt_len_tokens": lambda stream, there: (stream * there).sum(1) / there.sum(1).sqrt(),
}
# The order in which sentence-transformers puts vectors side by side, and the keys that ask for each.
_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
}
_PLAIN = {"word_embedding_dimension", "embedding_dimension", "include_prompt", "pooling_mode", *_KEYS}


def pooling_of(folder: Path) -> Pooling:
    """What a checkpoint in the layout of sentence-transformers (modules.json) says; where it says nothing, the mean.

    Raises Refused for a step that is not computed here: a dense layer behind the pooling, say.
    """
    if not (folder / "modules.json").is_file():
        return Pooling()
    modules = _read_list(folder)
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    unknown = [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]
    if unknown or kinds[:2] != ["Transformer", "Pooling"]:
        raise Refused(
            f"modules.json describes sentence vectors made by {', '.join(kinds)}, which Cutaway does not compute.",
            "Computed are Transformer, then Pooling, then perhaps Normalize.",
        )
    says = _part(folder, str(modules[1].get("path", "")))
    strange = [key for key, value in says.items() if key not in _PLAIN and value]
    modes = [mode for key, mode in _KEYS.items() if says.get(key)]
    if "pooling_mode" in says:
        stated = says["pooling_mode"]
        modes = stated if isinstance(stated, list) else [stated]
    if strange or not modes or any(mode not in MODES for mode in modes):
        raise Refused(f"The pooling {shown(says)} is not computed here.", f"Computed are {', '.join(MODES)}.")
    text = _part(folder, "", "sentence_bert_config.json")
    length = text.get("max_seq_length")
    return Pooling(
        tuple(modes),
        normalize="Normalize" in kinds,
        length=length if isinstance(length, int) and length > 2 else None,
        lower=bool(text.get("do_lower_case", False)),
    )


def _read_list(folder: Path) -> list[dict[str, Any]]:
    path = inside(folder, "modules.json")
    if path.stat().st_size > LARGEST_FILE:
        raise Refused(f"{path} is far too large to be real.", "Download it again.")
    content = parse_json(b'{"modules": ' + path.read_bytes() + b"}", str(path))["modules"]
    if not isinstance(content, list) or not all(isinstance(module, dict) for module in content):
        raise Refused(f"{path} is no list of modules.", "Download it again.")
    return content


def _part(folder: Path, part: str, name: str = "config.json") -> dict[str, Any]:
    """A small JSON file of a module's own folder; empty where there is none."""
    where = inside(folder, part) if part else folder
    path = where / name
    return read_json(inside(where, name), LARGEST_FILE) if path.is_file() else {}


@torch.no_grad()
def embed(machine: Transformer, sentences: Sequence[list[int]], pooling: Pooling) -> Tensor:
    """(N, D), float32, on the CPU: one vector for each of ``sentences`` (token ids), in their order.

    Sentences of like length share a pass, so that little of it is spent on padding.
    """
    device = next(machine.parameters()).device
    vectors: list[Tensor] = [torch.empty(0)] * len(sentences)
    for batch in _batches([len(ids) for ids in sentences]):
        longest = max(len(sentences[i]) for i in batch)
        ids = torch.tensor([sentences[i] + [0] * (longest - len(sentences[i])) for i in batch], device=device)
        lengths = torch.tensor([len(sentences[i]) for i in batch], device=device)
        present = torch.arange(longest, device=device) < lengths[:, None]  # (N, T)
        padded = bool((lengths < longest).any())
        with in_turn(machine, ids):
            stream = machine.stream(ids, present if padded else None).float()
        there = present[..., None].float()
        pooled = torch.cat([MODES[mode](stream, there) for mode in pooling.modes], -1)
        if pooling.normalize:
            pooled = F.normalize(pooled, dim=-1)
        for i, vector in zip(batch, pooled.cpu(), strict=True):
            vectors[i] = vector
    return torch.stack(vectors)


def _batches(lengths: list[int]) -> Iterator[list[int]]:
    """Places of sentences that go together: like in length, BATCH_TOKENS at most, unless one alone is longer."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and lengths[batch[0]] * (len(batch) + 1) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
