"""config.json, read with suspicion: it may lie, and a key nobody read may change the computation.

:class:`Config` notes which keys a family reads. What is left over becomes a named warning; what the family says it
cannot do is refused. Only keys known to change nothing at inference (``INERT``) pass in silence.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from ..errors import Misuse, NotFound, Refused
from ..model.spec import Norm

LARGEST_FILE = 4 * 2**20  # bytes; real ones reach about 100 kB, with a thousand class labels
MOST_LAYERS = 1024
WIDEST = 2**20
LARGEST = 2**31
MOST_WARNINGS = 20

# Training, bookkeeping, and generation's own settings, which generation_config.json repeats: no logit depends on these.
INERT = {
    "_attn_implementation", "_attn_implementation_autoset", "_commit_hash", "_name_or_path", "architectures",
    "attention_dropout", "attention_probs_dropout_prob", "attn_implementation", "attn_pdrop", "bad_words_ids",
    "begin_suppress_tokens", "bos_token_id", "cache_implementation", "chunk_size_feed_forward", "classifier_dropout",
    "decoder_start_token_id", "diversity_penalty", "do_sample", "dtype", "early_stopping", "embd_pdrop",
    "encoder_no_repeat_ngram_size", "eos_token_id", "exponential_decay_length_penalty", "finetuning_task",
    "forced_bos_token_id", "forced_eos_token_id", "gradient_checkpointing", "hidden_dropout", "hidden_dropout_prob",
    "id2label", "initializer_factor", "initializer_range", "label2id", "length_penalty", "max_length", "min_length",
    "model_type", "name_or_path", "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_labels",
    "num_return_sequences", "output_attentions", "output_hidden_states", "output_scores", "pad_token_id", "prefix",
    "pretraining_tp", "problem_type", "remove_invalid_values", "repetition_penalty", "resid_pdrop", "return_dict",
    "return_dict_in_generate", "sep_token_id", "suppress_tokens", "task_specific_params", "temperature",
    "tf_legacy_loss", "tie_encoder_decoder", "tokenizer_class", "top_k", "top_p", "torch_dtype", "torchscript",
    "transformers.js_config", "transformers_version", "typical_p", "unk_token_id", "use_bfloat16", "use_cache",
}  # fmt: skip

#: What `quantize` may say -> bits of a matrix's number.
QUANTIZE = {"int8": 8, "int4": 4}
#: What a folder that `cutaway quantize` wrote says of itself, by the bits of a matrix's number.
PACKED = {bits: {"quant_method": "cutaway", "bits": bits, "version": 1} for bits in (8, 4)}

# Keys any config may carry, and the values at which they change nothing; no family computes another.
_COMMON = {
    "add_cross_attention": (False,),
    "cross_attention_hidden_size": (),
    "is_causal": (True,),
    "is_encoder_decoder": (False,),
    "per_layer_config": (),
    "pruned_heads": ({},),
    "quantization": (),
    "quantization_config": tuple(PACKED.values()),
}

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
#: How the reference's models that tell classes of texts apart end.
CLASSES = "ForSequenceClassification"
#: How the reference's classes of encoder-decoders with a head are named.
WRITERS = ("ForConditionalGeneration", "MTModel", "WithLMHeadModel")
DTYPES = ("float64", "float32", "float16", "bfloat16")

_required: Any = object()


class Config:
    """The keys of a config.json (or of an object inside it), each read once by name, checked, and ticked off.

    Every reader takes the family's default for an absent key; without a default the key is required. An explicit
    ``null`` counts as absent. Raises Refused, naming key and value, for a value of the wrong kind or size; messages
    call the whole ``file``.

    ``inert`` are keys that pass unread, ``common`` those that pass at certain values only.
    """

    def __init__(
        self,
        content: dict[str, Any],
        path: str = "",
        file: str = "config.json",
        inert: Collection[str] = INERT,
        common: Mapping[str, tuple[Any, ...]] = _COMMON,
    ) -> None:
        self._content = content
        self._path = path
        self._file = file
        self._inert = inert
        self._common = common
        self._read: set[str] = set()
        self._parts: list[Config] = []

    def has(self, key: str) -> bool:
        """Is the key there and not null?"""
        return self._content.get(key) is not None

    def says(self, key: str) -> bool:
        """Is the key there, be it null?"""
        return key in self._content

    def peek(self, key: str) -> Any:
        """The value as it is, None when absent, without ticking it off."""
        return self._content.get(key)

    def any(self, key: str, default: Any = _required) -> Any:
        """The value as it is."""
        self._read.add(key)
        value = self._content.get(key)
        if value is not None:
            return value
        if default is _required:
            raise Refused(
                f"{self._file} does not say {self._path}{key}.", f"Get the checkpoint's original {self._file}."
            )
        return default

    def integer(self, key: str, default: Any = _required, most: int = LARGEST, least: int = 1) -> Any:
        """A whole number from ``least`` to ``most``, or the default."""
        value = self.any(key, default)
        if value is default:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.refused(key, value, f"it must be a whole number from {least} to {most:,}")
        return value

    def number(self, key: str, default: Any = _required, above: float = 0) -> Any:
        """A finite number above zero (or above another), or the default."""
        value = self.any(key, default)
        if value is default:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not above < value < 1e30:
            raise self.refused(key, value, f"it must be a number above {above or 'zero'}")
        return float(value)

    def flag(self, key: str, default: Any = _required) -> Any:
        """True or false, or the default."""
        value = self.any(key, default)
        if value is not default and not isinstance(value, bool):
            raise self.refused(key, value, "it must be true or false")
        return value

    def activation(self, key: str, default: str) -> str:
        """The name of an MLP's non-linearity, translated to ours."""
        value = self.any(key, default)
        if not isinstance(value, str) or value not in ACTIVATIONS:
            raise self.refused(key, value, f"known are {', '.join(ACTIVATIONS)}")
        return ACTIVATIONS[value]

    def each(self, key: str, count: int) -> list[Any] | None:
        """A list with one entry per layer, or None when absent."""
        value = self.any(key, None)
        if value is not None and (not isinstance(value, list) or len(value) != count):
            raise self.refused(key, value, f"it must be a list of {count} entries, one for each layer")
        return value

    def nullable(self, reader: Callable[[str, Any], Any], key: str, absent: Any) -> Any:
        """What ``reader`` makes of the key; None when it is null, ``absent`` when it is not there."""
        return reader(key, None if self.says(key) else absent)

    def part(self, key: str) -> Config:
        """The object under ``key``, empty when absent, read with the same care."""
        value = self.any(key, {})
        if not isinstance(value, dict):
            raise self.refused(key, value, "it must be an object")
        part = Config(value, f"{self._path}{key}.", self._file)
        self._parts.append(part)
        return part

    def only(self, key: str, *handled: Any) -> None:
        """Refuse the config unless ``key`` is absent or one of ``handled``: anything else changes the computation."""
        value = self.any(key, None)
        if value is not None and not any(_same(value, one) for one in handled):
            raise self.refused(key, value, "Cutaway does not compute that")

    def ignore(self, *keys: str) -> None:
        """Tick off keys that change nothing for this family."""
        self._read.update(keys)

    def __len__(self) -> int:
        return len(self._content)

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def architecture(self) -> str:
        """The reference's class that the file was saved from, as "architectures" names it first; "Model" when it is
        silent."""
        stated = self.peek("architectures")
        return stated[0] if isinstance(stated, list) and stated and isinstance(stated[0], str) else "Model"

    def classes(self) -> int:
        """How many classes a classifier tells apart, from their names or from their number; 2 when it is silent."""
        named = self.peek("id2label")
        if isinstance(named, dict) and named:
            return len(named)
        return int(self.integer("num_labels", 2, most=1_000_000))

    def warnings(self) -> list[str]:
        """One sentence for every key that nobody read and that is neither null nor known to be inert.

        Raises Refused for what no family computes: quantised weights, cross-attention, pruned heads.
        """
        for key, handled in self._common.items() if not self._path else ():
            if key not in self._read:  # a family that reads it has its own answer
                self.only(key, *handled)
        found = []
        for key, value in self._content.items():
            if value is None or key in self._read or (key in self._inert and not self._path):
                continue
            if key == "auto_map":
                found.append(f"{self._file} names Python code of the repository (auto_map); Cutaway never runs it.")
            else:
                found.append(
                    f"{self._file} says {self._path}{plain(key)} = {shown(value)}, which Cutaway does not know."
                )
        found += [warning for part in self._parts for warning in part.warnings()]
        more = len(found) - MOST_WARNINGS
        return found if more <= 0 else [*found[:MOST_WARNINGS], f"{self._file} says {more} more things like these."]

    def refused(self, key: str, value: Any, why: str) -> Refused:
        """The error for a value that cannot be used."""
        return Refused(
            f"{self._file} says {self._path}{key} = {shown(value)}; {why}.", "Correct it, or choose another checkpoint."
        )


