"""Text to token ids and back: whichever files a checkpoint has, one Tokenizer.

What a user types is text: a typed "<|endoftext|>" becomes ordinary tokens, never the control token. Control tokens
come only from the tokenizer's own template (a beginning-of-text token, say) or from a chat template.
"""

from __future__ import annotations

import codecs
import functools
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from cutaway.errors import Misuse, NotFound

from .chat import render, template_of
from .engines import Engine, FastEngine, MarianEngine, Segment, SentencePieceEngine, split_at
from .guard import read_json

MASK = "[MASK]"  # what a user may write whatever the tokenizer's own mask is called
MAX_CHARACTERS = 1_000_000  # one text; the longest contexts of open models hold about half as many

_MARIAN = ("eos_token", "unk_token", "pad_token")
_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class Piece:
    """One token for people: its id and its readable text.

    ``bytes`` is what it adds to the text where the tokenizer works in bytes, else None. ``special``: a control token.
    """

    id: int
    text: str
    bytes: bytes | None
    special: bool


class Tokenizer:
    """A checkpoint's tokenizer. ``size``: ids run from 0 to size - 1. ``bos``: the id that begins a text, or None.
    ``eos``: the ids that end one, or None; taken from the tokenizer's, the generation and the model's config.
    ``target``: the tokenizer of what the model writes; itself, but for Marian's."""

    def __init__(self, engine: Engine, folder: Path, config: dict[str, Any], target: Engine | None = None) -> None:
        self.folder = folder
        self.target = self if target is None else Tokenizer(target, folder, config)
        self.named = _named_tokens(config)
        self._engine = engine
        self._config = config
        self._pieces: dict[int, Piece] = {}
        model, generation = read_json(folder / "config.json"), read_json(folder / "generation_config.json")
        self.bos = self._id("bos_token", model)
        ends = {self._id("eos_token", {}), *_ids(model.get("eos_token_id")), *_ids(generation.get("eos_token_id"))}
        self.eos: frozenset[int] | None = frozenset(i for i in ends if i is not None) or None

    @classmethod
    def open(cls, folder: str | Path) -> Tokenizer:
        """From tokenizer.json; else vocab.json and merges.txt; else tokenizer.model or spiece.model (SentencePiece);
        else source.spm, target.spm and vocab.json (Marian).

        tokenizer.json says itself whether a beginning-of-text token is put in front; the other forms say it in
        tokenizer_config.json (add_bos_token, add_eos_token), as `transformers` has it.
        Raises NotFound when there is none of them, Refused when a file is broken or hostile.
        """
        folder = Path(folder)
        config = read_json(folder / "special_tokens_map.json") | read_json(folder / "tokenizer_config.json")
        if (folder / "tokenizer.json").is_file():
            return cls(_with_config(FastEngine.open(folder / "tokenizer.json"), config), folder, config)
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            # What GPT-2's tokenizer is when nobody says otherwise.
            config = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"} | config
            named = _named_tokens(config)
            engine = FastEngine.open_gpt2(
                folder / "vocab.json",
                folder / "merges.txt",
                prefix_space=bool(config.get("add_prefix_space", False)),
                bos=named.get("bos_token") if config.get("add_bos_token", False) else None,
                eos=named.get("eos_token") if config.get("add_eos_token", False) else None,
            )
            return cls(_with_config(engine, config), folder, config)
        for name in ("tokenizer.model", "spiece.model"):
            if (folder / name).is_file():
                # T5's, which is called the latter, ends texts and does not begin them.
                t5 = str(config.get("tokenizer_class", "")).startswith(("T5", "MT5"))
                pieces = SentencePieceEngine(
                    folder / name,
                    bos=bool(config.get("add_bos_token", not t5)),
                    eos=bool(config.get("add_eos_token", t5)),
                )
                return cls(pieces, folder, pieces.names() | config)
        if all((folder / name).is_file() for name in ("source.spm", "target.spm", "vocab.json")):
            config = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"} | config
            apart = "target_vocab.json" if config.get("separate_vocabs") else "vocab.json"
            named = {name: token for name, token in _named_tokens(config).items() if name in _MARIAN}
            return cls(
                MarianEngine(folder / "source.spm", folder / "vocab.json", named),
                folder,
                config,
                target=MarianEngine(folder / "target.spm", folder / apart, named),
            )
        raise NotFound(
            f"{folder} has no tokenizer: neither tokenizer.json, nor vocab.json with merges.txt, nor tokenizer.model, "
            "nor spiece.model, nor source.spm with target.spm and vocab.json.",
            "Give token ids instead of text, or put the tokenizer's files there.",
        )

    @property
    def size(self) -> int:
        return self._engine.size

    @property
    def special(self) -> frozenset[int]:
        """The ids of control tokens."""
        return frozenset(self._engine.special)

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``, with what the tokenizer's template adds around it (a BOS token, where it has one).

        Raises Misuse for text that is not text: longer than MAX_CHARACTERS, or with lone surrogates.
        """
        return self._engine.encode(checked_text(text))

    @property
    def mask(self) -> int | None:
        """The id of the token that stands for a word to be filled in; None where there is none."""
        return self._id("mask_token", {})

    @functools.cached_property
    def frame(self) -> tuple[list[int], list[int]]:
        """What the template puts before and after every text: [CLS] and [SEP], say."""
        empty, one = self._engine.encode(""), self._engine.encode("a")
        before = next((i for i, (a, b) in enumerate(zip(empty, one, strict=False)) if a != b), len(empty))
        return empty[:before], empty[before:]

    def has_mask(self, text: str) -> bool:
        """Does ``text`` have "[MASK]" in it, or the tokenizer's own word for it?"""
        return self.mask is not None and (MASK in text or self.named["mask_token"] in text)

    def encode_masked(self, text: str) -> list[int]:
        """As ``encode``, with the mask token wherever ``text`` has "[MASK]" or the tokenizer's own word for it.

        Raises Misuse for a tokenizer without a mask, and for a text without one.
        """
        if self.mask is None:
            raise Misuse("This model's tokenizer has no mask token.", "Masks are filled by models such as BERT.")
        token = self.named["mask_token"]
        parts, masks = split_at(checked_text(text), {token, MASK})
        if not masks:
            raise Misuse(f"The text has no {MASK}.", f"Write {MASK} where a word is to be filled in.")
        segments = [Segment(parts[0], False)]
        for part in parts[1:]:
            segments += [Segment(token, True), Segment(part, False)]
        before, after = self.frame
        control = {special for i in self._engine.special if (special := self._engine.token(i))}
        return [*before, *self._engine.encode_chat(segments, control), *after]

    def decode(self, ids: Iterable[int], special: bool = False) -> str:
        """The text of ``ids``; control tokens are left out unless ``special``. Ids the tokenizer lacks are skipped."""
        return self._engine.decode(_checked_ids(ids), special)

    def pieces(self, ids: Iterable[int]) -> list[Piece]:
        """The tokens for people: spaces, line ends and tabs as ␣ ↵ ⇥, bytes that are no character as ⟨E2 80⟩."""
        return [self._piece(i) for i in _checked_ids(ids)]

    def stream(self, after: Sequence[int] = ()) -> Stream:
        """A decoder that takes one id at a time; ``after``: the ids before them, whose text is already there."""
        return Stream(self._engine, after)

    def decode_after(self, before: Sequence[int], ids: Iterable[int]) -> str:
        """What ``ids`` add to the text of ``before``: with the space in front that decode() would take off."""
        stream = self.stream(before)
        return "".join([*map(stream.push, ids), stream.flush()])

    def chat(self, messages: Sequence[dict[str, Any]], add_generation_prompt: bool = True) -> list[int]:
        """Token ids of a conversation [{"role": ..., "content": ...}, ...] under the checkpoint's chat template.

        The template's control tokens become control tokens; the same strings inside a message stay text.
        Raises NotFound when there is no template, Refused when it is broken or hostile, Misuse when it says no.
        """
        template = template_of(self.folder, self._config)
        control = {token for i in self._engine.special if (token := self._engine.token(i))}
        if isinstance(self._engine, FastEngine):  # other added tokens the template writes frame the chat as well
            control |= {token for token in self._engine.added if token in template}
        variables = {**self.named, "add_generation_prompt": add_generation_prompt}
        for value in _strings(messages):
            checked_text(value)
        segments = render(template, list(messages), variables, control, MAX_CHARACTERS)
        return self._engine.encode_chat(segments, control)

    def _piece(self, id: int) -> Piece:
        if id not in self._pieces:
            token, raw, special = self._engine.token(id), self._engine.raw(id), id in self._engine.special
            if token is None:
                text = f"⟨{id}⟩"  # a row of the embedding that no token uses
            elif special or raw is None:
                text = visible(token)
            else:
                text = readable(raw)
            self._pieces[id] = Piece(id, text, raw, special)
        return self._pieces[id]

    def _id(self, name: str, model: dict[str, Any]) -> int | None:
        if (token := self.named.get(name)) is not None and (id := self._engine.id_of(token)) is not None:
            return id
        return next(iter(_ids(model.get(f"{name}_id"))), None)


