"""What a run says while it goes: lines or a live bar on stderr, and metrics.jsonl."""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import IO, Any

from cutaway.files import write_atomically
from cutaway.training import in_words
from cutaway.training.objective import Objective
from cutaway.training.recipe import Recipe
from cutaway.training.state import Progress


class Report:
    """Tells how a run goes. On a terminal the current step is a live bar (rich); elsewhere every line stays."""

    def __init__(self, metrics: Path, recipe: Recipe, learned: Objective, progress: Progress) -> None:
        _forget_after(metrics, progress.step)
        self.recipe, self.unit, self.per_step = recipe, learned.unit, learned.per_step
        self.began, self.first = time.monotonic(), progress.seen
        self.file: IO[str] = open(metrics, "a", encoding="utf-8")  # noqa: SIM115  closed in __exit__
        self.bar: Any = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            columns = (TextColumn("step {task.completed}/{task.total}"), BarColumn(), TextColumn("{task.description}"))
            self.bar = Bar(*columns, console=Console(stderr=True))
            self.task = self.bar.add_task("", total=recipe.steps, completed=progress.step)
        if progress.step:
            self.line(f"Going on from step {progress.step}.")

    def __enter__(self) -> Report:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        if self.bar is not None:
            self.bar.stop()

    def elapsed(self) -> float:
        return time.monotonic() - self.began

    def step(self, progress: Progress, loss: float, norm: float, lr: float) -> None:
        """After each step; written and, off a terminal, printed every ``log_every`` of them."""
        speed = (progress.seen - self.first) / max(self.elapsed(), 1e-9)
        left = (self.recipe.steps - progress.step) * self.per_step / speed
        words = f"loss {loss:.3f}  lr {lr:.1e}  {speed:,.0f} {self.unit}/s  {_duration(left)} left"
        if self.bar is not None:
            self.bar.update(self.task, completed=progress.step, description=words)
        if progress.step % self.recipe.log_every == 0:
            if self.bar is None:
                self.line(f"step {progress.step}/{self.recipe.steps}  {words}")
            speeds = {f"{self.unit}_per_second": round(speed, 1)}
            self._write(progress, loss=loss, gradient_norm=norm, lr=lr, **speeds)

    def validation(self, progress: Progress, measures: dict[str, float]) -> None:
        self.line(f"step {progress.step}/{self.recipe.steps}  validation {in_words(measures)}")
        self._write(progress, **{f"valid_{name}": value for name, value in measures.items()})

    def line(self, text: str) -> None:
        if self.bar is not None:
            self.bar.console.print(text)
        else:
            print(text, file=sys.stderr, flush=True)

    def _write(self, progress: Progress, **numbers: float) -> None:
        so_far = {"step": progress.step, self.unit: progress.seen, "seconds": round(progress.seconds, 1)}
        record = so_far | numbers
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()


def _forget_after(metrics: Path, step: int) -> None:
    """Drop lines of steps that an interrupted run took but did not save: they are about to be taken again."""
    if metrics.is_file():
        lines = metrics.read_text(encoding="utf-8").splitlines(keepends=True)
        with write_atomically(metrics) as beside:
            beside.write_text("".join(line for line in lines if _step_of(line) <= step), encoding="utf-8")


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):  # cut short by a crash
        return math.inf


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02}m" if hours else f"{minutes}m {seconds:02}s"
