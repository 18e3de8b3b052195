"""Two libraries beside each other in one process: the same work in turn, so that what else the machine does meanwhile
falls on both; medians, their ratio, and what the hardware would allow. With one thread it is the processor's time that
counts, without what others took of it in between; with more it is the clock on the wall."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from cutaway.bench import limits

Work = Callable[[Any], Any]
OURS, THEIRS = "cutaway", "transformers"


def in_turn(
    workers: Mapping[str, Work], inputs: Sequence[Any], same: Callable[..., bool], rest: float = 0
) -> dict[str, float]:
    """The median seconds of each worker over ``inputs``, the first of which is to warm up, each after a ``rest`` of so
    many seconds. Raises SystemExit where the results are not the same."""
    seconds: dict[str, list[float]] = {name: [] for name in workers}
    for turn, work in enumerate(inputs):
        results = []
        for name, do in list(workers.items())[:: 1 if turn % 2 else -1]:
            time.sleep(rest)
            start = clock()
            results.append(do(work))
            if turn:
                seconds[name].append(clock() - start)
        if not same(*results):
            raise SystemExit("The two say different things.")
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def clock() -> float:
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def report(title: str, medians: Mapping[str, float], goal: float, limit: float) -> None:
    """``limit``: seconds that the arithmetic and the reading of weights alone take here."""
    threads = torch.get_num_threads()
    time_of = "processor time of 1 thread" if threads == 1 else f"{threads} threads"
    print(f"{title}; {time_of}, load {os.getloadavg()[0]:.1f}")
    for name, median in medians.items():
        print(f"  {name:13} {median * 1000:9.1f} ms   {limit / median:6.1%} of what the hardware allows")
    print(f"  ratio         {medians[THEIRS] / medians[OURS]:9.2f}      goal {goal}", flush=True)


def hardware() -> tuple[float, float]:
    """Floating-point operations a second in a large product of matrices, and bytes a second read: the best of ten, with
    as many threads as are set."""
    return limits.operations_a_second(clock=clock), limits.bytes_a_second(clock=clock)
