"""Learning to fill masks: some tokens of a text are hidden, and told from all others (BERT, Devlin et al. 2018).

Shapes: B texts, T tokens, M hidden ones, D width, V vocabulary.

    windows of the token file --> cut into texts, framed --> a share hidden --> stream (B, T, D) --> the hidden (M, V)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from cutaway.errors import Misuse
from cutaway.families import describe
from cutaway.model import spec
from cutaway.model.transformer import Transformer
from cutaway.training.data import Tokens, windows
from cutaway.training.recipe import Recipe
from cutaway.training.text import Windows, consecutive
from cutaway.training.tokenizer import FRAME, id_of

#: Of the hidden tokens: shown as a mask, and shown as another token; the rest as themselves. So that the model cannot
#: trust a token because it is no mask.
AS_MASK, AS_ANOTHER = 0.8, 0.1

#: A window is read as so many texts: what people type is short.
CUTS = (2, 3, 6)

BATCH = 32  # windows that are looked at together when nothing is learned


class Fill(Windows):
    """The objective of masked words: cross-entropy of the hidden tokens, in nats, over windows of the token file."""

    def complete(self, tokenizer: Tokenizer) -> dict[str, Any]:
        self.ids = {name: id_of(tokenizer, token) for name, token in FRAME.items()}
        return _complete(self.recipe, tokenizer, self.ids)

    def loss(self, model: nn.Module, step: int) -> Tensor:
        random = np.random.Generator(np.random.PCG64([self.recipe.seed, step, 2]))
        ids = windows(self.tokens["train"].ids, self.sampler.starts(step), self.recipe.window)
        cuts = [cut for cut in CUTS if self.recipe.window % cut == 0]
        logits, hidden = self._tell(model, ids.reshape(-1, self.recipe.window // random.choice(cuts)), random)
        return F.cross_entropy(logits, hidden)

    @torch.no_grad()
    def measures(self, split: str, model: nn.Module, limit: int | None = None) -> dict[str, float]:
        """Loss and accuracy, the same tokens hidden each time."""
        model.eval()
        tokens: Tokens = self.tokens[split]
        starts = consecutive(tokens, self.recipe.window, limit)
        random = np.random.Generator(np.random.PCG64([0, 2]))
        loss, right, count = 0.0, 0, 0
        for i in range(0, len(starts), BATCH):
            ids = windows(tokens.ids, starts[i : i + BATCH], self.recipe.window)
            logits, hidden = self._tell(model, ids, random)
            loss += F.cross_entropy(logits, hidden, reduction="sum").item()
            right += int((logits.argmax(-1) == hidden).sum())
            count += len(hidden)
        return {"nats_per_mask": loss / count, "accuracy": right / count}

    def _tell(self, model: nn.Module, ids: Tensor, random: np.random.Generator) -> tuple[Tensor, Tensor]:
        """What the model makes of the hidden tokens, (M, V), and what they are, (M)."""
        assert isinstance(model, Transformer), "_complete has asked"
        framed = F.pad(F.pad(ids, (1, 0), value=self.ids["bos_token"]), (0, 1), value=self.ids["eos_token"])
        shown, hidden = hide(framed, self.recipe.masked, self.ids, self.config["vocab_size"], random)
        return model.logits(model.stream(shown)[hidden][None])[0], framed[hidden]


def hide(
    ids: Tensor, share: float, control: dict[str, int], vocabulary: int, random: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Ids (B, T) with some hidden, and which, (B, T): about ``share`` of what is no control token, and at least one."""
    plain = ids >= len(control)
    drawn = torch.from_numpy(random.random(tuple(ids.shape))).masked_fill(~plain, 1.0)
    hidden = drawn < share
    if not hidden.any():
        hidden = drawn == drawn.min()
    as_what = torch.from_numpy(random.random(tuple(ids.shape)))
    others = torch.from_numpy(random.integers(len(control), vocabulary, tuple(ids.shape)))
    shown = torch.where(hidden & (as_what < AS_MASK), control["mask_token"], ids)
    another = hidden & (as_what >= AS_MASK) & (as_what < AS_MASK + AS_ANOTHER)
    return torch.where(another, others, shown), hidden


def _complete(recipe: Recipe, tokenizer: Tokenizer, control: dict[str, int]) -> dict[str, Any]:
    """The recipe's [model] as a whole config.json, with room for a window and its frame."""
    ids = {
        f"{name.removesuffix('_token')}_token_id": id
        for name, id in control.items()
        if name[:3] in ("bos", "pad", "eos")
    }
    config = {**recipe.model, "vocab_size": tokenizer.get_vocab_size(), **ids}
    described = describe(config)[1]
    if not isinstance(described, spec.Transformer) or described.task != "fill":
        raise Misuse(
            "[model] describes no model that fills masks.", 'Write architectures = ["RobertaForMaskedLM"] there.'
        )
    if recipe.window + 2 > described.context:
        raise Misuse(
            f"A window of {recipe.window} and its frame exceed the model's {described.context} positions.",
            "Make window smaller.",
        )
    return config