class Stream:
    """Token ids in, text out as soon as it is certain: never half a character, and in all what decode() gives."""

    def __init__(self, engine: Engine, after: Sequence[int] = ()) -> None:
        self._engine = engine
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._ids: list[int] = []  # not yet all shown; the first may be there only as the others' context
        self._shown = ""
        for id in [i for i in after[-64:] if i not in engine.special]:  # enough for any character's bytes
            self.push(id)
        if self._ids and not (before := engine.decode(self._ids, False)).endswith("\ufffd"):
            self._shown = before

    def push(self, id: int) -> str:
        """The text that is certain now that ``id`` has come; often a word, sometimes nothing yet."""
        (id,) = _checked_ids([id])
        if id in self._engine.special:
            return ""
        if self._engine.additive:
            return self._utf8.decode(self._engine.raw(id) or b"")
        self._ids.append(id)
        return "" if self._engine.pending(id) else self._new_text()

    def flush(self) -> str:
        """What was held back, at the end of the text: an unfinished character comes out as U+FFFD."""
        return self._utf8.decode(b"", final=True) if self._engine.additive else self._new_text()

    def _new_text(self) -> str:
        # Decoders treat the beginning apart (they take spaces off), so what is decoded begins with shown tokens: the
        # last that is more than spaces, and those after it.
        text = self._engine.decode(self._ids, False)
        new = text[len(self._shown) :]
        if new:
            solid = (n for n in range(len(self._ids) - 1, 0, -1) if self._engine.decode([self._ids[n]], False).strip())
            self._ids = self._ids[next(solid, 0) :]
            self._shown = self._engine.decode(self._ids, False)
        return new


