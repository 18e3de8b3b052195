"""How a checkpoint asks to be decoded: its generation_config.json, or, without one, what its config.json says of that.

config.json may also name tasks ("summarization", "translation_en_to_de") with settings of their own, among them what
is to stand before the text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cutaway.errors import Misuse, Refused
from cutaway.families.config import Config, inside, read_json

from .beam import MAX_BEAMS, EarlyStopping
from .rules import Rules
from .sampler import Sampler

FILE = "generation_config.json"
LARGEST_FILE = 2**20  # bytes; real ones have some hundred, Whisper's some thousand
LONGEST = 2**20

# What is asked for once a model is loaded, or by other libraries: no token depends on it.
INERT = {
    "_from_model_config", "assistant_confidence_threshold", "assistant_early_exit", "assistant_lookbehind",
    "bos_token_id", "cache_config", "cache_implementation", "compile_config", "disable_compile", "is_assistant",
    "low_memory", "max_matching_ngram_size", "num_assistant_tokens", "num_assistant_tokens_schedule",
    "num_return_sequences", "output_attentions", "output_hidden_states", "output_logits", "output_scores",
    "pad_token_id", "prefill_chunk_size", "prompt_lookup_num_tokens", "remove_invalid_values",
    "return_dict_in_generate", "target_lookbehind", "transformers_version", "use_cache",
}  # fmt: skip

# What changes which tokens come, and the values at which it changes nothing; Cutaway does not do the others.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "constraints": (),
    "diversity_penalty": (0, 0.0),
    "dola_layers": (),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1, 1.0),
    "epsilon_cutoff": (0, 0.0),
    "eta_cutoff": (0, 0.0),
    "exponential_decay_length_penalty": (),
    "force_words_ids": (),
    "guidance_scale": (1, 1.0),
    "max_time": (),
    "num_beam_groups": (1,),
    "penalty_alpha": (0, 0.0),
    "sequence_bias": (),
    "stop_strings": (),
    "token_healing": (False,),
    "top_h": (),
    "typical_p": (1, 1.0),
    "watermarking_config": (),
}

# What an old config.json says of decoding.
OLD = {
    "bad_words_ids", "begin_suppress_tokens", "bos_token_id", "decoder_start_token_id", "do_sample", "early_stopping",
    "eos_token_id", "force_bos_token_to_be_generated", "forced_bos_token_id", "forced_decoder_ids",
    "forced_eos_token_id", "length_penalty", "max_length", "min_length", "no_repeat_ngram_size", "num_beams",
    "repetition_penalty", "suppress_tokens", "temperature", "top_k", "top_p", *NEUTRAL,
}  # fmt: skip


@dataclass(frozen=True)
class Manner:
    """What a checkpoint asks for, in the words of ``generate``.

    start: the token a decoder behind an encoder begins with. eos: those that end it; none where only the tokenizer
    knows. prefix: what is to stand before the text.
    max_new_tokens: None where only the context is a limit. ``warnings``: keys that nobody understands.
    """

    start: int
    eos: frozenset[int]
    prefix: str
    max_new_tokens: int | None
    sampler: Sampler
    beams: int
    length_penalty: float
    early_stopping: EarlyStopping
    rules: Rules
    warnings: list[str]


@dataclass(frozen=True)
class Doubts:
    """What makes a text that was heard implausible; None: nothing does (Radford et al. 2022, 4.5).

    logprob: less than that, the mean log-probability of its tokens. text_ratio: more than that, the bytes of its text
    over those zlib makes of them; token_ratio: the same of its tokens, which is what generation_config.json means by
    compression_ratio_threshold. silence: a text that is too improbable is none where the model is surer than that
    that nobody speaks.
    """

    logprob: float | None = -1.0
    text_ratio: float | None = 2.4
    token_ratio: float | None = None
    silence: float | None = 0.6


@dataclass(frozen=True)
class Speech:
    """What a model that writes down speech begins with: its ``manner``'s start; the token of a language, by its code
    ("en"), and that of transcribing, both of models of many languages; that of no times, if it knows times.

    ``forced``: what follows the start where languages have no names. ``language``: the one meant where none is said.
    ``most_initial``: the last time, in steps of 20 ms, with which a text may begin. ``previous``: the token before what
    an earlier window said, where the checkpoint asks that the decoder reads it. ``alignment``: (block, head) of the
    cross-attention that follows the sound; none where the file names none. ``median``: how many moments of it a median
    is taken of.
    """

    manner: Manner
    languages: dict[str, int]
    task: int | None
    no_times: int | None
    forced: tuple[int, ...]
    language: str | None
    most_initial: int | None
    previous: int | None
    doubts: Doubts
    alignment: tuple[tuple[int, int], ...]
    median: int


def speech_of(folder: Path, config: Mapping[str, Any], vocabulary: int) -> Speech:
    """How the checkpoint in ``folder`` asks to write down speech. Raises Refused for what makes no sense."""
    c = _stated(folder, config, {})
    languages = {name.strip("<|>"): id for name, id in _named(c, "lang_to_id", vocabulary).items()}
    task = _named(c, "task_to_id", vocabulary).get("transcribe")
    if languages and task is None:
        raise Refused(f"{FILE} names languages, and no task_to_id.transcribe.", "Get the checkpoint's original file.")
    no_times = c.integer("no_timestamps_token_id", None, most=vocabulary - 2, least=0)
    forced = _forced(c, vocabulary)
    meant = {id: name for name, id in languages.items()}.get(forced[0] or 0) if forced else None
    stated = c.any("language", None)
    if stated is not None and stated not in languages:
        raise c.refused("language", stated, "its lang_to_id does not name it")
    c.only("task", "transcribe")
    most = c.integer("max_initial_timestamp_index", None, most=LONGEST, least=0)
    c.ignore("is_multilingual", "return_timestamps", "median_filter_width")
    kept = tuple(id for id in forced if id is not None and id != no_times)
    doubts, heads, width = _doubts(c), _heads(c), _median(config)
    previous = c.integer("prev_sot_token_id", None, most=vocabulary - 1, least=0)
    if not c.flag("condition_on_prev_tokens", False):
        previous = None
    manner = _read(c, vocabulary, "")
    return Speech(manner, languages, task, no_times, kept, stated or meant, most, previous, doubts, heads, width)


def _doubts(c: Config) -> Doubts:
    """The reference's thresholds, but for those the file states; null is none."""
    usual = Doubts()
    ratio = c.number("compression_ratio_threshold", None)
    return Doubts(
        c.nullable(lambda key, absent: c.number(key, absent, above=-1e30), "logprob_threshold", usual.logprob),
        None if c.says("compression_ratio_threshold") else usual.text_ratio,
        ratio,
        c.nullable(lambda key, absent: c.number(key, absent, above=-1), "no_speech_threshold", usual.silence),
    )


