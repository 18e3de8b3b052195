"""Does a checkpoint give the reference's numbers? Its logits beside those of an installed ``transformers``, in float32.

The result is remembered by the checkpoint's fingerprint, so that the page can say what was measured for this very file.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Failed, Misuse
from ..files import write_atomically
from ..model import spec

if TYPE_CHECKING:
    from torch import Tensor

    from .checkpoint import Checkpoint

LENGTHS = (1, 17, 64, 200)  # tokens of the sequences compared, where the context allows
IMAGES = 3  # compared where a model reads those
TOLERANCE = 1e-5  # of a position's largest logit
_CLASSES = {
    "continue": "AutoModelForCausalLM",
    "fill": "AutoModelForMaskedLM",
    "classify": "AutoModelForSequenceClassification",
    "see": "AutoModelForImageClassification",
    "embed": "AutoModel",
    "rewrite": "AutoModelForSeq2SeqLM",
    "transcribe": "AutoModelForSpeechSeq2Seq",
}


def verify(checkpoint: Checkpoint) -> dict[str, Any]:
    """Compare with the reference and remember the result.

    Compared are logits, or the stream of a model that has no head (``compared`` says which).

    Returns JSON-ready data: ``relative`` and ``absolute``, the largest differences of any logit; ``agrees``, whether
    ``relative`` is below 1e-5; ``positions``, for each sequence (or image) and position {absolute, relative}; and what
    was used: ``tokens`` (the sequences, which an encoder and its decoder both read, or a decoder behind a sound; none
    of a model that reads images), ``dtype``, ``transformers``, ``torch``, ``fingerprint``. A relative difference is
    relative to the largest logit of its position. Raises Failed when transformers is not installed or cannot load the
    checkpoint, Misuse for a quantised one.
    """
    if checkpoint.bits is not None:
        raise Misuse(f"{checkpoint.folder} is quantised; the reference cannot read it.", "Name what it was made from.")
    if importlib.util.find_spec("transformers") is None:
        raise Failed("There is nothing to compare with: transformers is not installed.", "pip install transformers")
    import torch
    import transformers

    described = checkpoint.spec
    # A padding token inside a text has no position of its own in some references (RoBERTa).
    padding = None if described.task == "continue" else checkpoint.config.get("pad_token_id")
    sequences = _sequences(described, padding)
    inputs = _inputs(described, sequences)
    with torch.no_grad():
        ours = _results(checkpoint.load(torch.float32), inputs)
        theirs = _results(_called_as_ours(_reference(checkpoint.folder, _CLASSES[described.task])), inputs)
    positions = [_differences(a, b) for a, b in zip(ours, theirs, strict=True)]
    flat = [position for sequence in positions for position in sequence]
    worst = max(position["relative"] for position in flat)
    result = {
        "fingerprint": checkpoint.fingerprint,
        "compared": "stream" if described.head is None else "logits",
        "agrees": worst < TOLERANCE,
        "relative": worst,
        "absolute": max(position["absolute"] for position in flat),
        "positions": positions,
        "tokens": sequences,
        "dtype": "float32",
        "transformers": transformers.__version__,
        "torch": str(torch.__version__),
    }
    place = _place(checkpoint.fingerprint)
    place.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(place) as path:
        path.write_text(json.dumps(result), encoding="utf-8")
    return result


def verified(fingerprint: str) -> dict[str, Any] | None:
    """What :func:`verify` found for the checkpoint of this fingerprint; None when it was never asked."""
    try:
        result = json.loads(_place(fingerprint).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return result if isinstance(result, dict) else None


def state_folder() -> Path:
    """Where Cutaway keeps what it remembers: CUTAWAY_HOME, else cutaway in XDG_STATE_HOME, else in ~/.local/state."""
    own = os.environ.get("CUTAWAY_HOME")
    if own:
        return Path(os.path.expanduser(own))
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "cutaway"


def _place(fingerprint: str) -> Path:
    return state_folder() / "verified" / f"{fingerprint}.json"


def _sequences(described: spec.Spec, padding: int | None = None) -> list[list[int]]:
    """Token ids spread over the whole vocabulary by a fixed rule, the same for every model of its size, without
    ``padding``; none for a model that does not read tokens."""
    vocabulary = described.vocabulary
    if isinstance(described, spec.Seq2Seq):
        vocabulary = min(vocabulary or described.target.vocabulary, described.target.vocabulary)
    if not vocabulary:
        return []
    lengths = sorted({min(length, described.context) for length in LENGTHS})
    made = [[(2654435761 * (1000 * i + j + 1) >> 7) % vocabulary for j in range(n)] for i, n in enumerate(lengths)]
    return [[(id + 1) % vocabulary if id == padding else id for id in ids] for ids in made]


def _inputs(described: spec.Spec, sequences: list[list[int]]) -> list[tuple[Tensor, ...]]:
    """What a model is called with: tokens (1, T), twice for an encoder and its decoder, an image, or a sound and
    tokens."""
    import torch

    tokens = [torch.tensor([ids]) for ids in sequences]
    if isinstance(described.stem, spec.Mel):
        shape = (1, described.stem.bins, 2 * described.stem.length)
        sound = torch.randn(shape, generator=torch.Generator().manual_seed(0)).tanh()  # log-mel lies about -1 to 1
        return [(sound, ids) for ids in tokens]
    if isinstance(described, spec.Seq2Seq):
        return [(ids, ids) for ids in tokens]
    return [(ids,) for ids in tokens] or [(image,) for image in _images(described)]


def _images(described: spec.Transformer) -> list[Tensor]:
    """Noise in the shape of an image, (1, C, Y, X) each, the same for every model of its size."""
    import torch

    assert isinstance(described.stem, spec.Patches), "the stem of every family reads tokens or patches"
    shape = (IMAGES, described.stem.channels, described.stem.image, described.stem.image)
    return list(torch.randn(shape, generator=torch.Generator().manual_seed(0)).split(1))


def _called_as_ours(reference: Any) -> Callable[..., Any]:
    """The reference's model, called with what the decoder reads as the second input."""
    return lambda one, *ids: reference(one, **({"decoder_input_ids": ids[0]} if ids else {}))


def _results(model: Callable[..., Any], inputs: list[tuple[Tensor, ...]]) -> list[Tensor]:
    """The logits (T, V) for each input, from our model or the reference's; (1, V) of a classifier; the stream (T, D)
    of a model without a head."""
    import torch

    outputs = [model(*each) for each in inputs]
    found = [out if isinstance(out, torch.Tensor) else getattr(out, "logits", None) for out in outputs]
    whole = [out.last_hidden_state if x is None else x for x, out in zip(found, outputs, strict=True)]
    return [(x if x.ndim == 2 else x[0]).float() for x in whole]


def _reference(folder: Path, kind: str) -> Any:
    import transformers

    reference = getattr(transformers, kind)
    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()
    try:
        return reference.from_pretrained(
            str(folder),
            dtype="float32",
            attn_implementation="eager",
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        ).eval()
    except Exception as error:  # whatever another library raises, the answer is the same
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise Failed(f"transformers cannot load {folder}: {reason[:200]}", "Try another version of it.") from error


def _differences(ours: Tensor, theirs: Tensor) -> list[dict[str, float]]:
    absolute = (ours - theirs).abs().amax(-1)  # (T)
    relative = absolute / theirs.abs().amax(-1)
    return [{"absolute": float(a), "relative": float(r)} for a, r in zip(absolute, relative, strict=True)]
