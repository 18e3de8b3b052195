"""Checkpoints in the Hugging Face layout: opened by their headers, loaded onto a meta model, saved back.

    config.json ----------- describe ----> spec --- build on meta ---> model without memory
                                                                          |  names and shapes must agree
    *.safetensors headers -- claim by the family's names ----> plan ------'
    *.safetensors data ----- one tensor at a time -----------> assigned

Nothing is read from the data before every tensor is claimed by one rule and every parameter filled by one tensor.
"""

from __future__ import annotations

import functools
import json
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import Failed, Misuse, NotFound, Refused
from ..files import write_atomically
from ..model import quantized, spec
from ..model.transformer import Seq2Seq, Transformer, build, embedding_of
from . import Family, describe, packed
from .config import DTYPES, bits_of, dtype_of, read_config
from .names import SAME, SHARED, Claim, Names
from .weights import FLOATING, Stored, find_files, fingerprint, read_headers

UNEMBEDDING = "head.out.weight"
# Where a model begins; its dtype counts as the model's.
FIRST = ("stem.tokens.weight", "stem.patch.weight", "target.tokens.weight")

AT_ONCE = 2**26  # bytes of a file that are read before it is opened anew
_WRONG_FILES = "Check that config.json and the weights belong together, or download both again."


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose names and shapes have been checked, and none of whose tensors has been read."""

    folder: Path
    config: dict[str, Any]
    family: Family
    spec: spec.Spec
    warnings: list[str]
    bits: int | None  # of a matrix's number, where the files hold quantised ones
    _tensors: dict[str, Stored] = field(repr=False)
    _plan: list[Claim] = field(repr=False)

    @property
    def parameters(self) -> int:
        """How many parameters the model has, tied tables counted once."""
        return spec.parameters(self.spec)

    @property
    def dtype(self) -> torch.dtype:
        """What ``load()`` makes the weights: config.json's dtype, else that of the embedding, or of the patches, in the
        file."""
        if self.bits is not None:
            return torch.float32
        stated = dtype_of(self.config)
        if stated is None:
            first = next(claim for claim in self._plan if claim.ours[0] in FIRST)
            stated = FLOATING[self._tensors[first.theirs].dtype]
        return _dtype(stated)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Identifies these files (see :func:`weights.fingerprint`)."""
        return fingerprint(self.folder)

    def load(
        self,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        progress: Callable[[int, int], None] = lambda read, whole: None,
        bits: int | None = None,
    ) -> Transformer | Seq2Seq:
        """The model with its weights, in ``dtype`` (None: :attr:`dtype`) on ``device`` (None: the CPU).

        ``progress`` hears, before each tensor, how many bytes of the weights are read, of how many. ``bits``: its
        matrices are quantised (``model.quantized``), each as soon as it is read.
        Raises Failed when the memory does not suffice, Refused for weights that are not finite numbers.
        """
        wanted = self.dtype if dtype is None else _dtype(dtype)
        where = torch.device("cpu" if device is None else device)
        model = _without_memory(self.spec, self.bits or bits)
        fewer = quantized.matrices(model)
        size = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers())) if fewer else 0
        _require_memory(size or self.parameters * wanted.itemsize, where)
        parameters: dict[str, Tensor] = {}
        claimed = Counter(name for claim in self._plan for name in claim.ours)
        first: dict[str, Tensor] = {}  # of those claimed twice
        read, whole = 0, sum(self._tensors[claim.theirs].bytes for claim in self._plan)
        for claim, tensor in self._read():
            progress(read, whole)
            read += tensor.nbytes
            for name, part in zip(claim.ours, claim.operation.to_ours(tensor), strict=True):
                if name in fewer and claimed[name] == 1:
                    parameters[quantized.packed_name(name)] = quantized.pack(part, fewer[name]).to(where)
                    continue
                held = part.dtype is torch.uint8  # quantised matrices, as they are
                its_dtype = part.dtype if held else torch.float32 if claim.operation.float32 else wanted
                # A copy even where nothing changes: the model must not depend on a mapped file that may be cut short.
                ours = part.to(where, its_dtype, copy=True, memory_format=torch.contiguous_format)
                if claimed[name] > 1 and not torch.equal(ours, first.setdefault(name, ours)):
                    raise _differs(claim, name == embedding_of(self.spec))
                if name in fewer:
                    parameters[quantized.packed_name(name)] = quantized.pack(ours, fewer[name])
                else:
                    parameters[name] = ours
        for name, stand_in in self.family.names(self.spec).absent.items():
            place = _held_as(name, fewer)
            if place not in parameters and stand_in is None:
                parameters[place] = torch.zeros(model.get_parameter(name).shape, dtype=wanted, device=where)
            elif place not in parameters and stand_in is not None:
                parameters[place] = parameters[_held_as(stand_in, fewer)].clone()
        try:
            model.load_state_dict(parameters, assign=True)
        except RuntimeError:  # names and shapes agreed when the headers were read
            raise Refused(f"The files of {self.folder} changed while they were read.", "Try again.") from None
        return model.eval()

    def _read(self) -> Iterator[tuple[Claim, Tensor]]:
        """Every claimed tensor, file by file, once it is known to be finite."""
        for file, claims in self._parts():
            try:
                with safe_open(file, framework="pt") as opened:
                    for claim in claims:
                        tensor = opened.get_tensor(claim.theirs)
                        held = tensor.dtype is torch.uint8
                        _require_finite(claim.theirs, quantized.scales_of(tensor) if held else tensor)
                        yield claim, tensor
            except (SafetensorError, OSError) as error:
                raise Refused(f"{file} cannot be read: {error}.", "Download it again.") from None

    def _parts(self) -> Iterator[tuple[Path, list[Claim]]]:
        """Each file and what is to be read of it, some of it at a time: what has been read of a mapped file counts as
        held until it is closed, beside the copy."""
        for file in sorted({self._tensors[claim.theirs].file for claim in self._plan}):
            part: list[Claim] = []
            for claim in (claim for claim in self._plan if self._tensors[claim.theirs].file == file):
                part.append(claim)
                if sum(self._tensors[one.theirs].bytes for one in part) > AT_ONCE:
                    yield file, part
                    part = []
            if part:
                yield file, part


