"""A run as a page: one HTML file that opens with no server and no network, its record inside it.

The page is the one that `cutaway look` serves, built as one file with a place for a run (web/standalone.ts); the page's
own "Take away" fills the same place (web/src/takeaway/whole.ts).
"""

from __future__ import annotations

import base64
import gzip
import html
import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..errors import Failed, Misuse
from ..files import write_atomically
from ..hub import ON_PAGE
from ..model.transformer import embedding_of
from . import file, names
from .record import Record

TEMPLATE = Path(__file__).resolve().parents[1] / "page/standalone.html"
PLACE = "<!--the run-->"

#: What the opened stops read beside what a run stores, most needed first; of two stacks first those of the writing one.
SHOWN = (
    "river", "blocks.*.attn.pattern", "blocks.*.cross.pattern", "blocks.*.mlp.hidden", "blocks.*.attn.kinds",
    "blocks.*.attn.even", "blocks.*.attn.mean", "blocks.*.attn.max", "blocks.*.cross.mean", "blocks.*.cross.max",
    "lens.*", "blocks.*.mlp.promotes.*", "blocks.*.mlp.demotes.*", "blocks.*.attn.in", "blocks.*.cross.in",
    "blocks.*.mlp.in", "blocks.*.mlp.strength", "blocks.*.attn.scores", "blocks.*.cross.scores", "logits",
    "blocks.*.attn.q", "blocks.*.attn.k", "blocks.*.attn.z", "blocks.*.cross.q", "blocks.*.cross.k",
    "blocks.*.cross.z", "head.up", "head.hidden", "alike",
)  # fmt: skip

#: No tensor is taken along that takes more numbers to compute, nor all of them together beyond as many numbers.
DEAREST, MOST = 2**25, 2**24

#: Bytes of a page: no browser opens a much larger file, and no notebook should hold one.
LARGEST, LARGEST_IN_NOTEBOOK = 400 * 2**20, 20 * 2**20


def save(record: Record, path: str | os.PathLike[str]) -> None:
    content = page(record)
    with write_atomically(path) as beside:
        beside.write_text(content, encoding="utf-8")


def page(record: Record) -> str:
    """The whole file. Raises Failed where the page has not been built, Misuse for a run too large for one."""
    if record.spec.task not in ON_PAGE:
        raise Misuse(
            "The page does not show runs of this kind of model yet.",
            "record.save() keeps it, and record[name] answers.",
        )
    if not TEMPLATE.is_file():
        raise Failed(
            "The page has not been built, so no run can be put into it.", "Run `make setup` in the repository."
        )
    if record.nbytes > LARGEST:
        raise Misuse(
            f"This run stores {record.nbytes / 2**20:,.0f} MiB, more than a browser opens as one page.",
            "Run a shorter text, or say what to keep, for example keep='blocks.0.*'.",
        )
    packed = gzip.compress(_in_planes(file.to_bytes(record, shown(record))), 6, mtime=0)
    inside = f'<script type="application/octet-stream" id="run">{base64.b64encode(packed).decode()}</script>'
    before, place, after = TEMPLATE.read_text(encoding="utf-8").partition(PLACE)
    if not place:
        raise Failed(f"{TEMPLATE.name} of the built page has no place for a run.", "Build it again: `make setup`.")
    return before + inside + after


def _in_planes(content: bytes) -> bytes:
    """First the first bytes of every four, then the second, and so on: the exponents of floats, which are much alike,
    come to stand together, and the file packs a tenth smaller."""
    whole = len(content) // 4 * 4
    return np.frombuffer(content[:whole], np.uint8).reshape(-1, 4).T.tobytes() + content[whole:]


def shown(record: Record) -> list[str]:
    """The derived tensors that go along, so that every stop opens without a model."""
    taken: list[str] = []
    numbers = 0
    known = record.names(views=True)
    for pattern in (f"{side}{pattern}" for side in ("", "decoder.", "encoder.") for pattern in SHOWN):
        for name in names.matching(known, pattern)[0]:
            size = math.prod(record.shape(name))
            if name not in record.tensors and record.cost(name) <= DEAREST and numbers + size <= MOST:
                taken.append(name)
                numbers += size
    return taken + [name for name in _rows(record) if name in record]


def _rows(record: Record) -> Iterator[str]:
    """The rows of weights that the stops open with: of the likeliest tokens and of each block's strongest neurons."""
    if (name := _read_by_page(record)) in record:
        if "[" in name:  # the others are in every file
            yield name
        table = embedding_of(record.spec) if names.head_of(record.spec).tied else "head.out.weight"
        logits = record[name]
        likeliest = logits.topk(min(12, len(logits))).indices
        yield from (f"weights.{table}[{token}]" for token in likeliest.tolist())
    for name in names.matching(record.names(views=True), "*blocks.*.mlp.strength")[0]:
        place = name.removesuffix(".strength")
        place = f"stack.{place}" if place.startswith("blocks.") else place
        for neuron in record[f"{name}[-1]"].topk(3).indices.tolist():
            yield from (f"weights.{place}.{of}[{neuron}]" for of in ("up.weight", "gate.weight", "down.weight.T"))


def _read_by_page(record: Record) -> str:
    """The logits the page opens with: after the last token; at the first mask; of a classifier all."""
    if not names.every_token(record.spec):
        return "logits"
    masks = record.settings.get("masks", [])
    return f"logits[{masks[0]}]" if masks else "logits.last"


def in_notebook(record: Record) -> str:
    """What a notebook shows of a record: the same page in a frame of its own, which can reach nothing around it."""
    try:
        content = page(record)
    except (Failed, Misuse) as problem:
        return _sentence(record, str(problem))
    if len(content) > LARGEST_IN_NOTEBOOK:
        size = f"{len(content) / 2**20:,.0f} MiB, more than a notebook should hold"
        return _sentence(record, f'As a page this run takes {size}: record.to_html("run.html") writes it to a file.')
    return (
        f'<iframe srcdoc="{html.escape(content)}" sandbox="allow-scripts allow-downloads" loading="lazy" '
        f'title="{html.escape(repr(record))}" style="width: 100%; height: 780px; border: 0"></iframe>'
    )


def _sentence(record: Record, sentence: str) -> str:
    return f"<p><code>{html.escape(repr(record))}</code></p><p>{html.escape(sentence)}</p>"
