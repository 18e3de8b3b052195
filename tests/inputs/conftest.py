"""Small tokenizers of every kind, made here, so that the suite needs no downloaded file."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from cutaway.inputs.text import Tokenizer as OurTokenizer

CORPUS = [
    "Once upon a time there was a small fox who could not sleep. 'Why?' asked the owl.",
    "The fox said: I do not know, it isn't the moon; it is 3 o'clock, and then it'll be 4.",
    "naïve café, Übergröße, 東京 and Привет. Numbers: 12345, 67,890.  Two  spaces.\n\nNew lines\tand tabs.",
] * 4
GERMAN = [
    "Es war einmal ein kleiner Fuchs, der nicht schlafen konnte. »Warum?«, fragte die Eule.",
    "Der Fuchs sagte: Ich weiß es nicht, es ist nicht der Mond; es ist 3 Uhr, und dann wird es 4.",
    "Übergröße, naïve Straße, 東京 und Привет. Zahlen: 12345, 67.890.",
] * 4
LLAMA3_PATTERN = "|".join(
    [
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)
CONTROL = ["<|bos|>", "<|im_start|>", "<|im_end|>"]

Write = Callable[..., Path]


@pytest.fixture(scope="session")
def byte_level() -> str:
    """Byte-level BPE with Llama 3's pattern and template: a BOS token in front."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(LLAMA3_PATTERN), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=CONTROL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens(["<tool>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<|bos|> $A", special_tokens=[("<|bos|>", 0)])
    return tokenizer.to_str()


@pytest.fixture(scope="session")
def unigram() -> str:
    """As T5: Unigram with Metaspace, and "</s>" among the model's own pieces with the best score of all."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=150, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator([*CORPUS, "< / s >"], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer.to_str()


@pytest.fixture(scope="session")
def byte_fallback() -> str:
    """As Llama 2: BPE over ▁, bytes where characters are missing, one space taken off in front."""
    vocabulary = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    vocabulary += sorted(set("abcdefghijklmnopqrstuvwxyz.,</>"))
    merges = [("▁", letter) for letter in "abco"] + [("t", "h"), ("th", "e"), ("▁", "the"), ("<", "/"), ("s", ">")]
    merges += [("</", "s>")]  # Llama 2's own merges lead to </s> as well
    vocabulary += [first + second for first, second in merges if first + second != "</s>"]
    tokenizer = Tokenizer(
        models.BPE({token: i for i, token in enumerate(vocabulary)}, merges, unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer.to_str()


@pytest.fixture(scope="session")
def wordpiece() -> str:
    """As BERT."""
    words = ["[UNK]", "[CLS]", "[SEP]", "fox", "the", "##es", "sleep", "##s", "[", "]", "cl", "##s", "o", "##w", "##l"]
    tokenizer = Tokenizer(models.WordPiece({w: i for i, w in enumerate(dict.fromkeys(words))}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(["[UNK]", "[CLS]", "[SEP]"])
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return tokenizer.to_str()


@pytest.fixture(scope="session")
def sentencepiece_models() -> dict[str, bytes]:
    """SentencePiece models, BPE with byte fallback and Unigram."""
    trainer = pytest.importorskip("sentencepiece", reason="reads tokenizer.model").SentencePieceTrainer
    made = {}
    for kind, extra in {"bpe": {"byte_fallback": True, "vocab_size": 400}, "unigram": {"vocab_size": 120}}.items():
        model = io.BytesIO()
        trainer.train(
            sentence_iterator=iter(CORPUS * 5),
            model_writer=model,
            model_type=kind,
            hard_vocab_limit=False,
            minloglevel=2,
            user_defined_symbols=["<keep>"],
            **extra,
        )
        made[kind] = model.getvalue()
    return made


@pytest.fixture(scope="session")
def spm() -> dict[str, bytes]:
    trainer = pytest.importorskip("sentencepiece", reason="cuts the texts of Marian models").SentencePieceTrainer
    made = {}
    for name, corpus in {"source": CORPUS, "target": GERMAN}.items():
        model = io.BytesIO()
        trainer.train(
            sentence_iterator=iter(corpus * 5), model_writer=model, vocab_size=140, hard_vocab_limit=False,
            minloglevel=2, bos_id=-1, pad_id=-1, eos_id=0, unk_id=1,
        )  # fmt: skip
        made[name] = model.getvalue()
    return made


@pytest.fixture
def marian(tmp_path: Path, spm: dict[str, bytes]) -> Callable[..., Path]:
    """marian(separate) -> a folder with what OPUS-MT repositories hold."""
    import sentencepiece

    def make(separate: bool = False, **config: Any) -> Path:
        pieces = {}
        for name, model in spm.items():
            (tmp_path / f"{name}.spm").write_bytes(model)
            processor = sentencepiece.SentencePieceProcessor(model_proto=model)
            pieces[name] = [processor.id_to_piece(i) for i in range(2, processor.get_piece_size())]

        def vocabulary(*names: str) -> dict[str, int]:
            shuffled = sorted(
                {piece for name in names for piece in pieces[name]}, key=lambda piece: (len(piece), piece)
            )
            tokens = ["</s>", "<unk>", *shuffled[:-3], ">>fra<<", ">>deu<<", "<pad>"]  # three pieces have no id
            return {token: i for i, token in enumerate(tokens)}

        for file, names in {"vocab": ["source"], "target_vocab": ["target"]}.items():
            content = vocabulary(*(names if separate else ["source", "target"]))
            (tmp_path / f"{file}.json").write_text(json.dumps(content), encoding="utf-8")
        says = {"source_lang": "eng", "target_lang": "deu", "separate_vocabs": separate, **config}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(says))
        return tmp_path

    return make


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """write("tokenizer.json", text, tokenizer_config={...}, ...) -> the folder, with every file in it."""

    def written(name: str, content: str | bytes, **configs: Any) -> Path:
        raw = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name).write_bytes(raw)
        for config, data in configs.items():
            (tmp_path / f"{config}.json").write_text(json.dumps(data), encoding="utf-8")
        return tmp_path

    return written


@pytest.fixture(scope="session")
def tokenizer_of(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], OurTokenizer]:
    """tokenizer_of("byte_level") -> that one, opened once. "bpe" and "unigram_model" are SentencePiece models."""

    @functools.cache
    def opened(kind: str) -> Any:
        folder = tmp_path_factory.mktemp(kind)
        if kind in {"bpe", "unigram_model"}:
            models = request.getfixturevalue("sentencepiece_models")
            (folder / "tokenizer.model").write_bytes(models[kind.removesuffix("_model")])
        else:
            (folder / "tokenizer.json").write_text(request.getfixturevalue(kind), encoding="utf-8")
        return OurTokenizer.open(folder)

    return opened
