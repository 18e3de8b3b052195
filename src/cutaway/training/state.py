"""Checkpoints of a run: all or nothing, and enough to go on to the very same weights.

step-00000200/  state.safetensors   weights, AdamW's two moments and step counts, torch's random state
                state.json          step, tokens or images seen and seconds so far
                manifest.json       SHA-256 of both, written last: a folder without it is no checkpoint
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cutaway.errors import Failed, Misuse
from cutaway.files import sync

try:
    import fcntl
except ImportError:  # Windows: a second trainer is not noticed there
    fcntl = None  # type: ignore[assignment]

TENSORS, PLACE, MANIFEST = "state.safetensors", "state.json", "manifest.json"


@dataclass
class Progress:
    """Where a run stands: steps done, tokens or images seen, seconds spent (over all its sessions)."""

    step: int = 0
    seen: int = 0
    seconds: float = 0.0


@contextlib.contextmanager
def only_trainer(run: Path) -> Iterator[None]:
    """Hold the run folder's lock; Misuse, naming the process, when another trainer holds it.

    The lock belongs to the open file, so it falls with its process however that ends.
    """
    run.mkdir(parents=True, exist_ok=True)
    with open(run / "lock", "a+") as lock:
        if fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.seek(0)
                raise Misuse(
                    f"Process {lock.read().strip() or 'unknown'} is already training in {run}.",
                    "Wait for it, or give this run a folder of its own: run=/path.",
                ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def save(folder: Path, model: nn.Module, optimiser: torch.optim.Optimizer, progress: Progress, keep: int) -> None:
    """Write checkpoint ``step-N`` into ``folder``, then remove all but the newest ``keep``.

    Raises Failed when the disk is full; the earlier checkpoints are as they were.
    """
    tensors = _tensors(model, optimiser)
    final = folder / f"step-{progress.step:08d}"
    beside = final.with_name(final.name + ".tmp")
    try:
        _remove(beside)
        beside.mkdir(parents=True)
        save_file(tensors, beside / TENSORS)
        (beside / PLACE).write_text(json.dumps(asdict(progress)))
        for name in (TENSORS, PLACE):
            sync(beside / name)
        digests = {name: _digest(beside / name) for name in (TENSORS, PLACE)}
        (beside / MANIFEST).write_text(json.dumps(digests, indent=2))
        sync(beside / MANIFEST)
        sync(beside)
        _remove(final)  # only ever a damaged one: whole ones are resumed from, not repeated
        os.replace(beside, final)
        sync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(beside, ignore_errors=True)
        if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
            raise _no_space(folder, sum(t.nbytes for t in tensors.values())) from error
        raise Failed(f"The checkpoint {final} could not be written: {error}.", "The one before it is whole.") from error
    for old in _checkpoints(folder)[:-keep]:
        gone = old.with_name(old.name + ".tmp")  # under this name, half of it is no damaged checkpoint
        os.replace(old, gone)
        shutil.rmtree(gone)


def resume(folder: Path, model: nn.Module, optimiser: torch.optim.Optimizer) -> Progress:
    """Restore the newest whole checkpoint, if there is one, and say where it stands.

    Leftovers of interrupted saves are removed; damaged checkpoints are passed over with a warning.
    """
    for leftover in folder.glob("step-*.tmp"):
        shutil.rmtree(leftover)
    for checkpoint in reversed(_checkpoints(folder)):
        if reason := _damage(checkpoint):
            warnings.warn(f"{checkpoint} is damaged ({reason}); going back to the one before.", stacklevel=2)
            continue
        _restore(load_file(checkpoint / TENSORS), model, optimiser)
        return Progress(**json.loads((checkpoint / PLACE).read_text()))
    return Progress()


def require_space(folder: Path, parameters: int, keep: int) -> None:
    """Raises Failed when the disk has no room for ``keep`` checkpoints and the one being written."""
    needed = parameters * 4 * 3 * (keep + 1)  # float32 weights and their two moments
    have = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    if shutil.disk_usage(folder).free + have < needed:
        raise _no_space(folder, needed)


def _no_space(folder: Path, needed: int) -> Failed:
    return Failed(
        f"No space left for {needed:,} bytes of checkpoints in {folder}.", "Make room, then run the same command again."
    )


def _tensors(model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    tensors = {f"model.{name}": p.detach() for name, p in model.named_parameters()}
    for name, p in model.named_parameters():
        for part, value in optimiser.state[p].items():  # step, exp_avg, exp_avg_sq
            tensors[f"optimiser.{part}.{name}"] = value
    tensors["random"] = torch.get_rng_state()
    return tensors


@torch.no_grad()
def _restore(tensors: dict[str, Tensor], model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    for name, p in model.named_parameters():
        p.copy_(tensors[f"model.{name}"])
        for part in ("step", "exp_avg", "exp_avg_sq"):
            if (value := tensors.get(f"optimiser.{part}.{name}")) is not None:
                optimiser.state[p][part] = value.clone()  # not the file mapped
    torch.set_rng_state(tensors["random"])


def _checkpoints(folder: Path) -> list[Path]:
    """Oldest first, whole or not."""
    return sorted(path for path in folder.glob("step-*") if path.suffix != ".tmp")


def _damage(checkpoint: Path) -> str:
    """Why a checkpoint cannot be used; empty when it can."""
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text())
        wrong = [name for name in (TENSORS, PLACE) if _digest(checkpoint / name) != manifest.get(name)]
    except (OSError, ValueError, AttributeError) as error:
        return f"its manifest cannot be followed: {error}"
    return f"{wrong[0]} is not what was written" if wrong else ""


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
