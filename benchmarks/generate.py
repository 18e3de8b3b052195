"""How fast text is written: ours beside transformers, llama.cpp, CTranslate2 and OpenVINO, in turn, in one run.

    python benchmarks/peers.py                                                     brings the others, once
    python benchmarks/generate.py [--shapes gpt2-small smollm-135m] [--precisions fp32 int8 int4] [--turns 5]
                                  [--engines transformers CTranslate2] [--threads 2] [--json FILE]

Random weights of the shapes of GPT-2 small and SmolLM-135M, one text at a time, on the CPU. In each turn every engine
goes on from the same 32 tokens with the 128 most probable ones, end tokens ignored, and then reads 512 tokens up to the
first new one; each turn has a prompt of its own. An engine is a process, and all but the one whose turn it is are
stopped. The first turn is to warm up. Prints for each engine the medians and ranges of

    tokens/s    from the first new token to the last; "of limit": the share of what reading every weight once for each
                token allows, at the speed memory is read here
    first       milliseconds from the prompt of 32 to the first token
    prefill     tokens/s of the prompt of 512; "of peak": its arithmetic over that of a large float32 matrix product
    memory      the most the process has held, loading included
    same        how many of 128 tokens are those of the first fp32 engine, random weights being quick to differ

and for each precision the ratio of ours to the best of the others, as the median over the turns. Models are kept, about
2.5 GB a shape, in the folder of the peers.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from contestants import CONTESTANTS, OURS, Contestant, present, workers
from counts import BITS, bytes_per_token, matrices, operations
from peers import FOLDER, python_of
from shapes import SHAPES, Config
from turns import hardware

PROMPT, NEW, LONG = 32, 128, 512
OTHERS = list(dict.fromkeys(c.engine for c in CONTESTANTS if c.engine != OURS))


@dataclass
class Measured:
    """One contestant's turns: tokens/s decoding, seconds to the first token, tokens/s of a long prompt."""

    contestant: Contestant
    decode: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    prefill: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    memory: int = 0


def measure(asked: argparse.Namespace, shape: str) -> tuple[list[Measured], float, float]:
    """Every contestant's turns, and the most operations and bytes read a second that were seen between them."""
    environment: Path = asked.folder
    models, rng, peak, read = environment / "models" / shape, random.Random(0), [], []
    wanted = [c for c in CONTESTANTS if c.precision in asked.precisions and c.engine in (OURS, *asked.engines)]
    taking = present(wanted, environment)
    saved = models / "saved"
    if not saved.exists():
        print(f"writing {shape}/saved", file=sys.stderr, flush=True)
        python = python_of(environment) if python_of(environment).exists() else sys.executable
        subprocess.run([python, Path(__file__).with_name("shapes.py"), shape, saved], stdout=sys.stderr, check=True)
    with workers(taking, saved, models, environment, asked.threads) as engines:
        measured = [Measured(engine.contestant) for engine in engines]
        for turn in range(asked.turns + 1):
            short, long = ([rng.randrange(1, SHAPES[shape]["vocab_size"]) for _ in range(n)] for n in (PROMPT, LONG))
            for engine, result in list(zip(engines, measured, strict=True))[:: 1 if turn % 2 else -1]:
                written = engine.ask({"prompt": short, "count": NEW})
                begun = engine.ask({"prompt": long, "count": 1})
                if turn:
                    times = written["times"]
                    result.decode.append((NEW - 1) / (times[-1] - times[0]))
                    result.first.append(times[0])
                    result.prefill.append(LONG / begun["times"][0])
                    result.tokens = written["tokens"]
            if turn:
                flops, bandwidth = hardware()
                peak.append(flops)
                read.append(bandwidth)
                time.sleep(0.3)  # until PyTorch's own threads here have gone to sleep
        for engine, result in zip(engines, measured, strict=True):
            result.memory = engine.ask({"memory": True})["bytes"]
    return measured, max(peak), max(read)


