"""What a machine allows: how fast it reads memory and multiplies matrices, and what a model that writes asks of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cutaway.model.linear import linear
from cutaway.model.quantized import Quantized
from cutaway.model.stems import MelStem, TokenStem
from cutaway.model.transformer import Seq2Seq, Transformer

READ = 512 * 2**20  # bytes: far more than caches hold
SIDE = {"cpu": 1024, "cuda": 8192, "mps": 4096}  # of a square matrix
TRIES = 10

Work = Callable[[], object]


def bytes_a_second(device: torch.device | str = "cpu", clock: Callable[[], float] = time.perf_counter) -> float:
    """Memory read by all threads of a processor, in the sum of a large array; elsewhere read and written, in a copy."""
    where = torch.device(device)
    large = torch.ones(READ // 4, device=where)
    if where.type == "cpu":
        return READ / _best(large.sum, where, clock)
    copy = torch.empty_like(large)
    return 2 * READ / _best(lambda: copy.copy_(large), where, clock)


def operations_a_second(
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Floating-point operations in a large product of matrices, PyTorch's or oneDNN's, by all threads."""
    where = torch.device(device)
    side = SIDE.get(where.type, SIDE["cpu"])
    a, b = (torch.randn(side, side, dtype=dtype, device=where) for _ in range(2))
    ways: list[Work] = [lambda: a @ b, lambda: linear(a, b, None)]
    with torch.no_grad():
        return 2 * side**3 / min(_best(way, where, clock) for way in ways)


@dataclass(frozen=True)
class Matrices:
    """Some matrices: how many numbers they have, and the bytes these are kept in."""

    numbers: int
    bytes: int

    def __sub__(self, other: Matrices) -> Matrices:
        return Matrices(self.numbers - other.numbers, self.bytes - other.bytes)


def matrices(machine: Transformer | Seq2Seq) -> tuple[Matrices, Matrices]:
    """The blocks that write and the unembedding, which each new token reads; the rest of it is next to nothing."""
    if isinstance(machine, Seq2Seq):
        blocks = _matrices([machine.decoder]) - _matrices(_across(machine))
    else:
        blocks = _matrices([machine.stack])
    stem = machine.target if isinstance(machine, Seq2Seq) else machine.stem
    head: list[nn.Module] = [] if machine.head is None else [machine.head]
    if machine.head is not None and machine.head.head.tied and isinstance(stem, TokenStem):
        head.append(stem.tokens)
    return blocks, _matrices(head)


def bytes_of_a_token(machine: Transformer | Seq2Seq, source: int = 0) -> int:
    """Of matrices, and of the keys and values of ``source`` positions, where an encoder has read so many."""
    kept = sum(part.bytes for part in matrices(machine))
    if not isinstance(machine, Seq2Seq):
        return kept
    some = next(machine.parameters())
    number = 4 if some.device.type == "cpu" else some.element_size()  # the engine in C keeps them in float32
    looks = [block.cross for block in machine.spec.decoder.blocks if block.cross is not None]
    return kept + sum(2 * number * source * its.kv_heads * its.width for its in looks)


def operations_of_a_prompt(machine: Transformer | Seq2Seq, tokens: int) -> float:
    """Of a prompt in one go, its last position unembedded: what its matrices multiply and add, without attention. Of
    so long a source, those of the encoder, and of one token."""
    blocks, head = matrices(machine)
    if not isinstance(machine, Seq2Seq):
        return 2.0 * (blocks.numbers * tokens + head.numbers)
    each = _matrices([machine.encoder, *_across(machine)]).numbers
    if isinstance(stem := machine.source, MelStem):  # the first at twice as many places
        each += 2 * stem.conv1.weight.numel() + stem.conv2.weight.numel()
    return 2.0 * (each * tokens + blocks.numbers + head.numbers)


def _across(machine: Seq2Seq) -> list[nn.Module]:
    """What makes keys and values of what the encoder made: once for each of its positions, and for no token."""
    blocks: Iterable[Any] = machine.decoder.blocks
    return [part for block in blocks if block.cross is not None for part in (block.cross.k, block.cross.v)]


def _matrices(roots: list[nn.Module]) -> Matrices:
    numbers = kept = 0
    for module in (inner for root in roots for inner in root.modules()):
        if isinstance(module, Quantized):
            numbers, kept = numbers + module.rows * module.columns, kept + module.packed.nbytes
        else:
            held = [tensor for tensor in module.parameters(recurse=False) if tensor.dim() > 1]
            numbers, kept = numbers + sum(t.numel() for t in held), kept + sum(t.nbytes for t in held)
    return Matrices(numbers, kept)


def _best(work: Work, where: torch.device, clock: Callable[[], float]) -> float:
    """The least seconds of some tries; one more goes before, to warm up."""
    seconds = []
    for _ in range(TRIES + 1):
        settle(where)
        start = clock()
        work()
        settle(where)
        seconds.append(clock() - start)
    return min(seconds[1:])


def settle(where: torch.device) -> None:
    """Wait for what a GPU still does."""
    if where.type == "cuda":
        torch.cuda.synchronize(where)
    elif where.type == "mps":
        torch.mps.synchronize()
