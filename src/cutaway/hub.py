"""From a name or a path to a checkpoint folder: bundled, local, in the Hugging Face cache, or on the hub.

Listing what is there reads config.json and headers and imports neither torch nor huggingface_hub.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .errors import CutawayError, Failed, NotFound, Refused
from .families import describe
from .families.config import precision_of, read_config
from .families.weights import FLOATING, find_files, read_headers, shard_names
from .model import spec

BUNDLED = Path(__file__).parent / "bundled"

CHUNK = 1 << 18  # bytes: a step of the progress, even on a slow line
PATIENCE = 20  # seconds in which a line has to bring something
TRIES = 3  # without one new byte

# Everything but the weights: descriptions and tokenizers. Never code, never pickles.
SMALL_FILES = [
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "modules.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "source.spm",
    "target.spm",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "target_vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "LICENSE*",
    "README.md",
]
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)

Progress = Callable[[int, int], None]
"""Hears how many bytes of the weights have come, of how many."""


@dataclass(frozen=True)
class Offer:
    """A model of the hub that the page offers by name. ``bytes``: about what is downloaded."""

    id: str
    family: str
    parameters: int
    bytes: int
    what: str

    @property
    def name(self) -> str:
        return self.id.rpartition("/")[2]


ON_PAGE = ("continue", "fill", "classify", "see", "rewrite", "transcribe")
"""Tasks of the models that the page shows, those first with which it begins."""

OFFERS = (
    Offer("openai-community/gpt2", "gpt2", 124_439_808, 548_000_000, "GPT-2 small, of 2019: the model most studied."),
    Offer("openai-community/gpt2-medium", "gpt2", 354_823_168, 1_520_000_000, "The same with 24 blocks of 16 heads."),
    Offer("HuggingFaceTB/SmolLM-135M", "llama", 134_515_008, 538_000_000, "Small, of 2024, built like Llama."),
    Offer("HuggingFaceTB/SmolLM2-360M", "llama", 361_821_120, 724_000_000, "The next size, trained on more text."),
    Offer("Qwen/Qwen3-0.6B", "qwen3", 596_049_920, 1_500_000_000, "Of 2025: many languages, can converse."),
    Offer("EleutherAI/pythia-70m", "gpt_neox", 70_426_624, 166_000_000, "Made for research: attention beside the MLP."),
    Offer("EleutherAI/pythia-160m", "gpt_neox", 162_322_944, 375_000_000, "The same with 12 blocks of 12 heads."),
)


@dataclass(frozen=True)
class Entry:
    """A model that can be had without a network. ``spec`` is None where ``problem`` says why it cannot be read."""

    name: str
    source: str  # "bundled" or "cached"
    folder: Path
    family: str | None
    spec: spec.Spec | None
    dtype: str | None
    problem: CutawayError | None = None

    @property
    def parameters(self) -> int | None:
        return None if self.spec is None else spec.parameters(self.spec)

    @property
    def task(self) -> str | None:
        """What it does, as spec.Transformer.task says."""
        return None if self.spec is None else self.spec.task


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


def fetch(name: str, progress: Progress) -> Path:
    """Download a model of the hub, telling how far it is. Ended at any moment, it goes on from there the next time.

    Raises NotFound, Refused or Failed as ``find`` does.
    """
    return _download(name, in_part=False, progress=progress)


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


def _repository(name: str) -> Path:
    return cache_folder() / f"models--{name.replace('/', '--')}"


def _bundled_names() -> list[str]:
    return sorted(path.parent.name for path in BUNDLED.glob("*/config.json"))


def _entry(name: str, source: str, folder: Path) -> Entry:
    family = None
    try:
        config = read_config(folder)
        found, described, _ = describe(config)
        family = found.model_type
        dtype = precision_of(config) or _stored_dtype(folder)
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
    repository = _repository(name)
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


def _download(name: str, in_part: bool, progress: Progress | None = None) -> Path:
    """Fetch a repository's descriptions, then, if its family is known, its safetensors weights."""
    from huggingface_hub import errors, snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    print(f"fetching {name} from the Hugging Face hub", file=sys.stderr)
    try:
        folder = Path(snapshot_download(name, allow_patterns=SMALL_FILES))
        describe(read_config(folder))  # before gigabytes are fetched for nothing
        sharded = (folder / "model.safetensors.index.json").is_file()
        files = shard_names(folder) if sharded else ["model.safetensors"]
        if progress is not None:
            _fetch_blobs(name, folder.name, files, progress)
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
    except Exception as error:  # the library's, the disk's, or those of the HTTP client the library happens to use
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise Failed(f"{name} could not be fetched: {reason}.", "Try again later.") from error
    if not (folder / files[0]).is_file():
        raise Refused(
            f"{name} has no safetensors weights; pickles (.bin, .pt) can run any code when opened and are not fetched.",
            "Look for a conversion of it on the hub.",
        )
    find_files(folder)
    return folder


