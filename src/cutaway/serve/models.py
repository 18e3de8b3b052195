"""What the worker does: load a model from the server's own list, run it, keep its records for slices, spell its tokens.

Imports torch only in ``start``, after the list of models has been sent: the page can choose before torch is there.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import math
import os
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import hub
from ..errors import Failed, Misuse, NotFound
from ..families import describe
from ..families import verify as verification
from ..families.config import DTYPES, bits_asked, cache_asked, precision_of, read_config
from ..families.weights import fingerprint
from ..model import spec
from ..tasks import ASKED, IS
from .limits import Limits, MiB
from .worker import MALLOC, Check, Reply, Tell, TooLarge

if TYPE_CHECKING:
    from torch import Tensor

    from ..api import Model
    from ..look import Record
    from .desk import Desk

Answer = tuple[dict[str, Any], bytes]
TELL_SECONDS = 0.25  # between two events about the same work
#: A machine of so few bytes runs on one thread: two gain it little, and wait for each other where a browser runs too
#: (the bundled model, 64 tokens, a busy machine of two cores: 9 ms, where two threads took 8 to 20).
SMALL = 32 * MiB
#: Memory is found before it is needed for so many records as large as the largest so far, in pieces of so many bytes.
#: On a virtual machine the first records of GPT-2 small's shape took 50 ms longer each while it was found for them.
AHEAD, PIECE = 8, 4 * MiB


@dataclass(frozen=True)
class Listed:
    """A model of the server's list: its id, where its files are, and what they say it is."""

    id: str
    folder: Path
    source: str  # "bundled", "cached" or "local"
    spec: spec.Spec
    dtype: str | None

    @property
    def bytes(self) -> int:
        """What its weights take once loaded."""
        each = {"float16": 2, "bfloat16": 2, "float64": 8, "int8": 1.1, "int4": 1.1}  # 1.1: what embeds has 8 bits
        return int(spec.parameters(self.spec) * each.get(self.dtype or "", 4))

    def entry(self) -> dict[str, Any]:
        """What /api/models tells the page."""
        stack = self.spec.stacks[-1]
        stem = self.spec.stem
        measured = verification.verified(fingerprint(self.folder))
        return {
            "id": self.id,
            "name": self.id,
            "parameters": spec.parameters(self.spec),
            "layers": len(stack.blocks),
            "width": stack.width,
            "heads": max(block.attn.heads for block in stack.blocks),
            "vocabulary": 0 if self.spec.head is None else self.spec.head.size,
            "task": self.spec.task,
            "picture": None if not isinstance(stem, spec.Patches) else {"side": stem.image, "channels": stem.channels},
            "sound": None if not isinstance(stem, spec.Mel) else {"length": stem.length, "bins": stem.bins},
            "context": self.spec.context,
            "dtype": self.dtype,
            "source": self.source,
            "verified": None if measured is None else measured["relative"],
        }


def identity(name_or_path: str | os.PathLike[str]) -> str:
    """The id of a model in the server's list: its name, or "local/" and its folder's name. Never a path."""
    folder = Path(name_or_path).expanduser()
    is_local = folder.is_dir() and str(name_or_path) not in {entry.name for entry in hub.bundled()}
    return f"local/{folder.resolve().name}" if is_local else str(name_or_path)


@dataclass(frozen=True)
class How:
    """How the model that was named is loaded, as ``api.load`` takes it; the others are loaded as they are."""

    quantize: str | None = None
    dtype: str | None = None
    device: str | None = None
    cache: str | None = None

    def words(self) -> list[str]:
        """For the worker's command line."""
        return [f"{name}={value}" for name, value in vars(self).items() if value is not None]


AS_IT_IS = How()


