"""The training loop. Also ``python -m cutaway.training.loop RECIPE [key=value ...]``.

A run's folder holds recipe.toml (as resolved), data/ (tokenizer and token files), checkpoints/, metrics.jsonl (a line
per logged step) and, in the end, model/ in the Hugging Face layout with result.json beside it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cutaway.errors import CutawayError, Failed, Misuse
from cutaway.families import checkpoint, describe
from cutaway.files import write_atomically
from cutaway.model import spec
from cutaway.model.init import initialise
from cutaway.model.transformer import build
from cutaway.training import Result, state
from cutaway.training.data import Sampler, Tokens, windows
from cutaway.training.optim import learning_rate, make_optimiser
from cutaway.training.prepare import prepare
from cutaway.training.recipe import Recipe, resolve, to_toml
from cutaway.training.report import Report
from cutaway.training.tokenizer import end_of

FREE = {"data", "run", "threads", "log_every", "validate_every", "validate_windows", "save_every", "keep"}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def run(recipe: Recipe) -> Result:
    """Train, or go on training, what ``recipe`` says; returns when the model is saved and measured."""
    folder = recipe.folder
    with state.only_trainer(folder), torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        _require_same(recipe, folder)
        if recipe.threads:
            torch.set_num_threads(recipe.threads)
        tokenizer, tokens = prepare(recipe, folder / "data")
        config = _complete(recipe, tokenizer.get_vocab_size(), end_of(tokenizer))
        described = describe(config)[1]
        state.require_space(folder, spec.parameters(described), recipe.keep)
        model = initialise(build(described), recipe.seed)
        progress = _steps(recipe, model, tokens, folder)
        _export(model, config, folder)
        print(f"Measuring {folder / 'model'} as saved.", file=sys.stderr)
        return _measure(recipe, tokens, folder, progress)


def _steps(recipe: Recipe, model: nn.Module, tokens: dict[str, Tokens], folder: Path) -> state.Progress:
    """Every step from where the run stands to its end."""
    checkpoints = folder / "checkpoints"
    optimiser = make_optimiser(model, recipe)
    progress = state.resume(checkpoints, model, optimiser)
    sampler = Sampler(len(tokens["train"].ids), recipe.window, recipe.batch, recipe.seed)
    before = progress.seconds
    with Report(folder / "metrics.jsonl", recipe, progress) as report, _stop_signals() as stop:
        while progress.step < recipe.steps:
            starts = sampler.starts(progress.step)
            lr = learning_rate(progress.step, recipe)
            ids = windows(tokens["train"].ids, starts, recipe.window + 1)
            loss, norm = _step(model, optimiser, ids, lr, recipe.clip)
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise Failed(
                    f"Training became numerically unstable at step {progress.step}: loss {loss}, gradient norm {norm}, "
                    f"windows at tokens {starts.tolist()}.",
                    f"The last checkpoint is as it was; lower lr (now {recipe.lr:g}) or clip and start anew.",
                )
            progress.step += 1
            progress.tokens += recipe.batch * recipe.window
            progress.seconds = before + report.elapsed()
            report.step(progress, loss, norm, lr)
            last = progress.step == recipe.steps
            if progress.step % recipe.validate_every == 0 and not last:
                nats = evaluate(model, tokens["valid"], recipe.window, recipe.validate_windows)
                report.validation(progress, tokens["valid"], nats)
            if progress.step % recipe.save_every == 0 or last or stop:
                state.save(checkpoints, model, optimiser, progress, recipe.keep)
            if stop:
                report.line(f"Stopped after step {progress.step}; the same command goes on from there.")
                raise SystemExit(128 + stop[0])
    return progress


def _step(
    model: nn.Module, optimiser: torch.optim.Optimizer, ids: Tensor, lr: float, clip: float
) -> tuple[float, float]:
    """One update from ids (B, window + 1): the loss in nats per token and the gradient's norm before clipping.

    When either is not finite the weights stay as they are.
    """
    model.train()
    loss = _loss(model, ids)
    optimiser.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), clip)
    if torch.isfinite(loss) and torch.isfinite(norm):
        for group in optimiser.param_groups:
            group["lr"] = lr
        optimiser.step()
    return loss.item(), norm.item()


def _loss(model: nn.Module, ids: Tensor, reduction: str = "mean") -> Tensor:
    logits = model(ids[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction=reduction)


@torch.no_grad()
def evaluate(model: nn.Module, tokens: Tokens, window: int, limit: int | None = None, batch: int = 16) -> float:
    """Mean loss in nats per token over consecutive windows, each seen without what came before.

    ``limit`` takes that many windows, evenly spread; None takes all but the last, shorter one.
    """
    model.eval()
    whole = (len(tokens.ids) - 1) // window
    if whole == 0:
        raise Misuse(f"{len(tokens.ids)} tokens are too few to measure on windows of {window}.", "Add text.")
    starts = window * np.unique(np.linspace(0, whole - 1, min(limit or whole, whole)).astype(np.int64))
    total = 0.0
    for i in range(0, len(starts), batch):
        total += _loss(model, windows(tokens.ids, starts[i : i + batch], window + 1), "sum").item()
    return total / (len(starts) * window)


def _complete(recipe: Recipe, vocabulary: int, end: int) -> dict[str, Any]:
    """The recipe's [model] as a whole config.json."""
    facts = {"vocab_size": vocabulary, "bos_token_id": end, "eos_token_id": end}
    config = {**recipe.model, **facts}
    longest = config.get("max_position_embeddings", config.get("n_positions"))
    if longest is not None and recipe.window > longest:
        raise Misuse(f"A window of {recipe.window} exceeds the model's {longest} positions.", "Make window smaller.")
    return config


def _export(model: nn.Module, config: dict[str, Any], folder: Path) -> None:
    """model/: weights rounded to bfloat16, to be computed with in float32, as config.json says; and the tokenizer."""
    place = folder / "model"
    checkpoint.save(model.to(torch.bfloat16), config, place)
    extra = {"config.json": {**json.loads((place / "config.json").read_text()), "dtype": "float32"}}
    extra["generation_config.json"] = {key: config[key] for key in ("bos_token_id", "eos_token_id")}
    for name, content in extra.items():
        with write_atomically(place / name) as beside:
            beside.write_text(json.dumps(content, indent=2) + "\n")
    for name in TOKENIZER_FILES:
        shutil.copyfile(folder / "data" / name, place / name)


def _measure(recipe: Recipe, tokens: dict[str, Tokens], folder: Path, progress: state.Progress) -> Result:
    """Losses of the model as saved, over all of valid and test; kept in result.json."""
    opened = checkpoint.open(folder / "model")
    model = opened.load()
    held_out = {split: its for split, its in tokens.items() if split != "train"}
    nats = {split: evaluate(model, its, recipe.window) for split, its in held_out.items()}
    bits = {split: its.bits_per_byte(nats[split]) for split, its in held_out.items()}
    result = Result(folder, folder / "model", opened.parameters, nats=nats, bits=bits, steps=progress.step,
                    tokens=progress.tokens, seconds=progress.seconds)  # fmt: skip
    with write_atomically(folder / "result.json") as beside:
        beside.write_text(json.dumps(dataclasses.asdict(result), indent=2, default=str) + "\n")
    return result


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
