"""From a name or a path to a checkpoint folder: bundled, local, in the Hugging Face cache, or on the hub.

Listing what is there reads config.json and headers and imports neither torch nor huggingface_hub.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from .errors import CutawayError, Failed, NotFound, Refused
from .families import describe
from .families.config import dtype_of, read_config
from .families.weights import FLOATING, find_files, read_headers, shard_names
from .model import spec

BUNDLED = Path(__file__).parent / "bundled"

# Everything but the weights: descriptions and tokenizers. Never code, never pickles.
_SMALL_FILES = [
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "LICENSE*",
    "README.md",
]
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)


@dataclass(frozen=True)
class Entry:
    """A model that can be had without a network. ``spec`` is None where ``problem`` says why it cannot be read."""

    name: str
    source: str  # "bundled" or "cached"
    folder: Path
    family: str | None
    spec: spec.Transformer | None
    dtype: str | None
    problem: CutawayError | None = None

    @property
    def parameters(self) -> int | None:
        return None if self.spec is None else spec.parameters(self.spec)


def find(name: str | os.PathLike[str]) -> Path:
    """The checkpoint folder of a bundled name ("stories"), a folder, or a hub name ("openai-community/gpt2").

    A hub name is looked up in the Hugging Face cache first and downloaded only when it is not complete there.
    Raises NotFound, saying what to do, when there is no such model or no network; Refused when it is of an unknown
    family or has only pickled weights.
    """
    text = os.fspath(name)
    if text in _bundled_names():
        return BUNDLED / text
    folder = Path(os.path.expanduser(text))
    meant_as_path = isinstance(name, os.PathLike) or not _REPOSITORY.fullmatch(text)
    if text and os.path.isdir(folder):
        return folder
    if os.path.isfile(folder):
        raise NotFound(f"{text} is a file.", f"Name the folder it lies in: {folder.parent}")
    if meant_as_path:
        raise NotFound(
            f"There is no model at {text!r}.", "Name a folder, or a model of the hub such as Qwen/Qwen3-0.6B."
        )
    snapshot = _snapshot(text)
    if snapshot is not None and _incomplete(snapshot) is None:
        return snapshot
    return _download(text, in_part=snapshot is not None)


def bundled() -> list[Entry]:
    """The models that come with Cutaway."""
    return [_entry(name, "bundled", BUNDLED / name) for name in _bundled_names()]


def cached() -> list[Entry]:
    """The models with safetensors weights in the Hugging Face cache, of families that can be read."""
    entries = []
    for repository in sorted(cache_folder().glob("models--*")):
        name = repository.name.removeprefix("models--").replace("--", "/")
        snapshot = _snapshot(name)
        if snapshot is not None and (snapshot / "config.json").is_file():
            entry = _entry(name, "cached", snapshot)
            if entry.family is not None:
                entries.append(entry)
    return entries


def cache_folder() -> Path:
    """The Hugging Face cache, found as huggingface_hub finds it (HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME)."""
    environment = os.environ
    stated = environment.get("HF_HUB_CACHE") or environment.get("HUGGINGFACE_HUB_CACHE")
    if not stated:
        caches = environment.get("XDG_CACHE_HOME") or "~/.cache"
        stated = os.path.join(environment.get("HF_HOME") or os.path.join(caches, "huggingface"), "hub")
    return Path(os.path.expandvars(stated)).expanduser()


def _bundled_names() -> list[str]:
    return sorted(path.parent.name for path in BUNDLED.glob("*/config.json"))


def _entry(name: str, source: str, folder: Path) -> Entry:
    family = None
    try:
        config = read_config(folder)
        found, described, _ = describe(config)
        family = found.model_type
        dtype = dtype_of(config) or _stored_dtype(folder)
    except CutawayError as problem:
        return Entry(name, source, folder, family, None, None, problem)
    return Entry(name, source, folder, family, described, dtype, _incomplete(folder))


def _stored_dtype(folder: Path) -> str | None:
    """The dtype of most numbers in the first weight file."""
    counted: dict[str, int] = {}
    for stored in read_headers(find_files(folder)[:1]).values():
        counted[stored.dtype] = counted.get(stored.dtype, 0) + stored.elements
    return FLOATING.get(max(counted, key=lambda dtype: counted[dtype])) if counted else None


def _incomplete(folder: Path) -> CutawayError | None:
    """Why this folder is not a whole checkpoint, or None."""
    try:
        read_config(folder)
        find_files(folder)
    except CutawayError as error:
        return error
    return None


def _snapshot(name: str) -> Path | None:
    """The newest snapshot of a repository in the cache: the one ``main`` points to, else the latest."""
    repository = cache_folder() / f"models--{name.replace('/', '--')}"
    snapshots = repository / "snapshots"
    try:
        revision = (repository / "refs" / "main").read_text().strip()
    except (OSError, ValueError):
        revision = ""
    if re.fullmatch(r"[0-9a-f]{6,64}", revision) and (snapshots / revision).is_dir():
        return snapshots / revision
    kept = [folder for folder in snapshots.iterdir() if folder.is_dir()] if snapshots.is_dir() else []
    return max(kept, key=lambda folder: folder.stat().st_mtime, default=None)


# ------------------------------------------------------------------ the hub


def _download(name: str, in_part: bool) -> Path:
    """Fetch a repository's descriptions, then, if its family is known, its safetensors weights."""
    from huggingface_hub import errors, snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    print(f"fetching {name} from the Hugging Face hub", file=sys.stderr)
    try:
        folder = Path(snapshot_download(name, allow_patterns=_SMALL_FILES))
        describe(read_config(folder))  # before gigabytes are fetched for nothing
        sharded = (folder / "model.safetensors.index.json").is_file()
        files = shard_names(folder) if sharded else ["model.safetensors"]
        folder = Path(snapshot_download(name, revision=folder.name, allow_patterns=files))
    except errors.GatedRepoError:
        raise NotFound(
            f"{name} is gated: its authors want their terms accepted first.",
            f"Accept them at https://huggingface.co/{name}, then run `hf auth login`.",
        ) from None
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError):
        bundled_ones = ", ".join(_bundled_names())
        raise NotFound(
            f"There is no model called {name}: it is not bundled ({bundled_ones}), no folder, and not on the hub.",
            "Check the spelling; private models need `hf auth login`.",
        ) from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError, TimeoutError):
        raise NotFound(
            f"{name} is not {'whole ' if in_part else ''}in the cache, and the hub cannot be reached.",
            "Connect to the network (HF_HUB_OFFLINE must not be set), or name a local folder.",
        ) from None
    except CutawayError:
        raise
    except (errors.HfHubHTTPError, OSError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise Failed(f"{name} could not be fetched: {reason}.", "Try again later.") from error
    if not (folder / files[0]).is_file():
        raise Refused(
            f"{name} has no safetensors weights; pickles (.bin, .pt) can run any code when opened and are not fetched.",
            "Look for a conversion of it on the hub.",
        )
    find_files(folder)
    return folder