def _heads(c: Config) -> tuple[tuple[int, int], ...]:
    """Pairs of a block and a head."""
    stated = c.any("alignment_heads", [])
    if not isinstance(stated, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(type(n) is int and n >= 0 for n in pair) for pair in stated
    ):
        raise c.refused("alignment_heads", stated, "it must be a list of pairs, [block, head]")
    return tuple((block, head) for block, head in stated)


def _median(config: Mapping[str, Any]) -> int:
    """How many moments config.json wants a median of: an odd number."""
    c = Config({"median_filter_width": config.get("median_filter_width")})
    width = c.integer("median_filter_width", 7, most=LONGEST)
    if width % 2 == 0:
        raise c.refused("median_filter_width", width, "it must be odd")
    return int(width)


def _named(c: Config, key: str, vocabulary: int) -> dict[str, int]:
    """Tokens by name."""
    stated = c.any(key, {})
    if not isinstance(stated, dict):
        raise c.refused(key, stated, "it must name tokens")
    _checked(c, key, list(stated.values()), vocabulary)
    return stated


def _forced(c: Config, vocabulary: int) -> list[int | None]:
    """What [[1, id], [2, id]] puts behind the start token, where null leaves the choice to the model."""
    stated = c.any("forced_decoder_ids", [])
    pairs = isinstance(stated, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in stated)
    if not pairs or [place for place, _ in stated] != list(range(1, len(stated) + 1)):
        raise c.refused("forced_decoder_ids", stated, "it must be a list of pairs, [1, token], [2, token] and so on")
    ids = [id for _, id in stated]
    _checked(c, "forced_decoder_ids", [id for id in ids if id is not None], vocabulary)
    return ids