def asked_for(name_or_path: str, how: How = AS_IT_IS) -> Listed:
    """The model of that name or path, fetched where need be. Raises NotFound, Refused or Failed as ``hub.find`` and
    ``describe`` do, and Misuse for a kind of model that the page does not show, or that is not to be had like that."""
    id, folder = identity(name_or_path), hub.find(name_or_path)
    config = read_config(folder)
    _, described, _ = describe(config)
    if not _shown(described):
        raise Misuse(
            f"{id} {IS[described.task]}; the page does not show such models yet.",
            f"Ask it on the command line or in Python, with {ASKED[described.task]}.",
        )
    bits = bits_asked(how.quantize, config, how.dtype)
    if how.dtype is not None and how.dtype not in DTYPES:
        raise Misuse(f"{how.dtype} is no dtype for weights.", f"Choose one of {', '.join(DTYPES)}.")
    precision = precision_of(config, bits, how.dtype)
    cache_asked(how.cache, described.task, precision, how.device)
    return Listed(id, folder, "local" if id.startswith("local/") else "cached", described, precision)


def listed(preferred: str | None = None, how: How = AS_IT_IS) -> dict[str, Listed]:
    """The models that can be run without a network, by id: ``preferred`` first, then the bundled, then the cached; of
    each those first that continue a text, with which the page begins."""
    found: dict[str, Listed] = {}
    if preferred is not None:
        one = asked_for(preferred, how)
        found[one.id] = one
    for entries in (hub.bundled(), hub.cached()):
        shown = [
            Listed(entry.name, entry.folder, entry.source, entry.spec, entry.dtype)
            for entry in entries
            if entry.spec is not None and entry.problem is None and _shown(entry.spec)
        ]
        for one in sorted(shown, key=lambda one: hub.ON_PAGE.index(one.spec.task)):
            found.setdefault(one.id, one)
    return found


def _shown(described: spec.Spec) -> bool:
    """Does the page show models like this one?"""
    return described.task in hub.ON_PAGE


