"""Predict, sample, repeat: plain equals cached, text comes whole, and it ends where it should."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as Fast
from tokenizers import decoders, models, pre_tokenizers
from torch import Tensor, nn

from cutaway.errors import Failed, Misuse
from cutaway.generate.loop import fit, generate
from cutaway.generate.sampler import Sampler, draw
from cutaway.inputs.engines import BYTE_OF
from cutaway.inputs.text import Tokenizer
from cutaway.model.cache import Texts
from cutaway.model.transformer import Transformer
from tests.model.machines import CONTEXT, DECODERS, VOCABULARY, lively

PROMPT = [1, 17, 5, 42, 8]
SAMPLER = Sampler(temperature=1.3, top_k=40, top_p=0.95, min_p=0.01, repetition_penalty=1.1)


@pytest.fixture(scope="module")
def machines() -> dict[str, Transformer]:
    return {kind: lively(described) for kind, described in DECODERS.items()}  # type: ignore[misc]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Every id is a byte, so that no character beyond ASCII is a token."""
    fast = Fast(models.BPE(BYTE_OF, []))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    folder = tmp_path_factory.mktemp("bytes")
    fast.save(str(folder / "tokenizer.json"))
    return Tokenizer.open(folder)


class Scripted(nn.Module):
    """A stand-in model that always predicts the next byte of one text, and counts the tokens it was made to read."""

    def __init__(self, text: str | bytes, context: int = 1000) -> None:
        super().__init__()
        self.script = list(text.encode() if isinstance(text, str) else text)
        self.spec = SimpleNamespace(context=context)
        self.nothing = nn.Parameter(torch.zeros(1))
        self.read = 0

    def texts(self, batch: int, length: int, chunk: int, room: int) -> Texts:
        return Texts(DECODERS["llama"].stack, batch, length, torch.float32, torch.device("cpu"), chunk, room)

    def stream(self, ids: Tensor, cache: Any = None) -> Tensor:
        start = 0 if cache is None else cache.length
        self.read += ids.shape[1]
        if cache is not None:
            cache.advance(ids.shape[1])
        return torch.arange(start, start + ids.shape[1])[None, :, None]

    def logits(self, stream: Tensor) -> Tensor:
        following = torch.tensor([*self.script[1:], 0])[stream[..., 0].clamp(max=len(self.script) - 1)]
        return 50.0 * nn.functional.one_hot(following, 256).float()


def continued(text: str | bytes, prompt: int, tokenizer: Tokenizer | None, **settings: Any) -> Any:
    scripted = Scripted(text)
    settings = {"sampler": Sampler(temperature=0), "max_new_tokens": len(scripted.script) - prompt} | settings
    return generate(scripted, scripted.script[:prompt], tokenizer=tokenizer, **settings)  # type: ignore[arg-type]


# --- plain and cached ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", [Sampler(temperature=0), Sampler(), SAMPLER], ids=["greedy", "drawn", "all steps"])
@pytest.mark.parametrize("kind", DECODERS)
def test_cached_equals_plain(kind: str, sampler: Sampler, machines: dict[str, Transformer]) -> None:
    plain, cached = (
        list(generate(machines[kind], PROMPT, sampler=sampler, max_new_tokens=40, seed=7, cached=cached))
        for cached in (False, True)
    )
    assert [step.id for step in plain] == [step.id for step in cached]
    assert len(plain) == 40
    for one, other in zip(plain, cached, strict=True):
        assert one.u == other.u
        assert one.p == pytest.approx(other.p, rel=1e-4)
        assert one.p_drawn == pytest.approx(other.p_drawn, rel=1e-4)


def test_each_step_is_the_definition(machines: dict[str, Transformer]) -> None:
    model, ids = machines["llama"], list(PROMPT)
    generation = generate(model, PROMPT, sampler=SAMPLER, max_new_tokens=12, seed=3)
    for index, step in enumerate(generation):
        with torch.no_grad():
            logits = model(torch.tensor([ids]))[0, -1]
        probabilities = SAMPLER.trace(logits, ids).probabilities
        token, u = draw(probabilities, 3, index)
        assert (step.id, step.u) == (token, u)
        assert step.p_drawn == pytest.approx(probabilities[token], rel=1e-4)
        assert step.p == pytest.approx(logits.double().softmax(-1)[token].item(), rel=1e-4)
        assert generation.trace is not None
        assert generation.trace.probabilities[token] == pytest.approx(step.p_drawn, rel=1e-9)
        ids.append(token)


