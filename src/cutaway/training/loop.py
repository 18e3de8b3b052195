"""The training loop. Also ``python -m cutaway.training.loop RECIPE [key=value ...]``.

A run's folder holds recipe.toml (as resolved), data/ (of texts: tokenizer and token files), checkpoints/, metrics.jsonl
(a line per logged step) and, in the end, model/ in the Hugging Face layout with result.json beside it. What is learned,
and from what, is the recipe's objective (objective.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cutaway import hub
from cutaway.errors import CutawayError, Failed, Misuse
from cutaway.families import checkpoint, describe
from cutaway.files import write_atomically
from cutaway.model import spec
from cutaway.model.init import STANDARD_DEVIATION, initialise
from cutaway.model.transformer import build
from cutaway.training import Result, state
from cutaway.training.confusion import draw
from cutaway.training.dropout import drop_out
from cutaway.training.objective import Objective, objective
from cutaway.training.optim import learning_rate, make_optimiser
from cutaway.training.recipe import Recipe, resolve, to_toml
from cutaway.training.report import Report
from cutaway.training.start import begin

FREE = {"data", "run", "threads", "log_every", "validate_every", "validate_windows", "save_every", "keep"}


def run(recipe: Recipe) -> Result:
    """Train, or go on training, what ``recipe`` says; returns when the model is saved and measured."""
    folder = recipe.folder
    with state.only_trainer(folder), torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        _require_same(recipe, folder)
        if recipe.threads:
            torch.set_num_threads(recipe.threads)
        learned = objective(recipe, folder / "data")
        described = describe(learned.config)[1]
        state.require_space(folder, spec.parameters(described), recipe.keep)
        deviation = learned.config.get("initializer_range", learned.config.get("init_std", STANDARD_DEVIATION))
        look_around = recipe.task in ("fill", "transcribe")
        model = initialise(build(described), recipe.seed, deviation, look_around)
        if recipe.start:
            begin(model, hub.find(recipe.start), recipe.freeze)
        if recipe.dropout:
            drop_out(model, recipe.dropout)
        progress = _steps(recipe, model, learned, folder)
        _export(model, learned, folder)
        print(f"Measuring {folder / 'model'} as saved.", file=sys.stderr)
        return _measure(learned, folder, progress)


def _steps(recipe: Recipe, model: nn.Module, learned: Objective, folder: Path) -> state.Progress:
    """Every step from where the run stands to its end."""
    checkpoints = folder / "checkpoints"
    optimiser = make_optimiser(model, recipe)
    progress = state.resume(checkpoints, model, optimiser)
    before = progress.seconds
    with Report(folder / "metrics.jsonl", recipe, learned, progress) as report, _stop_signals() as stop:
        while progress.step < recipe.steps:
            lr = learning_rate(progress.step, recipe)
            loss, norm = _step(model, optimiser, learned, progress.step, lr, recipe.clip)
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise Failed(
                    f"Training became numerically unstable at step {progress.step}: loss {loss}, gradient norm {norm}, "
                    f"{learned.place(progress.step)}.",
                    f"The last checkpoint is as it was; lower lr (now {recipe.lr:g}) or clip and start anew.",
                )
            progress.step += 1
            progress.seen += learned.per_step
            progress.seconds = before + report.elapsed()
            report.step(progress, loss, norm, lr)
            last = progress.step == recipe.steps
            if progress.step % recipe.validate_every == 0 and not last:
                report.validation(progress, learned.validate(model))
            if progress.step % recipe.save_every == 0 or last or stop:
                state.save(checkpoints, model, optimiser, progress, recipe.keep)
            if stop:
                report.line(f"Stopped after step {progress.step}; the same command goes on from there.")
                raise SystemExit(128 + stop[0])
    return progress


def _step(
    model: nn.Module, optimiser: torch.optim.Optimizer, learned: Objective, step: int, lr: float, clip: float
) -> tuple[float, float]:
    """One update: the loss of the step's batch, and the gradient's norm before clipping.

    When either is not finite the weights stay as they are.
    """
    model.train()
    loss = learned.loss(model, step)
    optimiser.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), clip)
    if torch.isfinite(loss) and torch.isfinite(norm):
        for group in optimiser.param_groups:
            group["lr"] = lr
        optimiser.step()
    return loss.item(), norm.item()


def _export(model: nn.Module, learned: Objective, folder: Path) -> None:
    """model/: weights as the objective stores them, to be computed with in float32, as config.json says."""
    place = folder / "model"
    checkpoint.save(model.to(learned.stored), learned.config, place)
    stated = {**json.loads((place / "config.json").read_text()), "dtype": "float32"}
    with write_atomically(place / "config.json") as beside:
        beside.write_text(json.dumps(stated, indent=2) + "\n")
    learned.export(place)


def _measure(learned: Objective, folder: Path, progress: state.Progress) -> Result:
    """How good the model as saved is on all held-out data; kept in result.json."""
    opened = checkpoint.open(folder / "model")
    measured, confusion = learned.measure(opened.load())
    result = Result(folder, folder / "model", opened.parameters, steps=progress.step, seen=progress.seen,
                    unit=learned.unit, seconds=progress.seconds, measured=measured, confusion=confusion,
                    **_shown(confusion, learned, folder / "confusion.svg"))  # fmt: skip
    with write_atomically(folder / "result.json") as beside:
        beside.write_text(json.dumps(dataclasses.asdict(result), indent=2, default=str) + "\n")
    return result


def _shown(confusion: list[list[int]], learned: Objective, place: Path) -> dict[str, Any]:
    """The names of the classes, and the picture of which was taken for which; nothing where there are none."""
    if not confusion:
        return {}
    with write_atomically(place) as beside:
        beside.write_text(draw(confusion, learned.classes, learned.unit), encoding="utf-8")
    return {"classes": learned.classes, "picture": place}


def _require_same(recipe: Recipe, folder: Path) -> None:
    """Keep the recipe in the run folder; Misuse when the folder holds a run by another one."""
    saved = folder / "recipe.toml"
    if saved.is_file() and any((folder / "checkpoints").glob("step-*")):
        theirs, ours = (dataclasses.asdict(r) for r in (resolve(str(saved)), recipe))
        changed = [key for key in ours if ours[key] != theirs[key] and key not in FREE]
        if changed:
            raise Misuse(
                f"{folder} holds a run with {changed[0]} = {theirs[changed[0]]}, not {ours[changed[0]]}.",
                "Give the new run a folder of its own (run=/path), or delete that one.",
            )
    with write_atomically(saved) as beside:
        beside.write_text(to_toml(recipe))


@contextlib.contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """A list that receives the first SIGINT or SIGTERM; a second one does what it always does."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # signals only ever reach the main thread
        yield caught
        return
    earlier = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, _frame: Any) -> None:
        caught.append(number)
        for each, handler in earlier.items():
            signal.signal(each, handler)

    for number in earlier:
        signal.signal(number, note)
    try:
        yield caught
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def main(arguments: list[str]) -> int:
    if not arguments:
        print("usage: python -m cutaway.training.loop RECIPE [key=value ...]", file=sys.stderr)
        return 2
    try:
        result = run(resolve(arguments[0], arguments[1:]))
    except CutawayError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:  # before the first step: nothing to save
        return 130
    print(json.dumps(dataclasses.asdict(result), indent=2, default=str))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
