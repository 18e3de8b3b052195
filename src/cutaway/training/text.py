"""Learning from texts, window by window: here to continue one, at every token predicting the next."""

from __future__ import annotations

import json
import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from cutaway.errors import Misuse
from cutaway.files import write_atomically
from cutaway.training.data import Sampler, Tokens, windows
from cutaway.training.objective import Measured, by_measure
from cutaway.training.prepare import prepare
from cutaway.training.recipe import Recipe
from cutaway.training.tokenizer import end_of

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


class Windows(ABC):
    """What objectives over windows of the token file share."""

    unit = "tokens"
    stored = torch.bfloat16

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe, self.folder = recipe, folder
        self.classes: list[str] = []  # nothing is told apart
        tokenizer, self.tokens = prepare(recipe, folder)
        self.config = self.complete(tokenizer)
        self.per_step = recipe.batch * recipe.window
        self.sampler = Sampler(len(self.tokens["train"].ids), recipe.window, recipe.batch, recipe.seed)

    @abstractmethod
    def complete(self, tokenizer: Tokenizer) -> dict[str, Any]:
        """The recipe's [model] as a whole config.json. Raises Misuse where the two do not go together."""

    @abstractmethod
    def loss(self, model: nn.Module, step: int) -> Tensor:
        """As ``Objective`` has it."""

    @abstractmethod
    def measures(self, split: str, model: nn.Module, limit: int | None = None) -> dict[str, float]:
        """Measures of a split, or of ``limit`` windows of it."""

    def place(self, step: int) -> str:
        return f"windows at tokens {self.sampler.starts(step).tolist()}"

    def validate(self, model: nn.Module) -> dict[str, float]:
        return self.measures("valid", model, self.recipe.validate_windows)

    def measure(self, model: nn.Module) -> tuple[Measured, list[list[int]]]:
        """Measures over all of valid and test; texts have no classes."""
        return by_measure({split: self.measures(split, model) for split in self.tokens if split != "train"}), []

    def export(self, folder: Path) -> None:
        copy_tokenizer(self.folder, folder)


class Continue(Windows):
    """The objective of texts: cross-entropy of the next token, in nats, over windows of the token file."""

    def complete(self, tokenizer: Tokenizer) -> dict[str, Any]:
        return _complete(self.recipe, tokenizer.get_vocab_size(), end_of(tokenizer))

    def loss(self, model: nn.Module, step: int) -> Tensor:
        return _loss(model, windows(self.tokens["train"].ids, self.sampler.starts(step), self.recipe.window + 1))

    def measures(self, split: str, model: nn.Module, limit: int | None = None) -> dict[str, float]:
        nats = evaluate(model, self.tokens[split], self.recipe.window, limit)
        return {"nats_per_token": nats, "bits_per_byte": self.tokens[split].bits_per_byte(nats)}

    def export(self, folder: Path) -> None:
        generation = {key: self.config[key] for key in ("bos_token_id", "eos_token_id")}
        with write_atomically(folder / "generation_config.json") as beside:
            beside.write_text(json.dumps(generation, indent=2) + "\n")
        super().export(folder)


def copy_tokenizer(made: Path, folder: Path) -> None:
    """The tokenizer's files, from where they were made to beside the weights."""
    for name in TOKENIZER_FILES:
        shutil.copyfile(made / name, folder / name)


def _loss(model: nn.Module, ids: Tensor, reduction: str = "mean") -> Tensor:
    """In nats per token, of ids (B, window + 1)."""
    logits = model(ids[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction=reduction)


@torch.no_grad()
def evaluate(model: nn.Module, tokens: Tokens, window: int, limit: int | None = None, batch: int = 16) -> float:
    """Mean loss in nats per token over consecutive windows, each seen without what came before.

    ``limit`` takes that many windows, evenly spread; None takes all but the last, shorter one.
    """
    model.eval()
    starts = consecutive(tokens, window, limit)
    total = 0.0
    for i in range(0, len(starts), batch):
        total += _loss(model, windows(tokens.ids, starts[i : i + batch], window + 1), "sum").item()
    return total / (len(starts) * window)


def consecutive(tokens: Tokens, window: int, limit: int | None) -> np.ndarray:
    """Where windows start that follow one another, all but the last, shorter one; or ``limit`` of them, evenly spread.

    Raises Misuse where there is none.
    """
    whole = (len(tokens.ids) - 1) // window
    if whole == 0:
        raise Misuse(f"{len(tokens.ids)} tokens are too few to measure on windows of {window}.", "Add text.")
    return window * np.unique(np.linspace(0, whole - 1, min(limit or whole, whole)).astype(np.int64))


def _complete(recipe: Recipe, vocabulary: int, end: int) -> dict[str, Any]:
    """The recipe's [model] as a whole config.json."""
    facts = {"vocab_size": vocabulary, "bos_token_id": end, "eos_token_id": end}
    config = {**recipe.model, **facts}
    longest = config.get("max_position_embeddings", config.get("n_positions"))
    if longest is not None and recipe.window > longest:
        raise Misuse(f"A window of {recipe.window} exceeds the model's {longest} positions.", "Make window smaller.")
    return config
