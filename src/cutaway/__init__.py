"""Cutaway: run, train and open up real Transformers.

    import cutaway
    model = cutaway.load("stories")
    model.next("Once upon a time there was a")             # the distribution over the next token
    run = model.run("Once upon a time there was a")        # every intermediate, by name
    run["blocks.2.attn.pattern"]                           # (H, T, T)
    cutaway.compare(run, another)                          # where two runs part
    cutaway.quantize("stories", "smaller", to="int8")      # a folder with its matrices in 8 bits

Names are imported when first used: ``import cutaway`` alone does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Model", "Record", "compare", "load", "open", "quantize"]

if TYPE_CHECKING:
    from .api import Model, load, quantize
    from .look import Record, compare, open

_HOMES = {"load": "api", "Model": "api", "quantize": "api", "Record": "look", "open": "look", "compare": "look"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cutaway' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
