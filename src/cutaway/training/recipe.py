"""A recipe: everything that decides what a training run does, in one TOML file.

Recipes of the package go by name (``recipes/stories.toml`` is ``stories``), others by path. ``key=value`` arguments
change single entries, ``model.num_hidden_layers=4`` those of a table. No torch here: listing recipes stays quick.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from cutaway.errors import Misuse, NotFound

FOLDER = Path(__file__).parent / "recipes"
TEXTS = ("books", "stories", "text")
TASKS = {  # task -> the formats that hold what it learns from
    "continue": TEXTS,
    "fill": TEXTS,
    "see": ("idx",),
    "classify": (*TEXTS, "labelled"),
    "translate": ("pairs",),
    "transcribe": ("spoken",),
}
SCHEDULES = ("cosine", "inverse_sqrt")


@dataclass(frozen=True)
class Source:
    """Files of one corpus, named relative to the recipe's ``data`` folder; .gz is unpacked.

    ``books``: a paragraph a line, an empty line between books, cleaned as scanned books need it. ``stories``: a JSON
    object a line with "title" and "sections" or "pages". ``text``: plain, documents between ``<|endoftext|>`` marks.
    ``idx``: grey images and their classes; ``train = "t"`` means t-images-idx3-ubyte and t-labels-idx1-ubyte.
    ``labelled``: a JSON object a line with "text" and "label".
    ``pairs``: sentences and their translations, one a line; ``train = "t"`` and ``languages = "en-de"`` mean t.en and
    t.de.
    ``spoken``: a tar archive of recordings of single words, {label}_{speaker}_{index}.wav.
    """

    format: str
    train: str = ""
    valid: str = ""
    test: str = ""
    without_licence: str = ""  # leave out stories whose "license" contains this
    hold_out: float = 0.0  # of stories: the share of titles moved to valid, and as many to test; of idx: to valid
    label: str = ""  # of texts that a classifier learns from: the class of all that is in these files
    languages: str = ""  # of pairs: from which to which, "en-de", as the two files' names end


@dataclass(frozen=True)
class Vocabulary:
    """The tokenizer to learn: its number of entries, and the pattern that cuts text before merging."""

    size: int = 4096
    pattern: str = "llama3"


@dataclass(frozen=True)
class Images:
    """How images are shown: grey levels from 0 to 1, less ``mean``, over ``std``; and what is changed in each at random
    while training, so that no image comes twice."""

    mean: float = 0.5
    std: float = 0.5
    shift: float = 0.0  # pixels, at most, in each direction
    turn: float = 0.0  # degrees, at most, either way
    zoom: float = 0.0  # 0.1: from nine tenths to eleven tenths of its size
    invert: float = 0.0  # the share shown as negatives


@dataclass(frozen=True)
class Sounds:
    """Which recordings are held out; and how those to train on are said: how many in a row, and what is changed in each
    such sound at random, so that none comes twice."""

    test_below: int = 0  # recordings with an index below this are the test
    valid_below: int = 0  # and of the others, those below this are for validation
    leave_out: str = ""  # a speaker whose recordings are the test, all of them and nobody else's
    words: dict[str, str] = field(default_factory=dict)  # what a label means, where that is not the word itself
    most: int = 1  # words in a sound
    grow: int = 0  # steps over which sounds grow to that many, and over which all that follows grows
    alone: float = 0.4  # the share of sounds with one word
    none: float = 0.0  # the share in which nothing is said
    timed: float = 0.0  # the share that is written with times
    at_once: float = 0.4  # the share that begins with a word, and that ends with one
    pause: float = 0.0  # seconds, at most, between two words
    speed: float = 0.0  # 0.1: from nine tenths to eleven tenths
    uneven: float = 0.0  # decibels by which a word may be louder or softer than the others
    quiet: float = 0.0  # decibels, at most, below the loudest that there is
    tilt: float = 0.0  # how much duller or sharper, at most
    above: float = 0.0  # the share with something above 4 kHz, a mirror image of what is below
    noise: float = 0.0  # the share with noise
    warp: float = 0.0  # 0.1: frequencies from nine tenths to eleven tenths
    hidden: int = 0  # mel bins in a row, at most, that are hidden

    def __post_init__(self) -> None:
        _require(self.most >= 1, "sounds.most", "at least 1")
        for name in ("test_below", "valid_below", "grow", "pause", "uneven", "quiet", "hidden"):
            _require(getattr(self, name) >= 0, f"sounds.{name}", "at least 0")
        for name in ("alone", "none", "timed", "at_once", "above", "noise"):
            _require(0 <= getattr(self, name) <= 1, f"sounds.{name}", "from 0 to 1")
        for name in ("speed", "tilt", "warp"):
            _require(0 <= getattr(self, name) < 1, f"sounds.{name}", "at least 0 and below 1")
        _require(all(isinstance(word, str) for word in self.words.values()), "sounds.words", "a table of words")


@dataclass(frozen=True)
class Recipe:
    """See docs/training.md for every key. ``model`` is a config.json of any family that Cutaway knows."""

    model: dict[str, Any]
    sources: tuple[Source, ...]
    name: str = "model"
    task: str = "continue"  # what is learned: to continue, fill, classify, translate; to see; to transcribe
    data: str = "../shared/data"
    run: str = ""  # where everything is written; runs/<name> when empty
    seed: int = 1
    threads: int = 0  # 0: as many as torch finds
    tokenizer: Vocabulary = field(default_factory=Vocabulary)
    images: Images = field(default_factory=Images)
    sounds: Sounds = field(default_factory=Sounds)
    start: str = ""  # of a classifier of texts: the model that it begins as, by name or by folder
    freeze: bool = False  # and whether only the head that is put on it learns
    passage: int = 40  # and the words in each passage that texts with a label are cut into
    window: int = 512  # tokens the model sees at once
    masked: float = 0.15  # the share of them it is to tell, where masks are filled
    batch: int = 8  # windows, images or sounds a step; of pairs about as many tokens on either side
    steps: int = 1000
    cycles: int = 1  # parts of the run, in each of which the rate rises and falls
    warmup: int = 100  # steps
    lr: float = 1e-3
    schedule: str = "cosine"  # what follows: half a cosine, or the inverse square root of the step
    lr_end: float = 1e-4  # where the cosine ends
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.1
    dropout: float = 0.0  # the share of what stem and sublayers give that is zeroed while training
    smoothing: float = 0.0  # of pairs: the share of each target that all tokens have in equal parts
    clip: float = 1.0  # largest norm of all gradients together
    log_every: int = 10
    validate_every: int = 200
    validate_windows: int = 64  # while training; the end is measured on everything
    save_every: int = 200
    keep: int = 2  # checkpoints

    def __post_init__(self) -> None:
        counts = (
            "window",
            "passage",
            "batch",
            "steps",
            "log_every",
            "validate_every",
            "validate_windows",
            "save_every",
            "keep",
        )
        for name in counts:
            _require(getattr(self, name) >= 1, name, "at least 1")
        _require(self.cycles >= 1, "cycles", "at least 1")
        for name in ("threads", "warmup", "lr_end", "weight_decay", "seed"):
            _require(getattr(self, name) >= 0, name, "at least 0")
        for name in ("lr", "clip"):
            _require(getattr(self, name) > 0, name, "above 0")
        _require(0 < self.masked < 1, "masked", "above 0 and below 1")
        for name in ("beta1", "beta2", "dropout", "smoothing"):
            _require(0 <= getattr(self, name) < 1, name, "at least 0 and below 1")
        _require(self.task in TASKS, "task", " or ".join(TASKS))
        _require(bool(self.start) == (self.task == "classify"), "start", "there, and only there, where task = classify")
        _require(not (self.start and self.model), "model", "left out where start says what it is")
        _require(self.schedule in SCHEDULES, "schedule", " or ".join(SCHEDULES))
        for source in self.sources:
            labelled = bool(source.label) == (self.task == "classify" and source.format != "labelled")
            _require(labelled, "sources.label", "there for texts to classify, and for nothing else")
            _require(source.format in TASKS[self.task], "sources.format", " or ".join(TASKS[self.task]))
            _require(0 <= source.hold_out < 1, "sources.hold_out", "at least 0 and below 1")
            named = source.languages.split("-")
            two = len(named) == 2 and all(named)
            _require(two or source.format != "pairs", "sources.languages", 'two, such as "en-de"')
        for name in ("shift", "turn", "zoom", "invert"):
            _require(getattr(self.images, name) >= 0, f"images.{name}", "at least 0")
        _require(self.images.zoom < 1, "images.zoom", "below 1")
        _require(self.images.std > 0, "images.std", "above 0")

    @property
    def folder(self) -> Path:
        return Path(self.run or f"runs/{self.name}")


def names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def resolve(recipe: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of that name, or at that path, with ``key=value`` overrides.

    Raises NotFound for a recipe that is not there, Misuse for a key or value that no recipe has.
    """
    path = FOLDER / f"{recipe}.toml" if recipe in names() else Path(recipe)
    if not path.is_file():
        raise NotFound(f"There is no recipe {recipe}.", f"Name {' or '.join(names())}, or the path of a .toml file.")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Misuse(f"{path} is not TOML: {error}.", "Correct it there.") from error
    for override in overrides:
        _override(table, override)
    begun: dict[str, Any] = {"model": {}} if "start" in table else {}  # the model that it starts as says what it is
    return _build(Recipe, {"name": path.stem, **begun, **table}, "")


