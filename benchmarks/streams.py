"""How fast several texts are written at once, beside one: what `cutaway serve` does for its clients.

    python benchmarks/streams.py MODEL [--quantize int8] [--texts 8] [--temperature 0] [--turns 5]

One text and several in turn, 64 new tokens each after 32, drawn at a temperature (0: the most probable). Prints the
medians of tokens/s and of their ratio.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time

import cutaway
from cutaway.generate.batch import Batch, Request
from cutaway.generate.sampler import Sampler

PROMPT, NEW = 32, 64


def rate(model: cutaway.Model, texts: int, temperature: float, rng: random.Random) -> float:
    """Tokens a second after the prompts have been read."""
    batch = Batch(model.machine, None, slots=texts)
    for _ in range(texts):
        ids = tuple(rng.randrange(model.spec.vocabulary) for _ in range(PROMPT))
        batch.submit(Request(ids, Sampler(temperature), max_new_tokens=NEW))
    batch.step()
    written, began = 0, time.perf_counter()
    while batch.free < texts:
        written += len(batch.step())
    return written / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a name or a folder")
    parser.add_argument("--quantize")
    parser.add_argument("--texts", type=int, default=8)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--turns", type=int, default=5)
    asked = parser.parse_args()
    model, rng = cutaway.load(asked.model, quantize=asked.quantize), random.Random(0)
    heat = asked.temperature
    rate(model, asked.texts, heat, rng)  # to warm up
    pairs = [(rate(model, 1, heat, rng), rate(model, asked.texts, heat, rng)) for _ in range(asked.turns)]
    one, several = (statistics.median(rates) for rates in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    print(f"one text: {one:.1f} tokens/s; {asked.texts} texts: {several:.1f} tokens/s, {ratio:.2f} times as many")


if __name__ == "__main__":
    main()
