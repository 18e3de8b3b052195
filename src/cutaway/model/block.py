"""A block: attention, then an MLP, each adding to the residual stream and never replacing it.

Shapes: B batch, T time, D width, F hidden.

    resid_pre --+------------(+)-- resid_mid --+----------(+)-- resid_post
                \\-- attention -/               \\-- MLP ---/
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import spec
from .attention import Attention, Mask
from .cache import CrossCache, LayerCache
from .linear import Linear
from .sublayer import Sublayer
from .tap import tap


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


#: The non-linearities of an MLP; they have no parameters. gelu_tanh is GPT-2's approximation of gelu.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": _gelu_tanh,
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
}


class MLP(Sublayer):
    """down(act(up(x))); gated: down(act(gate(x)) * up(x)). Every position alone, no cross-talk."""

    def __init__(self, mlp: spec.MLP, width: int, norm: spec.Norm, slots: tuple[str, ...]) -> None:
        super().__init__(width, norm, slots)
        self.mlp = mlp
        self.gate = Linear(width, mlp.hidden, mlp.bias) if mlp.gated else None
        self.up = Linear(width, mlp.hidden, mlp.bias)
        self.down = Linear(mlp.hidden, width, mlp.bias)

    def think(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D) through F hidden neurons."""
        up = tap(self, "up", self.up(x))
        gate = None if self.gate is None else tap(self, "gate", self.gate(x))
        added: Tensor = self.down(tap(self, "hidden", hidden(self.mlp, up, gate)))
        return added


def hidden(mlp: spec.MLP, up: Tensor, gate: Tensor | None) -> Tensor:
    """What enters the down projection, from the pre-activations ``up`` and, if gated, ``gate``."""
    activate = ACTIVATIONS[mlp.activation]
    return activate(up) if gate is None else activate(gate) * up


@dataclass(frozen=True)
class Shared:
    """What all blocks of a stack are handed, worked out once: who may read whom, score bias, an encoder's output."""

    mask: Mask
    bias: Tensor | None = None
    memory: Tensor | None = None
    memory_mask: Mask | None = None


class Block(nn.Module):
    """One layer. Its rotation and caches are handed in: an index into a list would make every layer a new program."""

    def __init__(self, block: spec.Block, width: int) -> None:
        super().__init__()
        self.parallel, self.shared_norm = block.parallel, block.shared_norm
        self.attn = Attention(block.attn, width, block.norm, block.slots)
        self.cross = None if block.cross is None else Attention(block.cross, width, block.norm, block.slots)
        mlp_slots = tuple(slot for slot in block.slots if not (block.shared_norm and slot == "pre"))
        self.mlp = MLP(block.mlp, width, block.norm, mlp_slots)

    def forward(
        self,
        x: Tensor,
        shared: Shared,
        rotation: tuple[Tensor, Tensor] | None = None,
        cache: LayerCache | None = None,
        cross_cache: CrossCache | None = None,
    ) -> Tensor:
        x = tap(self, "resid_pre", x)
        h = self.attn.enter(x)
        added = self.attn.leave(self.attn.read(h, shared.mask, rotation, shared.bias, cache))
        if self.parallel:
            mid = tap(self, "resid_mid", x + added)
            h = self.mlp.enter(h if self.shared_norm else x)
            return tap(self, "resid_post", mid + self.mlp.leave(self.mlp.think(h)))
        x = tap(self, "resid_mid", self.attn.settle(x, added))
        if self.cross is not None and shared.memory is not None and shared.memory_mask is not None:
            h = self.cross.enter(x)
            added = self.cross.leave(self.cross.consult(h, shared.memory, shared.memory_mask, cross_cache))
            x = tap(self, "resid_cross", self.cross.settle(x, added))
        return tap(self, "resid_post", self.mlp.settle(x, self.mlp.leave(self.mlp.think(self.mlp.enter(x)))))
