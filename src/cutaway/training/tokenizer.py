"""A byte-level BPE tokenizer (Sennrich et al. 2016; bytes as in Radford et al. 2019), in the usual files.

Every byte has an entry of its own, so any text can be encoded, and comes back as it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from cutaway.errors import Misuse
from cutaway.files import write_atomically

END = "<|endoftext|>"
PATTERNS = {  # how text is cut before pairs are merged: GPT-2's encoder.py and Llama 3's tokenizer, to the letter
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "llama3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
}


def train_tokenizer(texts: Iterable[str], size: int, pattern: str) -> Tokenizer:
    """Learn a vocabulary of ``size`` entries: ``<|endoftext|>`` (id 0), the 256 bytes, merges."""
    if pattern not in PATTERNS:
        raise Misuse(f"Unknown tokenizer pattern {pattern!r}.", f"Choose one of {', '.join(PATTERNS)}.")
    if size < 257:
        raise Misuse(f"A tokenizer of {size} entries has no room for every byte.", "Make tokenizer.size at least 257.")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERNS[pattern]), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def end_of(tokenizer: Tokenizer) -> int:
    """The id that ends a document."""
    end = tokenizer.token_to_id(END)
    assert end is not None, "made by train_tokenizer"
    return end


def save_tokenizer(tokenizer: Tokenizer, folder: Path, context: int) -> None:
    """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json, as ``transformers`` reads them."""
    special = {"bos_token": END, "eos_token": END, "unk_token": END}
    config = {
        **special,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (
        ("tokenizer.json", tokenizer.to_str(pretty=True)),
        ("tokenizer_config.json", json.dumps(config, indent=2)),
        ("special_tokens_map.json", json.dumps(special, indent=2)),
    ):
        with write_atomically(folder / name) as beside:
            beside.write_text(text + "\n", encoding="utf-8")
