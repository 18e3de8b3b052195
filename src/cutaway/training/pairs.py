"""Learning to translate: a sentence is read whole, and its translation told token by token (Vaswani et al. 2017).

Shapes: B pairs, S and T tokens of the longest source and target, M targets' tokens in all, D width, V vocabulary.

    sources (B, S) --> encoder --> memory (B, S, D)
                                        |
    targets, from the start token --> decoder --> stream (B, T, D) --> where a token follows (M, V)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from cutaway.errors import Misuse
from cutaway.families import describe
from cutaway.files import write_atomically
from cutaway.generate.beam import beam_search
from cutaway.generate.manner import manner_of
from cutaway.model import spec
from cutaway.model.transformer import Seq2Seq
from cutaway.training.objective import Measured, by_measure
from cutaway.training.padding import padded
from cutaway.training.parallel import Order, prepare
from cutaway.training.recipe import Recipe
from cutaway.training.text import copy_tokenizer
from cutaway.training.tokenizer import FRAME, end_of, id_of

SEARCH = {"num_beams": 4, "length_penalty": 0.6}  # how the model asks to be decoded (Vaswani et al. 2017, section 6.1)
SHOWN = 64  # pairs that are looked at together when nothing is learned


class Translate:
    """The objective of pairs: cross-entropy of each token of a translation behind all before it, in nats."""

    unit = "tokens"
    stored = torch.bfloat16

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe, self.folder = recipe, folder
        self.classes: list[str] = []  # nothing is told apart
        self.tokenizer, self.splits = prepare(recipe, folder)
        self.config = _complete(recipe, self.tokenizer)
        self.order = Order.of(self.splits["train"], recipe)
        self.per_step = self.order.tokens // self.order.per_epoch

    def loss(self, model: nn.Module, step: int) -> Tensor:
        logits, following = self._tell(model, "train", self.order.pairs(step))
        return F.cross_entropy(logits, following, label_smoothing=self.recipe.smoothing)

    def place(self, step: int) -> str:
        return f"pairs {self.order.pairs(step).tolist()}"

    def validate(self, model: nn.Module) -> dict[str, float]:
        return self._nats("valid", model, self.recipe.validate_windows)

    def measure(self, model: nn.Module) -> tuple[Measured, list[list[int]]]:
        """Loss and BLEU of all of valid and test; sentences have no classes."""
        found = {
            split: self._nats(split, model) | self._bleu(split, model) for split in self.splits if split != "train"
        }
        return by_measure(found), []

    @torch.no_grad()
    def _nats(self, split: str, model: nn.Module, limit: int | None = None) -> dict[str, float]:
        """The loss without smoothing, over all pairs or ``limit`` of them, evenly spread."""
        model.eval()
        count = len(self.splits[split])
        places = np.unique(np.linspace(0, count - 1, min(limit or count, count)).astype(np.int64))
        places = places[np.argsort(self.splits[split].target.lengths[places], kind="stable")]
        loss, tokens = 0.0, 0
        for i in range(0, len(places), SHOWN):
            logits, following = self._tell(model, split, places[i : i + SHOWN])
            loss += F.cross_entropy(logits, following, reduction="sum").item()
            tokens += len(following)
        return {"nats_per_token": loss / tokens}

    def _bleu(self, split: str, model: nn.Module) -> dict[str, float]:
        """BLEU (Papineni et al. 2002) as sacrebleu has it by default; nothing where that is not installed."""
        try:
            import sacrebleu
        except ImportError:
            print("BLEU is not measured: sacrebleu is not installed.", file=sys.stderr)
            return {}
        told = [self.tokenizer.decode(ids) for ids in self.translations(split, model)]
        target = self.splits[split].target
        true = [self.tokenizer.decode(target[place]) for place in range(len(target))]
        return {"bleu": sacrebleu.corpus_bleu(told, [true]).score}

    def translations(self, split: str, model: nn.Module) -> list[list[int]]:
        """The tokens of the best translation found of each sentence, as the saved model asks to be decoded."""
        assert isinstance(model, Seq2Seq), "_complete has asked"
        model.eval()
        manner = manner_of(self.recipe.folder / "model", self.config, self.config["vocab_size"])
        source = self.splits[split].source
        return [
            beam_search(
                model,
                [manner.start],
                source=self._fitting(source[place]),
                beams=manner.beams,
                max_new_tokens=manner.max_new_tokens or self.recipe.window,
                eos=manner.eos,
                length_penalty=manner.length_penalty,
                early_stopping=manner.early_stopping,
                rules=manner.rules,
            )[0].tokens
            for place in range(len(source))
        ]

    def _tell(self, model: nn.Module, split: str, places: np.ndarray) -> tuple[Tensor, Tensor]:
        """What the model makes of what follows in the translations, (M, V), and what does follow, (M)."""
        assert isinstance(model, Seq2Seq), "_complete has asked"
        its, start = self.splits[split], self.config["decoder_start_token_id"]
        sources, present = padded([self._fitting(its.source[place]) for place in places])
        told = [self._fitting(its.target[place]) for place in places]
        following, follows = padded(told)
        before, _ = padded([[start, *ids[:-1]] for ids in told])
        stream = model.stream(before, model.encode(sources, present), present)
        return model.logits(stream[follows][None])[0], following[follows]

    def _fitting(self, ids: list[int]) -> list[int]:
        """A sentence that is too long loses its end, and keeps its end token."""
        return ids if len(ids) <= self.recipe.window else [*ids[: self.recipe.window - 1], ids[-1]]

    def export(self, folder: Path) -> None:
        named = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
        generation = SEARCH | {
            "max_length": self.recipe.window,
            "bad_words_ids": [[self.config["pad_token_id"]]],
            **{name: self.config[name] for name in named if name in self.config},
        }
        with write_atomically(folder / "generation_config.json") as beside:
            beside.write_text(json.dumps(generation, indent=2) + "\n")
        copy_tokenizer(self.folder, folder)


def _complete(recipe: Recipe, tokenizer: Tokenizer) -> dict[str, Any]:
    """The recipe's [model] as a whole config.json. The decoder starts from the padding, as Marian's does."""
    end, pad = end_of(tokenizer), id_of(tokenizer, FRAME["pad_token"])
    ids = {"eos_token_id": end, "pad_token_id": pad, "decoder_start_token_id": pad}
    config = {**recipe.model, "vocab_size": tokenizer.get_vocab_size(), **ids}
    described = describe(config)[1]
    if not isinstance(described, spec.Seq2Seq) or not isinstance(described.source, spec.Tokens):
        raise Misuse("[model] describes no model that translates.", 'Write model_type = "marian" there.')
    if recipe.window > described.context:
        raise Misuse(
            f"A window of {recipe.window} exceeds the model's {described.context} positions.", "Make window smaller."
        )
    return config
