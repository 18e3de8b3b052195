"""The command line: parse, call, print. Results go to standard output, everything else to standard error.

Nothing here imports torch until a command needs a model; `cutaway --help` and `cutaway models` answer at once.
docs/cli.md has the exit codes.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

from cyclopts import App, CycloptsError, Parameter

from . import __version__
from .errors import CutawayError, Failed, Misuse, NotFound

if TYPE_CHECKING:
    from .api import Distribution, Model
    from .look.explain import Explanation
    from .look.record import Record
    from .tasks.classify import Label
    from .tasks.transcript import Segment

STDIN = "\0"  # stands for "-", which the parser would take for an option; no argument of a process can hold it
MAX_STDIN_BYTES = 4 * 2**20  # more than the longest text that is read, in any language
INTERRUPTED, TERMINATED = 130, 143

app = App(
    name="cutaway",
    help="Run, train and open up real Transformers.",
    version=__version__,
    help_format="plaintext",
    help_formatter="plain",
    help_epilogue="--debug adds the whole trace to an error. Put -- before a text that begins with -.\n"
    "Exit codes: 0 ok, 1 failed, 2 misuse, 3 not found, 4 refused as unsafe or\n"
    "corrupt, 130 and 143 interrupted.",
    default_parameter=Parameter(negative=()),
    suppress_keyboard_interrupt=False,
    result_action="return_value",
)


def _whole(kind: type, tokens: Sequence[Any]) -> int:
    return int(tokens[0].value)  # the parser's own int() would round 2.5 to 2


Text = Annotated[str, Parameter(help="What the model reads; - reads standard input.")]
ModelName = Annotated[str, Parameter(("--model", "-m"), help="A bundled model, a folder, or a name on the hub.")]
Target = Annotated[str | None, Parameter(help="Of a translation or a sound: what is written so far.")]
RunName = Annotated[
    str | None, Parameter(("--model", "-m"), help="As elsewhere; else stories, digits of an image, spoken of a sound.")
]
RewriterName = Annotated[str, Parameter(("--model", "-m"), help="A folder, or a name on the hub.")]
EncoderName = Annotated[str, Parameter(("--model", "-m"), help="A folder, or a name on the hub.")]
Dtype = Annotated[str | None, Parameter(help="float32, bfloat16 or float16, else the file's own.")]
Quantize = Annotated[str | None, Parameter(help="int8 or int4: matrices in fewer bits, on a processor.")]
Cache = Annotated[str | None, Parameter(help="int8: keys and values in 8 bits, so that long texts take less memory.")]
Device = Annotated[str | None, Parameter(help="Where to run: cpu, cuda, cuda:1, mps.")]
Json = Annotated[bool, Parameter("--json", help="Print one JSON document.", show_default=False)]


@app.command(sort_key=0)
def look(
    text: Annotated[str | None, Parameter(help="The text to begin with; - reads standard input.")] = None,
    /,
    *,
    model: Annotated[str | None, Parameter(("--model", "-m"), help="The model to begin with.")] = None,
    port: Annotated[
        int | None, Parameter(converter=_whole, help="The first free one from 7345 on when not given.")
    ] = None,
    no_browser: Annotated[bool, Parameter(help="Only print the address.", show_default=False)] = False,
    quantize: Quantize = None,
    dtype: Dtype = None,
    device: Device = None,
) -> int:
    """Open the page: watch a text become the next word.

    Serves on 127.0.0.1 until interrupted and prints the address.
    """
    from .serve.app import How
    from .serve.app import look as serve

    if port is not None and not 0 < port < 65536:
        raise Misuse(f"--port is {port}.", "Give one from 1 to 65535.")
    text = None if text is None else _read(text)
    how = How(quantize, dtype, device)
    return serve(text, model=model, port=port, browser=not no_browser, how=how)


@app.command(sort_key=0.5)
def serve(
    model: Annotated[str, Parameter(help="A bundled model, a folder, or a name on the hub.")],
    /,
    *,
    host: Annotated[str, Parameter(help="The address to listen at; another needs a key.")] = "127.0.0.1",
    port: Annotated[int, Parameter(converter=_whole, help="The port to listen at.")] = 8000,
    api_key: Annotated[
        str | None, Parameter(env_var="CUTAWAY_API_KEY", help="What programs must send; others may not ask.")
    ] = None,
    allow_host: Annotated[
        list[str] | None, Parameter(help="Another name this server is reached by; may be repeated.")
    ] = None,
    metrics: Annotated[bool, Parameter(help="Answer /metrics too.", show_default=False)] = False,
    quantize: Quantize = None,
    cache: Cache = None,
    dtype: Dtype = None,
    device: Device = None,
) -> int:
    """For learning, research and small self-hosting: serve a model to programs.

    An API like OpenAI's at /v1, and the page, until interrupted; prints both
    addresses. For heavy traffic give the same folder to vLLM: vllm serve FOLDER.
    """
    from .serve.app import How, serve_api

    if not 0 < port < 65536:
        raise Misuse(f"--port is {port}.", "Give one from 1 to 65535.")
    return serve_api(model, host, port, api_key, allow_host or [], metrics, How(quantize, dtype, device, cache))


@app.command(sort_key=1)
def generate(
    text: Text,
    /,
    *,
    model: ModelName = "stories",
    max_new_tokens: Annotated[int, Parameter(converter=_whole, help="The most tokens to add.")] = 100,
    temperature: Annotated[float, Parameter(help="0 takes the most probable; above 1 is flatter.")] = 1.0,
    top_k: Annotated[int | None, Parameter(converter=_whole, help="Keep the k most probable tokens.")] = None,
    top_p: Annotated[float | None, Parameter(help="Keep the fewest tokens that hold the share p.")] = None,
    min_p: Annotated[float | None, Parameter(help="Keep tokens this probable beside the best one.")] = None,
    repetition_penalty: Annotated[float | None, Parameter(help="Above 1 repeats less.")] = None,
    seed: Annotated[
        int | None, Parameter(converter=_whole, help="The same seed, the same tokens; else picked and shown.")
    ] = None,
    stop: Annotated[list[str] | None, Parameter(help="End before this string; may be repeated.")] = None,
    beams: Annotated[int, Parameter(converter=_whole, help="Above 1: search, do not draw.")] = 1,
    draft: Annotated[
        str | None, Parameter(help='Who guesses ahead, for speed: a smaller model, or "prompt", the text.')
    ] = None,
    quantize: Quantize = None,
    cache: Cache = None,
    dtype: Dtype = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Continue a text: predict, sample, append, repeat."""
    text = _read(text)
    settings: dict[str, Any] = {
        "max_new_tokens": max_new_tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p,
        "repetition_penalty": repetition_penalty, "seed": seed, "stop": stop or [], "beams": beams,
    }  # fmt: skip
    _check_sampling(settings)
    loaded = _load(model, dtype, device, quantize, cache)
    guesses: Any = draft if draft is None or draft == "prompt" else _load(draft, dtype, device, quantize, cache)
    if beams != 1:
        result: Any = loaded.generate(text, **settings, draft=guesses)
        steps: list[dict[str, Any]] = [{"id": token} for token in result.tokens]
        if not json:
            print(_safe(text + result.text))
    else:
        result = loaded.generate(text, **settings, draft=guesses, stream=True)
        steps = []
        if not json:
            print(_safe(text), end="", flush=True)
        for step in result:
            steps.append({"id": step.id, "text": step.text, "p": step.p, "p_drawn": step.p_drawn, "u": step.u})
            if not json:
                print(_safe(step.text), end="", flush=True)
        if not json:
            print()
    _say(*result.notes)
    drawn = "" if beams != 1 or temperature == 0 else f", seed {result.seed}"
    _say(f"{len(steps)} tokens{drawn}, finish reason: {result.finish_reason}.")
    tally = result.tally
    if tally is not None:
        _say(f"{tally.accepted} of {tally.proposed} guesses came, {tally.runs} runs of the model.")
    if json:
        ahead = None if tally is None else {"model": draft, **asdict(tally)}
        _print_json(
            model=loaded.card.name, prompt=text, text=result.text, tokens=steps, seed=result.seed,
            finish_reason=result.finish_reason, notes=result.notes, settings=settings | {"seed": result.seed},
            draft=ahead,
        )  # fmt: skip


