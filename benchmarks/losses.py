"""What fewer bits cost: the loss of each engine's own formats of one real model on a text it has not learned from.

    python benchmarks/losses.py [TEXT] [--model stories] [--windows 64] [--json FILE]

TEXT is a text file, gzip or not; without one, the held-out children's books beside the repository, where they are.
Reads --windows windows of as many tokens as the model's context holds, at most 512, each without what came before it.
Prints nats per token for each engine and format, and by how many per cent that is more than the same engine's float32,
with the standard error of that over the windows. It is the bar for our own formats: no more than that of the peer they
are compared with.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from contestants import CONTESTANTS, OURS, present, workers
from peers import FOLDER, ROOT

import cutaway
from cutaway import hub
from cutaway.tasks import loss

TEXT = ROOT.parent / "shared" / "data" / "children_stories" / "test.txt.gz"


def windows_of(text: Path, model: str, count: int) -> list[list[int]]:
    """Consecutive windows of the text's tokens, the last one whole."""
    reader = gzip.open if text.suffix == ".gz" else open
    with reader(text, "rt", encoding="utf-8") as file:
        content = file.read(count * loss.LONGEST * 8)  # a token is rarely longer than that
    loaded = cutaway.load(model)
    windows = loss.windows_of(loaded.tokens(content), loaded.context, count)
    return [window for window in windows if len(window) == len(windows[0])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="?", type=Path, default=TEXT)
    parser.add_argument("--model", default="stories", help="a name or a folder: GPT-2 or Llama by its layout")
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where benchmarks/peers.py put the others")
    parser.add_argument("--json", type=Path, help="write the losses into this file too")
    asked = parser.parse_args()
    if not asked.text.is_file():
        raise SystemExit(f"There is no text at {asked.text}: name one that the model has not learned from.")
    windows = windows_of(asked.text, asked.model, asked.windows)
    saved = hub.find(asked.model)
    models = asked.folder / "models" / saved.name
    taking = present(CONTESTANTS, asked.folder)
    with workers(taking, saved, models, asked.folder, asked.threads) as engines:
        losses = [(engine.contestant, np.array(engine.ask({"windows": windows})["losses"])) for engine in engines]
    whole = {contestant.engine: each for contestant, each in losses if contestant.precision == "fp32"}
    print(f"{asked.model}: {len(windows)} windows of {len(windows[0])} tokens of {asked.text.name}")
    rows: list[dict[str, Any]] = []
    for contestant, each in losses:
        before = whole[contestant.engine]
        loss, change = float(each.mean()), float(each.mean() / before.mean() - 1)
        error = float((each - before).std(ddof=1) / len(each) ** 0.5 / before.mean()) if len(each) > 1 else math.nan
        rows.append({"name": contestant.name, "loss": loss, "change": change, "standard error": error})
        print(f"  {contestant.precision}  {contestant.name:20} {loss:8.4f} nats per token", end="")
        print("" if contestant.precision == "fp32" else f"  {change:+8.3%} ± {error:.3%}")
        if contestant.engine == OURS and contestant.precision != "fp32" and change == 0:
            raise SystemExit("That is float32's loss to the last bit: what was measured cannot be the smaller format.")
    if asked.json is not None:
        asked.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