def open(folder: str | os.PathLike[str], strict: bool = False) -> Checkpoint:
    """Open a checkpoint folder by its config.json and the headers of its safetensors files.

    ``strict`` makes warnings (keys of config.json that nobody understands) an error. Raises NotFound for what is not
    a checkpoint, Refused, in one sentence, for one that is damaged, unsafe or not understood.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NotFound(f"{folder} is not a folder.", "Name the folder that holds config.json and model.safetensors.")
    config = read_config(folder)
    family, described, warnings = describe(config)
    if strict and warnings:
        raise Refused(warnings[0], "Leave strict off to read the checkpoint all the same.")
    tensors = read_headers(find_files(folder))
    dtype_of(config)
    bits = bits_of(config)
    needed, held = spec.parameters(described), sum(stored.elements for stored in tensors.values())
    if needed > 2 * held:  # before anything is built: a wrong layer is named below, an absurd config ends here
        raise Refused(f"config.json describes {needed:,} parameters, the files hold {held:,}.", _WRONG_FILES)
    tied = described.head is not None and described.head.tied
    if bits is None:
        plan = _claim(family.names(described), tensors, embedding_of(described) if tied else None)
    else:
        plan = _claim_packed(tensors, described)
    _rehearse(plan, tensors, described, family.names(described).absent, bits)
    return Checkpoint(folder, config, family, described, warnings, bits, tensors, plan)


@torch.no_grad()
def save(model: nn.Module, config: dict[str, Any], folder: str | os.PathLike[str]) -> None:
    """Write ``model`` as config.json and model.safetensors under the names of ``config``'s model_type.

    The exact inverse of loading: equal keys and bits, in the dtype the model has. Raises Misuse when ``config``
    describes another model. config.json is written last, so a folder with one is complete.
    """
    family, described, _ = describe(config)
    if bits_of(config) is not None or quantized.matrices(model):
        raise Misuse("A quantised model cannot be written as if it were whole.", "Save the one it was made from.")
    if getattr(model, "spec", None) != described:
        raise Misuse("config does not describe this model.", "Pass the config the model was made from.")
    names, state = family.names(described), model.state_dict()
    dtype = next(state[name].dtype for name in FIRST if name in state)
    theirs: dict[str, Tensor] = {}
    for name in state:
        if claim := names.back(name):
            whole = claim.operation.to_theirs(tuple(state[ours] for ours in claim.ours))
            its_dtype = dtype if claim.operation.float32 else whole.dtype
            theirs[claim.theirs] = whole.to("cpu", its_dtype).contiguous()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with write_atomically(folder / "model.safetensors") as path:
        save_file(theirs, path, metadata={"format": "pt"})
    key = "torch_dtype" if "torch_dtype" in config and "dtype" not in config else "dtype"
    with write_atomically(folder / "config.json") as path:
        stated = {**config, key: str(dtype).removeprefix("torch.")}
        path.write_text(json.dumps(stated, indent=2) + "\n", encoding="utf-8")


# ------------------------------------------------------------------ checking names and shapes


def _claim(names: Names, tensors: dict[str, Stored], tied: str | None) -> list[Claim]:
    """Each tensor's claim; the copy a head has of the embedding it is ``tied`` to becomes that once more. Raises
    Refused."""
    plan, unknown = [], []
    embedding = None if tied is None else names.back(tied)
    for name, stored in sorted(tensors.items()):
        if names.is_dead(name):
            continue
        claim = names.claim(name)
        if claim is None:
            unknown.append(name)
        elif stored.dtype not in FLOATING:
            raise Refused(
                f"The tensor {name} is stored as {stored.dtype}; Cutaway reads weights in {', '.join(FLOATING)}.",
                "Use the checkpoint that is not quantised.",
            )
        else:
            if embedding is not None and claim.ours == (UNEMBEDDING,):
                claim = replace(embedding, theirs=name)
            plan.append(claim)
    if unknown:
        raise Refused(f"The weights hold {_some(unknown)}, which this family does not have.", _WRONG_FILES)
    again = {*names.twice, *(() if embedding is None else embedding.ours)}
    filled: dict[str, str] = {}
    for claim in plan:
        for ours in claim.ours:
            if ours in filled and ours not in again:
                raise Refused(f"The weights hold both {filled[ours]} and {claim.theirs}, one too many.", _WRONG_FILES)
            filled[ours] = claim.theirs
    return plan


def _claim_packed(tensors: dict[str, Stored], described: spec.Spec) -> list[Claim]:
    """Each tensor of a quantised folder is one of ours, under our name; what encoder and decoder share is there once.
    Raises Refused."""
    for name, stored in tensors.items():
        if stored.dtype != ("U8" if name.endswith(".packed") else "F32"):
            raise Refused(f"A quantised folder does not hold {name} as {stored.dtype}.", _WRONG_FILES)
    claims = {name: Claim(name, (name,), SAME) for name in sorted(tensors)}
    one = packed.SHARED[0]
    if isinstance(described, spec.Seq2Seq) and described.shared_embedding and one in claims:
        claims[one] = Claim(one, packed.SHARED, SHARED)
    return list(claims.values())


def _differs(claim: Claim, embedding: bool) -> Refused:
    """A file holds one of our tensors, the token ``embedding`` or another, under two names, with two values."""
    if embedding:
        return Refused(
            f"{claim.theirs} differs from the embedding, yet config.json says the two are one.",
            "Set tie_word_embeddings to false in config.json if the model was trained that way.",
        )
    return Refused(f"{claim.theirs} is there under another name too, with other numbers.", _WRONG_FILES)


def _rehearse(
    plan: list[Claim], tensors: dict[str, Stored], described: spec.Spec, absent: Collection[str], bits: int | None
) -> None:
    """Load onto meta, where tensors have shapes and no numbers. Raises Refused naming what does not fit."""
    shapes = {name: tuple(tensor.shape) for name, tensor in _without_memory(described, bits).state_dict().items()}
    filled: set[str] = set()
    extra, wrong = [], []
    for claim in plan:
        stored = tensors[claim.theirs]
        try:
            parts = claim.operation.to_ours(torch.empty(stored.shape, device="meta"))
            got: dict[str, Any] = dict(zip(claim.ours, [tuple(part.shape) for part in parts], strict=True))
        except (RuntimeError, ValueError):  # cannot even be cut into its parts
            got = dict.fromkeys(claim.ours)
        filled.update(got)
        if any(name not in shapes for name in got):
            extra.append(claim.theirs)
        elif any(shapes[name] != shape for name, shape in got.items()):
            wrong.append(f"{claim.theirs} {list(stored.shape)}")
    missing = [name for name in shapes if name not in filled and name not in absent]
    for names, sentence in (
        (wrong, "The weights hold {}, not the shape config.json asks for."),
        (extra, "The weights hold {}, for which config.json has no place."),
        (missing, "The weights lack what fills {}."),
    ):
        if names:
            raise Refused(sentence.format(_some(names)), _WRONG_FILES)


class _Unfilled(TorchFunctionMode):
    """Skips torch.nn.init: random numbers for tensors without memory would import the whole compiler (2 seconds)."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if kwargs and "tensor" in kwargs else args[0]
        return function(*args, **(kwargs or {}))


