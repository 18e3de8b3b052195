"""What a Python user holds: a Model, and the wings tied together behind it.

model = cutaway.load("stories")
model.next(text)        -> Distribution over the whole vocabulary
model.generate(text)    -> Generated, or Steps as they come
model.run(text)         -> Record, every intermediate by name

and of encoders

model.fill(text)        -> one Distribution for each [MASK]
model.classify(text)    -> Classified: the classes with their probabilities
model.embed(texts)      -> (N, D), a vector for each text
model.similar(text, texts)

and of vision models

model.see(image)        -> Classified: what it shows, with probabilities
model.run(image=image)  -> Record

and of encoder-decoders

model.translate(text)   -> Generated, as generate's
model.summarize(text)

and of models of speech

model.transcribe(sound) -> Transcript: what is said, perhaps in segments with their seconds
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from . import hub, look, tasks
from .errors import Misuse, NotFound
from .families import checkpoint, packed, verify
from .families.config import bits_asked, cache_asked, precision_of
from .generate.beam import beam_search
from .generate.loop import Generated, Generation, fit, generate
from .generate.manner import Manner, Speech, manner_of, speech_of, start_of, tasks_of
from .generate.sampler import Floats, Sampler
from .generate.speculate import differing
from .inputs import audio
from .inputs import image as pictures
from .inputs.text import Piece, Tokenizer
from .look.record import ModelCard, Record, stored_bytes
from .model import spec
from .model.tap import Edit
from .model.transformer import Seq2Seq, Transformer
from .native import product
from .tasks.attempts import LADDER
from .tasks.classify import Classified, classify, label_names, problem
from .tasks.fill import fill
from .tasks.see import pieces, placed, see, vectors
from .tasks.sentences import Pooling, embed, pooling_of
from .tasks.transcribe import Transcription, Wish, prompt_of, spoken
from .tasks.transcript import Transcript

#: A run that would store more than this is refused; keep= says which tensors to store instead.
RECORD_BYTES = 4 * 2**30


@dataclass(frozen=True)
class Choice:
    """One candidate for the next token: its id, its text made readable, its probability and its logit."""

    id: int
    text: str
    p: float
    logit: float


@dataclass(frozen=True)
class Distribution:
    """The model's prediction: a logit and a probability for every token of the vocabulary, (V,) each, float64.

    Probabilities are the softmax of the logits, with no temperature and nothing cut. ``tokens`` are those that were
    read; ``notes`` say in sentences when they are not all of the text.
    """

    tokens: list[int]
    logits: Floats = field(repr=False)
    probabilities: Floats = field(repr=False)
    notes: list[str] = field(default_factory=list)
    _texts: Tokenizer | None = field(repr=False, default=None)

    def top(self, count: int = 10) -> list[Choice]:
        """The ``count`` most probable tokens, most probable first; ties in order of their ids."""
        order = self._ranked[:count]
        if self._texts is None:
            pieces = [str(i) for i in order]
        else:
            pieces = [piece.text for piece in self._texts.pieces(order.tolist())]
        return [
            Choice(int(i), text, float(self.probabilities[i]), float(self.logits[i]))
            for i, text in zip(order, pieces, strict=True)
        ]

    def rest(self, count: int = 10) -> float:
        """The exact probability of everything but the top ``count``."""
        return float(self.probabilities[self._ranked[count:]].sum())

    @functools.cached_property
    def _ranked(self) -> np.ndarray[Any, np.dtype[np.intp]]:
        return np.lexsort((np.arange(len(self.logits)), -self.logits))


@dataclass(frozen=True)
class Blank(Distribution):
    """The model's prediction at one mask. ``position``: which of ``tokens`` the mask is."""

    position: int = field(kw_only=True)


