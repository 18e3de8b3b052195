"""Named intermediates: ``q = tap(self, "q", q)`` gives a tensor its name, and costs nothing until somebody looks.

    tap(owner, name, x) --- no tape running ---> x
                        \\-- a tape is running -> keep x under "blocks.3.attn.q", or put an edited x in its place

The running tape is a plain module global, the only one of the package: torch.compile guards on it and a compiled
block stays compiled, whereas a ContextVar cannot be traced and a hook added after compiling is silently ignored.
The full name is joined only while recording; at the call site it would differ per layer and recompile every one.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

Edit = Callable[[Tensor], Tensor]

_tape: Tape | None = None
_one_at_a_time = threading.Lock()


def tap(owner: nn.Module, name: str, x: Tensor) -> Tensor:
    """Name ``x``, an intermediate of ``owner``; returns ``x``, or its edited form while a tape says so."""
    tape = _tape  # read once: another thread may end its recording in between
    return x if tape is None else tape(owner, name, x)


def wanted(owner: nn.Module, *names: str) -> bool:
    """Is any of these to be kept or edited? Asked before computing what only a reader needs."""
    tape = _tape
    return tape is not None and tape.wants(owner, names)


def edited(owner: nn.Module, *names: str) -> bool:
    """Is any of these to be edited? Then a fused kernel that never makes them will not do."""
    tape = _tape
    return tape is not None and tape.edits(owner, names)


class Tape:
    """What one forward of one root module left behind: ``tensors``, name -> tensor, without the batch axis.

    A tape hears its own root module on its own thread and lets every other pass through. It keeps the first value of
    each name, so the second forward of activation checkpointing is not recorded again (its edits are applied again).
    """

    def __init__(self, root: nn.Module, keep: Callable[[str], bool], edit: Mapping[str, Edit]) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.edited: set[str] = set()
        self._keep = keep
        self._edit = edit
        self._thread = threading.get_ident()
        self._paths = {id(module): path for path, module in named(root)}

    def __call__(self, owner: nn.Module, name: str, x: Tensor) -> Tensor:
        full = self._full(owner, name)
        if full is None:
            return x
        if full in self._edit:
            x = self._apply(full, x)
        if full not in self.tensors and self._keep(full):
            self.tensors[full] = _without_batch(full, x)
        return x

    def wants(self, owner: nn.Module, names: tuple[str, ...]) -> bool:
        full_names = [self._full(owner, name) for name in names]
        return any(full is not None and (full in self._edit or self._keep(full)) for full in full_names)

    def edits(self, owner: nn.Module, names: tuple[str, ...]) -> bool:
        return any(self._full(owner, name) in self._edit for name in names)

    def _full(self, owner: nn.Module, name: str) -> str | None:
        path = self._paths.get(id(owner))
        if path is None or threading.get_ident() != self._thread:
            return None
        return f"{path}.{name}" if path else name

    def _apply(self, full: str, x: Tensor) -> Tensor:
        before = _without_batch(full, x)
        after = self._edit[full](before)
        if not isinstance(after, Tensor) or after.shape != before.shape:
            got = tuple(after.shape) if isinstance(after, Tensor) else type(after).__name__
            raise ValueError(f"the edit of {full} must return a tensor of shape {tuple(before.shape)}, not {got}")
        self.edited.add(full)
        return after.to(x).unsqueeze(0)


@contextlib.contextmanager
def record(
    root: nn.Module, keep: Callable[[str], bool] = lambda name: True, edit: Mapping[str, Edit] | None = None
) -> Iterator[Tape]:
    """Record one forward of ``root``: keep tensors whose name ``keep`` accepts, replace those named in ``edit``.

    Batch 1 only. Compiled blocks run eagerly meanwhile and are not compiled again afterwards. One recording at a
    time: a second thread waits for the first; recording inside a recording raises RuntimeError.
    """
    global _tape
    tape = _tape
    if tape is not None and tape._thread == threading.get_ident():
        raise RuntimeError("a recording is already running on this thread")
    with _one_at_a_time:
        _tape = Tape(root, keep, edit or {})
        try:
            with _eagerly():
                yield _tape
        finally:
            _tape = None


def _eagerly() -> contextlib.AbstractContextManager[object]:
    """Compiled code steps aside. Nothing is compiled before the compiler is imported, which takes seconds: do not."""
    if "torch._dynamo" not in sys.modules:
        return contextlib.nullcontext()
    stance: contextlib.AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return stance


def named(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module of ``root`` under the name its tensors carry in a record.

    A root may say in ``record_names`` what its children are called there: a stem and a stack leave no trace
    ("blocks.0", not "stack.blocks.0"), an encoder and a decoder do.
    """
    renamed: Mapping[str, str] = getattr(root, "record_names", {})
    for dotted, module in root.named_modules():
        first, _, rest = dotted.partition(".")
        yield ".".join(part for part in (renamed.get(first, first), rest) if part), module


def _without_batch(name: str, x: Tensor) -> Tensor:
    if x.shape[0] != 1:
        raise ValueError(f"{name}: a recording holds one sequence, not a batch of {x.shape[0]}")
    return x[0]
