"""AdamW and its learning rate."""

from __future__ import annotations

import math

import torch
from torch import nn

from cutaway.training.recipe import Recipe


def make_optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019) that decays matrices and leaves norms and biases alone."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=(recipe.beta1, recipe.beta2), fused=True)


def learning_rate(step: int, recipe: Recipe) -> float:
    """For a step counted from 0: a straight line up to ``lr``, then half a cosine down to ``lr_end``, or for ever down
    as one over the square root of the step (Vaswani et al. 2017, section 5.3); again in each of the recipe's cycles
    (Loshchilov & Hutter 2017)."""
    length = math.ceil(recipe.steps / recipe.cycles)
    step -= length * min(step // length, recipe.cycles - 1)
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    if recipe.schedule == "inverse_sqrt":
        return recipe.lr * math.sqrt(max(1, recipe.warmup) / (step + 1))
    done = (step - recipe.warmup) / max(1, length - recipe.warmup)
    return recipe.lr_end + (recipe.lr - recipe.lr_end) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