class Model:
    """A loaded model: its ``machine`` (a torch module), its ``spec``, its ``tokenizer`` (or None), its ``config``.

    ``eos``: token ids that end a text. ``warnings``: what its config.json says that nobody here understands.
    """

    def __init__(
        self,
        machine: Transformer | Seq2Seq,
        card: ModelCard,
        tokenizer: Tokenizer | None,
        folder: Path,
        eos: frozenset[int] = frozenset(),
        warnings: Sequence[str] = (),
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.machine = machine
        self.card = card
        self.tokenizer = tokenizer
        self.folder = folder
        self.eos = eos
        self.warnings = list(warnings)
        self.config = dict(config or {})

    @property
    def spec(self) -> spec.Spec:
        return self.machine.spec

    @property
    def context(self) -> int:
        """The longest text, in tokens, the model was made for."""
        return self.spec.context

    @functools.cached_property
    def nbytes(self) -> int:
        """How many bytes its weights take, as they are kept."""
        return sum(weight.nbytes for weight in self.machine.state_dict().values())

    @property
    def device(self) -> torch.device:
        return next(self.machine.parameters()).device

    def __repr__(self) -> str:
        blocks = " + ".join(str(len(stack.blocks)) for stack in self.spec.stacks)
        size = f"{self.card.parameters:,} parameters, {blocks} blocks, width {self.spec.stacks[-1].width}"
        return f"Model({self.card.name}: {self.card.family}, {size}, {self.card.dtype}, context {self.context})"

    # ------------------------------------------------------------------ text <-> tokens

    def tokens(self, text: str) -> list[int]:
        """The ids of ``text``; control tokens typed into it stay text, but for the "[MASK]" of one that fills masks.

        Raises Misuse without a tokenizer.
        """
        texts = self._texts()
        return texts.encode_masked(text) if self.spec.task == "fill" and texts.has_mask(text) else texts.encode(text)

    def text(self, ids: Sequence[int]) -> str:
        """The text of ``ids`` without control tokens; where masks are filled, those that are left stay in it."""
        texts, inner = self._tokenizer() if self.spec.task == "transcribe" else self._texts(), list(ids)
        if self.spec.task != "fill":
            return texts.decode(inner)
        before, after = texts.frame
        if inner[: len(before)] == before and inner[len(inner) - len(after) :] == after:
            inner = inner[len(before) : len(inner) - len(after)]
        return texts.decode(inner, special=True)

    def pieces(self, text: str | None = None, tokens: Sequence[int] | None = None) -> list[Piece]:
        """Each token with its id and its text made readable (␣ ↵ ⇥; bytes of a cut character as ⟨E2 80⟩)."""
        return self._texts().pieces(self._ids(text, tokens))

    def fit(self, ids: Sequence[int], new_tokens: int = 0, most: int | None = None) -> tuple[list[int], list[str]]:
        """The ids that fit the context (and ``most``), and a sentence when they are not all of them: too long a text
        keeps its end, with room for ``new_tokens``; where it is not to be continued, it loses its end."""
        if self.spec.task != "continue":
            return self._cut(list(ids), most)
        context = self.context if most is None else min(self.context, most)
        return fit(ids, context, new_tokens, None if self.tokenizer is None else self.tokenizer.bos)

    # ------------------------------------------------------------------ predict, sample, repeat

    @torch.no_grad()
    def next(self, text: str | None = None, tokens: Sequence[int] | None = None) -> Distribution:
        """The distribution over the next token after ``text`` or ``tokens``, the whole vocabulary, no cache.

        A text longer than the context is read from its last ``context`` tokens on. Raises Misuse for an empty one.
        """
        machine = self._must("continue")
        ids, notes = self.fit(self._ids(text, tokens))
        read = torch.tensor([ids], device=self.device)
        with product.in_turn(machine, read):
            logits = machine.logits(machine.stream(read)[:, -1:])[0, -1].double().cpu().numpy()
        return Distribution(ids, logits, Sampler().trace(logits).probabilities, notes, self.tokenizer)

    def generate(
        self,
        text: str | None = None,
        tokens: Sequence[int] | None = None,
        *,
        max_new_tokens: int = 100,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        beams: int = 1,
        draft: Model | Literal["prompt"] | None = None,
        stream: bool = False,
    ) -> Generated | Generation:
        """Continue a text: predict, sample, repeat, until an end token, a ``stop`` string or ``max_new_tokens``.

        Returns the new text and its tokens with the seed that was used (None picks one); on every machine the same
        seed draws the same token from the same logits. ``stream=True`` returns the generation under way instead:
        iterate for one Step (id, text, p) per token. ``temperature`` 0 takes the most probable token each time.
        ``beams`` above 1 searches for the most probable continuation and draws nothing. ``draft`` makes it faster and
        changes no token: a smaller model with the same tokens, or "prompt", what stood in the text before, guesses
        what comes; the result's ``tally`` says how often that was right. Raises Misuse for settings that make no sense.
        """
        machine = self._must("continue")
        ids = self._ids(text, tokens)
        sampler = Sampler(temperature, top_k, top_p, min_p, repetition_penalty)
        if beams != 1:
            if draft is not None:
                raise Misuse("Beam search follows several texts, and a draft guesses one.", "Leave draft or beams out.")
            if stream or stop or sampler != Sampler():
                raise Misuse(
                    "Beam search draws nothing and has no order to stream in.", "Leave the other settings out."
                )
            return self._search(ids, beams, max_new_tokens)
        generation = generate(
            machine,
            ids,
            sampler=sampler,
            max_new_tokens=max_new_tokens,
            seed=seed,
            stop=stop,
            eos=self.eos,
            tokenizer=self.tokenizer,
            draft=draft if draft is None or isinstance(draft, str) else self._drafting(draft),
        )
        return generation if stream else generation.finish()

    def _drafting(self, draft: Model) -> Any:
        """The machine of a model that guesses what this one writes. Raises Misuse where its tokens are others."""
        theirs = draft._must("continue")
        if differs := differing(self.tokenizer, draft.tokenizer, self.spec.vocabulary, draft.spec.vocabulary):
            raise Misuse(
                f"{draft.card.name} cannot draft for {self.card.name}: {differs}.", "Give a model with the same tokens."
            )
        return theirs

    def _search(self, ids: list[int], beams: int, count: int) -> Generated:
        prompt, notes = self.fit(ids, count)
        best = beam_search(self._must("continue"), prompt, beams=beams, max_new_tokens=count, eos=self.eos)[0]
        text = "" if self.tokenizer is None else self.tokenizer.decode_after(prompt, best.tokens)
        return Generated(text, best.tokens, prompt, 0, best.finish_reason, notes)

    # ------------------------------------------------------------------ what encoders are asked

    def fill(self, text: str) -> list[Blank]:
        """The distribution over the vocabulary at every "[MASK]" of ``text``, in their order; all are read at once.

        Raises Misuse for a model that fills no masks, for a text without one, and for one too long to keep them all.
        """
        machine = self._must("fill")
        texts = self._texts()
        whole, mask = texts.encode_masked(text), texts.mask
        assert mask is not None, "encode_masked has found one"
        ids, notes = self._cut(whole)
        if ids.count(mask) < whole.count(mask):
            raise Misuse(
                f"The text is longer than the {self.context} tokens the model reads, and a mask lies behind them.",
                "Shorten it.",
            )
        blanks = []
        for position, found in fill(machine, ids, mask):
            logits = found.double().cpu().numpy()
            shares = Sampler().trace(logits).probabilities
            blanks.append(Blank(ids, logits, shares, notes, texts, position=position))
        return blanks

    def classify(self, text: str) -> Classified:
        """The classes of ``text`` with their probabilities, most probable first; too long a text loses its end.

        Raises Misuse for a model that is no classifier, and for an empty text.
        """
        machine = self._must("classify")
        ids, notes = self._cut(self._ids(text, None))
        return classify(machine, ids, self.config, notes)

    def embed(self, texts: str | Sequence[str]) -> torch.Tensor:
        """(N, D), float32: a vector for each of ``texts``, pooled as the checkpoint says; else their mean.

        Too long a text loses its end, as sentence-transformers has it. Of a vision model ``texts`` are paths of images,
        and a vector is the stream at its first position. Raises Misuse for an empty text, for none, and for a model
        that turns one text into another.
        """
        machine = self._must("embed", "continue", "fill", "classify", "see")
        texts = [texts] if isinstance(texts, str) else list(texts)
        if not texts:
            raise Misuse("There is no text.", "Give at least one.")
        if isinstance(self.spec.stem, spec.Patches):
            return vectors(machine, [self._pixels(path)[0] for path in texts])
        cut = [self._cut(ids, self.pooling.length)[0] for ids in self.sentences(texts)]
        return embed(machine, cut, self.pooling)

    def sentences(self, inputs: Sequence[str | Sequence[int]]) -> list[list[int]]:
        """The token ids that ``embed`` makes a vector of, before it cuts them: of texts, or of ids as they are."""
        self._must("embed", "continue", "fill", "classify")
        lower = self.pooling.lower
        return [
            self._ids(one.lower() if lower else one, None) if isinstance(one, str) else self._ids(None, one)
            for one in inputs
        ]

    def similar(self, text: str, others: Sequence[str]) -> list[float]:
        """The cosine of the angle between the vector of ``text`` and that of each of ``others``: 1 is the same way."""
        vectors = torch.nn.functional.normalize(self.embed([text, *others]), dim=-1)
        cosines: list[float] = (vectors[1:] @ vectors[0]).tolist()
        return cosines

    # ------------------------------------------------------------------ what vision models are asked

    def see(self, image: pictures.Source) -> Classified:
        """What ``image`` (a path, a file's content, or a PIL image) shows: its classes, most probable first.

        Raises Misuse for a model that is no classifier of images; NotFound, Misuse or Refused for a file that is not
        there, is no image, is damaged or far too large.
        """
        machine = self._must("see")
        pixels, notes = self._pixels(image)
        return see(machine, pixels, self.config, notes)

    def _pixels(self, image: pictures.Source) -> tuple[torch.Tensor, list[str]]:
        """The image as the model reads it (C, Y, X), float32, and sentences about what was not read. Raises Misuse."""
        if not isinstance(self.spec.stem, spec.Patches):
            raise Misuse(f"{self.card.name} reads texts, not images.", "Give it a text, or load a vision model.")
        picture, notes = pictures.open(image)
        return self._preparation(picture), [*notes, *self._preparation.warnings]

    def _samples(self, sound: audio.Source) -> tuple[audio.Sound, list[str]]:
        """The sound as samples (N,), and sentences about what was not read, or read otherwise than it says."""
        samples, notes = audio.open(sound)
        return samples, [*notes, *audio.check_preparation(self.folder, self._must("transcribe").spec.source)]

    @functools.cached_property
    def _preparation(self) -> pictures.Preparation:
        assert isinstance(self.spec.stem, spec.Patches), "_pixels has asked"
        return pictures.preparation_of(self.folder, self.card.family, self.spec.stem)

    @functools.cached_property
    def pooling(self) -> Pooling:
        """How a stream becomes a vector, as the checkpoint says."""
        return pooling_of(self.folder)

    # ------------------------------------------------------------------ what encoder-decoders are asked

    def translate(
        self,
        text: str | None = None,
        tokens: Sequence[int] | None = None,
        *,
        task: str | None = None,
        prefix: str | None = None,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        beams: int | None = None,
        length_penalty: float | None = None,
        stream: bool = False,
    ) -> Generated | Generation:
        """Turn one text into another: read it whole, then write, token after token, what the model makes of it.

        What is not said is as the checkpoint's generation_config.json asks: so many beams, no token drawn, unless it
        says so. ``task``: one that config.json names, such as "translation_en_to_de", with its own settings and what
        stands before the text; ``prefix`` replaces that. A setting of the draw, or ``stop``, means one beam.
        ``stream=True`` returns the generation under way (see generate); a search has none, and comes whole. Too long
        a text loses its end. Raises Misuse for settings that make no sense, Refused where the checkpoint's make none.
        """
        machine = self._must("rewrite")
        manner = self._manner("translation", task, prefix, text)
        drawing = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
        given: dict[str, Any] = {name: value for name, value in drawing.items() if value is not None}
        if beams is None:
            beams = 1 if given or stop else manner.beams
        elif beams != 1 and (given or stop):
            raise Misuse("Beam search draws nothing, and ends where it ends.", "Leave the other settings out.")
        if beams == 1 and length_penalty is not None:
            raise Misuse("A length penalty ranks what a search finds, and one beam is none.", "Ask for more beams.")
        rules = manner.rules
        if repetition_penalty is not None:
            Sampler(repetition_penalty=repetition_penalty)  # says what is wrong with it
            rules = replace(rules, repetition_penalty=repetition_penalty)
        ids, notes = self._cut(self._ids(None if text is None else manner.prefix + text, tokens))
        notes += manner.warnings
        if max_new_tokens is None:
            max_new_tokens = manner.max_new_tokens or self.context
        if beams == 1:
            generation = generate(
                machine,
                [manner.start],
                source=ids,
                sampler=Sampler(**given) if given else manner.sampler,
                rules=rules,
                max_new_tokens=max_new_tokens,
                seed=seed,
                stop=stop,
                eos=manner.eos or self.eos,
                tokenizer=None if self.tokenizer is None else self.tokenizer.target,
            )
            generation.notes += notes
            return generation if stream else generation.finish()
        best = beam_search(
            machine,
            [manner.start],
            source=ids,
            beams=beams,
            max_new_tokens=max_new_tokens,
            eos=manner.eos or self.eos,
            length_penalty=manner.length_penalty if length_penalty is None else length_penalty,
            early_stopping=manner.early_stopping,
            rules=rules,
        )[0]
        written = "" if self.tokenizer is None else self.tokenizer.target.decode(best.tokens)
        return Generated(written, best.tokens, ids, 0, best.finish_reason, notes)

    def transcribe(
        self,
        sound: audio.Source,
        *,
        language: str | None = None,
        timestamps: bool = False,
        words: bool = False,
        temperature: float | Sequence[float] = LADDER,
        seed: int | None = None,
        progress: Callable[[float, float], None] = lambda heard, whole: None,
        stream: bool = False,
    ) -> Transcript | Transcription:
        """What is said in ``sound``: a path, a file's content, or samples (N,), one channel, 16,000 a second.

        ``language``: its code, such as "en"; the model hears it by itself where that is not said. ``timestamps``: in
        segments, with the seconds in which each was said; ``words``: with those of every word. ``temperature``: one, or
        several to try in turn where a window's text is repetitive or improbable; 0 takes the most probable token, the
        others draw, from ``seed``. ``progress`` hears how many seconds are done, of how many. ``stream=True`` returns
        the transcription under way: iterate for its segments. Raises Misuse for a model that hears nothing, and for a
        language, times or words that it does not know; NotFound, Misuse or Refused for a file that is not there, holds
        no sound, is damaged or too long.
        """
        machine = self._must("transcribe")
        samples, notes = self._samples(sound)
        texts = None if self.tokenizer is None else self.tokenizer.target
        ladder = (temperature,) if isinstance(temperature, int | float) else tuple(temperature)
        wish = Wish(language, timestamps, words, ladder, seed)
        transcription = Transcription(machine, samples, self._speech, texts, wish, progress)
        transcription.notes[:0] = notes
        return transcription if stream else transcription.finish()

    @functools.cached_property
    def _speech(self) -> Speech:
        assert isinstance(self.spec, spec.Seq2Seq), "_must has asked"
        speech = speech_of(self.folder, self.config, self.spec.target.vocabulary)
        return replace(speech, manner=replace(speech.manner, eos=speech.manner.eos or self.eos))

    def summarize(
        self, text: str | None = None, tokens: Sequence[int] | None = None, **settings: Any
    ) -> Generated | Generation:
        """A summary of a text: as ``translate``, for the task "summarization" of config.json where it names one."""
        if "task" not in settings and "summarization" in tasks_of(self.config):
            settings["task"] = "summarization"
        return self.translate(text, tokens, **settings)

    def _manner(self, kind: str, task: str | None, prefix: str | None, text: str | None) -> Manner:
        """How the checkpoint asks to be decoded: for ``task``, or for the only one of that kind that config.json names,
        or for the one whose prefix the text begins with. A prefix that stands there is not put there again."""
        named = tasks_of(self.config)
        if task is not None and task not in named:
            known = ", ".join(named) or "none"
            raise Misuse(f"config.json of {self.card.name} names no task {task!r}.", f"Named are: {known}.")
        of_kind = [name for name in named if name.startswith(kind)]
        begun = [name for name in of_kind if (text or "").startswith(str(named[name].get("prefix") or "\0"))]
        if task is None and len(begun or of_kind) == 1:
            task = (begun or of_kind)[0]
        if task is None and of_kind and prefix is None and text is not None:
            raise Misuse(
                f"{self.card.name} knows {len(of_kind)} translations: {', '.join(of_kind)}.",
                "Say which with task (--task), or what is to stand before the text with prefix (--prefix).",
            )
        assert isinstance(self.spec, spec.Seq2Seq), "no other model is asked for its manner"
        manner = manner_of(self.folder, self.config, self.spec.target.vocabulary, task)
        if prefix is None and (text or "").startswith(manner.prefix):
            prefix = ""
        return manner if prefix is None else replace(manner, prefix=prefix)

    def _cut(self, ids: list[int], most: int | None = None) -> tuple[list[int], list[str]]:
        """The ids that fit, and a sentence when they are not all: what frames a text stays, the end of it goes."""
        room = self.context if most is None else min(most, self.context)
        if len(ids) <= room:
            return ids, []
        after = [] if self.tokenizer is None else self.tokenizer.frame[1]
        kept = ids[: room - len(after)] + after
        return kept, [f"The text has {len(ids)} tokens; the model reads {room}, so its end was left out."]

    def _must(self, task: str, *others: str) -> Any:
        """The machine of a model that does ``task``, or one of ``others``.

        Raises Misuse, saying what this model can be asked instead, for one of another kind.
        """
        if self.spec.task not in (task, *others):
            raise Misuse(
                f"{self.card.name} does not {tasks.DOES[task]}: it {tasks.IS[self.spec.task]}.",
                f"Ask it with {tasks.ASKED[self.spec.task]}.",
            )
        return self.machine

    # ------------------------------------------------------------------ look inside

    def run(
        self,
        text: str | None = None,
        tokens: Sequence[int] | None = None,
        keep: str | Iterable[str] | None = None,
        edit: Mapping[str, Edit] | None = None,
        image: pictures.Source | None = None,
        target: str | Sequence[int] | None = None,
        sound: audio.Source | None = None,
        after: Record | None = None,
    ) -> Record:
        """Run once and keep what happened: a Record, every intermediate by name.

        One of ``text``, ``tokens``, ``image`` and ``sound`` is what the model reads. ``keep``: shell-style patterns of
        names to store instead of the usual set. ``edit``: name -> function that gets the tensor and returns one of the
        same shape. ``target``: what a decoder behind an encoder has written so far, text or tokens; it reads that
        behind its start token, or behind all that ``transcribe`` begins with. ``after``: an earlier run of this model,
        unchanged since; a decoder takes from it what both texts begin with, and runs the rest. Raises Misuse for
        unknown names, an empty text, or a record larger than ``RECORD_BYTES``; for an image what ``see`` raises, for a
        sound what ``transcribe`` raises.
        """
        if sum(given is not None for given in (text, tokens, image, sound)) > 1:
            raise Misuse("Give a text, tokens, an image or a sound, one of them.")
        if sound is not None:
            return self._run_sound(sound, keep, edit, target)
        if image is not None:
            return self._run_image(image, keep, edit)
        ids, notes = self.fit(self._ids(text, tokens))
        written, more = self._written(target)
        notes += more
        self._refuse_too_large(len(written or ids), keep, len(ids))
        if after is not None and after.model.fingerprint != self.card.fingerprint:
            raise Misuse(f"after= is a run of {after.model.name}, not of {self.card.name}.", "Give one of this model.")
        return look.run(
            self.machine,
            [torch.tensor([each], device=self.device) for each in (ids, written) if each],
            self.card,
            keep,
            edit,
            after,
            tokens=written or ids,
            text=text,
            settings=self._settings(notes, ids),
            pieces=self._shown(written or ids, written=bool(written)),
            vocabulary=self._spelt,
            source=ids if written else [],
            source_pieces=self._shown(ids) if written else [],
        )

    def _run_image(
        self, image: pictures.Source, keep: str | Iterable[str] | None, edit: Mapping[str, Edit] | None
    ) -> Record:
        """settings["image"] says what makes grey levels of the numbers of the tensor ``image`` again."""
        pixels, notes = self._pixels(image)
        assert isinstance(self.spec.stem, spec.Patches), "_pixels has asked"
        self._refuse_too_large(self.context, keep)
        return look.run(
            self.machine,
            [placed(self.machine, pixels)[None]],
            self.card,
            keep,
            edit,
            tokens=[],
            settings={"image": self._preparation.levels()} | self._settings(notes),
            pieces=pieces(self.spec.stem),
            vocabulary=self._spelt,
        )

    def _run_sound(
        self,
        sound: audio.Source,
        keep: str | Iterable[str] | None,
        edit: Mapping[str, Edit] | None,
        target: str | Sequence[int] | None,
    ) -> Record:
        """The first window of a sound, and what the decoder makes of it and of ``target``."""
        machine = self._must("transcribe")
        stem = machine.spec.source
        samples, notes = self._samples(sound)
        if len(samples) > 2 * stem.length * audio.HOP:
            notes.append(f"The sound has {len(samples) / audio.RATE:.1f} s; one window of it was heard, the first.")
        mel = placed(machine, audio.log_mel(samples, stem.bins, 2 * stem.length))[None]
        language = self._speech.language or (spoken(machine, mel, self._speech) if self._speech.languages else None)
        begin = prompt_of(self._speech, language, timed=False)
        written, more = self._behind(begin, target)
        notes += more
        self._refuse_too_large(len(written), keep, stem.length)
        return look.run(
            self.machine,
            [mel, torch.tensor([written], device=self.device)],
            self.card,
            keep,
            edit,
            tokens=written,
            settings=self._settings(notes, begun=len(begin)),
            pieces=self._shown(written, written=True),
            vocabulary=self._spelt,
        )

    def _refuse_too_large(self, length: int, keep: str | Iterable[str] | None, source: int = 0) -> None:
        size = stored_bytes(self.spec, length, next(self.machine.parameters()).element_size(), keep, source)
        if size > RECORD_BYTES:
            raise Misuse(
                f"Recording {length} tokens of {self.card.name} would store {size / 2**30:.1f} GiB.",
                'Say what to keep, for example keep="blocks.0.*".',
            )

    def _settings(self, notes: list[str], ids: Sequence[int] = (), begun: int = 1) -> dict[str, Any]:
        """What a reader of the record must know: sentences about what was read; where the masks are; whether classes
        exclude each other; how many tokens stand before what a decoder behind an encoder writes by itself."""
        told: dict[str, Any] = {"notes": notes} if notes else {}
        if self.spec.task == "fill" and self.tokenizer is not None:
            told["masks"] = [place for place, id in enumerate(ids) if id == self.tokenizer.mask]
        if isinstance(self.spec, spec.Seq2Seq):
            told["begun"] = begun
        if spec.classifies(self.spec):
            told["exclusive"] = problem(self.config, look.names.head_of(self.spec).size) == "one class"
        return told

    def _written(self, target: str | Sequence[int] | None) -> tuple[list[int], list[str]]:
        """What a decoder behind an encoder reads, and a sentence when that is not all; nothing where there is none."""
        if not isinstance(self.spec, spec.Seq2Seq):
            if target is not None:
                raise Misuse(f"{self.card.name} {tasks.IS[self.spec.task]}: it reads no target.", "Leave target out.")
            return [], []
        return self._behind([start_of(self.folder, self.config, self.spec.target.vocabulary)], target)

    def _behind(self, begin: list[int], target: str | Sequence[int] | None) -> tuple[list[int], list[str]]:
        """What a decoder reads, ``begin`` and the target behind it, and a sentence when that is not all of it."""
        assert isinstance(self.spec, spec.Seq2Seq), "no other model has a decoder behind an encoder"
        size = self.spec.target.vocabulary
        ids = self._said(target) if isinstance(target, str) else checked_tokens(target or (), size)
        read = [*begin, *ids][: self.context]
        kept = len(read) - len(begin)
        return read, [] if kept == len(ids) else [f"The target has {len(ids)} tokens; {kept} of them were read."]

    def _said(self, target: str) -> list[int]:
        """The tokens of what is written so far, without those that would end it; and of speech without those that a
        tokenizer begins with, for its writing has begun with them."""
        texts = self._tokenizer().target
        before, after = texts.frame
        ids = texts.encode(target)
        return ids[len(before) if self.spec.task == "transcribe" else 0 : len(ids) - len(after)]

    def _shown(self, ids: list[int], written: bool = False) -> list[dict[str, Any]]:
        """Each token for people: of what is read, or of what a decoder behind an encoder has written."""
        if self.tokenizer is None:
            return []
        texts = self.tokenizer.target if written else self.tokenizer
        return [_piece(piece) for piece in texts.pieces(ids)]

    def names(self) -> dict[str, tuple[str, ...]]:
        """Every name a run of this model has -> its axes."""
        return dict(look.names.names(self.spec))

    def _spelt(self) -> list[str]:
        """What each logit stands for: the readable text of a token, the name of a class."""
        if spec.classifies(self.spec):
            return label_names(self.config, look.names.head_of(self.spec).size)
        if self.tokenizer is None:
            return []
        size = self.spec.target.vocabulary if isinstance(self.spec, spec.Seq2Seq) else self.spec.vocabulary
        return [piece.text for piece in self.tokenizer.target.pieces(range(size))]

    # ------------------------------------------------------------------ checking what comes in

    def _texts(self) -> Tokenizer:
        self._must_read_tokens()
        return self._tokenizer()

    def _tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise Misuse(f"{self.card.name} came without a tokenizer, so it cannot read text.", "Pass tokens=[...].")
        return self.tokenizer

    def _ids(self, text: str | None, tokens: Sequence[int] | None) -> list[int]:
        """Token ids from exactly one of the two, within the vocabulary, at least one."""
        self._must_read_tokens()
        if (text is None) == (tokens is None):
            raise Misuse("Give a text or tokens, one of the two.")
        ids = self.tokens(text) if text is not None else checked_tokens(tokens or (), self.spec.vocabulary)
        if not ids:
            raise Misuse("There is nothing to read: the text is empty.", "Write at least one character.")
        return ids

    def _must_read_tokens(self) -> None:
        """Raises Misuse for a model that reads images or hears sounds."""
        if isinstance(self.spec.stem, spec.Mel):
            raise Misuse(f"{self.card.name} hears sounds, and reads no texts.", "Give it one with sound=, or --sound.")
        if not isinstance(self.spec.stem, spec.Tokens):
            raise Misuse(
                f"{self.card.name} reads images, not texts.", "Give it one: model.run(image=...), cutaway run --image."
            )


def checked_tokens(tokens: Sequence[int], size: int) -> list[int]:
    """Token ids as plain ints, all within a vocabulary of ``size``. Raises Misuse."""
    for token in tokens:
        if isinstance(token, bool) or not isinstance(token, int | np.integer) or not 0 <= token < size:
            raise Misuse(f"{token!r} is no token id of this model.", f"Ids go from 0 to {size - 1}.")
    return [int(token) for token in tokens]


def load(
    name_or_path: str | os.PathLike[str] = "stories",
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    progress: Callable[[int, int], None] = lambda read, whole: None,
    quantize: str | None = None,
    cache: str | None = None,
) -> Model:
    """A model by name or path: bundled ("stories"), a folder, the Hugging Face cache, or the hub.

    ``dtype`` None means the file's own. Only safetensors are read, nothing in a checkpoint is executed. A checkpoint
    without a tokenizer loads too; it then takes tokens only. ``progress`` hears how many bytes of the weights are
    read, of how many. ``quantize``: "int8" or "int4" keeps the matrices of a model in so few bits, with a scale for
    each 32 numbers; in both what embeds and unembeds tokens has 8. A folder that ``quantize()`` wrote is so by itself.
    ``cache``: "int8" keeps the keys and values of the texts that are written in 8 bits, a quarter of the memory of long
    ones, with a scale for each key and each value of a head; where PyTorch writes, for want of a compiler, nothing
    changes.
    Raises Misuse, NotFound, Refused or Failed, each in one sentence.
    """
    folder = hub.find(name_or_path)
    found = checkpoint.open(folder)
    _check_device(device)
    bits = bits_asked(quantize, found.config, dtype)
    cache_in = cache_asked(cache, found.spec.task, precision_of(found.config, bits, dtype), device)
    machine = found.load(torch.float32 if bits else dtype, device, progress, bits)
    machine.cache_in = cache_in
    product.install()  # where there are quantised matrices
    try:
        tokenizer = Tokenizer.open(folder)
    except NotFound:
        tokenizer = None
    measured = verify.verified(found.fingerprint)
    card = ModelCard(
        name=str(name_or_path),
        family=found.config["model_type"],
        parameters=found.parameters,
        dtype=f"int{bits}" if bits else str(next(machine.parameters()).dtype).removeprefix("torch."),
        fingerprint=found.fingerprint,
        verified=None if measured is None else measured["relative"],
    )
    return Model(machine, card, tokenizer, folder, _ends(found.config, tokenizer), found.warnings, found.config)


def quantize(name_or_path: str | os.PathLike[str], folder: str | os.PathLike[str], to: str = "int8") -> Path:
    """Write a model with its matrices in 8 or 4 bits as ``folder``, which loads by itself: the bits, and so the
    numbers, of ``load(name_or_path, quantize=to)``. Returns the folder.

    Raises Misuse where there is something in ``folder`` already, and for what is quantised already; Failed where it
    cannot be written.
    """
    target = Path(folder).expanduser()
    packed.check(target)
    found = checkpoint.open(hub.find(name_or_path))
    if found.bits is not None:
        raise Misuse(f"{name_or_path} is quantised already.", "Name the checkpoint that it was made from.")
    bits = bits_asked(to, found.config)
    assert bits is not None, "what is none has been refused"
    whole = found.folder
    files = [str(file.relative_to(whole)) for pattern in hub.SMALL_FILES for file in whole.glob(pattern)]
    packed.write(found.load(torch.float32, bits=bits), bits, found.config, whole, files, target)
    return target


def _check_device(device: torch.device | str | None) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):  # an unknown name; a build without it; none there
        raise Misuse(
            f"There is no device {str(device)!r} here.", "Use cpu, or see what cutaway doctor lists."
        ) from None


def _ends(config: Mapping[str, Any], tokenizer: Tokenizer | None) -> frozenset[int]:
    """The token ids that end a text: the tokenizer's, or config.json's where there is none."""
    if tokenizer is not None:
        return tokenizer.eos or frozenset()
    stated = config.get("eos_token_id")
    return frozenset(stated if isinstance(stated, list) else () if stated is None else (stated,))


def _piece(piece: Piece) -> dict[str, Any]:
    return {"id": piece.id, "text": piece.text, "special": piece.special}