@app.command(sort_key=2)
def next(
    text: Text,
    /,
    *,
    model: ModelName = "stories",
    top: Annotated[int, Parameter(converter=_whole, help="How many of the most probable tokens to show.")] = 10,
    dtype: Dtype = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Show what comes next: the distribution over the whole vocabulary."""
    text = _read(text)
    _check_top(top)
    loaded = _load(model, dtype, device)
    distribution = loaded.next(text)
    _say(*distribution.notes)
    if json:
        _print_json(
            model=loaded.card.name, tokens=distribution.tokens, notes=distribution.notes,
            vocabulary=len(distribution.logits), **_likeliest(distribution, top),
        )  # fmt: skip
        return
    print(CHOICES)
    _print_choices(distribution, top)


@app.command(sort_key=3)
def tokens(text: Text, /, *, model: ModelName = "stories", json: Json = False) -> None:
    """Cut a text into the model's tokens."""
    from . import hub
    from .inputs.text import Tokenizer

    text = _read(text)
    tokenizer = Tokenizer.open(hub.find(model))
    pieces = tokenizer.pieces(tokenizer.encode(text))
    if json:
        _print_json(model=model, tokens=[{"id": p.id, "text": p.text, "special": p.special} for p in pieces])
        return
    for position, piece in enumerate(pieces):
        print(f"{position:5d} {piece.id:7d}  {_safe(piece.text)}")


@app.command(sort_key=4)
def run(
    text: Annotated[str | None, Parameter(help="What the model reads; - reads standard input.")] = None,
    /,
    *,
    image: Annotated[str | None, Parameter(help="An image file to read instead of a text.")] = None,
    sound: Annotated[str | None, Parameter(help="A sound file to hear instead.")] = None,
    save: Annotated[Path | None, Parameter(help="Write the record to this .cutaway file.")] = None,
    html: Annotated[Path | None, Parameter(help="Write the run as one page that opens without a server.")] = None,
    keep: Annotated[list[str] | None, Parameter(help='Store only these, such as "blocks.*.attn.pattern".')] = None,
    target: Target = None,
    model: RunName = None,
    dtype: Dtype = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Run once and record every intermediate by name."""
    for path in (save, html):
        if path is not None:
            _check_writable(path)
    loaded, record = _run(text, image, sound, target, keep, model, dtype, device)
    for path, write in ((save, record.save), (html, record.to_html)):
        if path is not None:
            write(path)
            _say(f"Saved {path} ({path.stat().st_size:,} bytes).")
    notes = record.settings.get("notes", [])
    _say(*notes)
    shapes = {name: list(tensor.shape) for name, tensor in record.tensors.items()}
    if json:
        _print_json(
            model=loaded.card.name, tokens=record.tokens, pieces=record.pieces, notes=notes, stored=shapes,
            source=record.source, names=record.names(), saved=None if save is None else str(save),
            html=None if html is None else str(html),
        )  # fmt: skip
        return
    read = f"{len(record.source)} tokens read, {len(record.tokens)} written" if record.source else ""
    print(f"{loaded.card.name}: {read or f'{record.length} tokens'}, {len(record.names())} tensors by name")
    for name in record.names():
        stored = "×".join(map(str, shapes[name])) if name in shapes else "derived when asked for"
        print(f"{name:28} {' '.join(record.axes(name)):12} {stored}")


@app.command(sort_key=5)
def names(model: Annotated[str, Parameter(help="The model to ask.")] = "stories", /, *, json: Json = False) -> None:
    """List every tensor of a run by name, with its axes."""
    from . import hub
    from .families import describe
    from .families.config import read_config
    from .look.names import names as names_of

    _, described, _ = describe(read_config(hub.find(model)))
    axes = names_of(described)
    if json:
        _print_json(model=model, names={name: list(letters) for name, letters in axes.items()})
        return
    for name, letters in axes.items():
        print(f"{name:28} {' '.join(letters)}")
    image = " C channels, Y rows, X columns of pixels." if "image" in axes else ""
    _say(f"T tokens, D width, H heads, K key-value heads, E head width, F hidden width, V vocabulary.{image}")
    if "encoder.frames" in axes:
        _say("M mel bins, R frames of 10 ms, S moments of 20 ms that the encoder hears.")
    elif any("S" in letters for letters in axes.values()):
        _say("S tokens that the encoder reads.")


@app.command(sort_key=6)
def explain(
    cell: Annotated[str, Parameter(help='A name and one integer per axis, such as "logits[0,7]".')],
    /,
    *,
    text: Annotated[str | None, Parameter(help="What the model reads; - reads standard input.")] = None,
    image: Annotated[str | None, Parameter(help="An image file to read instead of a text.")] = None,
    sound: Annotated[str | None, Parameter(help="A sound file to hear instead.")] = None,
    target: Target = None,
    model: RunName = None,
    dtype: Dtype = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Derive one number of a run, term by term."""
    loaded, record = _run(text, image, sound, target, None, model, dtype, device)
    found = record.explain(cell)
    _say(*record.settings.get("notes", []))
    if json:
        _print_json(model=loaded.card.name, **found.to_json())
    else:
        _print_derivation(found, record, loaded)


@app.command(sort_key=7)
def heads(
    text: Text,
    /,
    *,
    target: Target = None,
    model: ModelName = "stories",
    dtype: Dtype = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Rank the heads by how plainly they read in one way.

    The columns are shares of a head's weight: on the token before, the first,
    the token itself, its earlier copies, what followed those, and 2 to 4 back;
    broad is how evenly it is spread. The kind stands furthest above even reading.
    """
    from .look.heads import KINDS, label

    text = _read(text)
    loaded = _load(model, dtype, device)
    record = loaded.run(text, target=target)
    found: list[dict[str, Any]] = []
    for name in record.names(views=True):
        if not name.endswith(".attn.kinds"):
            continue
        side, _, block = name.removesuffix(".attn.kinds").rpartition("blocks.")
        even = record[f"{side}blocks.{block}.attn.even"]
        for head, scores in enumerate(record[name]):
            kind = label(scores, even)
            at = KINDS.index(kind)
            found.append(
                ({"side": side.rstrip(".")} if side else {})
                | {
                    "block": int(block), "head": head, "kind": kind, "score": float(scores[at]),
                    "even": float(even[at]), "scores": dict(zip(KINDS, scores.tolist(), strict=True)),
                }
            )  # fmt: skip
    found.sort(key=lambda one: (one["kind"] == "broad", one["even"] - one["score"]))
    _say(*record.settings.get("notes", []))
    if json:
        _print_json(model=loaded.card.name, tokens=record.tokens, heads=found)
        return
    before = "side     " if any("side" in one for one in found) else ""
    print(f"{before}block head  kind       {'score':>6} {'even':>6}   " + " ".join(f"{kind:>9}" for kind in KINDS))
    for one in found:
        scores = " ".join(f"{score:9.2f}" for score in one["scores"].values())
        place = f"{one['side']:9}{one['block']:5}" if before else f"{one['block']:5}"
        print(f"{place} {one['head']:4}  {one['kind']:9}  {one['score']:6.2f} {one['even']:6.2f}   {scores}")


@app.command(sort_key=8)
def lens(
    text: Text,
    /,
    *,
    target: Target = None,
    model: ModelName = "stories",
    dtype: Dtype = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Show what the model would say next if it stopped early.

    The logit lens of the last token: the stream before and after every
    attention, through the final norm and the unembedding. What early layers hold
    is not yet in the unembedding's language.
    """
    text = _read(text)
    loaded = _load(model, dtype, device)
    if loaded.spec.task in ("classify", "see", "embed"):
        raise Misuse(f"{loaded.card.name} has no words at the end of its stream.", "Ask one that continues or fills.")
    record = loaded.run(text, target=target)
    ids, p, final, rank = (record[f"lens.{what}[-1]"].tolist() for what in ("ids", "p", "final", "rank"))
    end = ids[-1][0]
    spelt = _spelt(loaded, {id for row in ids for id in row})
    _say(*record.settings.get("notes", []))
    if json:
        stops = [
            {
                "stop": stop, "final": final[i], "rank": rank[i],
                "top": [{"id": id, "text": spelt[id], "p": share} for id, share in zip(ids[i], p[i], strict=True)],
            }
            for i, stop in enumerate(record.stops())
        ]  # fmt: skip
        _print_json(model=loaded.card.name, tokens=record.tokens, end={"id": end, "text": spelt[end]}, stops=stops)
        return
    wide = max(21, *map(len, record.stops()))
    print(f"{'stream':{wide}} {'probability':>11}  {'most probable':20} {f'of {_safe(spelt[end])!r}':>11}  rank")
    for i, stop in enumerate(record.stops()):
        print(f"{stop:{wide}} {p[i][0]:11.4%}  {_safe(spelt[ids[i][0]]):20} {final[i]:11.4%} {rank[i] + 1:5}")


@app.command(sort_key=9)
def compare(
    first: Text,
    second: Text,
    /,
    *,
    model: ModelName = "stories",
    second_model: Annotated[str | None, Parameter(help="The model that reads SECOND, when it is another.")] = None,
    dtype: Dtype = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Run two texts: where they part, and what that does to the next token.

    Compared are the last tokens of both. A cosine of 1 says that the two residual
    streams point the same way; apart is their distance in mean lengths.
    """
    from . import look

    texts = _read_each((first, second))
    loaded = _load(model, dtype, device)
    other = loaded if second_model is None else _load(second_model, dtype, device)
    runs = loaded.run(texts[0]), other.run(texts[1])
    found = look.compare(*runs)
    for run_, text in zip(runs, texts, strict=True):
        _say(*(f"{_safe(text[:40])}: {note}" for note in run_.settings.get("notes", [])))
    ids = [change.id for change in found.changes or []]
    spelt = _spelt(loaded, ids)
    if json:
        changes = None if found.changes is None else [{"text": spelt[c.id], **vars(c)} for c in found.changes]
        _print_json(models=[loaded.card.name, other.card.name], **(found.to_json() | {"changes": changes}))
        return
    print(_parting(found.parts_at, runs))
    if found.cosine is not None and found.distance is not None:
        print("\n   cosine     apart  stop")
        for stop, cosine, distance in zip(runs[0].stops(), found.cosine, found.distance, strict=True):
            print(f"{cosine:9.4f} {distance:9.4f}  {stop}")
    if found.changes is not None:
        print(f"\n{found.moved:.2%} of the probability moves; divergence {found.divergence:.4g} nats")
        print("    first    second  token")
        for change in found.changes:
            print(f"{change.first:9.3%} {change.second:9.3%}  {_safe(spelt[change.id])}")
    for note in found.notes:
        print(note)


@app.command(sort_key=10)
def fill(
    text: Annotated[str, Parameter(help="A text with [MASK] in it; - reads standard input.")],
    /,
    *,
    model: ModelName = "words",
    top: Annotated[int, Parameter(converter=_whole, help="How many words to show for each mask.")] = 5,
    dtype: Dtype = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Fill in masked words, with models such as BERT."""
    text = _read(text)
    _check_top(top)
    loaded = _load(model, dtype, device)
    blanks = loaded.fill(text)
    _say(*blanks[0].notes)
    if json:
        masks = [{"position": blank.position, **_likeliest(blank, top)} for blank in blanks]
        _print_json(model=loaded.card.name, tokens=blanks[0].tokens, notes=blanks[0].notes, masks=masks)
        return
    for blank in blanks:
        print(f"token {blank.position}:" if len(blanks) > 1 else CHOICES)
        _print_choices(blank, top)


@app.command(sort_key=11)
def classify(
    text: Text, /, *, model: EncoderName, dtype: Dtype = None, device: Device = None, json: Json = False
) -> None:
    """Tell which class a text is of, with a classifier's own classes."""
    text = _read(text)
    loaded = _load(model, dtype, device)
    found = loaded.classify(text)
    _say(*found.notes)
    if json:
        labels = [vars(label) for label in found.labels]
        _print_json(model=loaded.card.name, tokens=found.tokens, exclusive=found.exclusive, labels=labels)
        return
    print("probability     logit  class")
    _print_labels(found.labels)


@app.command(sort_key=12)
def see(
    *images: Annotated[str, Parameter(help="Image files; - reads one from standard input.")],
    model: ModelName = "digits",
    top: Annotated[int, Parameter(converter=_whole, help="How many of the most probable classes to show.")] = 5,
    dtype: Dtype = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Tell what images show, with a vision model's own classes."""
    if not images:
        raise Misuse("There is no image.", "Name at least one file.")
    _check_top(top)
    loaded = _load(model, dtype, device)
    told: list[dict[str, Any]] = []
    for image in images:
        found = loaded.see(_read_image(image))
        _say(*found.notes)
        labels, rest = found.labels[:top], found.labels[top:]
        share = sum(label.p or 0 for label in rest) if found.exclusive else None
        name = "-" if image == STDIN else image
        told.append({"image": name, "exclusive": found.exclusive, "rest": share, "labels": [vars(x) for x in labels]})
        if not json:
            print(f"{_safe(name)}:" if len(images) > 1 else "probability     logit  class")
            _print_labels(labels)
            if share is not None and rest:
                print(f"{share:11.4%}            everything else, {len(rest):,} classes")
    if json:
        _print_json(model=loaded.card.name, images=told)


@app.command(sort_key=13)
def embed(
    *texts: Text,
    model: EncoderName,
    save: Annotated[Path | None, Parameter(help="Write all vectors to this .npy file.")] = None,
    dtype: Dtype = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Make a vector of each text, pooled as the model says."""
    read = _read_each(texts)
    if save is not None:
        _check_writable(save)
    loaded = _load(model, dtype, device)
    vectors = loaded.embed(read)
    if save is not None:
        import numpy

        from .files import write_atomically

        with write_atomically(save) as path, path.open("wb") as file:
            numpy.save(file, vectors.numpy())
        _say(f"Saved {save} ({vectors.shape[0]} × {vectors.shape[1]} numbers).")
    if json:
        _print_json(model=loaded.card.name, width=vectors.shape[1], vectors=vectors.tolist())
        return
    for text, vector in zip(read, vectors, strict=True):
        first = " ".join(f"{x:8.4f}" for x in vector[:5].tolist())
        print(f"{first} ... {len(vector)} numbers, length {float(vector.norm()):.4f}  {_safe(text[:40])}")


@app.command(sort_key=14)
def similar(
    text: Text,
    /,
    *others: Annotated[str, Parameter(help="The texts to compare it with.")],
    model: EncoderName,
    dtype: Dtype = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Rank texts by how near in meaning they are to the first.

    Printed is the cosine of the angle between their vectors: 1 is the same way.
    """
    first, *rest = _read_each((text, *others))
    if not rest:
        raise Misuse("There is only one text.", "Give at least one to compare it with.")
    loaded = _load(model, dtype, device)
    cosines = loaded.similar(first, rest)
    ranked = sorted(zip(cosines, rest, strict=True), key=lambda pair: -pair[0])
    if json:
        _print_json(model=loaded.card.name, text=first, similar=[{"text": t, "cosine": c} for c, t in ranked])
        return
    for cosine, other in ranked:
        print(f"{cosine:8.4f}  {_safe(other)}")


@Parameter(name="*")
@dataclass(frozen=True)
class Writing:
    """How a translation or a summary is written; what is not said is as the checkpoint asks."""

    prefix: Annotated[str | None, Parameter(help="What to put before the text, instead of the model's own.")] = None
    max_new_tokens: Annotated[int | None, Parameter(converter=_whole, help="The most tokens to write.")] = None
    beams: Annotated[int | None, Parameter(converter=_whole, help="Above 1: search, do not draw.")] = None
    length_penalty: Annotated[float | None, Parameter(help="Of a search: above 0 is longer, below shorter.")] = None
    temperature: Annotated[float | None, Parameter(help="0 takes the most probable; above 1 is flatter.")] = None
    top_k: Annotated[int | None, Parameter(converter=_whole, help="Keep the k most probable tokens.")] = None
    top_p: Annotated[float | None, Parameter(help="Keep the fewest tokens that hold the share p.")] = None
    min_p: Annotated[float | None, Parameter(help="Keep tokens this probable beside the best one.")] = None
    repetition_penalty: Annotated[float | None, Parameter(help="Above 1 repeats less.")] = None
    seed: Annotated[int | None, Parameter(converter=_whole, help="The same seed, the same tokens.")] = None
    stop: Annotated[list[str] | None, Parameter(help="End before this string; may be repeated.")] = None


@app.command(sort_key=14.1)
def translate(
    text: Text,
    /,
    *,
    model: RewriterName,
    task: Annotated[str | None, Parameter(help="One config.json names, such as translation_en_to_de.")] = None,
    writing: Writing = Writing(),
    quantize: Quantize = None,
    dtype: Dtype = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Translate a text, with models such as OPUS-MT and T5."""
    _rewrite("translate", text, model, {"task": task} if task else {}, writing, (dtype, device, quantize), json)


@app.command(sort_key=14.2)
def summarize(
    text: Text,
    /,
    *,
    model: RewriterName,
    writing: Writing = Writing(),
    quantize: Quantize = None,
    dtype: Dtype = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Sum up a text, with models such as BART and T5."""
    _rewrite("summarize", text, model, {}, writing, (dtype, device, quantize), json)


def _rewrite(
    verb: Literal["translate", "summarize"],
    text: str,
    model: str,
    task: dict[str, str],
    writing: Writing,
    how: tuple[str | None, str | None, str | None],
    json: bool,
) -> None:
    """What ``translate`` and ``summarize`` do: as it is written, or at once what a search has found. ``how``: dtype,
    device and quantize."""
    text = _read(text)
    settings = {name: value for name, value in vars(writing).items() if value is not None} | task
    unsaid = {"temperature": 1.0, "top_k": None, "top_p": None, "min_p": None, "repetition_penalty": None}
    _check_sampling({**unsaid, "max_new_tokens": 1, **settings})
    loaded = _load(model, *how)
    result = getattr(loaded, verb)(text, **settings, stream=True)
    steps: list[dict[str, Any]] = []
    if hasattr(result, "finish"):
        for step in result:
            steps.append({"id": step.id, "text": step.text, "p": step.p, "p_drawn": step.p_drawn, "u": step.u})
            if not json:
                print(_safe(step.text), end="", flush=True)
    else:
        steps = [{"id": token} for token in result.tokens]
        if not json:
            print(_safe(result.text), end="")
    if not json:
        print()
    _say(*result.notes)
    drawn = "" if all(step.get("p_drawn", 1) == 1 for step in steps) else f", seed {result.seed}"
    _say(f"{len(steps)} tokens{drawn}, finish reason: {result.finish_reason}.")
    if json:
        _print_json(
            model=loaded.card.name, read=result.prompt, text=result.text, tokens=steps, seed=result.seed,
            finish_reason=result.finish_reason, notes=result.notes, settings=settings | {"seed": result.seed},
        )  # fmt: skip


@app.command(sort_key=14.3)
def transcribe(
    sound: Annotated[str, Parameter(help="A WAV, FLAC, MP3, Ogg or AIFF file; - reads standard input.")],
    /,
    *,
    model: ModelName = "spoken",
    language: Annotated[str | None, Parameter(help="Its code, such as en; else the model hears which it is.")] = None,
    timestamps: Annotated[bool, Parameter(help="Show when each segment was said.")] = False,
    words: Annotated[bool, Parameter(help="Show when each word was said.")] = False,
    srt: Annotated[bool, Parameter(help="Print subtitles (SubRip), with --words one for each.")] = False,
    temperature: Annotated[
        float | None, Parameter(help="0: the most probable only; else 0, and up to 1 where that makes no sense.")
    ] = None,
    seed: Annotated[int | None, Parameter(converter=_whole, help="The same seed, the same text; else picked.")] = None,
    quantize: Quantize = None,
    dtype: Dtype = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Write down what is said in a sound file, with models such as Whisper.

    Each part is printed as soon as it is written; what is printed stays when you interrupt.
    """
    if srt and json:
        raise Misuse("--srt and --json ask for two kinds of output.", "Give one of them.")
    source = _read_sound(sound)
    loaded = _load(model, dtype, device, quantize)
    chosen = {} if temperature is None else {"temperature": temperature}
    result: Any = loaded.transcribe(
        source, language=language, timestamps=timestamps or srt, words=words, seed=seed, progress=_show_seconds(json),
        stream=True, **chosen,
    )  # fmt: skip
    if json:
        whole = result.finish()
        _say(*whole.notes)
        said = {name: value for name, value in asdict(whole).items() if name != "notes"}
        _print_json(model=loaded.card.name, **said, notes=whole.notes)
        return
    told = len(result.notes)
    _say(*result.notes)
    _print_speech(result, words, srt, timestamps)
    _say(*result.notes[told:])


def _print_speech(segments: Iterable[Segment], words: bool, srt: bool, timestamps: bool) -> None:
    """What is said, as it is written down: subtitles, a line for each word or segment, or the text alone."""
    from .tasks.transcript import cues, on_one_line

    if srt:
        for cue in cues(segments, words):
            print(_safe(cue), flush=True)
    elif words or timestamps:
        for segment in segments:
            for said in segment.words if words else [segment]:
                print(f"{said.start:8.2f} {said.end:8.2f}  {_safe(on_one_line(said.text))}", flush=True)
    else:
        text = ""
        for segment in segments:
            so_far = (text + segment.text).strip()
            print(_safe(so_far[len(text.strip()) :]), end="", flush=True)
            text += segment.text
        print()


def _show_seconds(silent: bool) -> Callable[[float, float], None]:
    """How much of a sound is written down, on a terminal on which nothing is printed meanwhile."""

    def show(heard: float, whole: float) -> None:
        if sys.stderr.isatty() and (silent or not sys.stdout.isatty()):
            print(f"\r{heard:,.0f} of {whole:,.0f} s", end="\n" if heard >= whole else "", file=sys.stderr, flush=True)

    return show


@app.command(sort_key=15)
def models(*, json: Json = False) -> None:
    """List the models at hand: those that come along, and the Hugging Face cache."""
    from . import hub
    from .tasks import IS

    entries = [*hub.bundled(), *hub.cached()]
    if json:
        _print_json(
            models=[
                {
                    "name": entry.name, "source": entry.source, "folder": str(entry.folder), "family": entry.family,
                    "parameters": entry.parameters, "dtype": entry.dtype, "task": entry.task,
                    "problem": None if entry.problem is None else entry.problem.message,
                }
                for entry in entries
            ]
        )  # fmt: skip
        return
    width = max((len(entry.name) for entry in entries), default=0)
    for entry in entries:
        size = "" if entry.parameters is None else f"{entry.parameters:,} parameters"
        about = f"{entry.source:8} {entry.family or '':11} {size:>26}  {entry.dtype or '':8}"
        about += f"  {IS[entry.task]}" if entry.task else ""
        print(
            _safe(
                f"{entry.name:{width}}  {about}" if entry.problem is None else f"{entry.name:{width}}  {entry.problem}"
            )
        )
    if not entries:
        _say("None. Name a folder, or a model of the hub such as openai-community/gpt2.")


@app.command(sort_key=16)
def verify(model: Annotated[str, Parameter(help="The model to check.")], /, *, json: Json = False) -> int:
    """Compare a model's logits with those of an installed transformers.

    Exits with 1 when they disagree.
    """
    from . import hub

    folder = hub.find(model)
    _loading(model)
    from .families import checkpoint
    from .families.verify import TOLERANCE
    from .families.verify import verify as compare

    result = compare(checkpoint.open(folder))
    if json:
        _print_json(model=model, **result)
    else:
        verdict = "agrees" if result["agrees"] else f"DISAGREES (more than {TOLERANCE:g})"
        print(
            f"{model} {verdict}: the largest difference in its {result['compared']} is {result['relative']:.2g} of its "
            f"position's largest ({result['absolute']:.2g} in absolute terms), in {result['dtype']}, against "
            f"transformers {result['transformers']}."
        )
    return 0 if result["agrees"] else Failed.exit_code


@app.command(sort_key=16.5)
def bench(
    model: Annotated[str, Parameter(help="A bundled model, a folder, or a name on the hub.")] = "stories",
    /,
    *,
    quantize: Quantize = None,
    peers: Annotated[
        Path | None, Parameter(help="The Python environment of the engines to compare with; else this one.")
    ] = None,
    dtype: Dtype = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Measure how fast a model writes and reads, here and now.

    Beside what this machine's memory and arithmetic allow, and beside those of
    transformers, llama.cpp, CTranslate2 and OpenVINO that are installed: each in
    a process of its own, in turns.
    """
    from .bench.measure import bench as measure
    from .bench.report import lines

    result = measure(model, quantize, dtype, device, peers, _show_doing)
    _show_doing("")
    _say(*result.notes)
    if json:
        _print_json(**result.to_json())
        return
    for line in lines(result):
        print(_safe(line))


def _show_doing(what: str) -> None:
    """What is done now, on a terminal, in place of what was said before."""
    if sys.stderr.isatty():
        print(f"\r{_safe(what[:78]):78}\r", end="", file=sys.stderr, flush=True)


@app.command(sort_key=16.6)
def quantize(
    model: Annotated[str, Parameter(help="A bundled model, a folder, or a name on the hub.")],
    out: Annotated[Path, Parameter(help="The folder to write; nothing may be in it.")],
    /,
    *,
    to: Annotated[str, Parameter(help="int8 or int4.")],
    text: Annotated[Path | None, Parameter(help="A text file: how much worse is it predicted?")] = None,
    json: Json = False,
) -> None:
    """Write a model with its matrices in 8 or 4 bits, as a folder that loads.

    With --text: nats per token before and after, over at most 64 windows of 512
    tokens from its beginning; of models that continue a text.
    """
    from . import hub
    from .families import describe
    from .families.config import read_config
    from .tasks import IS

    folder = hub.find(model)
    task = describe(read_config(folder))[1].task
    if text is not None and task != "continue":
        raise Misuse(f"{model} {IS[task]}; --text is for models that continue one.", "Leave --text out.")
    passage = None if text is None else _read_file(text)
    _loading(model)
    from .api import load
    from .api import quantize as write
    from .families.weights import find_files
    from .tasks.loss import loss, windows_of

    made = write(model, out, to)
    before, after = (sum(file.stat().st_size for file in find_files(one)) for one in (folder, made))
    losses: dict[str, Any] = {}
    if passage is not None:
        its = load(made)
        windows = windows_of(its.tokens(passage), its.context)
        if not windows:
            raise Misuse(f"{text} is too short to be predicted.", "Name a longer text.")
        fewer = loss(its._must("continue"), windows)
        del its
        whole = loss(load(model, "float32")._must("continue"), windows)
        losses = {
            "tokens": sum(map(len, windows)), "loss_before": whole, "loss_after": fewer, "change": fewer / whole - 1,
        }  # fmt: skip
    if json:
        _print_json(model=model, folder=str(made), to=to, bytes_before=before, bytes_after=after, **losses)
        return
    print(f"{made}: {to}, {after / 1e6:,.1f} MB, where {model} has {before / 1e6:,.1f} MB")
    if losses:
        print(
            f"{losses['tokens']:,} tokens of {text}: {losses['loss_before']:.4f} nats per token before, "
            f"{losses['loss_after']:.4f} after, {losses['change']:+.3%}"
        )


@app.command(sort_key=17)
def train(
    recipe: Annotated[str, Parameter(help="A recipe by name (stories, digits), or the path of a .toml file.")],
    /,
    *changes: Annotated[str, Parameter(help="key=value changes to the recipe, such as steps=100.")],
    json: Json = False,
) -> None:
    """Train a model from scratch, or make a classifier of one that is there.

    Interrupt it and run it again: it goes on where it stood, to the same weights.
    """
    from .training import train as train_by

    result = train_by(recipe, changes)
    if json:
        _print_json(
            run=str(result.run), model=str(result.model), parameters=result.parameters, steps=result.steps,
            seconds=result.seconds, confusion=result.confusion, classes=result.classes,
            picture=result.picture and str(result.picture), **{result.unit: result.seen}, **result.measured,
        )  # fmt: skip
        return
    seen = f"{result.seen:,} {result.unit}"
    print(f"{result.model}: {result.parameters:,} parameters, {result.steps:,} steps, {seen}")
    for line in result.lines():
        print(line)
    if result.confusion:
        _print_confusion(result.confusion, result.classes, result.unit)
        print(f"\nThe same as a picture: {result.picture}")


@app.command(sort_key=18)
def doctor(*, json: Json = False) -> int:
    """Look at the installation: what is there, what is missing.

    Exits with 1 when there is a problem.
    """
    from .doctor import examine

    findings = examine()
    if json:
        _print_json(findings=[{"name": f.name, "value": f.value, "problem": f.problem} for f in findings])
    else:
        for finding in findings:
            print(f"{'!!' if finding.problem else 'ok'}  {finding.name:14} {_safe(finding.problem or finding.value)}")
    return Failed.exit_code if any(finding.problem for finding in findings) else 0


# --- what every command needs ----------------------------------------------------------------------------------------


def _load(
    name: str, dtype: str | None, device: str | None, quantize: str | None = None, cache: str | None = None
) -> Model:
    from . import hub

    hub.find(name)  # a wrong name is said before torch is imported
    _loading(name)
    from .api import load

    model = load(name, dtype, device, quantize=quantize, cache=cache)
    _say(*model.warnings)
    return model


def _loading(name: str) -> None:
    if sys.stderr.isatty():
        _say(f"Loading {name} ...")


def _check_sampling(settings: dict[str, Any]) -> None:
    """Say what is wrong with the settings before a model is loaded."""
    from .generate.sampler import Sampler

    Sampler(*(settings[name] for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")))
    if settings["max_new_tokens"] < 1:
        raise Misuse(f"--max-new-tokens is {settings['max_new_tokens']}.", "Give 1 or more.")


def _check_top(top: int) -> None:
    if top < 1:
        raise Misuse(f"--top is {top}.", "Give 1 or more.")


def _check_writable(path: Path) -> None:
    if path.is_dir():
        raise Misuse(f"{path} is a folder.", "Name a file, such as run.cutaway.")
    if not path.parent.is_dir():
        raise Misuse(f"There is no folder {path.parent} to write {path.name} in.", "Make it first.")
    if not os.access(path.parent, os.W_OK):
        raise Failed(f"{path.parent} cannot be written to.", "Choose another folder.")


def _read(text: str) -> str:
    """The text itself, or all of standard input when it is "-" (without the line end that shells add)."""
    from .inputs.text import checked_text

    if text == STDIN:
        raw = sys.stdin.buffer.read(MAX_STDIN_BYTES + 1)
        if len(raw) > MAX_STDIN_BYTES:
            raise Misuse(f"Standard input holds more than {MAX_STDIN_BYTES:,} bytes.", "Give a shorter text.")
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise Misuse(f"Standard input is not UTF-8: byte {error.start} is 0x{raw[error.start]:02X}.", "") from None
        text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise Misuse("The text is empty.", "Write at least one character.")
    return checked_text(text)


def _run(
    text: str | None,
    image: str | None,
    sound: str | None,
    target: str | None,
    keep: list[str] | None,
    model: str | None,
    dtype: str | None,
    device: str | None,
) -> tuple[Model, Record]:
    """The model, and its run of what is given. Raises Misuse unless that is a text, an image or a sound."""
    if sum(given is not None for given in (text, image, sound)) != 1:
        raise Misuse("Give a text, --image or --sound, one of the three.")
    read = None if text is None else _read(text)
    usual = "spoken" if sound is not None else "stories" if image is None else "digits"
    loaded = _load(model or usual, dtype, device)
    seen, heard = (None if image is None else _read_image(image)), (None if sound is None else _read_sound(sound))
    return loaded, loaded.run(read, keep=keep, target=target, image=seen, sound=heard)


def _read_image(path: str) -> str | bytes:
    """The path, or all of standard input when it is "-"."""
    if path != STDIN:
        return path
    from .inputs.image import LARGEST_FILE

    return _read_bytes(LARGEST_FILE, "Give a smaller image.")


def _read_sound(path: str) -> str | bytes:
    """The path, or all of standard input when it is "-"."""
    if path != STDIN:
        return path
    from .inputs.audio import LARGEST_FILE

    return _read_bytes(LARGEST_FILE, "Name the file instead.")


def _read_bytes(most: int, fix: str) -> bytes:
    content = sys.stdin.buffer.read(most + 1)
    if len(content) > most:
        raise Misuse(f"Standard input holds more than {most:,} bytes.", fix)
    return content


def _read_file(path: Path) -> str:
    """The beginning of a text file, as much as a measure of the loss reads."""
    if not path.is_file():
        raise NotFound(f"There is no file {path}.", "Name a text file.")
    try:
        with path.open(encoding="utf-8-sig") as file:
            return file.read(MAX_STDIN_BYTES // 8)
    except UnicodeDecodeError as error:
        raise Misuse(f"{path} is not UTF-8: {error.reason}.", "Name a text file.") from None


def _read_each(texts: Sequence[str]) -> list[str]:
    """Several texts, of which standard input can be one."""
    if texts.count(STDIN) > 1:
        raise Misuse("Standard input can be read only once.", "Give the other texts as they are.")
    if not texts:
        raise Misuse("There is no text.", "Give at least one.")
    return [_read(text) for text in texts]


def _spelt(model: Model, ids: Iterable[int]) -> dict[int, str]:
    """The readable text of tokens that a model predicts."""
    return {} if model.tokenizer is None else {piece.id: piece.text for piece in model.tokenizer.target.pieces(ids)}


CHOICES = "probability     logit      id  token"


def _likeliest(distribution: Distribution, top: int) -> dict[str, Any]:
    """The most probable tokens and what all others hold, ready for JSON."""
    choices = [{"id": c.id, "text": c.text, "p": c.p, "logit": c.logit} for c in distribution.top(top)]
    return {"rest": distribution.rest(top), "top": choices}


def _print_choices(distribution: Distribution, top: int) -> None:
    """A line for each of the most probable tokens, and one for everything else."""
    choices = distribution.top(top)
    for choice in choices:
        print(f"{choice.p:11.4%} {choice.logit:9.3f} {choice.id:7d}  {_safe(choice.text)}")
    if others := len(distribution.logits) - len(choices):
        print(f"{distribution.rest(top):11.4%}                    everything else, {others:,} tokens")


def _print_labels(labels: Sequence[Label]) -> None:
    """A line for each class; one that estimates a number has no probability."""
    for label in labels:
        print(f"{'' if label.p is None else f'{label.p:.4%}':>11} {label.logit:9.3f}  {_safe(label.name)}")


def _print_confusion(table: list[list[int]], names: list[str], unit: str) -> None:
    print(f"\nHow many {unit} of the test, by their class (row), were taken for which (column):")
    names = [_safe(name) for name in names]
    wide = max(5, *map(len, names)) + 1
    print(f"{'':{wide}}" + "".join(f"{name:>{wide}}" for name in names))
    for name, counts in zip(names, table, strict=True):
        print(f"{name:>{wide}}" + "".join(f"{count:{wide}}" for count in counts))


SHOWN = 8  # terms of a derivation in full
TERMS = {"product": "", "value": "", "square": "square of ", "exp": "exp of "}
STEPS = {
    "sum": "sum", "add": "+ {by:10}  {label}", "scale": "× {by:10}  {label}",
    "multiply": "× {by:10}  {label}", "root": "√", "divide": "{by:10} ÷ it; {label}", "softcap": "soft cap at {by}",
}  # fmt: skip
AXES = {
    "T": "position", "S": "source position", "D": "number", "H": "head", "K": "key-value head", "E": "number",
    "F": "neuron", "V": "token", "stop": "stop", "C": "channel", "Y": "row", "X": "column", "M": "mel bin",
    "R": "frame",
}  # fmt: skip


def _print_derivation(found: Explanation, record: Record, model: Model) -> None:
    """The largest terms, all others as one, and what the steps make of them: one column of numbers, downwards."""
    from rich.console import Console
    from rich.text import Text

    from .look.explain import RULES

    console = Console(highlight=False)

    def line(number: float, *words: str | tuple[str, str], style: str = "") -> None:
        console.print(Text.assemble((_aligned(number), style), "  ", *words), soft_wrap=True)

    for words, style in (
        (f"{found.cell} = {found.value:.6g}", "bold"),
        (_places(found, record, model), ""),
        (" ".join((RULES[found.rule].__doc__ or "").split()), "dim"),
    ):
        console.print(Text(words, style), soft_wrap=True)
    console.print()
    steps = list(found.steps)
    if steps[0].op == "subtract":  # from every term's number
        first = steps.pop(0)
        console.print(Text(f"{'':14}  each number minus {first.by:.6g}, {first.label}"), soft_wrap=True)
    largest = sorted(found.terms, key=lambda term: -abs(term.value))
    for term in largest[:SHOWN]:
        cells = [((f"{factor.value:.6g} ", ""), (factor.cell, "cyan")) for factor in term.factors]
        line(term.value, TERMS[found.term], *[part for cell in cells for part in (" × ", *cell)][1:])
    if rest := largest[SHOWN:]:
        line(sum(term.value for term in rest), f"and {len(rest):,} more")
    console.print(Text("─" * 14, "dim"))
    for step in steps:
        by = "" if step.by is None else f"{step.by:.6g}"
        words = STEPS.get(step.op, "{label}").format(by=by, label=step.label or "")
        if words:
            line(step.value, words, ("" if step.cell is None else f"  {step.cell}", "cyan"))
    line(found.value, "recorded", style="bold")
    console.print(Text(f"{found.difference:14.0e}  difference", "dim"))


def _parting(at: int | None, runs: tuple[Record, Record]) -> str:
    """Where two texts part, in a sentence."""
    if at is None:
        return "The two texts are the same tokens."
    read = [run.source_pieces or run.pieces for run in runs]
    told = [_safe(pieces[at]["text"]) if at < len(pieces) else "its end" for pieces in read]
    return f"They part at token {at}: {told[0]} in the first, {told[1]} in the second."


def _aligned(number: float) -> str:
    """Fourteen columns, the decimal points under each other."""
    return f"{number:14.6f}" if number == 0 or 1e-4 <= abs(number) < 1e6 else f"{number:14.3e}"


def _places(found: Explanation, record: Record, model: Model) -> str:
    """What the integers of a cell stand for: "head 2, position 5 '␣time', position 4 '␣a'"."""
    from .model.spec import classifies

    name, _, inside = found.cell.partition("[")
    words, pieces = [], {"T": record.pieces, "S": record.source_pieces}
    for letter, number in zip(record.axes(name), map(int, inside.rstrip("]").split(",")), strict=True):
        what, told = AXES[letter], []
        if pieces.get(letter):
            told = [pieces[letter][number]["text"]]
        elif letter == "V" and classifies(model.spec):
            what, told = "class", [record.vocabulary()[number]]
        elif letter == "V" and model.tokenizer is not None:
            told = [piece.text for piece in model.tokenizer.target.pieces([number])]
        words.append(" ".join([what, str(number), *(repr(_safe(text)) for text in told)]))
    return ", ".join(words)


def _print_json(**content: Any) -> None:
    print(json.dumps(content))  # ASCII only: safe on every terminal, exact for every reader


def _say(*lines: str) -> None:
    for line in lines:
        print(_safe(line), file=sys.stderr)


_BIDI = {*map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A)), "\u200e", "\u200f", "\u061c"}


def _safe(text: str) -> str:
    """Text a model or a file made up, harmless to a terminal: no escape sequences, no reordering of what is around."""
    return "".join(
        f"⟨U+{ord(c):04X}⟩"
        if c in _BIDI or (c not in "\n\t" and unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"})
        else c
        for c in text
    )


# --- from the outside ------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The `cutaway` command."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a terminal that is not UTF-8
    signal.signal(signal.SIGTERM, _terminate)
    code = call(sys.argv[1:] if arguments is None else arguments)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _forget_stdout()
    sys.exit(code)


def call(arguments: Iterable[str]) -> int:
    """Run one command line and return its exit code; errors are said on standard error, cause and remedy."""
    words = list(arguments)
    end = words.index("--") if "--" in words else len(words)
    debug = "--debug" in words[:end]
    words = [STDIN if word == "-" else word for word in words[:end] if word != "--debug"] + words[end:]
    try:
        return int(app(words, exit_on_error=False, print_error=False) or 0)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has seen enough
        _forget_stdout()
        return 0
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except CycloptsError as error:
        words_of_command = " ".join(["cutaway", *(error.command_chain or ())])
        _say(f"{str(error).strip()}", f"See {words_of_command} --help.")
        return Misuse.exit_code
    except CutawayError as error:
        if debug:
            _trace()
        _say(*filter(None, (error.message, error.fix)))
        return error.exit_code
    except Exception as error:
        if debug:
            _trace()
        known = isinstance(error, OSError) and error.strerror is not None
        what = f"{error.strerror}: {error.filename}." if known else f"{type(error).__name__}: {error}"  # type: ignore[attr-defined]
        _say(what, "" if debug else "Run it again with --debug to see where it came from.")
        return Failed.exit_code


def _trace() -> None:
    import traceback

    traceback.print_exc()


def _terminate(number: int, frame: Any) -> NoReturn:
    sys.exit(TERMINATED)


def _forget_stdout() -> None:
    """Keep the interpreter from complaining, on its way out, that it could not flush what nobody reads."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