def _without_memory(described: spec.Spec, bits: int | None = None) -> Transformer | Seq2Seq:
    """The model on meta: every name and shape, no numbers; quantised to ``bits``, where they are said."""
    with torch.device("meta"), _Unfilled():
        model = build(described)
    if bits is not None:
        quantized.quantize(model, bits)
    return model


def _held_as(name: str, fewer: Collection[str]) -> str:
    """Under which name our tensor ``name`` is held, those in ``fewer`` being quantised."""
    return quantized.packed_name(name) if name in fewer else name


def _some(names: list[str]) -> str:
    """The first three names, and how many more."""
    listed = ", ".join(names[:3])
    return listed if len(names) <= 3 else f"{listed} and {len(names) - 3} more"


# ------------------------------------------------------------------ checking numbers and memory


def _require_finite(name: str, tensor: Tensor) -> None:
    if tensor.numel():
        least, most = torch.aminmax(tensor)  # one pass, no copy; NaN comes through
        if not (torch.isfinite(least) and torch.isfinite(most)):
            raise Refused(f"The tensor {name} holds NaN or infinity.", "Use another checkpoint: this one is broken.")


def _require_memory(needed: int, device: torch.device) -> None:
    free = _free_memory(device)
    if free is not None and needed > free:
        gib = 2**30
        raise Failed(
            f"The model needs {needed / gib:.1f} GiB of memory and {free / gib:.1f} GiB are free.",
            "Load it in a smaller dtype, close other programs, or choose a smaller model.",
        )


def _free_memory(device: torch.device) -> int | None:
    """Bytes that can be taken, or None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _dtype(name: torch.dtype | str) -> torch.dtype:
    dtype = name if isinstance(name, torch.dtype) else getattr(torch, name) if name in DTYPES else None
    if dtype is None or str(dtype).removeprefix("torch.") not in DTYPES:
        raise Misuse(f"{name} is no dtype for weights.", f"Choose one of {', '.join(DTYPES)}.")
    return dtype