# --- characters a person can see -------------------------------------------------------------------------------------

_VISIBLE = {" ": "␣", "\n": "↵", "\t": "⇥"}
_HIDDEN = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs"}  # controls, formats (bidi, zero width), unassigned, spaces


def visible(text: str) -> str:
    """Every character made visible: ␣ ↵ ⇥, ⟨U+200B⟩ for what has no glyph, ◌ under a leading combining mark."""
    shown = "".join(_visible(character) for character in text)
    bare_mark = text and unicodedata.category(text[0]).startswith("M") and shown.startswith(text[0])
    return f"◌{shown}" if bare_mark else shown


def readable(raw: bytes) -> str:
    """Bytes as characters where they are UTF-8, visible as above, and as ⟨E2 80⟩ where they are part of one."""
    shown, rest = "", raw
    while rest:
        try:
            return shown + visible(rest.decode())
        except UnicodeDecodeError as error:
            end = error.end
            while end < len(rest) and 0x80 <= rest[end] < 0xC0:
                end += 1
            shown += visible(rest[: error.start].decode()) + f"⟨{rest[error.start : end].hex(' ').upper()}⟩"
            rest = rest[end:]
    return shown


def _visible(character: str) -> str:
    if character in _VISIBLE:
        return _VISIBLE[character]
    selector = "\ufe00" <= character <= "\ufe0f"  # marks by category, but nothing to see
    if selector or unicodedata.category(character) in _HIDDEN:
        return f"⟨U+{ord(character):04X}⟩"
    return character


# --- what comes in ---------------------------------------------------------------------------------------------------


def checked_text(text: str) -> str:
    """``text`` itself, or Misuse with a sentence saying why it cannot be encoded."""
    if not isinstance(text, str):
        raise Misuse(f"The text is {type(text).__name__}, not a string.", "Give a str, or ids as tokens=.")
    if len(text) > MAX_CHARACTERS:
        raise Misuse(
            f"The text has {len(text):,} characters; at most {MAX_CHARACTERS:,} are read.", "Give a shorter text."
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Misuse(
            f"The text is not valid Unicode: a lone surrogate, U+{ord(text[error.start]):04X}, is at character "
            f"{error.start}.",
            "Read it again as UTF-8, or take that character out.",
        ) from None
    return text


def _checked_ids(ids: Iterable[int]) -> list[int]:
    checked = [int(i) for i in ids]
    if bad := next((i for i in checked if not 0 <= i < 2**31), None):
        raise Misuse(f"{bad} is not a token id.", "Ids count from 0.")
    return checked


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, child in value.items():
            yield from _strings(key)
            yield from _strings(child)
    elif isinstance(value, list | tuple):
        for child in value:
            yield from _strings(child)


def _ids(value: Any) -> list[int]:
    """config.json's eos_token_id and the like: a number, a list of them, or nothing."""
    values = value if isinstance(value, list) else [value]
    return [i for i in values if type(i) is int and i >= 0]


def _content(token: Any) -> str | None:
    """A token as configs write it: a string, or an object that has it as "content"."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) and text else None


def _named_tokens(config: dict[str, Any]) -> dict[str, str]:
    return {name: token for name in _NAMED if (token := _content(config.get(name))) is not None}


def _with_config(engine: FastEngine, config: dict[str, Any]) -> FastEngine:
    """What tokenizer_config.json knows beyond tokenizer.json: tokens at the end, and which ones are special."""
    listed = config.get("added_tokens_decoder")
    added = {int(i): token for i, token in listed.items() if str(i).isdecimal()} if isinstance(listed, dict) else {}
    for i, token in sorted(added.items()):
        content = _content(token)
        if content is not None and engine.id_of(content) is None and i == engine.size:
            flags = {
                flag: bool(token.get(flag)) for flag in ("lstrip", "rstrip", "single_word", "normalized", "special")
            }
            engine.add([AddedToken(content, **flags)])
    extra = [config.get(key) or [] for key in ("additional_special_tokens", "extra_special_tokens")]
    more = [_content(token) for group in extra for token in (group.values() if isinstance(group, dict) else group)]
    marked = [_content(token) for token in added.values() if isinstance(token, dict) and token.get("special")]
    engine.mark_special([token for token in [*_named_tokens(config).values(), *more, *marked] if token is not None])
    return engine