def layer_norm(c: Config, key: str, eps: float) -> Norm:
    return Norm("layer", c.number(key, eps))


def rms_norm(c: Config, key: str, eps: float) -> Norm:
    return Norm("rms", c.number(key, eps))


def require_writer(c: Config, tied: bool) -> None:
    """Refuse what is not a whole encoder-decoder that writes text; ``tied``: its embedding can serve as its head."""
    name = c.architecture()
    c.only("is_encoder_decoder", True)
    c.only("is_decoder", False)
    if name.endswith("EncoderModel") or not name.endswith((*WRITERS, "Model")):
        what = "an encoder alone" if name.endswith("EncoderModel") else "a head that Cutaway does not read yet"
    elif not name.endswith(WRITERS) and not tied:
        what = "without a head"
    else:
        return
    raise Refused(
        f"config.json says architectures = {shown(c.peek('architectures'))}, {what}.",
        f"Of this type, models that end in {' or '.join(WRITERS)} are read.",
    )


def dtype_of(content: dict[str, Any]) -> str | None:
    """The dtype a config.json states ("dtype", before 2025 "torch_dtype"), or None."""
    stated = content.get("dtype") or content.get("torch_dtype")
    if stated in (None, "auto"):
        return None
    if stated not in DTYPES:
        raise Refused(f"config.json says dtype = {shown(stated)}; known are {', '.join(DTYPES)}.", "Correct it.")
    return str(stated)


