"""What looking costs: nothing when nobody looks, and how much when everything is kept.

    python benchmarks/recording.py [--model stories] [--tokens 1 16 128] [--turns 400] [--threads 1]

The machine's forward as it stands, with no tape running, beside the same forward without any tap: in the source every
`tap(owner, name, x)` is replaced by `x`, and every `wanted(...)` and `edited(...)` by False, and what is compiled of
that is put into the same functions of the same modules, and taken out again. The engine in C has no taps, so it is
PyTorch that runs here. Both in turn, in one process. Prints for each number of tokens

    without      milliseconds of a forward without taps
    off          what taps cost with nobody looking, in per cent: the median over the turns, and quartiles
    calls        how often a forward asks whether somebody looks, times what asking costs: the same by another way
    everything   how many times as long a forward takes that records everything

Taps cost the most where a forward takes the least: in a small model that reads one token.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import inspect
import os
import pkgutil
import random
import statistics
import sys
import timeit
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from turns import clock

import cutaway
import cutaway.model
from cutaway.model import tap as tapping

GOAL, TURN = 1.0, 0.01  # per cent; seconds


class Stripped(ast.NodeTransformer):
    """A module in which nobody can look."""

    def __init__(self) -> None:
        self.count = 0

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name == "tap":
            self.count += 1
            return node.args[2]
        if name in ("wanted", "edited"):
            self.count += 1
            return ast.copy_location(ast.Constant(False), node)
        return node


def functions(holder: Any, module: str) -> Iterator[tuple[str, types.FunctionType]]:
    """Those that are written in ``module``, by their names, with those of its classes."""
    for name, value in vars(holder).items():
        if isinstance(value, type) and value.__module__ == module:
            yield from functions(value, module)
            continue
        inner = inspect.unwrap(value) if callable(value) else value
        if isinstance(inner, types.FunctionType) and inner.__module__ == module:
            yield f"{getattr(holder, '__qualname__', '')}.{name}", inner


def without_taps() -> tuple[dict[types.FunctionType, types.CodeType], int]:
    """The code without taps of each function of the machine that has some; and how many calls have gone."""
    found, stripping = {}, Stripped()
    for name in (module.name for module in pkgutil.iter_modules(cutaway.model.__path__) if module.name != "tap"):
        module = importlib.import_module(f"cutaway.model.{name}")
        before, tree = stripping.count, stripping.visit(ast.parse(inspect.getsource(module)))
        if stripping.count == before:
            continue
        anew = types.ModuleType(module.__name__)
        vars(anew).update(__package__=module.__package__, __file__=module.__file__)
        exec(compile(ast.fix_missing_locations(tree), str(module.__file__), "exec"), vars(anew))
        plain = dict(functions(module, module.__name__))
        for path, stripped in functions(anew, module.__name__):
            if plain[path].__code__.co_code != stripped.__code__.co_code:
                found[plain[path]] = stripped.__code__
    return found, stripping.count


@contextlib.contextmanager
def put(codes: dict[types.FunctionType, types.CodeType]) -> Iterator[None]:
    """Functions with other code, for a while."""
    before = {function: function.__code__ for function in codes}
    for function, code in codes.items():
        function.__code__ = code
    try:
        yield
    finally:
        for function, code in before.items():
            function.__code__ = code


def calls(forward: Callable[[], Any]) -> int:
    """How often one forward asks whether somebody looks."""
    count = 0

    def see(frame: types.FrameType, event: str, _: Any) -> None:
        nonlocal count
        count += event == "call" and frame.f_code.co_filename == tapping.__file__

    sys.setprofile(see)
    try:
        forward()
    finally:
        sys.setprofile(None)
    return count


def measure(machine: Any, ids: torch.Tensor, stripped: dict[types.FunctionType, types.CodeType], turns: int) -> None:
    @torch.no_grad()
    def forward() -> torch.Tensor:
        return machine(ids)

    @torch.no_grad()
    def recorded() -> torch.Tensor:
        with tapping.record(machine):
            return machine(ids)

    def seconds(work: Callable[[], Any], times: int) -> float:
        start = clock()
        for _ in range(times):
            work()
        return (clock() - start) / times

    expected = forward()
    with put(stripped):
        if calls(forward) or not torch.equal(forward(), expected):
            raise SystemExit("Without its taps the machine says something else, or has some left.")
    if not torch.equal(recorded(), expected):
        raise SystemExit("Recorded, the machine says something else.")
    times = max(1, round(TURN / seconds(forward, 5)))
    with_taps, without, kept = [], [], []
    for turn in range(turns):
        for taps in (True, False) if turn % 2 else (False, True):
            with contextlib.nullcontext() if taps else put(stripped):
                (with_taps if taps else without).append(seconds(forward, times))
        if turn % 10 == 0:
            kept.append(seconds(recorded, times) / with_taps[-1])
    more = [100 * (a / b - 1) for a, b in zip(with_taps, without, strict=True)]
    low, middle, high = statistics.quantiles(more, n=4)
    asked, each = calls(forward), timeit.timeit(lambda: tapping.tap(machine, "x", ids), number=100_000) / 100_000
    took = statistics.median(without)
    print(
        f"{ids.shape[1]:8}{1000 * took:11.3f} ms{middle:+9.2f}%{f'[{low:+.2f}, {high:+.2f}]':>17}"
        f"{f'{asked} × {1e9 * each:.0f} ns':>14} ={100 * asked * each / took:5.2f}%{statistics.median(kept):12.2f}   "
        f"{'reached' if middle < GOAL else 'MISSED'}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="stories")
    parser.add_argument("--tokens", nargs="+", type=int, default=[1, 16, 128])
    parser.add_argument("--turns", type=int, default=400)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    model, rng = cutaway.load(asked.model), random.Random(0)
    stripped, count = without_taps()
    print(
        f"{asked.model}: {count} calls in {len(stripped)} functions; {asked.threads} threads, load "
        f"{os.getloadavg()[0]:.1f}; goal: off costs less than {GOAL}%"
    )
    print(f"{'tokens':>8}{'without':>14}{'off':>10}{'quartiles':>17}{'calls':>14}{'':>8}{'everything':>12}")
    for tokens in asked.tokens:
        ids = torch.tensor([[rng.randrange(model.spec.vocabulary) for _ in range(tokens)]])
        measure(model.machine, ids, stripped, asked.turns)


if __name__ == "__main__":
    main()
