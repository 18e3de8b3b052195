"""What `cutaway doctor` looks at: the installation, piece by piece."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from . import __version__, hub
from .families.verify import state_folder


@dataclass(frozen=True)
class Finding:
    """One thing looked at: what it is, or, when that is a problem, what to do about it."""

    name: str
    value: str
    problem: str = ""


def examine() -> list[Finding]:
    """Everything, in the order a person would ask for it."""
    packages = [_package(name) for name in ("tokenizers", "safetensors", "sentencepiece", "pillow")]
    return [
        _cutaway(), _python(), _torch(), _kernels(), *packages, _reference(), _page(), _bundled(), _cache(), _state(),
        _disk(),
    ]  # fmt: skip


def _cutaway() -> Finding:
    return Finding("cutaway", f"{__version__} in {Path(__file__).parent}")


def _python() -> Finding:
    version = platform.python_version()
    fits = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return Finding("python", f"{version} on {platform.system()} {platform.machine()}",
                   "" if fits else f"{version} is not one of 3.11, 3.12, 3.13: install one of those.")  # fmt: skip


def _torch() -> Finding:
    try:
        import torch
    except Exception as error:
        return Finding("torch", "", f"does not import ({type(error).__name__}: {error}): pip install torch")
    devices = [f"{torch.get_num_threads()} CPU threads"]
    if torch.cuda.is_available():
        devices += [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    return Finding("torch", f"{torch.__version__}, {', '.join(devices)}")


def _kernels() -> Finding:
    """Without them nothing is wrong, only slower."""
    try:
        from .native import library
    except Exception:  # torch does not import, which is said above
        return Finding("kernels", "none without torch")
    return Finding("kernels", library.told())


def _package(name: str) -> Finding:
    try:
        return Finding(name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "", f"is not installed: pip install {name}")


def _reference() -> Finding:
    found = importlib.util.find_spec("transformers") is not None
    return Finding("transformers", importlib.metadata.version("transformers") if found else
                   "not installed; only `cutaway verify` needs it")  # fmt: skip


def _page() -> Finding:
    page = Path(__file__).parent / "page" / "index.html"
    return Finding("page", "built" if page.is_file() else "", "" if page.is_file() else "is not built: make setup")


def _bundled() -> Finding:
    entries = hub.bundled()
    broken = [entry for entry in entries if entry.problem is not None]
    names = ", ".join(entry.name for entry in entries)
    if not entries or broken:
        return Finding("bundled", names, f"{broken[0].problem}" if broken else "no model came along: install again")
    return Finding("bundled", names)


def _cache() -> Finding:
    folder = hub.cache_folder()
    offline = (
        ", offline (HF_HUB_OFFLINE)"
        if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
        else ""
    )
    return Finding("model cache", f"{folder}, {len(hub.cached())} models that can be read{offline}")


def _state() -> Finding:
    return Finding("own state", f"{state_folder()}")


def _disk() -> Finding:
    folder = hub.cache_folder()
    while not folder.is_dir():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    return Finding("free disk", f"{free / 2**30:.0f} GiB for models", "" if free > 2**30 else
                   f"only {free / 2**20:.0f} MiB are free where models are kept: make room.")  # fmt: skip