def bits_of(content: dict[str, Any]) -> int | None:
    """The bits of a matrix's number in a folder that `cutaway quantize` wrote; None for any other checkpoint."""
    stated = content.get("quantization_config")
    return next((bits for bits, said in PACKED.items() if _same(stated, said)), None)


def bits_asked(quantize: str | None, content: dict[str, Any], dtype: object = None) -> int | None:
    """The bits of a matrix's number to load a checkpoint with; None for one that stays whole.

    Raises Misuse for what is not done: another format, another dtype beside.
    """
    held = bits_of(content)
    if quantize is None and held is None:
        return None
    if quantize is not None and quantize not in QUANTIZE:
        raise Misuse(f"Matrices are kept in {' or '.join(QUANTIZE)}, not in {quantize!r}.", "Give one of those.")
    if held is not None and quantize not in (None, f"int{held}"):
        raise Misuse(f"This model is quantised to int{held} already.", "Take it as it is, or what it was made from.")
    if dtype is not None and str(dtype).removeprefix("torch.") != "float32":
        raise Misuse("What is not quantised stays in float32.", "Leave dtype out, or quantize.")
    return held if quantize is None else QUANTIZE[quantize]


def cache_asked(cache: str | None, task: str, precision: str | None, device: object = None) -> Literal["int8"] | None:
    """What a checkpoint that does ``task``, loaded in ``precision``, keeps keys and values in; None: as it always does.

    Raises Misuse for another format, and where the engine in C, which keeps them so, does not write.
    """
    if cache is None:
        return None
    if cache != "int8":
        raise Misuse(f"Keys and values are kept in int8 by choice, not in {cache!r}.", "Give int8, or leave cache out.")
    if task not in ("continue", "rewrite", "transcribe"):
        raise Misuse("This model writes no texts, and so keeps no keys and values.", "Leave cache out.")
    if device is not None and str(device).partition(":")[0] != "cpu":
        raise Misuse("Keys and values are kept in int8 on processors only yet.", "Leave cache out, or device.")
    if precision in ("float16", "float64"):
        raise Misuse(
            f"Keys and values are kept in int8 by the engine in C, which reads no {precision}.",
            "Leave cache out, or give a dtype of float32 or bfloat16.",
        )
    return "int8"