def test_the_cache_reads_each_token_once() -> None:
    text = "the fox sleeps"
    counts = {}
    for cached in (True, False):
        model = Scripted(text)
        generate(model, model.script[:4], max_new_tokens=10, cached=cached).finish()  # type: ignore[arg-type]
        counts[cached] = model.read
    assert counts == {True: 4 + 9, False: sum(range(4, 14))}


# --- seeds -----------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_tokens(machines: dict[str, Transformer]) -> None:
    def tokens(seed: int) -> list[int]:
        return generate(machines["gpt2"], PROMPT, max_new_tokens=20, seed=seed).finish().tokens

    assert tokens(5) == tokens(5) == tokens(5 + 2**64)
    assert tokens(5) != tokens(6)


def test_a_picked_seed_is_shown_and_repeats(machines: dict[str, Transformer]) -> None:
    first = generate(machines["gpt2"], PROMPT, max_new_tokens=20).finish()
    assert generate(machines["gpt2"], PROMPT, max_new_tokens=20, seed=first.seed).finish() == first
    assert len({generate(machines["gpt2"], PROMPT, max_new_tokens=1).seed for _ in range(5)}) > 1


# --- text ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["ab 👩‍👩‍👧 東京 नमस्ते é.", "مرحبا", "�😀"])
def test_steps_never_hold_half_a_character(text: str, tokenizer: Tokenizer) -> None:
    steps = list(continued("a" + text, 1, tokenizer))
    assert "".join(step.text for step in steps) == text
    assert len(steps) == len(text.encode())
    for step in steps:
        assert step.text in text
        assert "�" not in step.text or "�" in text


def test_an_unfinished_character_ends_the_text_as_a_replacement(tokenizer: Tokenizer) -> None:
    result = continued("a😀".encode()[:-1], 1, tokenizer).finish()
    assert result.text == "�"
    assert result.finish_reason == "length"
    first = "😀".encode()[0]
    result = continued(b"ab" + bytes([first]) + b"\x03", 1, tokenizer, eos={3}).finish()
    assert (result.text, result.finish_reason, result.tokens[-1]) == ("b�", "stop", 3)


def test_the_space_before_the_first_new_word_is_kept(tmp_path: Path) -> None:
    """Decoders of this kind take the space off the first token they see, which is not the first of the text."""
    fast = Fast(models.WordLevel({"▁the": 0, "▁fox": 1, "?": 2}, unk_token="?"))
    fast.pre_tokenizer, fast.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    fast.save(str(tmp_path / "tokenizer.json"))
    result = continued(bytes([0, 1, 0, 1]), 1, Tokenizer.open(tmp_path)).finish()
    assert (result.tokens, result.text) == ([1, 0, 1], " fox the fox")


def test_without_a_tokenizer_there_are_tokens_and_no_text(machines: dict[str, Transformer]) -> None:
    result = generate(machines["llama"], PROMPT, max_new_tokens=5).finish()
    assert (len(result.tokens), result.text) == (5, "")
    with pytest.raises(Misuse, match="no tokenizer"):
        generate(machines["llama"], PROMPT, stop="x")


# --- where it ends ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stop", "kept", "tokens"),
    [
        ("fox", "the ", 7), (["zebra", "fox"], "the ", 7), ("😀", "the fox ", 12), ("x 😀 s", "the fo", 14),
        (["sleeps", "fox"], "the ", 7), ("nowhere", "the fox 😀 sleeps", 19), (["x", "ox"], "the f", 7),
        ("sleeps!", "the fox 😀 sleeps", 19), ("s", "the fox 😀 ", 14), ((), "the fox 😀 sleeps", 19),
    ],
)  # fmt: skip
def test_stop_strings_across_tokens(stop: Any, kept: str, tokens: int, tokenizer: Tokenizer) -> None:
    generation = continued(" the fox 😀 sleeps", 1, tokenizer, stop=stop)
    steps = list(generation)
    assert "".join(step.text for step in steps) == generation.text == kept
    assert len(generation.tokens) == len(steps) == tokens
    assert generation.finish_reason == ("stop" if kept != "the fox 😀 sleeps" else "length")


def test_text_that_only_begins_a_stop_string_is_held_back_then_given(tokenizer: Tokenizer) -> None:
    texts = [step.text for step in continued(" ab abc.", 1, tokenizer, stop=["abd", "zz"])]
    assert texts == ["", "", "ab ", "", "", "abc", "."]


