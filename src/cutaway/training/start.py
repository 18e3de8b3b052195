"""What a classifier begins as: another model's config.json and weights, but for the head."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cutaway.errors import Misuse
from cutaway.families import checkpoint, describe
from cutaway.families.config import CLASSES, Config, bits_of, read_config
from cutaway.inputs.text import Tokenizer
from cutaway.model import spec

#: What belongs to a model's tokenizer, in any of the forms that are read.
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model",
    "spiece.model", "vocab.json", "merges.txt",
)  # fmt: skip
HEAD = re.compile(r"(For[A-Z]\w*|LMHeadModel|Model)$")  # "RobertaForMaskedLM", "GPT2LMHeadModel", "BertModel"


def read_start(start: Path) -> dict[str, Any]:
    """config.json of a model that can become a classifier of texts. Raises Misuse for another."""
    config = read_config(start)
    if bits_of(config) is not None:
        raise Misuse(f"{start.name} is quantised, and its matrices cannot learn.", "Start from what it was made from.")
    described = describe(config)[1]
    if not isinstance(described, spec.Transformer) or not isinstance(described.stem, spec.Tokens):
        raise Misuse(
            f"{start.name} cannot become a classifier of texts.", "Start from an encoder or a decoder of texts."
        )
    return config


def with_classes(config: dict[str, Any], names: Sequence[str], tokenizer: Tokenizer) -> dict[str, Any]:
    """``config``, but for a head that tells the classes of these ``names`` apart."""
    kept = {key: value for key, value in config.items() if key not in ("num_labels", "finetuning_task")}
    made = {
        "architectures": [HEAD.sub("", Config(config).architecture()) + CLASSES],
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
        "problem_type": "single_label_classification",
    }
    return kept | _padding(config, tokenizer) | made


def _padding(config: dict[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    """A padding token for a decoder that names none, which others need to read texts together: they take the last token
    that is no padding for the last one."""
    end = config.get("eos_token_id")
    usable = described_by(config).stack.blocks[0].attn.causal and isinstance(end, int) and end not in tokenizer.frame[1]
    return {"pad_token_id": end} if usable and config.get("pad_token_id") is None else {}


def described_by(config: dict[str, Any]) -> spec.Transformer:
    """The spec of what ``read_start`` read, or ``with_classes`` made."""
    described = describe(config)[1]
    assert isinstance(described, spec.Transformer), "read_start has asked"
    return described


def begin(model: nn.Module, start: Path, freeze: bool) -> None:
    """Make stem and stack of ``model`` those of the checkpoint in ``start``; with ``freeze`` they do not learn."""
    learned = checkpoint.open(start).load(torch.float32).state_dict()
    for name, parameter in model.named_parameters():
        if not name.startswith("head."):
            with torch.no_grad():
                parameter.copy_(learned[name])
            parameter.requires_grad_(not freeze)
