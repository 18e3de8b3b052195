"""What was measured, as lines of text."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from .measure import Bench, Measured

#: What a model of each kind reads, and what that is counted in.
READ = {"continue": ("a prompt", "tokens"), "rewrite": ("a source", "tokens"), "transcribe": ("a sound", "moments")}


def lines(bench: Bench) -> list[str]:
    """Our own figures, what the machine allows, and a table beside the others."""
    about, ours = bench.about, bench.engines[0]
    size, processor = about["parameters"], about["device"] == "cpu"
    where = f"{about['threads']} threads" if processor else about["device_name"] or about["device"]
    read, counted = READ[bench.task]
    told = [
        f"{bench.model}: {about['family']}, {size:,} parameters, {ours.dtype}; {where}; "
        f"{'the engine in C writes' if about['engine'] == 'C' else 'PyTorch writes'}; {len(ours.written)} turns",
        "",
        f"{'':14}{'median':>12}  {'least to most':18}",
        _row("written", ours.written, "tokens/s", f"{bench.new} tokens after {bench.prompt:,}"),
        _row("first token", [1000 * s for s in ours.first], "ms", f"after {read} of {bench.prompt:,}"),
        _row("read", ours.read, f"{counted}/s", f"{read} of {bench.long:,}"),
        f"{'load':14}{ours.load:12.3f}  {'':18} s, after {ours.imports:.1f} s of imports",
        f"{'memory':14}{ours.memory / 2**20:12,.0f}  {'':18} MB, the most that was held",
        "",
        *_limits(bench),
    ]
    if len(bench.engines) > 1:
        told += ["", *_table(bench)]
    return told


def _limits(bench: Bench) -> list[str]:
    about = bench.about
    weights, memory = about["bytes_of_a_token"], about["bytes_a_second"]
    copied = "" if about["device"] == "cpu" else ", in a copy"
    read = "of weights" if bench.task == "continue" else "of weights and of what the encoder made"
    told = [
        f"of memory     {bench.bandwidth:12.1%}  each token reads {weights / 1e6:,.1f} MB {read}; "
        f"{memory / 1e9:,.1f} GB/s are read here{copied}"
    ]
    if bench.bandwidth > 1:
        told.append(f"{'':28}caches hold them, and are faster than memory")
    if bench.arithmetic is not None:
        peak = about["operations_a_second"]
        told.append(
            f"of arithmetic {bench.arithmetic:12.1%}  in matrices, of {READ[bench.task][0]}; {peak / 1e9:,.0f} GFLOP/s "
            f"in a large product of {about['dtype']}"
        )
    else:
        told.append(f"of arithmetic {'':12}  not said: nothing measures the most that {about['dtype']} allows")
    return told


def _table(bench: Bench) -> list[str]:
    named = [f"{engine.engine} {engine.version}, {engine.dtype}" for engine in bench.engines]
    wide = max(map(len, named))
    told = [f"{'':{wide}}{'written/s':>11}{'read/s':>9}{'first':>10}{'load':>9}{'memory':>11}{'same':>11}"]
    for name, engine in zip(named, bench.engines, strict=True):
        written, read, first = (statistics.median(turns) for turns in (engine.written, engine.read, engine.first))
        same = f"{statistics.median_low(engine.same)} of {bench.new}"
        told.append(
            f"{name:{wide}}{written:11,.1f}{read:9,.0f}{1000 * first:7,.1f} ms{engine.load:7,.2f} s"
            f"{engine.memory / 2**20:8,.0f} MB{same:>11}"
        )
    return [*told, *(_ratios(bench, peer) for peer in bench.engines[1:])]


def _ratios(bench: Bench, peer: Measured) -> str:
    ratios = bench.ratios(peer)
    faster = f"{ratios['written']:.2f} times as fast as {peer.engine} and reads {ratios['read']:.2f} times as fast"
    return f"Cutaway writes {faster}, turn by turn."


def _row(name: str, turns: Sequence[float], unit: str, about: str) -> str:
    shown = [f"{number:,.0f}" if number >= 100 else f"{number:,.2f}" for number in _of(turns)]
    return f"{name:14}{shown[0]:>12}  {f'{shown[1]} to {shown[2]}':18} {unit}, {about}"


def _of(turns: Sequence[float]) -> tuple[float, float, float]:
    return statistics.median(turns), min(turns), max(turns)