def report(shape: str, measured: list[Measured], peak: float, read: float, threads: int) -> list[dict[str, Any]]:
    """Prints the table, and returns its rows."""
    config = SHAPES[shape]
    print(
        f"\n{shape}: {sum(matrices(config)) / 1e6:.0f} million weights read for each token; {threads} threads, load "
        f"{os.getloadavg()[0]:.1f}; {read / 1e9:.1f} GB/s read, {peak / 1e9:.0f} GFLOP/s in a float32 matrix product"
    )
    print(f"{'':20}{'tokens/s':>9}{'range':>15}{'of limit':>9}{'first':>9}{'prefill':>9}{'range':>15}{'of peak':>9}"
          f"{'memory':>9}{'same':>6}")  # fmt: skip
    reference = next((m.tokens for m in measured if m.contestant.engine != OURS), measured[0].tokens)
    rows = [row(config, result, reference, peak, read) for result in measured]
    for precision in BITS:
        of_it = [r for r in rows if r["precision"] == precision]
        if not of_it:
            continue
        print(f"{precision}, at most {read / bytes_per_token(config, precision):.0f} tokens/s")
        for r in sorted(of_it, key=lambda r: -r["decode"]["median"]):
            print(
                f"  {r['name']:18}{r['decode']['median']:9.1f}{spread(r['decode']):>15}{r['of_limit']:9.0%}"
                f"{r['first']['median'] * 1000:6.0f} ms{r['prefill']['median']:9.0f}{spread(r['prefill']):>15}"
                f"{r['of_peak']:9.0%}{r['memory'] / 2**20:6.0f} MB{r['same']:6}"
            )
        for what in ("decode", "prefill"):
            ratio(what, of_it)
    return rows


def row(config: Config, result: Measured, reference: list[int], peak: float, read: float) -> dict[str, Any]:
    contestant = result.contestant
    same = next((i for i, (a, b) in enumerate(zip(result.tokens, reference, strict=True)) if a != b), NEW)
    decode, prefill = statistics.median(result.decode), statistics.median(result.prefill)
    return {
        "name": contestant.name,
        "engine": contestant.engine,
        "precision": contestant.precision,
        "decode": {"median": decode, "turns": result.decode},
        "of_limit": decode * bytes_per_token(config, contestant.precision) / read,
        "first": {"median": statistics.median(result.first), "turns": result.first},
        "prefill": {"median": prefill, "turns": result.prefill},
        "of_peak": prefill * operations(config, LONG) / LONG / peak,
        "memory": result.memory,
        "same": same,
    }


def spread(value: dict[str, Any]) -> str:
    return f"[{min(value['turns']):.0f}, {max(value['turns']):.0f}]"


def ratio(what: str, rows: list[dict[str, Any]]) -> None:
    """Ours over the best peer, turn by turn."""
    ours = next((r for r in rows if r["engine"] == OURS), None)
    peers = [r for r in rows if r["engine"] != OURS]
    if ours is None or not peers:
        return
    best = max(peers, key=lambda r: r[what]["median"])
    pairs = [a / b for a, b in zip(ours[what]["turns"], best[what]["turns"], strict=True)]
    ours[what]["ratio"], ours[what]["best peer"] = statistics.median(pairs), best["name"]
    print(f"  {what}: ours is {statistics.median(pairs):.2f} of the best peer, {best['name']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--precisions", nargs="+", choices=BITS, default=list(BITS))
    parser.add_argument("--engines", nargs="+", choices=OTHERS, default=OTHERS, help="beside ours")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where benchmarks/peers.py put the others")
    parser.add_argument("--json", type=Path, help="write every turn of every engine into this file too")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    found: dict[str, Any] = {}
    for shape in asked.shapes:
        measured, peak, read = measure(asked, shape)
        rows = report(shape, measured, peak, read, asked.threads)
        found[shape] = {"operations a second": peak, "bytes read a second": read, "engines": rows}
    if asked.json is not None:
        asked.json.write_text(json.dumps({"threads": asked.threads, "shapes": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
