"""Dropout (Srivastava et al. 2014) where Vaswani et al. 2017 have it: while training, a share of the numbers is zeroed.

    stem --[dropout]--> x --+---- sublayer --[dropout]--(+)-->
                            \\_________________________/

The machine itself has none. The loop adds it to the model it trains, and the model that is saved knows nothing of it.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from cutaway.model.attention import Attention
from cutaway.model.block import MLP
from cutaway.model.stems import MelStem, PatchStem, TokenStem


def drop_out(model: nn.Module, share: float) -> None:
    """From now on, in training mode, ``share`` of what stems and sublayers give to the stream is 0, and the rest larger
    by 1 / (1 - share). Drawn from torch's random state, which is part of a checkpoint."""

    def dropped(module: nn.Module, _inputs: tuple[Tensor, ...], given: Tensor) -> Tensor:
        return F.dropout(given, share, module.training)

    for module in model.modules():
        if isinstance(module, Attention):
            module.o.register_forward_hook(dropped)
        elif isinstance(module, MLP):
            module.down.register_forward_hook(dropped)
        elif isinstance(module, TokenStem | PatchStem | MelStem):
            module.register_forward_hook(dropped)
