"""The two libraries that cut text into tokens, behind one small face: `tokenizers` and `sentencepiece`."""

from __future__ import annotations

import json
import re
import secrets
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from cutaway.errors import Failed, Refused

from .guard import FIX, guarded, is_panic, read_bytes, read_json, read_text, silent_stderr

MAX_IDS = 2**24  # tokens; the largest vocabularies have some hundred thousand
MAX_FILE_BYTES = 128 * 2**20  # the largest tokenizer.json in common use (Gemma 3) has 33 MB
DEADLINE = 30.0  # seconds for one text; a million characters of prose take about one


class Segment(NamedTuple):
    """A stretch of a rendered chat: the string of a control token, or text (which may look like one)."""

    text: str
    control: bool


class Engine(Protocol):
    """Ids in and out; ``special`` are the ids of control tokens, which text never becomes."""

    size: int
    special: set[int]

    def encode(self, text: str) -> list[int]:
        """Text to ids, control tokens only where the tokenizer's own template puts them."""

    def encode_chat(self, segments: Sequence[Segment], control: Collection[str]) -> list[int]:
        """A rendered chat to ids, without the tokenizer's own template; ``control``: what only segments can write."""

    def decode(self, ids: Sequence[int], special: bool) -> str: ...

    def id_of(self, token: str) -> int | None: ...

    def token(self, id: int) -> str | None: ...

    def raw(self, id: int) -> bytes | None:
        """The bytes the token stands for, where the tokenizer works in bytes."""

    def pending(self, id: int) -> bool:
        """Whether what this token reads as depends on the tokens after it."""

    additive: bool  # decoding is concatenating raw() and reading it as UTF-8


