"""What keys and values in 8 bits cost and save: bytes, loss, and how fast a long text goes on.

    python benchmarks/caches.py [TEXT] [--model stories] [--windows 64] [--shape gpt2-small] [--tokens 900] [--turns 5]

The loss is MODEL's on windows of TEXT, as in losses.py, with its standard error. Bytes and tokens/s are those of random
weights of a shape: a prompt of so many tokens is read, and one text, or eight, go on by 32, with each cache in turn
(medians). Everything once with weights in float32 and once in int8.
"""

from __future__ import annotations

import argparse
import copy
import random
import statistics
import time
from pathlib import Path

import numpy as np
from losses import TEXT, windows_of
from shapes import SHAPES

import cutaway
from cutaway.families import describe
from cutaway.generate.in_c import InC as Engine
from cutaway.model.init import initialise
from cutaway.model.quantized import quantize
from cutaway.model.transformer import Transformer, build
from cutaway.native import library
from cutaway.tasks import loss

NEW = 32
AS_IT_IS, IN_8_BITS = "as always", "int8"


def both(machine: Transformer) -> dict[str, Transformer]:
    """A machine and one that keeps keys and values in 8 bits; the weights are shared."""
    other = copy.copy(machine)
    other.cache_in = "int8"
    return {AS_IT_IS: machine, IN_8_BITS: other}


def compare_losses(text: Path, name: str, count: int) -> None:
    windows = windows_of(text, name, count)
    print(f"{name}: {len(windows)} windows of {len(windows[0])} tokens of {text.name}")
    for to in (None, "int8"):
        machine = cutaway.load(name, quantize=to).machine
        assert isinstance(machine, Transformer)
        before, after = (np.array([loss.loss(one, [w]) for w in windows]) for one in both(machine).values())
        change = after.mean() / before.mean() - 1
        error = (after - before).std(ddof=1) / len(windows) ** 0.5 / before.mean()
        losses = f"{before.mean():.4f} nats per token, in 8 bits {after.mean():.4f}"
        print(f"  {to or 'float32'}: {losses}, {change:+.3%} ± {error:.3%}")


def written(engine: Engine, texts: int, length: int, rng: random.Random) -> float:
    """Tokens a second that ``texts`` texts of that length are gone on by."""
    for text in range(texts):
        engine.back(length, text)
    began = time.perf_counter()
    for _ in range(NEW):
        engine.together([(text, [rng.randrange(1000)], False) for text in range(texts)])
    return NEW * texts / (time.perf_counter() - began)


def read(engine: Engine, texts: int, length: int, rng: random.Random) -> float:
    """Tokens a second of a prompt of that length; every text begins with it."""
    engine.back(0)
    began = time.perf_counter()
    engine.read([rng.randrange(1000) for _ in range(length)])
    spent = time.perf_counter() - began
    for text in range(1, texts):
        engine.copy(0, text, length)
    return length / spent


def compare_rates(shape: str, length: int, turns: int) -> None:
    _, described, _ = describe(SHAPES[shape])
    machine = initialise(build(described), 0).eval().requires_grad_(False)
    assert isinstance(machine, Transformer)
    print(f"{shape}, texts of {length} tokens")
    for to in ("float32", "int8"):
        if to == "int8":
            quantize(machine, 8)
        for texts in (1, 8):
            rng = random.Random(0)
            engines = [Engine(one, length + NEW, texts) for one in both(machine).values()]
            held = [sum(cache.nbytes for cache in engine._program.caches) / 1e6 for engine in engines]
            print(f"  {to}, {texts} at once: {held[0]:.1f} MB, in 8 bits {held[1]:.1f} MB")
            for measure in (read, written):
                found = [[measure(engine, texts, length, rng) for engine in engines] for _ in range(turns + 1)][1:]
                one, other = (statistics.median(rates) for rates in zip(*found, strict=True))
                ratio = statistics.median(b / a for a, b in found)
                print(f"    {measure.__name__}: {one:.1f} tokens/s, in 8 bits {other:.1f}, {ratio:.2f} times as many")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="?", type=Path, default=TEXT)
    parser.add_argument("--model", default="stories")
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--shape", choices=SHAPES, default="gpt2-small")
    parser.add_argument("--tokens", type=int, default=900)
    parser.add_argument("--turns", type=int, default=5)
    asked = parser.parse_args()
    library.load()
    compare_rates(asked.shape, asked.tokens, asked.turns)
    if not asked.text.is_file():
        raise SystemExit(f"There is no text at {asked.text}: name one that the model has not learned from.")
    compare_losses(asked.text, asked.model, asked.windows)


if __name__ == "__main__":
    main()