class Models:
    """The worker's engine (see ``worker.Engine``): the models used last, and the last records of them.

    A record derives its tensors with the weights of its model. So that a model that is let go is really gone, its
    records go with it.
    """

    def __init__(
        self,
        tell: Tell,
        preferred: str | None = None,
        limits: Limits | None = None,
        keep: bool = False,
        how: How = AS_IT_IS,
    ) -> None:
        """``keep``: the model ``preferred`` is served, and never let go; ``how`` it is loaded."""
        self._tell, self._preferred, self._limits = tell, preferred, limits or Limits()
        self._how = how
        self._list: dict[str, Listed] = {}
        self._models: OrderedDict[str, Model] = OrderedDict()  # by id, the last used last
        self._records: OrderedDict[str, tuple[Record, int]] = OrderedDict()  # the last used last; with their bytes
        self._kept = 0  # bytes, of all records
        self._found = self._wanted = 0  # bytes of memory
        self._pieces: list[Tensor] = []  # of it, until all is found
        self._check: Check = lambda: None
        self._thread = threading.get_ident()
        self._served = identity(preferred) if keep and preferred is not None else None
        self._desk: Desk | None = None
        self._spelt: dict[str, bytes] = {}

    def start(self) -> None:
        """Send the list of models, then import torch."""
        self.relist(lambda: None)
        self._tell({"stage": "importing torch"})
        from .. import api  # noqa: F401

        self._thread = threading.get_ident()

    def relist(self, check: Check) -> Answer:
        """Look which models there are, and send the list."""
        self._list = listed(self._preferred, self._how)
        self._tell({"models": [one.entry() for one in self._list.values()]})
        return {}, b""

    def load(self, check: Check, *, model: str) -> Answer:
        """Load a model of the list; of those before it, the least recently used are let go to make room."""
        needed = self._list[model].bytes
        while self._spare() and needed + sum(one.nbytes for one in self._models.values()) > self._limits.models_bytes:
            self._let_go_oldest()
        loaded = self._load(check, model)
        for name, block in loaded.machine.named_modules():
            if name.rpartition(".")[0].endswith("blocks"):
                block.register_forward_pre_hook(self._before_block)
        self._tell({"stage": f"first run of {model}"})
        with self._stoppable(check):
            self._answer(_first_run(loaded), [])  # the first run of a process is a slow one: let it be this
        self._models[model] = loaded
        self._tell({"loaded": list(self._models)})
        return {}, b""

    def _load(self, check: Check, model: str) -> Model:
        """The model, read from its files; where the memory does not suffice, in the place of the others."""
        from .. import api

        told = 0.0
        named = self._preferred is not None and model == identity(self._preferred)
        how = vars(self._how) if named else {}

        def progress(read: int, whole: int) -> None:
            nonlocal told
            check()
            if time.monotonic() - told > TELL_SECONDS:
                told = time.monotonic()
                self._tell({"stage": f"reading {model}: {read / 1e6:,.0f} of {whole / 1e6:,.0f} MB"})

        while True:
            try:
                loaded = api.load(self._list[model].folder, progress=progress, **how)
                loaded.card = dataclasses.replace(loaded.card, name=model)
                return loaded
            except Failed:
                if not self._spare():
                    raise
                self._let_go_oldest()

    def _spare(self) -> list[str]:
        """The models that may be let go, the least recently used first."""
        return [id for id in self._models if id != self._served]

    def _let_go_oldest(self) -> None:
        """Give up the least recently used model, and its records: they hold its weights."""
        model = self._spare()[0]
        del self._models[model]
        for id in [id for id, (record, _) in self._records.items() if record.model.name == model]:
            self._kept -= self._records.pop(id)[1]
        self._tell({"loaded": list(self._models)})

    @contextlib.contextmanager
    def _stoppable(self, check: Check) -> Iterator[None]:
        """Runs in here end between two blocks when nobody waits for them."""
        self._check = check
        try:
            yield
        finally:
            self._check = lambda: None

    def _before_block(self, *_: object) -> None:
        if threading.get_ident() == self._thread:  # what is written on another thread is stopped by its desk
            self._check()

    def run(
        self,
        check: Check,
        *,
        model: str,
        given: dict[str, Any],
        want: list[dict[str, Any]],
    ) -> Answer:
        """One run of what is ``given`` (``strict.Run``); the answer is a .cutaway file of what is wanted, the record
        stays for slices."""
        if model not in self._models:
            raise NotFound(f"{model} is not loaded.", "Ask again.")
        self._models.move_to_end(model)
        its = self._models[model]
        with _few_threads(its):
            with self._stoppable(check):
                record = self._recorded(its, given)
            check()
            body = self._answer(record, want)
        return {"record": self._keep(record)}, body

    def _recorded(self, model: Model, given: dict[str, Any]) -> Record:
        target = given.get("target")
        if "image" in given or "sound" in given:
            self._refuse_record(model, model.context)
            image, sound = (base64.b64decode(given[kind]) if kind in given else None for kind in ("image", "sound"))
            return model.run(image=image, sound=sound, target=target)
        text = given.get("text")
        ids = model.tokens(text) if text is not None else given["tokens"]
        ids, notes = model.fit(ids, most=self._limits.tokens)
        self._refuse_record(model, len(ids) + len(target or ()))
        record = model.run(tokens=ids, target=target, after=self._closest(model, ids))
        record.text = text if text is not None else model.text(ids) if model.tokenizer else None
        record.settings |= {"notes": notes + record.settings.get("notes", [])} if notes else {}
        return record

    def _closest(self, model: Model, ids: list[int]) -> Record | None:
        """Of the kept runs of this model the one that has most tokens in common with a new one."""
        from ..look.after import begun

        its = (record for record, _ in reversed(self._records.values()) if record.model.name == model.card.name)
        return max(its, key=lambda record: begun(record, ids), default=None)

    def tensor(self, check: Check, *, record: str, name: str, at: str | None) -> Answer:
        """One tensor of a kept record, or what an index takes of it, as little-endian float32."""
        kept = self._kept_record(record)
        if name not in kept:
            raise NotFound(f"This run has no tensor {name}.", "`cutaway names` lists them all.")
        self._refuse_too_large(kept, [(name, at)])
        x = kept[_key(name, at)].float().cpu().contiguous()
        return {"shape": list(x.shape)}, x.numpy().astype("<f4", copy=False).tobytes()

    def explain(self, check: Check, *, record: str, cell: str) -> Answer:
        """How the number in a cell of a kept record is computed, as JSON: terms, steps, and what they come to."""
        explanation = self._kept_record(record).explain(cell)
        if (count := len(explanation.terms)) > self._limits.terms:
            raise TooLarge(f"{cell} is made of {count:,} terms; at most {self._limits.terms:,} are sent.")
        return {}, json.dumps(explanation.to_json(), allow_nan=False, separators=(",", ":")).encode("ascii")

    def compare(self, check: Check, *, first: str, second: str, at: list[int]) -> Answer:
        """Two kept records side by side, at one token of each, as JSON."""
        from ..look import compare

        found = compare(self._kept_record(first), self._kept_record(second), (at[0], at[1]))
        return {}, json.dumps(found.to_json(), allow_nan=False, separators=(",", ":")).encode("ascii")

    def file(self, check: Check, *, record: str, include: list[str], weights: list[str]) -> Answer:
        """The whole .cutaway file of a kept record, with the derived tensors and the weights asked for; of "shown",
        those that the opened stops of the page read."""
        from ..look import file, html, names

        kept = self._kept_record(record)
        shown = html.shown(kept) if include == ["shown"] else []  # chosen by what they cost, so only their size counts
        asked = shown or kept.matching(include)
        taken, _ = names.matching(kept.weights, weights)
        size = kept.nbytes + sum(kept.weights[name].nbytes for name in taken)
        size += sum(4 * math.prod(kept.shape(name)) for name in shown)
        made = {*asked, "logits"} - kept.tensors.keys() - set(shown)
        self._refuse_too_large(kept, [(name, None) for name in made], size)
        return {}, file.to_bytes(kept, asked, weights)

    def _kept_record(self, id: str) -> Record:
        """The record of that id, now the last used."""
        if id not in self._records:
            raise NotFound("This run is no longer kept.", "Run the text again.")
        self._records.move_to_end(id)
        return self._records[id][0]

    def vocabulary(self, check: Check, *, model: str) -> Answer:
        """What each logit stands for, as a JSON array: the readable text of a token, the name of a class."""
        from ..inputs.text import Tokenizer
        from ..tasks.classify import label_names

        if model not in self._spelt:
            one = self._list[model]
            ids = range(one.entry()["vocabulary"])
            try:
                if spec.classifies(one.spec):
                    texts = label_names(read_config(one.folder), len(ids))
                else:
                    texts = [piece.text for piece in Tokenizer.open(one.folder).target.pieces(ids)]
            except NotFound:
                texts = [f"⟨{id}⟩" for id in ids]
            self._spelt[model] = json.dumps(texts, ensure_ascii=False).encode()
        return {}, self._spelt[model]

    def embed(self, check: Check, *, model: str, inputs: list[Any]) -> Answer:
        """A vector for each text, or list of token ids, as little-endian float32; and how many tokens were read."""
        from ..tasks.sentences import embed

        its = self._loaded(model)
        with self._stoppable(check):
            ids = its.sentences(inputs)
            for place, one in enumerate(ids):
                if len(one) > its.context:
                    raise Misuse(
                        f"Input {place} has {len(one):,} tokens; {model} reads at most {its.context:,}.", "Shorten it."
                    )
            vectors = embed(its.machine, ids, its.pooling)  # type: ignore[arg-type]  # sentences() has asked
        read = sum(map(len, ids))
        return {"shape": list(vectors.shape), "tokens": read}, vectors.numpy().astype("<f4", copy=False).tobytes()

    def write(self, reply: Reply, request: dict[str, Any]) -> None:
        """Have the served model go on with texts, or answer messages, on the desk's own thread."""
        if self._desk is None:
            from .desk import Desk

            self._desk = Desk(self._loaded(self._served or ""))
        self._desk.take(reply, request)

    def leave(self, number: int) -> None:
        if self._desk is not None:
            self._desk.leave(number)

    def _loaded(self, model: str) -> Model:
        if model not in self._models:
            raise NotFound(f"{model} is not loaded.", "Ask again.")
        return self._models[model]

    def _refuse_record(self, model: Model, length: int) -> None:
        """Raises TooLarge for a run over so many tokens."""
        from ..look.record import stored_bytes

        width = next(model.machine.parameters()).element_size()
        if (size := stored_bytes(model.spec, length, width, source=length)) > self._limits.record_bytes:
            limit = self._limits.record_bytes // MiB
            raise TooLarge(
                f"A record of this run takes {size // MiB:,} MiB; at most {limit:,} are made.", "Shorten it."
            )

    def _answer(self, record: Record, want: list[dict[str, Any]]) -> bytes:
        """The wanted tensors as a .cutaway file."""
        import safetensors.torch

        from ..look import file

        wanted = [(name, one["at"]) for one in want for name in record.matching(one["name"])]
        self._refuse_too_large(record, wanted)
        numbers: dict[str, Tensor] = {}
        for name, at in wanted:
            numbers[_key(name, at)] = record[_key(name, at)]
            self._check()
        return safetensors.torch.save(*file.pack(record, numbers))

    def _refuse_too_large(self, record: Record, wanted: list[tuple[str, str | None]], size: int = 0) -> None:
        """``size``: bytes that go along beside what is ``wanted``."""
        size += sum(_bytes(record, name, at) for name, at in wanted)
        if size > self._limits.answer_bytes:
            limit = self._limits.answer_bytes // MiB
            raise TooLarge(f"The answer would take {size // MiB:,} MiB; at most {limit:,} are sent.", "Ask for slices.")

    def _keep(self, record: Record) -> str:
        """Keep a record for slices, and as many before it as the limit allows. Returns its id."""
        id = secrets.token_hex(8)
        self._records[id] = (record, record.nbytes)
        self._kept += record.nbytes
        while self._kept > self._limits.kept_bytes and len(self._records) > 1:
            _, (_, freed) = self._records.popitem(last=False)
            self._kept -= freed
        if next(iter(record.tensors.values())).device.type == "cpu":
            ahead = 1 << (AHEAD * record.nbytes).bit_length()  # not a little more with each token
            self._wanted = max(self._wanted, min(ahead, self._limits.kept_bytes))
        return id

    def rest(self) -> bool:
        """Have the system find memory for records to come, where this process keeps what it has given back."""
        import torch

        if self._wanted <= self._found or not MALLOC.items() <= os.environ.items():
            return False
        with contextlib.suppress(RuntimeError):  # there is no more
            if self._kept + PIECE * len(self._pieces) < self._wanted:
                self._pieces.append(torch.zeros(PIECE, dtype=torch.uint8))
                return True
        self._pieces.clear()
        self._found = self._wanted
        return False


def _first_run(model: Model) -> Record:
    """The smallest there is."""
    if isinstance(model.spec.stem, spec.Mel):
        import numpy as np

        return model.run(sound=np.zeros(1600, np.float32))
    if not isinstance(stem := model.spec.stem, spec.Patches):
        return model.run(tokens=[0])
    from PIL import Image

    return model.run(image=Image.new("L", (stem.image, stem.image)))


def _few_threads(model: Model) -> contextlib.AbstractContextManager[None]:
    """One thread in there for a small machine."""
    from ..native.threads import one_thread

    return one_thread() if model.nbytes < SMALL else contextlib.nullcontext()


def _key(name: str, at: str | None) -> str:
    return name if at is None else f"{name}[{at}]"


def _bytes(record: Record, name: str, at: str | None) -> int:
    """What a tensor takes, in float32, with what is computed on the way to it: known before anything is computed."""
    return 4 * record.cost(_key(name, at))
