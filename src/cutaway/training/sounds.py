"""Learning to write down what is said, from recordings of single words, by a model shaped like Whisper.

Shapes: B sounds, M mel bins, F frames of 10 ms, T tokens, V vocabulary.

    recordings --> sounds of one word and of several --> log-mel (B, M, F) ----\\
               \\-> their words, perhaps with times --> tokens (B, T) -----------+-> the next token (B, T, V)
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cutaway.errors import Misuse
from cutaway.families import describe
from cutaway.files import write_atomically
from cutaway.generate.manner import speech_of
from cutaway.inputs import audio
from cutaway.inputs.audio import HOP, RATE, Samples
from cutaway.inputs.text import Tokenizer
from cutaway.model import spec
from cutaway.model.transformer import Seq2Seq
from cutaway.tasks.transcribe import STEP, Transcription, Wish, prompt_of
from cutaway.training.data import SPLITS
from cutaway.training.objective import Told, of_held_out
from cutaway.training.recipe import Recipe, Sounds
from cutaway.training.recordings import Recording, read
from cutaway.training.saying import Said, changed, disturbed, grown, say
from cutaway.training.tokenizer import END, START, UNTIMED, id_of, save_tokenizer, speech_tokenizer

GENERATION_CONFIG = "generation_config.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
SEVERAL = 300  # sounds of several words that are made of the held-out recordings of a split, the same ones each time
HEARD = 50  # sounds that are listened to together when nothing is learned
UNTOLD = -100  # what cross_entropy passes over
T = TypeVar("T")


class Transcribe:
    """The objective of sounds: cross-entropy of the next token of what is said in them, in nats."""

    unit = "sounds"
    stored = torch.float16

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe, self.folder, self.per_step = recipe, folder, recipe.batch
        self.splits = read(recipe)
        self.classes = sorted({its.word for some in self.splits.values() for its in some}, key=_order(recipe.sounds))
        self.config, self.stem = _prepare(recipe, self.classes, folder)
        self.tokenizer = Tokenizer.open(folder)
        self.speech = speech_of(folder, self.config, self.config["vocab_size"])
        self.voices: dict[str, list[Recording]] = {}
        for its in self.splits["train"]:
            self.voices.setdefault(its.speaker, []).append(its)

    @property
    def window(self) -> int:
        """Samples that are heard at once."""
        return 2 * self.stem.length * HOP

    def loss(self, model: nn.Module, step: int) -> Tensor:
        random = _random(self.recipe.seed, step)
        said, timed = self._made(step, random)
        heard = changed(self._heard(said), grown(self.recipe.sounds, step), random)
        targets = [self.target(its, with_times) for its, with_times in zip(said, timed, strict=True)]
        return self._loss(model, heard, targets)

    def _made(self, step: int, random: np.random.Generator) -> tuple[list[Said], list[bool]]:
        """The sounds of a batch, and which of them are written with times."""
        train, how = self.splits["train"], grown(self.recipe.sounds, step)
        timed = [bool(one) for one in random.random(self.recipe.batch) < how.timed]
        voices = [self.voices[train[i].speaker] for i in random.integers(len(train), size=self.recipe.batch)]
        said = [say(voice, how, self.window, random, its) for voice, its in zip(voices, timed, strict=True)]
        return [disturbed(one, how, random) for one in said], timed

    def place(self, step: int) -> str:
        said, _ = self._made(step, _random(self.recipe.seed, step))
        return f"sounds of {[its.text for its in said]}"

    def validate(self, model: nn.Module) -> dict[str, float]:
        return self._measures("valid", model, self.recipe.validate_windows)[0]

    def measure(self, model: nn.Module) -> Told:
        """Measures over all of valid and test, and the table of which word was taken for which in the test."""
        splits = [split for split in SPLITS if split in self.splits]
        return of_held_out(splits, lambda split: self._measures(split, model))

    def _measures(
        self, split: str, model: nn.Module, limit: int | None = None
    ) -> tuple[dict[str, float], list[list[int]]]:
        """``accuracy``: the share of the recordings that are written as what they are, and nothing else.
        ``accuracy_of_several``: that of sounds made of several. What is written otherwise than as one of the words is
        in no column of the table. ``limit`` takes about that many of both, evenly spread."""
        assert isinstance(model, Seq2Seq), "_prepare has asked"
        model.eval()
        its, several = (_some(given, limit) for given in (self.splits[split], self.several(split)))
        alone = [Said(one.samples[: self.window], [(0, len(one.samples), one.word)]) for one in its]
        written = [self.written(model, one.samples) for one in its]
        table = torch.zeros(len(self.classes), len(self.classes), dtype=torch.int64)
        for one, text in zip(its, written, strict=True):
            if text in self.classes:
                table[self.classes.index(one.word), self.classes.index(text)] += 1
        right = sum(self.written(model, one.samples) == one.text for one in several)
        measures = {
            "accuracy": int(table.trace()) / len(its),
            "accuracy_of_several": right / len(several),
            "nats_per_token": self._nats(model, alone),
        }
        return measures, table.tolist()

    def written(self, model: Seq2Seq, samples: Samples) -> str:
        """What the model writes of a sound, as ``Model.transcribe`` has it; the most probable, whatever it is."""
        wish = Wish(temperatures=(0.0,))
        heard = Transcription(model, samples, self.speech, self.tokenizer, wish, lambda heard, whole: None)
        return heard.finish().text

    def several(self, split: str) -> list[Said]:
        """Sounds of two words and more, said by one voice with pauses between, and otherwise as they were recorded."""
        random, its = _random(0, 0), self.splits[split]
        how = replace(self.recipe.sounds, alone=0.0, none=0.0, speed=0.0, uneven=0.0)
        voices = [[one for one in its if one.speaker == name] for name in sorted({one.speaker for one in its})]
        return [
            disturbed(say(voices[i % len(voices)], how, self.window, random, timed=False), Sounds(), random)
            for i in range(min(SEVERAL, 2 * len(its)))
        ]

    @torch.no_grad()
    def _nats(self, model: nn.Module, said: list[Said]) -> float:
        """Per token of what is said without times, its end included."""
        total, count = 0.0, 0
        for i in range(0, len(said), HEARD):
            some = said[i : i + HEARD]
            targets = [self.target(its, timed=False) for its in some]
            total += self._loss(model, self._heard(some), targets, "sum").item()
            count += sum(len(ids) - told for ids, told in targets)
        return total / count

    def _heard(self, said: Sequence[Said]) -> Tensor:
        """Log-mel (B, M, F)."""
        return torch.stack([audio.log_mel(its.samples, self.stem.bins, 2 * self.stem.length) for its in said])

    def target(self, said: Said, timed: bool) -> tuple[list[int], int]:
        """What is to be written, and how many of its tokens are told beforehand: the start, perhaps that no times come.

        With times each word stands between its own; where the window cuts one off, the moment it begins ends the text.
        Where nothing is said a time stands alone.
        """
        prompt, end = prompt_of(self.speech, None, timed), self.config["eos_token_id"]
        assert self.speech.no_times is not None, "_prepare has named it"
        first_time = self.speech.no_times + 1
        written: list[int] = []
        for begin, stop, word in said.words:
            its = self._ids(word)
            about = first_time + _steps(begin), first_time + _steps(stop)
            written += [about[0], *its, about[1]] if timed else its
        if timed and (said.cut is not None or not written):
            written.append(first_time + _steps(said.cut or 0))
        return [*prompt, *written, end], len(prompt)

    def _ids(self, word: str) -> list[int]:
        before, after = self.tokenizer.frame
        ids = self.tokenizer.encode(f" {word}")
        return ids[len(before) : len(ids) - len(after)]

    def _loss(
        self, model: nn.Module, heard: Tensor, targets: list[tuple[list[int], int]], reduction: str = "mean"
    ) -> Tensor:
        """In nats per token that is not told beforehand."""
        longest = max(len(ids) for ids, _ in targets)
        ids = torch.tensor([ids + [self.config["pad_token_id"]] * (longest - len(ids)) for ids, _ in targets])
        labels = torch.tensor([[UNTOLD] * told + ids[told:] + [UNTOLD] * (longest - len(ids)) for ids, told in targets])
        logits = model(heard, ids[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=UNTOLD, reduction=reduction)

    def export(self, folder: Path) -> None:
        for name in (*TOKENIZER_FILES, GENERATION_CONFIG):
            with write_atomically(folder / name) as beside:
                beside.write_bytes((self.folder / name).read_bytes())
        says = {
            "feature_extractor_type": "WhisperFeatureExtractor",
            "processor_class": "WhisperProcessor",
            "feature_size": self.stem.bins,
            "sampling_rate": RATE,
            "hop_length": HOP,
            "n_fft": audio.WINDOW,
            "chunk_length": self.window // RATE,
            "n_samples": self.window,
            "nb_max_frames": 2 * self.stem.length,
            "padding_side": "right",
            "padding_value": 0.0,
            "return_attention_mask": False,
        }
        _write_json(folder / audio.FILE, says)


def _some(given: list[T], limit: int | None) -> list[T]:
    """All, or every second, third and so on, as many as ``limit`` or a little fewer."""
    return given[:: 1 if limit is None else math.ceil(len(given) / limit)]


def _random(seed: int, step: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed, step, 3]))


def _steps(sample: int) -> int:
    """The time nearest to a sample."""
    return round(sample / RATE / STEP)


def _order(how: Sounds) -> Any:
    """Words as their labels are sorted."""
    labels = {word: label for label, word in how.words.items()}
    return lambda word: labels.get(word, word)


def _prepare(recipe: Recipe, words: list[str], folder: Path) -> tuple[dict[str, Any], spec.Mel]:
    """The recipe's [model] as a whole config.json, and what hears in it; in ``folder`` the tokenizer, and how text is
    generated. Raises Misuse where [model] describes no model that hears, or one with too little room for words."""
    config = {"max_source_positions": 1500, "max_target_positions": 448, **recipe.model}
    tokenizer = speech_tokenizer(words, config["max_source_positions"] + 1, STEP)
    config["vocab_size"] = tokenizer.get_vocab_size()
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), id_of(tokenizer, END))
    special["decoder_start_token_id"] = id_of(tokenizer, START)
    config |= special
    described = describe(config)[1]
    if not isinstance(described, spec.Seq2Seq) or not isinstance(described.source, spec.Mel):
        raise Misuse("[model] describes no model that hears sounds.", "Write model_type = 'whisper' there.")
    longest = max(len(tokenizer.encode(f" {word}", add_special_tokens=False).ids) for word in words)
    needed = 3 + (2 + longest) * recipe.sounds.most
    if needed > described.context:
        raise Misuse(
            f"{recipe.sounds.most} words and their times need {needed} positions, the decoder has {described.context}.",
            "Raise model.max_target_positions, or lower sounds.most.",
        )
    save_tokenizer(tokenizer, folder, described.context, "transcribe")
    says = special | {
        "max_length": described.context,
        "no_timestamps_token_id": id_of(tokenizer, UNTIMED),
        "is_multilingual": False,
        "return_timestamps": False,
        "logprob_threshold": None,  # of times a moment apart none is probable: that makes no text doubtful
    }
    _write_json(folder / GENERATION_CONFIG, says)
    return config, described.source


def _write_json(path: Path, says: dict[str, Any]) -> None:
    with write_atomically(path) as beside:
        beside.write_text(json.dumps(says, indent=2) + "\n")