def tasks_of(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The tasks config.json names, with their settings."""
    stated = config.get("task_specific_params")
    stated = stated if isinstance(stated, dict) else {}
    return {name: its for name, its in stated.items() if isinstance(its, dict)}


def manner_of(folder: Path, config: Mapping[str, Any], vocabulary: int, task: str | None = None) -> Manner:
    """What the checkpoint in ``folder`` asks for, for one of its tasks; its decoder knows ``vocabulary`` tokens.

    Raises Refused for a setting that makes no sense, and for one that changes which tokens come and is not done here.
    """
    its = {} if task is None else dict(tasks_of(config)[task])
    prefix = its.pop("prefix", config.get("prefix"))
    return _read(_stated(folder, config, its), vocabulary, prefix if isinstance(prefix, str) else "")


def start_of(folder: Path, config: Mapping[str, Any], vocabulary: int) -> int:
    """The token that the decoder of the checkpoint in ``folder`` begins with. Raises Refused where nobody says."""
    return _start(_stated(folder, config, {}), vocabulary)


def _stated(folder: Path, config: Mapping[str, Any], more: Mapping[str, Any]) -> Config:
    path = inside(folder, FILE)
    if path.is_file():
        stated, file = read_json(path, LARGEST_FILE), FILE
    else:
        stated, file = {key: value for key, value in config.items() if key in OLD}, "config.json"
    return Config({**stated, **more}, file=file, inert=INERT, common=NEUTRAL)


def _start(c: Config, vocabulary: int) -> int:
    for key in ("decoder_start_token_id", "bos_token_id"):
        if (start := c.integer(key, None, most=vocabulary - 1, least=0)) is not None:
            return int(start)
    raise Refused("The checkpoint does not say how its decoder begins.", f"Add decoder_start_token_id to its {FILE}.")


def _read(c: Config, vocabulary: int, prefix: str) -> Manner:
    start = _start(c, vocabulary)
    length = c.integer("max_length", None, most=LONGEST, least=2)  # counts the token it begins with
    count = c.integer("max_new_tokens", None if length is None else length - 1, most=LONGEST)
    least = c.integer("min_new_tokens", None, most=LONGEST, least=0)
    first = c.integer("forced_bos_token_id", None, most=vocabulary - 1, least=0)
    if c.flag("force_bos_token_to_be_generated", False) and first is None:  # as files before 2021 say it
        first = c.integer("bos_token_id", most=vocabulary - 1, least=0)
    rules = Rules(
        repetition_penalty=c.number("repetition_penalty", 1.0),
        no_repeat_ngram_size=c.integer("no_repeat_ngram_size", 0, most=LONGEST, least=0),
        bad_words_ids=_sequences(c, "bad_words_ids", vocabulary),
        min_length=max(c.integer("min_length", 0, most=LONGEST, least=0), 0 if not least else least + 1),
        forced_bos_token_id=first,
        forced_eos_token_id=_tokens(c, "forced_eos_token_id", vocabulary),
        suppress_tokens=_tokens(c, "suppress_tokens", vocabulary),
        begin_suppress_tokens=_tokens(c, "begin_suppress_tokens", vocabulary),
        renormalize_logits=c.flag("renormalize_logits", False),
    )
    for forced in ({first}, set(rules.forced_eos_token_id)):
        if forced and forced <= set(rules.suppress_tokens):
            raise c.refused("suppress_tokens", list(rules.suppress_tokens), f"{forced.pop()} is a token it forces")
    beams = c.integer("num_beams", 1, most=MAX_BEAMS)
    drawn = c.flag("do_sample", False)
    if drawn and beams > 1:
        c.only("do_sample", False)  # beams that are drawn
    temperature, top_p, min_p = (c.number(key, None, above=-1) for key in ("temperature", "top_p", "min_p"))
    top_k = c.integer("top_k", 50, most=LONGEST, least=0)
    sampler = Sampler(temperature=0)
    if drawn:
        try:
            sampler = Sampler(1.0 if temperature is None else temperature, top_k, top_p, min_p)
        except Misuse as error:
            raise Refused(f"The checkpoint asks for what cannot be drawn: {error.message}", error.fix) from None
    early = c.any("early_stopping", False)
    c.only("early_stopping", True, False, "never")
    penalty = c.number("length_penalty", 1.0, above=-1e30)
    eos = frozenset(_tokens(c, "eos_token_id", vocabulary))
    return Manner(start, eos, prefix, count, sampler, beams, penalty, early, rules, c.warnings())


def _tokens(c: Config, key: str, vocabulary: int) -> tuple[int, ...]:
    """A token or a list of tokens."""
    stated = c.any(key, ())
    return _checked(c, key, list(stated) if isinstance(stated, list | tuple) else [stated], vocabulary)


def _sequences(c: Config, key: str, vocabulary: int) -> tuple[tuple[int, ...], ...]:
    """A list of lists of tokens."""
    stated = c.any(key, [])
    if not isinstance(stated, list) or not all(isinstance(one, list) and one for one in stated):
        raise c.refused(key, stated, "it must be a list of lists of tokens")
    return tuple(_checked(c, key, one, vocabulary) for one in stated)


def _checked(c: Config, key: str, tokens: list[Any], vocabulary: int) -> tuple[int, ...]:
    if not all(type(token) is int and 0 <= token < vocabulary for token in tokens):
        raise c.refused(key, tokens, f"tokens go from 0 to {vocabulary - 1}")
    return tuple(tokens)