class FastEngine:
    """tokenizer.json, or vocab.json with merges.txt, through the `tokenizers` library.

    Texts go through encode_batch even one at a time: encode holds the interpreter, the batch form frees it.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, source: Path) -> None:
        self.source = source
        self._tokenizer = tokenizer
        self._lock = threading.Lock()  # encode_special_tokens is state: nobody may encode while it is switched
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True  # "encode the strings of special tokens as text"
        self._refresh()

        decoder = list(_nodes(_state(tokenizer.decoder)))
        kinds = {node.get("type") for node in decoder}
        self._byte_level = "ByteLevel" in kinds
        self.additive = kinds == {"ByteLevel"}
        self._byte_fallback = "ByteFallback" in kinds
        self._space = "▁" if "Metaspace" in kinds or any("▁" in str(node.get("pattern")) for node in decoder) else None

        parts = [tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder]
        patterns = [node["Regex"] for part in parts for node in _nodes(_state(part)) if "Regex" in node]
        self._deadline = DEADLINE if patterns else None
        self._probe("".join(map(str, patterns)))

    @classmethod
    def open(cls, path: Path) -> FastEngine:
        """From tokenizer.json. Truncation and padding set in it are training's, not ours, and are dropped."""
        text = read_text(path, MAX_FILE_BYTES)
        with silent_stderr():
            read = guarded(f"{path} is not a tokenizer", lambda: tokenizers.Tokenizer.from_str(text), DEADLINE)
            return cls(read, path)

    @classmethod
    def open_gpt2(cls, vocab: Path, merges: Path, prefix_space: bool, bos: str | None, eos: str | None) -> FastEngine:
        """From vocab.json and merges.txt: byte-level BPE as in GPT-2, with a template when bos or eos are wanted."""
        ids = read_json(vocab, MAX_FILE_BYTES)
        if not all(type(i) is int and i >= 0 for i in ids.values()):
            raise Refused(f"{vocab} is not a map from tokens to ids.", FIX)
        problem = f"{merges} does not fit {vocab.name}"
        pairs = []
        for line in read_text(merges, MAX_FILE_BYTES).split("\n"):
            if line and not line.startswith("#version"):
                first, space, second = line.rstrip("\r").partition(" ")
                if not space:
                    raise Refused(f"{problem}: {line!r} is not a pair.", FIX)
                pairs.append((first, second))
        with silent_stderr():
            bpe = guarded(problem, lambda: models.BPE(vocab=ids, merges=pairs, fuse_unk=False))
            read = tokenizers.Tokenizer(bpe)
            read.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
            read.decoder = decoders.ByteLevel()
            before, after = ([token] if token in ids else [] for token in (bos, eos))
            if before or after:
                single = " ".join([*before, "$A", *after])
                around = [(token, ids[token]) for token in {*before, *after}]
                make = partial(processors.TemplateProcessing, single=single, special_tokens=around)
                read.post_processor = guarded(f"The control tokens of {vocab} cannot be put around a text", make)
            return cls(read, vocab)

    def mark_special(self, tokens: Iterable[str]) -> None:
        """Make control tokens of ``tokens`` that the vocabulary has; then make sure that no text encodes to one."""
        marked = self._special_strings()  # with how they take spaces, which must stay
        known = [token for token in tokens if token not in marked and self.id_of(token) is not None]
        self._tokenizer.add_special_tokens(known)
        self._refresh()
        self._hide_special_from_the_model()

    def add(self, tokens: Sequence[tokenizers.AddedToken]) -> None:
        """Append tokens that only tokenizer_config.json knows."""
        self._tokenizer.add_tokens(list(tokens))
        self._refresh()

    def encode(self, text: str) -> list[int]:
        return self._encode(self._tokenizer, text, template=True)

    def encode_chat(self, segments: Sequence[Segment], control: Collection[str]) -> list[int]:
        whole = "".join(segment.text for segment in segments)
        if split_at(whole, control)[1] == [segment.text for segment in segments if segment.control]:
            with self._lock:
                self._tokenizer.encode_special_tokens = False
                try:
                    return self._encode_unlocked(self._tokenizer, whole, template=False)
                finally:
                    self._tokenizer.encode_special_tokens = True
        # Some text looks like a control token: somebody typed it. A copy of the tokenizer in which control tokens
        # have names that nobody can type encodes the whole in one go, so that every piece keeps its context.
        names = {string: f"{secrets.token_hex(16)}{i}" for i, string in enumerate(control)}
        copy, ids = self._renamed(names)
        whole = "".join(names[text] if is_control else text for text, is_control in segments)
        return [ids.get(i, i) for i in self._encode(copy, whole, template=False)]

    def decode(self, ids: Sequence[int], special: bool) -> str:
        work = partial(self._tokenizer.decode, ids, skip_special_tokens=not special)
        return guarded(f"The tokenizer in {self.source} cannot decode these ids", work)

    def id_of(self, token: str) -> int | None:
        return self._tokenizer.token_to_id(token)

    def token(self, id: int) -> str | None:
        return self._tokenizer.id_to_token(id)

    def raw(self, id: int) -> bytes | None:
        token = self.token(id)
        if token is None:
            return None
        if id in self.special or id in self._added:
            return token.encode()
        if self._byte_level:
            if all(character in BYTE_OF for character in token):
                return bytes(BYTE_OF[character] for character in token)
            return token.encode()
        if self._byte_fallback and (byte := byte_piece(token)) is not None:
            return bytes([byte])
        return token.replace(self._space, " ").encode() if self._space else None

    @property
    def added(self) -> list[str]:
        """The tokens matched before the model sees the text, special or not."""
        return [token.content for token in self._added.values()]

    def pending(self, id: int) -> bool:
        return self._byte_fallback and byte_piece(self.token(id) or "") is not None

    def _refresh(self) -> None:
        self._added = self._tokenizer.get_added_tokens_decoder()
        self.special = {i for i, token in self._added.items() if token.special}
        self.size = max(self._tokenizer.get_vocab_size(with_added_tokens=True), max(self._added, default=-1) + 1)

    def _encode(self, tokenizer: tokenizers.Tokenizer, text: str, template: bool) -> list[int]:
        with self._lock:
            return self._encode_unlocked(tokenizer, text, template)

    def _encode_unlocked(self, tokenizer: tokenizers.Tokenizer, text: str, template: bool) -> list[int]:
        def work() -> list[int]:
            ids: list[int] = tokenizer.encode_batch([text], add_special_tokens=template)[0].ids
            return ids

        return guarded(f"The tokenizer in {self.source} cannot encode this text", work, self._deadline)

    def _probe(self, patterns: str) -> None:
        """Encode what makes crafted files panic: their template, and long runs of the characters of their patterns."""
        runs = [character * 256 + "\x00" for character in sorted(set("a1_ \n" + patterns))[:80]]

        def work() -> None:
            try:
                self._tokenizer.encode_batch(["a b", *(runs if patterns else [])])
            except BaseException as error:
                if is_panic(error):
                    raise  # an ordinary error is about the text (say, no token for unknown characters)

        guarded(f"The tokenizer in {self.source} is broken", work, DEADLINE)

    def _special_strings(self) -> set[str]:
        return {token.content for token in self._added.values() if token.special}

    def _hide_special_from_the_model(self) -> None:
        """Make sure that typed text cannot become a control token by way of the model's own vocabulary.

        `tokenizers` looks for added tokens first and leaves special ones alone (encode_special_tokens), but then
        Unigram and word-level models find the same string among their pieces (T5: "</s>", with the best score of all).
        There the piece gets a name that nobody can type; its id and its text stay, they are the added token's.
        """
        strings = self._special_strings()
        texts = [text for token in strings for text in (token, f" {token}", f"a{token}a")]
        try:
            made = {i for one in self._tokenizer.encode_batch(texts, add_special_tokens=False) for i in one.ids}
        except Exception:  # no token for unknown characters
            made = self.special
        if not made & self.special:
            return
        model = json.loads(self._tokenizer.model.__getstate__())
        hidden = {token: f"{secrets.token_hex(16)}{i}" for i, token in enumerate(strings)}
        if isinstance(model["vocab"], list):
            model["vocab"] = [[hidden.get(piece, piece), score] for piece, score in model["vocab"]]
        else:
            model["vocab"] = {hidden.get(piece, piece): i for piece, i in model["vocab"].items()}
        if model.get("unk_token"):
            model["unk_token"] = hidden.get(model["unk_token"], model["unk_token"])
        if "merges" in model:
            model["merges"] = [pair for pair in model["merges"] if not hidden.keys() & {*pair, "".join(pair)}]
        self._tokenizer.model = tokenizers.Tokenizer.from_str(json.dumps({"version": "1.0", "model": model})).model

    def _renamed(self, names: dict[str, str]) -> tuple[tokenizers.Tokenizer, dict[int, int]]:
        """A copy in which tokens have other names and all are matched, and the copy's ids -> ours where they differ."""
        whole = json.loads(self._tokenizer.to_str())
        for entry in whole["added_tokens"]:
            entry["content"] = names.get(entry["content"], entry["content"])
        copy = tokenizers.Tokenizer.from_str(json.dumps(whole))
        copy.encode_special_tokens = False
        ours = {names.get(token.content, token.content): i for i, token in self._added.items()}
        return copy, {i: ours[name] for name in ours if (i := copy.token_to_id(name)) is not None}


