"""How long the server takes for a keystroke: from the page's question sent to the last byte of everything it draws.

    python benchmarks/keystroke.py [--tokens 64] [--times 40] [--models stories gpt2-small smollm-135m]

On loopback, through HTTP, on 2 threads: a run of so many tokens with everything recorded. "all": every token is another
than before; "last 16", "last 4": only those are, and the server goes on from the run before. "drawn": the answer is
what the page asks for: the stream's lengths, embeddings, the last logits, and the patterns and neurons, of which those
that are too many wait until they are looked at; "whole": all patterns and neurons in any case. Prints medians and
ranges beside the goals, and what the hardware alone would take: reading every weight once, and multiplying them with so
many vectors. The two shapes have random weights and are made in a temporary folder. The first runs, which fill the
memory that past runs are kept in, are not counted.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import statistics
import tempfile
import time
from pathlib import Path

import torch
from counts import bytes_per_token, operations
from shapes import SHAPES
from soak import WANT, Server
from turns import hardware

from cutaway import families
from cutaway.families import checkpoint
from cutaway.model.init import initialise
from cutaway.model.transformer import build

GOALS = {"gpt2-small": {"all": 110.0, "last 4": 60.0}, "stories": {"all": 15.0, "last 4": 15.0}}  # milliseconds
CHANGED = {"all": None, "last 16": 16, "last 4": 4}
MOST = 1_000_000  # numbers of one kind that the page asks for at once: wants() in web/src/session.svelte.ts
WARM = 110  # runs of 64 tokens of the bundled model that fill what is kept


def made(shape: str, folder: Path) -> Path:
    """The shape with random weights, in the field's own format."""
    its = families.describe(SHAPES[shape])[1]
    checkpoint.save(initialise(build(its), seed=0), SHAPES[shape], folder / shape)
    return folder / shape


def wants(server: Server, length: int) -> dict[str, list[dict[str, str | None]]]:
    """What is asked for: what the page does, and all of it."""
    entry = next(one for one in json.loads(server.ask("GET", "/api/models")[2]) if one["id"] == server.model)
    layers, width, heads = entry["layers"], entry["width"], entry["heads"]
    drawn: dict[str, str | None] = dict.fromkeys(WANT)
    if layers * 4 * width * length > MOST:
        drawn["blocks.*.mlp.hidden"] = "-64:" if layers * 4 * width * 64 <= MOST else "-1:"
    if layers * heads * length**2 > MOST:
        del drawn["blocks.*.attn.pattern"]  # it asks for a head's when that is looked at
    return {
        "drawn": [{"name": name, "at": at} for name, at in drawn.items()],
        "whole": [{"name": name, "at": None} for name in WANT],
    }


def took(server: Server, tokens: list[int], want: list[dict[str, str | None]]) -> float:
    """Milliseconds, and the answer is one."""
    began = time.perf_counter()
    status, _, body = server.ask("POST", "/api/run", {"model": server.model, "tokens": tokens, "want": want})
    ended = time.perf_counter()
    assert status == 200, body
    return 1000 * (ended - began)


def measure(model: str, vocabulary: int, length: int, times: int) -> dict[tuple[str, str], list[float]]:
    """For each way of changing the text, and each answer, the milliseconds of each run, in turn."""
    rng = random.Random(0)
    server = Server(model)
    server.model = model if model == "stories" else f"local/{Path(model).name}"

    def text(count: int) -> list[int]:
        return [rng.randrange(vocabulary) for _ in range(count)]

    begun = text(length)
    try:
        asked = wants(server, length)
        for _ in range(WARM):
            took(server, text(length), asked["whole"])
        found: dict[tuple[str, str], list[float]] = {(how, what): [] for how in CHANGED for what in asked}
        for _ in range(times):
            for (how, what), each in found.items():
                changed = CHANGED[how]
                begun = text(length) if changed is None else begun[:-changed] + text(changed)
                each.append(took(server, begun, asked[what]))
        return found
    finally:
        server.process.send_signal(signal.SIGINT)
        server.process.wait(timeout=20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--times", type=int, default=40)
    parser.add_argument("--models", nargs="+", default=["stories", *SHAPES])
    asked = parser.parse_args()
    peak, read = hardware()
    print(
        f"{torch.get_num_threads()} threads; products at {peak / 1e9:.0f} GFLOP/s, memory read at {read / 1e9:.1f} GB/s"
    )
    with tempfile.TemporaryDirectory() as folder:
        for model in asked.models:
            where = model if model == "stories" else str(made(model, Path(folder)))
            vocabulary = 4096 if model == "stories" else SHAPES[model]["vocab_size"]
            for (how, what), each in measure(where, vocabulary, asked.tokens, asked.times).items():
                goal = GOALS.get(model, {}).get(how)
                beside = "" if goal is None else f"   goal {goal:.0f}"
                if model in SHAPES:
                    new = CHANGED[how] or asked.tokens
                    least = max(bytes_per_token(SHAPES[model], "fp32") / read, operations(SHAPES[model], new) / peak)
                    beside += f"   hardware {1000 * least:.1f}"
                median, least, most = statistics.median(each), min(each), max(each)
                print(f"{model:12} {how:8} {what:6} {median:7.1f} ms  ({least:.1f} to {most:.1f}){beside}", flush=True)


if __name__ == "__main__":
    main()
