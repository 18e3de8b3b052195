"""How well a decoder predicts a text: nats for each token, given those before it. Less is better."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch

from cutaway.generate.in_c import in_c
from cutaway.model.transformer import Transformer
from cutaway.native import library

LONGEST, WINDOWS = 512, 64  # tokens read together; how many such windows are enough for three digits
AT_ONCE = 128  # tokens whose logits are held


def windows_of(ids: Sequence[int], context: int, count: int = WINDOWS) -> list[list[int]]:
    """The beginning of a text in at most ``count`` windows that are read each for itself; the last may be shorter, but
    predicts a token. None of fewer than two tokens."""
    length = min(context, LONGEST)
    windows = [list(ids[at : at + length]) for at in range(0, len(ids), length)][:count]
    return [window for window in windows if len(window) > 1]


def loss(machine: Transformer, windows: Sequence[Sequence[int]]) -> float:
    """Nats per token over all windows, as read by what writes texts: the engine in C where there is one."""
    with contextlib.suppress(library.Unavailable):
        library.load()  # waits for the compiler, so that it is this engine from the first window on
    lost = sum(lost for window in windows for lost in _lost(machine, window))
    return lost / sum(len(window) - 1 for window in windows)


def _lost(machine: Transformer, ids: Sequence[int]) -> Iterator[float]:
    """What is lost in each part of a window."""
    place = 0
    for logits in _read(machine, ids[:-1]):
        following = torch.tensor(ids[place + 1 : place + 1 + len(logits)], device=logits.device)
        place += len(logits)
        yield float(torch.nn.functional.cross_entropy(logits.double(), following, reduction="sum"))


@torch.no_grad()
def _read(machine: Transformer, ids: Sequence[int]) -> Iterator[torch.Tensor]:
    """Logits (T, V) after each of ``ids``, part after part."""
    parts = [ids[at : at + AT_ONCE] for at in range(0, len(ids), AT_ONCE)]
    fast = in_c(machine, len(ids), texts=1, chunk=AT_ONCE)
    if fast is not None:
        for part in parts:
            yield torch.from_numpy(fast.together([(0, part, True)])[0])
        return
    device = next(machine.parameters()).device
    for stream in torch.split(machine.stream(torch.tensor([ids], device=device)), AT_ONCE, dim=1):
        yield machine.logits(stream)[0]