class SentencePieceEngine:
    """tokenizer.model through the `sentencepiece` library: BPE or Unigram, byte fallback where the model has it.

    It never matches control tokens in text; symbols its trainer was told to keep whole are matched, as intended.
    """

    additive = False

    def __init__(self, path: Path, bos: bool, eos: bool) -> None:
        try:
            import sentencepiece
        except ImportError:
            raise Failed(f"Reading {path} needs the sentencepiece package.", "pip install sentencepiece") from None
        proto = read_bytes(path, MAX_FILE_BYTES)
        self.source = path
        problem = f"{path} is not a SentencePiece model"
        self._processor = guarded(problem, lambda: sentencepiece.SentencePieceProcessor(model_proto=proto))
        self.size = self._processor.get_piece_size()
        if self.size == 0:
            raise Refused(f"{problem}: it has no pieces.", FIX)
        unknown = self._processor.unk_id()
        self.special = {i for i in range(self.size) if self._processor.is_control(i)} | ({unknown} - {-1})
        self._before = [i for i in [self._processor.bos_id()] if bos and i >= 0]
        self._after = [i for i in [self._processor.eos_id()] if eos and i >= 0]

    def names(self) -> dict[str, str]:
        """The model's own names of its control tokens, as tokenizer_config.json would have them."""
        ids = {
            "bos_token": self._processor.bos_id(),
            "eos_token": self._processor.eos_id(),
            "pad_token": self._processor.pad_id(),
            "unk_token": self._processor.unk_id(),
        }
        return {name: self._processor.id_to_piece(i) for name, i in ids.items() if i >= 0}

    def encode(self, text: str) -> list[int]:
        return self._before + self._encode(text) + self._after

    def encode_chat(self, segments: Sequence[Segment], control: Collection[str]) -> list[int]:
        ids: list[int] = []
        waiting = ""
        for text, is_control in segments:
            token = self.id_of(text) if is_control else None
            if token is None:
                waiting += text
            else:
                ids += [*self._encode(waiting), token]
                waiting = ""
        return ids + self._encode(waiting)

    def decode(self, ids: Sequence[int], special: bool) -> str:
        if not special:
            ids = [i for i in ids if i not in self.special]
        known = [i for i in ids if i < self.size]
        problem = f"The tokenizer in {self.source} cannot decode these ids"
        return guarded(problem, lambda: str(self._processor.decode(known)))

    def id_of(self, token: str) -> int | None:
        id = self._processor.piece_to_id(token)
        return id if self._processor.id_to_piece(id) == token else None

    def token(self, id: int) -> str | None:
        return self._processor.id_to_piece(id) if id < self.size else None

    def raw(self, id: int) -> bytes | None:
        token = self.token(id)
        if token is None:
            return None
        if self._processor.is_byte(id):
            return bytes([byte_piece(token) or 0])
        return token.encode() if id in self.special else token.replace("▁", " ").encode()

    def pending(self, id: int) -> bool:
        return id < self.size and self._processor.is_byte(id)

    def _encode(self, text: str) -> list[int]:
        problem = f"The tokenizer in {self.source} cannot encode this text"
        return list(guarded(problem, lambda: self._processor.encode(text))) if text else []