def _fetch_blobs(name: str, revision: str, files: list[str], progress: Progress) -> None:
    """Put these files into the cache as the library does, by their hashes; it finds them there and links them.

    The library itself starts a file anew when its download was ended.
    """
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url

    blobs = _repository(name) / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    addresses: dict[Path, str] = {}
    sizes: dict[Path, int] = {}
    try:
        for file in files:
            address = hf_hub_url(name, file, revision=revision)
            found = get_hf_file_metadata(address)
            if found.etag is None or found.size is None or not re.fullmatch(r"[0-9a-f]{64}", found.etag):
                raise Failed(f"The hub does not say what {file} of {name} should be.", "Try again later.")
            addresses[blobs / found.etag], sizes[blobs / found.etag] = address, found.size
    except errors.EntryNotFoundError:
        return  # there are no such weights, which the caller says
    parts = {blob: blob.with_name(f"{blob.name}.cutaway.incomplete") for blob in sizes}
    held = {blob: _size(blob) or _size(parts[blob]) for blob in sizes}
    missing, free = sum(sizes.values()) - sum(held.values()), shutil.disk_usage(blobs).free
    if missing > free:
        raise Failed(f"{name} needs {missing / 1e6:,.0f} MB more and the disk has {free / 1e6:,.0f}.", "Make room.")
    for blob, address in addresses.items():
        others = sum(held.values()) - held[blob]

        def told(bytes: int, others: int = others) -> None:
            progress(others + bytes, sum(sizes.values()))

        told(held[blob])
        if not blob.exists():
            _fetch_blob(address, parts[blob], sizes[blob], told)
            with parts[blob].open("rb") as part:
                digest = hashlib.file_digest(part, "sha256").hexdigest()
            if digest != blob.name:
                parts[blob].unlink()
                raise Failed(f"The weights of {name} arrived damaged.", "Fetch them again.")
            parts[blob].replace(blob)
        held[blob] = sizes[blob]


def _fetch_blob(address: str, part: Path, size: int, told: Callable[[int], None]) -> None:
    """Go on with a file from where it is; a line that breaks is tried again as long as something comes."""
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_stream_backoff

    with part.open("ab") as file:
        best, failures = file.tell(), 0
        while file.tell() < size:
            headers = build_hf_headers() | {"Range": f"bytes={file.tell()}-", "Accept-Encoding": "identity"}
            reason = "it ended too early"
            try:
                with http_stream_backoff(
                    "GET", address, headers=headers, timeout=PATIENCE, retry_on_exceptions=()
                ) as response:
                    hf_raise_for_status(response)
                    if response.status_code != 206:  # the range was ignored: this is the file from its beginning
                        file.truncate(0)
                    for chunk in response.iter_bytes(CHUNK):
                        file.write(chunk)
                        told(file.tell())
            except OSError:  # the disk's, or a refusal of the hub
                raise
            except Exception as broken:  # the HTTP client's
                reason = str(broken) or type(broken).__name__
            failures = 0 if file.tell() > best else failures + 1
            best = max(best, file.tell())
            if failures == TRIES:
                raise Failed(f"The download broke off: {reason}.", "Start it again; it goes on from there.")


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0
