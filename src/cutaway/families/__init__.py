"""Public checkpoints: one file a family, each config.json -> spec and a table of names.

A file of this folder that has a ``FAMILIES`` list is a family file; adding one is all it takes (CONTRIBUTING.md).
Nothing here imports torch until tensors are touched, so that listing models stays quick.
"""

from __future__ import annotations

import functools
import importlib
import json
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import Refused
from ..model import spec
from .config import Config
from .names import Names

_MACHINERY = {"checkpoint", "config", "decoder", "names", "packed", "rotary", "verify", "weights"}
_WELL_KNOWN = {
    "albert", "bloom", "clip", "cohere", "cohere2", "deberta-v2", "deepseek_v2", "deepseek_v3", "dinov2",
    "electra", "falcon", "gemma", "gemma3", "gemma3n", "glm4", "gpt_bigcode", "gpt_neo", "gpt_oss", "gptj", "granite",
    "llama4", "llama4_text", "m2m_100", "mbart", "mixtral", "modernbert", "mpt", "mt5", "olmo", "olmo3", "olmoe",
    "opt", "pegasus", "phi3", "phimoe", "qwen2_moe", "qwen2_vl", "qwen3_moe", "qwen3_next", "stablelm", "starcoder2",
    "t5gemma", "umt5", "wav2vec2",
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """How one model_type of the Hugging Face layout becomes ours and goes back.

    ``read`` turns config.json into a spec; ``names`` gives the table that turns the file's tensors into ours, for a
    spec of the kind that ``read`` makes.
    """

    model_type: str
    read: Callable[[Config], spec.Spec]
    names: Callable[[Any], Names]


def known() -> list[str]:
    """The model_types that can be read, sorted."""
    return sorted(_families())


def find(model_type: Any) -> Family:
    """The family of a config.json's ``model_type``. Raises Refused, naming the known ones, when there is none."""
    family = _families().get(model_type) if isinstance(model_type, str) else None
    if family is not None:
        return family
    known_ones = f"Known: {', '.join(known())}."
    if model_type is None:
        raise Refused("config.json does not say which model_type it describes.", f"Add one. {known_ones}")
    yet = ", not yet" if isinstance(model_type, str) and model_type in _WELL_KNOWN else ""
    raise Refused(f"Cutaway cannot read models of type {json.dumps(model_type)[:80]}{yet}.", known_ones)


def describe(config: dict[str, Any]) -> tuple[Family, spec.Spec, list[str]]:
    """config.json's content -> its family, its spec, and a warning for every key nobody understood.

    Raises Refused for an unknown model_type and for any key that would change the computation and is not handled.
    """
    family = find(config.get("model_type"))
    reader = Config(config)
    try:
        described = family.read(reader)
    except ValueError as error:
        raise Refused(
            f"config.json describes no model that can be built: {error}.", "Get the checkpoint's original config.json."
        ) from None
    return family, described, reader.warnings()


@functools.cache
def _families() -> dict[str, Family]:
    modules = [name for _, name, _ in pkgutil.iter_modules(__path__) if name not in _MACHINERY]
    found = [importlib.import_module(f"{__name__}.{name}") for name in modules]
    return {family.model_type: family for module in found for family in getattr(module, "FAMILIES", ())}
