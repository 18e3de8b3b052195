"""A byte-level BPE tokenizer (Sennrich et al. 2016; bytes as in Radford et al. 2019), in the usual files.

Every byte has an entry of its own, so any text can be encoded, and comes back as it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from cutaway.errors import Misuse
from cutaway.files import write_atomically

END, START, UNTIMED = "<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"
#: The control tokens of a model that fills masks, in RoBERTa's order; the mask takes the space before it along.
FRAME = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}
CONTROL = {
    "continue": dict.fromkeys(("bos_token", "eos_token", "unk_token"), END),
    "fill": FRAME | {"cls_token": FRAME["bos_token"], "sep_token": FRAME["eos_token"]},
    "translate": {name: FRAME[name] for name in ("eos_token", "pad_token")},
    "transcribe": dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), END),
}
CLASSES = {"transcribe": "WhisperTokenizer"}
PATTERNS = {  # how text is cut before pairs are merged: GPT-2's encoder.py and Llama 3's tokenizer, to the letter
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "llama3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
}


def train_tokenizer(texts: Iterable[str], size: int, pattern: str, task: str = "continue") -> Tokenizer:
    """Learn a vocabulary of ``size`` entries: the control tokens of ``task`` (from id 0), the 256 bytes, merges."""
    if pattern not in PATTERNS:
        raise Misuse(f"Unknown tokenizer pattern {pattern!r}.", f"Choose one of {', '.join(PATTERNS)}.")
    control = [
        AddedToken(token, lstrip=token == FRAME["mask_token"]) for token in dict.fromkeys(CONTROL[task].values())
    ]
    least = 256 + len(control)
    if size < least:
        raise Misuse(
            f"A tokenizer of {size} entries has no room for every byte.", f"Make tokenizer.size at least {least}."
        )
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
        special_tokens=control,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if task == "fill":
        before, after = ((token, id_of(tokenizer, token)) for token in (FRAME["bos_token"], FRAME["eos_token"]))
        tokenizer.post_processor = processors.RobertaProcessing(after, before, add_prefix_space=False)
    if task == "translate":
        end = FRAME["eos_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"$A {end}", special_tokens=[(end, id_of(tokenizer, end))]
        )
    return tokenizer


def speech_tokenizer(words: Iterable[str], times: int, step: float) -> Tokenizer:
    """The 256 bytes, merges until each of ``words`` with the space before it is one entry, then Whisper's control
    tokens and ``times`` moments that are ``step`` seconds apart, from <|0.00|> on.

    A text is framed as an English-only Whisper has it: <|startoftranscript|><|notimestamps|> four two<|endoftext|>.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2**15, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([f" {word}" for word in words], trainer)
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in (END, START, UNTIMED)])
    tokenizer.add_tokens([AddedToken(f"<|{i * step:.2f}|>", normalized=False) for i in range(times)])
    around = [(name, id_of(tokenizer, name)) for name in (START, UNTIMED, END)]
    tokenizer.post_processor = processors.TemplateProcessing(f"{START} {UNTIMED} $A {END}", special_tokens=around)
    return tokenizer


def id_of(tokenizer: Tokenizer, token: str) -> int:
    """The id of a control token that the tokenizer was made with."""
    id = tokenizer.token_to_id(token)
    assert id is not None, "made by train_tokenizer"
    return id


def end_of(tokenizer: Tokenizer) -> int:
    """The id that ends a document."""
    framed = tokenizer.token_to_id(FRAME["eos_token"]) is not None
    return id_of(tokenizer, FRAME["eos_token"] if framed else END)


def save_tokenizer(tokenizer: Tokenizer, folder: Path, context: int, task: str = "continue") -> None:
    """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json, as ``transformers`` reads them."""
    special = CONTROL[task]
    config = {
        **special,
        "tokenizer_class": CLASSES.get(task, "PreTrainedTokenizerFast"),
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