def to_toml(recipe: Recipe) -> str:
    """The recipe as a file that :func:`resolve` reads back to an equal one."""
    plain = dataclasses.asdict(recipe)
    tables = {name: plain.pop(name) for name in ("tokenizer", "images", "sounds", "model")}
    sources = plain.pop("sources")
    lines = _entries(plain)
    for source in sources:
        lines += ["", "[[sources]]", *_entries(source)]
    for name, table in tables.items():
        lines += ["", f"[{name}]", *_entries(table)]
    return "\n".join(lines) + "\n"


def _entries(table: Mapping[str, Any]) -> list[str]:
    return [f"{key} = {_value(value)}" for key, value in table.items()]


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_value(inner)}" for key, inner in value.items()) + " }"
    return json.dumps(value)


def _override(table: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise Misuse(f"{override!r} is not of the form key=value.", "Write for example steps=100.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # words need no quotes on a command line
    *path, last = key.split(".")
    for part in path:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise Misuse(
                f"{key} is not a key of a recipe.", "Only tokenizer., images., sounds. and model. have keys inside."
            )
    table[last] = value


def _build(kind: Any, value: Any, path: str) -> Any:
    """``value`` from TOML as ``kind``: a dataclass, a tuple of them, a table, or a plain value."""
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise Misuse(f"{path} must be a table.", f"Write [{path}] and its keys below.")
        hints = get_type_hints(kind)
        prefix = f"{path}." if path else ""
        for key in value:
            if key not in hints:
                raise Misuse(f"No recipe has a key {prefix}{key}.", f"The keys are {', '.join(sorted(hints))}.")
        missing = [
            f.name
            for f in dataclasses.fields(kind)
            if f.name not in value and f.default is f.default_factory is dataclasses.MISSING
        ]
        if missing:
            raise Misuse(f"The recipe lacks {prefix}{missing[0]}.", "Add it.")
        entries = {key: _build(hints[key], inner, prefix + key) for key, inner in value.items()}
        return kind(**entries)  # type: ignore[operator]
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise Misuse(f"{path} must be a list of tables.", f"Write [[{path}]] before each.")
        return tuple(_build(get_args(kind)[0], inner, path) for inner in value)
    wanted = get_origin(kind) or kind
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise Misuse(f"{path} must be {_WORDS[wanted]}, not {value!r}.", "Correct it in the recipe or the override.")
    return value


_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", dict: "a table"}


def _require(holds: bool, name: str, what: str) -> None:
    if not holds:
        raise Misuse(f"{name} must be {what}.", "Correct it in the recipe or the override.")