def precision_of(content: dict[str, Any], bits: int | None = None, dtype: object = None) -> str | None:
    """The dtype a config.json states, or "int8" or "int4" where `cutaway quantize` made it so; or None. What is asked
    for, ``bits`` or a ``dtype``, comes first."""
    if (held := bits or bits_of(content)) is not None:
        return f"int{held}"
    return dtype_of(content) if dtype is None else str(dtype).removeprefix("torch.")


def read_config(folder: Path) -> dict[str, Any]:
    """The content of ``folder``/config.json. Raises NotFound without one, Refused for one that cannot be trusted."""
    path = inside(folder, "config.json")
    if not path.is_file():
        raise NotFound(f"{folder} has no config.json, so it is not a checkpoint.", "Name the folder that holds one.")
    return read_json(path, LARGEST_FILE)


def read_json(path: Path, largest: int) -> dict[str, Any]:
    """A JSON object from a file of at most ``largest`` bytes. Raises Refused for anything else (see parse_json)."""
    size = path.stat().st_size
    if size > largest:
        raise Refused(f"{path} is {size / 2**20:.0f} MB; a real one is far smaller.", "Download it again.")
    return parse_json(path.read_bytes(), str(path))


def parse_json(data: bytes, name: str) -> dict[str, Any]:
    """A JSON object without duplicate keys, NaN, infinities or bottomless nesting; ``name`` is for the message."""
    try:
        content = json.loads(
            data.decode(), object_pairs_hook=_no_duplicates, parse_constant=_no_constant, parse_float=_finite
        )
    except RecursionError:
        raise Refused(f"{name} is nested too deeply to be real.", "Download it again.") from None
    except ValueError as error:
        reason = "it is not text" if isinstance(error, UnicodeDecodeError) else str(error)
        raise Refused(f"{name} is not valid JSON: {reason}.", "Download it again.") from None
    if not isinstance(content, dict):
        raise Refused(f"{name} does not hold a JSON object.", "Download it again.")
    return content


def inside(folder: Path, name: str) -> Path:
    """``folder``/``name``, if that is a plain file name and the file lies in the folder.

    A link may leave the folder only as the Hugging Face cache lays it out: from snapshots/REVISION, or from a folder in
    it, to the same repository's blobs. Raises Refused otherwise; a missing file is no error here.
    """
    if not name or name in (".", "..") or any(mark in name for mark in "/\\\0"):
        raise Refused(f"{folder} refers to a file outside itself: {shown(name)}.", "Do not use this checkpoint.")
    path = folder / name
    root, real = Path(os.path.realpath(folder)), Path(os.path.realpath(path))
    snapshots = [place.parent for place in (root, root.parent) if place.parent.name == "snapshots"]
    allowed = [root, *(place.parent / "blobs" for place in snapshots)]
    if not any(real.is_relative_to(place) for place in allowed):
        raise Refused(f"{path} is a link to {real}, outside its folder.", "Replace the link by a copy of the file.")
    return path


def shown(value: Any) -> str:
    """A value of a file, short enough for a message."""
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def plain(name: str) -> str:
    """A name out of a file, as it is where that is short and harmless on a terminal."""
    return name if name.isprintable() and len(name) <= 120 else shown(name)


def _same(value: Any, other: Any) -> bool:
    return type(value) is type(other) and value == other


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            raise ValueError(f"the key {shown(key)} stands there twice")
        content[key] = value
    return content


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not a number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is not a finite number")
    return number