class MarianEngine(SentencePieceEngine):
    """One language of a Marian model: source.spm or target.spm cuts the text, a vocab.json gives the pieces their ids.

    A language code in front (">>fra<<", of models with several target languages) is a token of its own, when typed.
    """

    def __init__(self, path: Path, vocabulary: Path, named: Mapping[str, str]) -> None:
        super().__init__(path, bos=False, eos=False)
        ids = read_json(vocabulary, MAX_FILE_BYTES)
        unknown = ids.get(named["unk_token"])
        if not all(type(i) is int and 0 <= i < MAX_IDS for i in ids.values()) or unknown is None:
            raise Refused(f"{vocabulary} is not a map from tokens to ids with one for {named['unk_token']}.", FIX)
        self._ids: dict[str, int] = ids
        self._tokens = {i: token for token, i in ids.items()}
        self._unknown: int = unknown
        self.size = max(self._tokens) + 1
        self.special = {ids[token] for token in named.values() if token in ids}
        self._after = [ids[named["eos_token"]]] if named["eos_token"] in ids else []

    def decode(self, ids: Sequence[int], special: bool) -> str:
        """The text of ``ids``; of special tokens, where wanted, as they are called, a space behind each."""
        parts: list[str] = []
        pieces: list[str] = []
        for i in ids:
            token = self._tokens.get(i)
            if i in self.special and special:
                parts += [self._joined(pieces), f"{token} "]
                pieces = []
            elif token is not None and i not in self.special:
                pieces.append(token)
        return "".join([*parts, self._joined(pieces)]).replace("▁", " ").strip()

    def id_of(self, token: str) -> int | None:
        return self._ids.get(token)

    def token(self, id: int) -> str | None:
        return self._tokens.get(id)

    def raw(self, id: int) -> bytes | None:
        token = self.token(id)
        if token is None:
            return None
        return token.encode() if id in self.special else token.replace("▁", " ").encode()

    def pending(self, id: int) -> bool:
        return byte_piece(self.token(id) or "") is not None

    def _joined(self, pieces: list[str]) -> str:
        problem = f"The tokenizer in {self.source} cannot decode these ids"
        return guarded(problem, lambda: str(self._processor.decode(pieces))) if pieces else ""

    def _encode(self, text: str) -> list[int]:
        code, text = _language_code(text)
        problem = f"The tokenizer in {self.source} cannot encode this text"
        pieces = guarded(problem, lambda: list(self._processor.encode(text, out_type=str))) if text else []
        ids = [self._ids.get(piece, self._unknown) for piece in [*code, *pieces]]
        return [self._unknown if i in self.special else i for i in ids]  # what is typed is never a control token


def _language_code(text: str) -> tuple[list[str], str]:
    """A code such as ">>fra<<" that a text begins with, and the text behind it."""
    end = text.find("<<") + 2
    return ([text[:end]], text[end:]) if text.startswith(">>") and end > 1 else ([], text)


def byte_piece(token: str) -> int | None:
    """ "<0x0A>" -> 10: how tokenizers with byte fallback spell a byte."""
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        try:
            return int(token[3:5], 16)
        except ValueError:
            return None
    return None


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's alphabet: a printable character for every byte, itself where it is printable, else from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


BYTE_OF = _byte_alphabet()


def split_at(text: str, strings: Iterable[str]) -> tuple[list[str], list[str]]:
    """``text`` around every occurrence of ``strings`` (longest first): n + 1 pieces, and the n strings between."""
    longest_first = sorted((string for string in strings if string), key=len, reverse=True)
    if not longest_first:
        return [text], []
    parts = re.split("(" + "|".join(map(re.escape, longest_first)) + ")", text)
    return parts[::2], parts[1::2]


def _state(part: Any) -> Any:
    """A component of a tokenizer as the JSON it came from."""
    return json.loads(part.__getstate__()) if part is not None else None


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every object of a JSON tree."""
    if isinstance(tree, dict):
        yield tree
    for child in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _nodes(child)
