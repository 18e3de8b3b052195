"""Translations and summaries: what the tasks of a config.json ask for, both sides in a Record, and who is not asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import cutaway
from cutaway.api import Model
from cutaway.errors import Misuse
from cutaway.families import checkpoint
from cutaway.generate.loop import Generated, Generation
from cutaway.inputs.text import Tokenizer
from cutaway.native.threads import one_thread
from tests.families.making import make, random_model
from tests.inputs.conftest import marian, spm
from tests.tasks.conftest import Make, encoder
from tests.tasks.encoders import byte_level

__all__ = ["encoder", "marian", "spm"]  # fixtures

T5: dict[str, Any] = {
    "model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True, "vocab_size": 330,
    "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "n_positions": 40,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 15, "decoder_start_token_id": 1,
    "pad_token_id": 1, "eos_token_id": 2,
    "task_specific_params": {
        "summarization": {"prefix": "sum up: ", "max_length": 9, "num_beams": 2, "length_penalty": 2.0},
        "translation_en_to_de": {"prefix": "to German: ", "max_length": 12},
        "translation_en_to_fr": {"prefix": "to French: ", "max_length": 14},
    },
}  # fmt: skip
TEXT = "The cat sat on the mat."


@pytest.fixture
def t5(tmp_path: Path) -> Callable[..., Model]:
    def made(**changes: Any) -> Model:
        config = {**T5, **changes}
        checkpoint.save(random_model(config), config, tmp_path)
        byte_level().save(str(tmp_path / "tokenizer.json"))
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "pad_token": "<pad>"}))
        return cutaway.load(tmp_path)

    return made


@pytest.fixture
def opus(marian: Callable[..., Path]) -> Callable[..., Model]:
    """opus(separate) -> a random Marian with a tokenizer of two languages."""

    def made(separate: bool = False) -> Model:
        folder = marian(separate)
        texts = Tokenizer.open(folder)
        pad = texts.size - 1
        config = {
            "model_type": "marian", "architectures": ["MarianMTModel"], "is_encoder_decoder": True,
            "vocab_size": texts.size, "decoder_vocab_size": texts.target.size, "d_model": 32, "encoder_layers": 2,
            "share_encoder_decoder_embeddings": not separate, "encoder_attention_heads": 4, "encoder_ffn_dim": 48,
            "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 48, "max_position_embeddings": 24,
            "static_position_embeddings": True, "scale_embedding": True, "activation_function": "swish",
            "eos_token_id": 0, "pad_token_id": pad, "decoder_start_token_id": texts.target.size - 1,
        }  # fmt: skip
        checkpoint.save(random_model(config), config, folder)
        stated = {
            "bad_words_ids": [[texts.target.size - 1]], "decoder_start_token_id": texts.target.size - 1,
            "eos_token_id": 0, "forced_eos_token_id": 0, "max_length": 20, "num_beams": 3, "renormalize_logits": True,
        }  # fmt: skip
        (folder / "generation_config.json").write_text(json.dumps(stated))
        return cutaway.load(folder)

    return made


# ------------------------------------------------------------------ tasks


def test_a_task_brings_its_prefix_and_its_settings(t5: Callable[..., Model]) -> None:
    model = t5()
    german = model.translate(TEXT, task="translation_en_to_de")
    assert german.prompt == model.tokens("to German: " + TEXT)
    assert len(german.tokens) <= 11
    assert model.translate("to German: " + TEXT).tokens == german.tokens  # the prefix says which
    summary = model.summarize(TEXT)
    assert summary.prompt == model.tokens("sum up: " + TEXT)
    assert summary == model.translate(TEXT, prefix="sum up: ", beams=2, length_penalty=2.0, max_new_tokens=8)
    assert summary == model.summarize("sum up: " + TEXT)


def test_a_model_that_translates_in_several_ways_must_be_told_which(t5: Callable[..., Model]) -> None:
    model = t5()
    with pytest.raises(Misuse, match="knows 2 translations: translation_en_to_de, translation_en_to_fr"):
        model.translate(TEXT)
    with pytest.raises(Misuse, match="names no task 'translation_en_to_xx'"):
        model.translate(TEXT, task="translation_en_to_xx")
    assert model.translate(TEXT, prefix="", max_new_tokens=2).prompt == model.tokens(TEXT)
    assert model.translate(tokens=[5, 6], max_new_tokens=2).prompt == [5, 6]  # all there is to read
    only = {"translation_en_to_de": T5["task_specific_params"]["translation_en_to_de"]}
    assert t5(task_specific_params=only).translate(TEXT).prompt == model.tokens("to German: " + TEXT)
    none = t5(task_specific_params=None)
    assert none.translate(TEXT, max_new_tokens=2).prompt == none.tokens(TEXT)
    assert none.summarize(TEXT, max_new_tokens=2).prompt == none.tokens(TEXT)


def test_a_search_comes_whole_and_a_draw_as_it_is_written(opus: Callable[..., Model]) -> None:
    model = opus()
    found = model.translate("the fox", stream=True)
    assert isinstance(found, Generated)  # as the checkpoint asks: three beams
    assert found == model.translate("the fox", beams=3)
    under_way = model.translate("the fox", temperature=0.9, seed=4, stream=True)
    assert isinstance(under_way, Generation)
    assert "".join(step.text for step in under_way) == under_way.text
    assert under_way.tokens == model.translate("the fox", temperature=0.9, seed=4).tokens
    assert found.text == model.tokenizer.target.decode(found.tokens)
    assert found.tokens[-1] == 0 or len(found.tokens) == 19


def test_a_text_longer_than_the_positions_loses_its_end(opus: Callable[..., Model]) -> None:
    model = opus()
    long = "the small fox said that " * 10
    found = model.translate(long)
    assert len(found.prompt) == 24
    assert found.prompt[-1] == 0
    assert found.prompt[:20] == model.tokens(long)[:20]
    assert found.notes == [
        f"The text has {len(model.tokens(long))} tokens; the model reads 24, so its end was left out."
    ]
    assert model.run(long).settings["notes"] == found.notes


# ------------------------------------------------------------------ both sides in a Record


@pytest.mark.parametrize("separate", [False, True])
def test_a_run_has_both_sides(separate: bool, opus: Callable[..., Model], tmp_path: Path) -> None:
    model = opus(separate)
    with one_thread():
        run = model.run("the fox", target="der Mond")
    texts = model.tokenizer
    assert run.source == texts.encode("the fox")
    assert run.tokens == [texts.target.size - 1, *texts.target.encode("der Mond")[:-1]]
    assert [piece["id"] for piece in run.source_pieces] == run.source
    assert "".join(piece["text"] for piece in run.pieces[1:]).replace("␣", " ").strip() == "der Mond"
    with torch.no_grad(), one_thread():
        logits = model.machine(torch.tensor([run.source]), torch.tensor([run.tokens]))[0]
        assert torch.equal(run["logits"], logits)
    cross = run["decoder.blocks.1.cross.pattern"]
    assert cross.shape == (4, len(run.tokens), len(run.source))
    torch.testing.assert_close(cross.sum(-1), torch.ones(4, len(run.tokens)))
    run.save(tmp_path / "run.cutaway")
    opened = cutaway.open(tmp_path / "run.cutaway")
    assert opened.description() == run.description()
    assert torch.equal(opened["decoder.blocks.1.cross.pattern"], cross)
    assert opened.vocabulary() == [piece.text for piece in texts.target.pieces(range(model.spec.head.size))]


def test_without_a_target_it_is_what_the_first_token_is_read_off(opus: Callable[..., Model]) -> None:
    model = opus()
    run = model.run("the fox")
    assert run.tokens == [model.tokenizer.target.size - 1]
    assert model.run("the fox", target=[]).tokens == run.tokens
    assert model.run("the fox", target=[5, 6]).tokens == [*run.tokens, 5, 6]
    logits = run["logits.last"].clone()
    logits[model.tokenizer.target.size - 1] = -torch.inf  # the padding is a bad word
    assert model.translate("the fox", temperature=0, max_new_tokens=3).tokens[0] == int(logits.argmax())
    long = model.run("the fox", target=[5] * 60)
    assert len(long.tokens) == 24
    assert long.settings["notes"] == ["The target has 60 tokens; 23 of them were read."]
    with pytest.raises(Misuse, match="no token id"):
        model.run("the fox", target=[10**6])


def test_an_edit_of_the_encoder_is_felt_by_the_decoder(opus: Callable[..., Model]) -> None:
    model = opus()
    plain = model.run("the fox", target="der")
    changed = model.run("the fox", target="der", edit={"encoder.blocks.1.mlp.out": torch.zeros_like})
    assert torch.equal(plain["encoder.blocks.1.resid_pre"], changed["encoder.blocks.1.resid_pre"])
    assert not torch.allclose(plain["logits"], changed["logits"])


# ------------------------------------------------------------------ who is asked for what


def test_a_model_of_another_kind_says_what_it_does(t5: Callable[..., Model], encoder: Make, tmp_path: Path) -> None:
    model = t5()
    for ask in (
        lambda: model.next(TEXT),
        lambda: model.generate(TEXT),
        lambda: model.fill(TEXT),
        lambda: model.classify(TEXT),
        lambda: model.embed(TEXT),
        lambda: model.similar(TEXT, [TEXT]),
    ):
        with pytest.raises(Misuse, match="turns one text into another") as caught:
            ask()
        assert caught.value.fix == "Ask it with translate or summarize."
    for other, does in ((cutaway.load(encoder()), "fills in"), (cutaway.load(make(tmp_path / "gpt")), "continues")):
        for ask in (other.translate, other.summarize):
            with pytest.raises(Misuse, match=f"does not turn one text into another: it {does}"):
                ask(TEXT)
        with pytest.raises(Misuse, match="reads no target"):
            other.run(tokens=[5], target="x")


def test_it_says_what_it_is(opus: Callable[..., Model]) -> None:
    model = opus()
    assert "marian" in repr(model)
    assert "2 + 2 blocks, width 32" in repr(model)
    assert "decoder.blocks.1.cross.pattern" in model.names()
