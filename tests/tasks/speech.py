"""A tiny random Whisper for the tests of speech, with its tokenizer, and sounds for it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from cutaway.families import checkpoint
from tests.families.making import random_model

END, START, EN, DE, TASK, SILENT, UNTIMED, TIME = range(300, 308)
CONFIG: dict[str, Any] = {
    "model_type": "whisper", "architectures": ["WhisperForConditionalGeneration"], "is_encoder_decoder": True,
    "vocab_size": 340, "num_mel_bins": 10, "d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4,
    "encoder_ffn_dim": 48, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 48,
    "max_source_positions": 30, "max_target_positions": 32, "pad_token_id": END, "bos_token_id": END,
    "eos_token_id": END, "decoder_start_token_id": START,
}  # fmt: skip
GENERATION: dict[str, Any] = {
    "decoder_start_token_id": START, "eos_token_id": END, "bos_token_id": END, "pad_token_id": END, "max_length": 32,
    "lang_to_id": {"<|en|>": EN, "<|de|>": DE}, "task_to_id": {"transcribe": TASK, "translate": 339},
    "no_timestamps_token_id": UNTIMED, "is_multilingual": True, "suppress_tokens": [5, 339, START, EN, DE, TASK],
    "begin_suppress_tokens": [220, END], "forced_decoder_ids": [[1, None], [2, TASK]],
    "max_initial_timestamp_index": 10, "alignment_heads": [[0, 1]], "return_timestamps": False,
    "prev_sot_token_id": 338,
}  # fmt: skip
WORDS_ONLY = {"suppress_tokens": [*range(256), *GENERATION["suppress_tokens"][1:]]}  # no bytes
RNG = np.random.default_rng(0)
SHORT = RNG.normal(0, 0.1, 8000).astype(np.float32)  # a window has 9,600
LONG = RNG.normal(0, 0.1, 40_000).astype(np.float32)


def tokenizer() -> Tokenizer:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    found = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    found.pre_tokenizer, found.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    found.add_tokens([AddedToken(f" word{i}", normalized=False) for i in range(len(letters), END)])
    names = "endoftext startoftranscript en de transcribe nospeech notimestamps".split()
    found.add_special_tokens([AddedToken(f"<|{name}|>", special=True) for name in names])
    found.add_tokens([AddedToken(f"<|{i * 0.02:.2f}|>", normalized=False) for i in range(340 - TIME)])
    around = [("<|startoftranscript|>", START), ("<|notimestamps|>", UNTIMED), ("<|endoftext|>", END)]
    template = " ".join([around[0][0], around[1][0], "$A", around[2][0]])
    found.post_processor = processors.TemplateProcessing(single=template, special_tokens=around)
    return found


def write(folder: Path, seed: int = 0, **says: Any) -> Path:
    """A random model in ``folder``; ``says`` goes into its generation_config.json."""
    model = random_model(CONFIG, seed)
    for block in model.decoder.blocks:
        block.cross.q.weight.data *= 6  # so that heads listen to some moments more than to others
    checkpoint.save(model, CONFIG, folder)
    (folder / "generation_config.json").write_text(json.dumps({**GENERATION, **says}))
    tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    return folder


def file(samples: np.ndarray, rate: int = 16_000) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, samples, rate, format="WAV", subtype="FLOAT")
    return content.getvalue()
