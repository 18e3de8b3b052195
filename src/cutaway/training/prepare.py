"""From a recipe's sources to a tokenizer and token files in the run folder, made once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from tokenizers import Tokenizer

from cutaway.errors import NotFound
from cutaway.files import write_atomically
from cutaway.training.data import SPLITS, Tokens, read_corpus, read_tokens, write_tokens
from cutaway.training.recipe import Recipe
from cutaway.training.tokenizer import end_of, save_tokenizer, train_tokenizer


def prepare(recipe: Recipe, folder: Path) -> tuple[Tokenizer, dict[str, Tokens]]:
    """The tokenizer and the splits that have text, made in ``folder`` unless they are there, from the same sources.

    corpus.json, written last, says what they were made from and how many characters were left out, by reason.
    """
    named = [getattr(source, split) for source in recipe.sources for split in SPLITS]
    made_from = fingerprint(recipe, [Path(recipe.data) / name for name in named if name])
    about = folder / "corpus.json"
    if not about.is_file() or json.loads(about.read_text())["made_from"] != made_from:
        corpus, dropped = read_corpus(recipe.sources, Path(recipe.data))
        tokenizer = train_tokenizer(corpus["train"], recipe.tokenizer.size, recipe.tokenizer.pattern, recipe.task)
        save_tokenizer(tokenizer, folder, recipe.window, recipe.task)
        for split, documents in corpus.items():
            write_tokens(documents, tokenizer, end_of(tokenizer), folder / f"{split}.bin")
        with write_atomically(about) as beside:
            beside.write_text(json.dumps({"made_from": made_from, "left_out": dict(dropped.most_common())}, indent=2))
    splits = {split: folder / f"{split}.bin" for split in SPLITS}
    tokens = {split: read_tokens(path) for split, path in splits.items() if path.stat().st_size}
    return Tokenizer.from_file(str(folder / "tokenizer.json")), tokens


def fingerprint(recipe: Recipe, files: Iterable[Path]) -> str:
    """What prepared data is made from: sources, tokenizer and task as the recipe has them, and what is in ``files``."""
    digest = hashlib.sha256(
        json.dumps([[asdict(s) for s in recipe.sources], asdict(recipe.tokenizer), recipe.task]).encode()
    )
    for path in files:
        if not path.is_file():
            raise NotFound(f"No training data at {path}.", "Say where the data folder is: data=/path/to/folder.")
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
