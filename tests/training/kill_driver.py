"""Train once without a break, then with twenty kill -9 at random moments; print what happened as JSON.

Usage: kill_driver.py RECIPE_OF_THE_WHOLE_RUN RECIPE_OF_THE_KILLED_RUN. Forks, so that torch is imported once.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from cutaway.training.loop import run
from cutaway.training.recipe import resolve

KILLS, STEPS = 20, 250
OVERRIDES = [f"steps={STEPS}", "save_every=3", "validate_every=50"]


def start(recipe: str) -> int:
    child = os.fork()
    if child == 0:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
            run(resolve(recipe, OVERRIDES))
        os._exit(0)
    return child


def main(whole: str, killed: str) -> None:
    torch.optim.AdamW([torch.zeros(1)])  # imports what every optimiser does, once for all lives
    began = time.monotonic()
    assert os.waitpid(start(whole), 0)[1] == 0, "the unbroken run failed"
    length = time.monotonic() - began
    dice = random.Random()
    checkpoints = Path(resolve(killed).run) / "checkpoints"
    kills = resumed = 0
    while kills < KILLS:
        resumed += any(checkpoints.glob("step-*"))
        child = start(killed)
        time.sleep(dice.uniform(0, 2 * length / KILLS))
        os.kill(child, signal.SIGKILL)
        if os.WIFEXITED(os.waitpid(child, 0)[1]):
            break  # it had finished
        kills += 1
    assert os.waitpid(start(killed), 0)[1] == 0, "the last life failed"
    print(json.dumps({"kills": kills, "lives_that_resumed": resumed, "steps": STEPS, "seconds": length}))


if __name__ == "__main__":
    main(*sys.argv[1:])