def test_an_end_token_ends_it_and_adds_no_text(tokenizer: Tokenizer) -> None:
    result = continued("a fox.\x03 never", 1, tokenizer, eos={3, 9}).finish()
    assert (result.text, result.tokens[-1], result.finish_reason) == (" fox.", 3, "stop")


def test_it_ends_with_the_context(machines: dict[str, Transformer]) -> None:
    for cached in (True, False):
        result = generate(machines["gpt2"], PROMPT, max_new_tokens=10**12, cached=cached).finish()
        assert result.finish_reason == "length"
        assert len(result.tokens) == CONTEXT - len(PROMPT) + 1  # the last one is never read
        assert result.notes == []


def test_a_long_text_keeps_its_end_and_says_so(machines: dict[str, Transformer]) -> None:
    long = [i % VOCABULARY for i in range(300)]
    result = generate(machines["gpt2"], long, max_new_tokens=10, seed=1).finish()
    assert result.prompt == long[-(CONTEXT - 9) :]
    assert len(result.tokens) == 10
    assert result.notes == [
        "The text has 300 tokens and the model reads at most 64: kept the last 55, which leaves room for 10 more."
    ]


def test_fit() -> None:
    ids = list(range(1, 21))
    assert fit(ids, 20) == (ids, [])
    kept, notes = fit(ids, 8)
    assert kept == ids[-8:]
    assert notes == ["The text has 20 tokens and the model reads at most 8: kept the last 8."]
    assert fit(ids, 8, new_tokens=3)[0] == ids[-6:]
    assert fit(ids, 8, new_tokens=1000)[0] == ids[-5:]
    kept, notes = fit(ids, 8, new_tokens=3, bos=1)
    assert kept == [1, *ids[-5:]]
    assert "its beginning-of-text token and the last 5" in notes[0]
    assert fit(ids, 1, new_tokens=5, bos=1)[0] == [20]


def test_closing_cancels() -> None:
    model = Scripted("the fox sleeps")
    generation = generate(model, model.script[:4], max_new_tokens=10)  # type: ignore[arg-type]
    next(generation)
    read = model.read
    generation.close()
    assert generation.finish_reason == "cancelled"
    assert list(generation) == []
    assert model.read == read
    finished = generate(model, model.script[:4], max_new_tokens=2)  # type: ignore[arg-type]
    list(finished)
    finished.close()
    assert finished.finish_reason == "length"


# --- what cannot be done ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [{"max_new_tokens": n} for n in (0, -3, 2.5)] + [{"stop": ""}, {"stop": ["a", ""]}, {"ids": []}],
    ids=str,
)
def test_misuse_is_said_before_anything_is_computed(settings: dict[str, Any], tokenizer: Tokenizer) -> None:
    model = Scripted("the fox")
    with pytest.raises(Misuse):
        generate(model, **({"ids": [1, 2], "tokenizer": tokenizer} | settings))  # type: ignore[arg-type]
    assert model.read == 0


def test_broken_weights_fail_with_a_sentence() -> None:
    model = lively(DECODERS["llama"])
    with torch.no_grad():
        next(model.parameters()).fill_(np.nan)
    with pytest.raises(Failed, match="NaN or infinity"):
        generate(model, PROMPT, max_new_tokens=3).finish()  # type: ignore[arg-type]


def test_the_trace_of_the_last_step_is_at_hand(machines: dict[str, Transformer]) -> None:
    generation = generate(machines["llama"], PROMPT, sampler=SAMPLER, max_new_tokens=3)
    step = next(generation)
    assert generation.trace is not None
    assert generation.trace.probabilities[step.id] == pytest.approx(step.p_drawn, rel=1e-12)
    assert [s.name for s in generation.trace.steps][-1] == "softmax"


def test_a_real_trained_model_tells_its_reference_story(shared: Path) -> None:
    import json

    from cutaway.families import checkpoint

    folder = shared / "weights" / "stories260K"
    reference = json.loads((folder / "reference.json").read_text())
    model = checkpoint.open(folder).load()
    assert isinstance(model, Transformer)
    ids = reference["story_ids"]
    new = generate(model, ids[:5], sampler=Sampler(temperature=0), max_new_tokens=len(ids) - 5).finish().tokens
    assert new == ids[5:]
