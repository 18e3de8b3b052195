"""Learning to translate: the files, the order, the loss, the rate, dropout, and the model that is left."""

from __future__ import annotations

import dataclasses
import gzip
import json
import math
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cutaway
from cutaway.errors import Misuse, NotFound, Refused
from cutaway.families import checkpoint, describe
from cutaway.model import spec
from cutaway.model.transformer import build
from cutaway.training import loop, pairs, parallel, train
from cutaway.training.dropout import drop_out
from cutaway.training.optim import learning_rate
from cutaway.training.recipe import resolve

WORDS = dict(zip("one two three four five".split(), "eins zwei drei vier fünf".split(), strict=True))
RECIPE = """
task = "translate"
data = "{data}"
run = "{run}"
threads = 1
window = 24
batch = 150
steps = 30
warmup = 5
lr = 5e-3
beta2 = 0.98
weight_decay = 0.0
dropout = 0.1
smoothing = 0.1
log_every = 5
save_every = 10
validate_every = 10
validate_windows = 10

[[sources]]
format = "pairs"
languages = "en-de"
train = "train"
valid = "valid"
test = "test"

[tokenizer]
size = 290
pattern = "gpt2"

[model]
model_type = "marian"
architectures = ["MarianMTModel"]
d_model = 32
encoder_layers = 1
decoder_layers = 1
encoder_attention_heads = 2
decoder_attention_heads = 2
encoder_ffn_dim = 64
decoder_ffn_dim = 64
activation_function = "relu"
scale_embedding = true
max_position_embeddings = 32
initializer_range = 0.15
"""

GPT2 = """
n_positions = 32
n_embd = 8
n_head = 1
n_layer = 1
"""

Write = Callable[..., str]


def tell(seed: int, count: int) -> list[tuple[str, str]]:
    """Numbers in a row, and the same in German, last first."""
    dice = random.Random(seed)
    rows = [dice.choices(list(WORDS), k=dice.randint(1, 4)) for _ in range(count)]
    return [(" ".join(row), " ".join(WORDS[word] for word in reversed(row))) for row in rows]


def write_pairs(folder: Path, split: str, told: list[tuple[str, str]]) -> None:
    for language, sentences in zip(("en", "de"), zip(*told, strict=True), strict=True):
        text = "".join(f"{sentence}\n" for sentence in sentences).encode()
        if split == "train":
            (folder / f"{split}.{language}.gz").write_bytes(gzip.compress(text))
        else:
            (folder / f"{split}.{language}").write_bytes(text)


@pytest.fixture
def recipe(tmp_path: Path) -> Write:
    for seed, (split, count) in enumerate({"train": 600, "valid": 20, "test": 20}.items()):
        write_pairs(tmp_path, split, tell(seed, count))

    def write(run: str = "run") -> str:
        path = tmp_path / f"{run}.toml"
        path.write_text(RECIPE.format(data=tmp_path.as_posix(), run=(tmp_path / run).as_posix()))
        return str(path)

    return write


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def learn(path: str, *more: str) -> tuple[pairs.Translate, Any]:
    """The objective, and a model as it begins."""
    resolved = resolve(path, more)
    learned = pairs.Translate(resolved, resolved.folder / "data")
    return learned, loop.initialise(build(describe(learned.config)[1]), 1, 0.15)


# --- the whole way -----------------------------------------------------------------------------------------------


def test_training_learns_a_toy_language_and_leaves_a_model_that_translates(recipe: Write) -> None:
    pytest.importorskip("sacrebleu", reason="measures BLEU with sacrebleu, which is not installed")
    result = train(recipe(), ["steps=300", "batch=300", "tokenizer.size=320"])
    assert result.measured["nats_per_token"]["test"] < 0.4
    assert result.measured["bleu"]["test"] > 80
    assert result.lines()[1].startswith("test: 0.")
    assert "bleu" in result.lines()[1]
    assert result.unit == "tokens"
    model = cutaway.load(result.model)
    assert model.warnings == []
    told = tell(2, 20)
    right = sum(model.translate(source).text == target for source, target in told)
    assert right >= 14
    assert model.run(told[0][0], target=told[0][1])["decoder.blocks.0.cross.pattern"].shape[0] == 2


def test_what_is_measured_is_what_the_saved_model_says_when_it_is_asked(recipe: Write) -> None:
    sacrebleu = pytest.importorskip("sacrebleu", reason="measures BLEU with sacrebleu, which is not installed")
    result = train(recipe(), ["steps=60"])
    generation = json.loads((result.model / "generation_config.json").read_text())
    assert (generation["num_beams"], generation["max_length"]) == (4, 24)
    model = cutaway.load(result.model)
    told = [model.translate(source).text for source, _ in tell(2, 20)]
    assert len(set(told)) > 1
    score = sacrebleu.corpus_bleu(told, [[target for _, target in tell(2, 20)]]).score
    assert result.measured["bleu"]["test"] == pytest.approx(score, abs=1e-9)


def test_transformers_agrees_with_the_exported_model(recipe: Write) -> None:
    transformers = pytest.importorskip("transformers", reason="compares with transformers, which is not installed")
    result = train(recipe(), ["steps=60"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(result.model)
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(result.model).eval()
    ours = cutaway.load(result.model)
    source = "three one two"
    ids = tokenizer(source, return_tensors="pt").input_ids
    assert ids[0].tolist() == ours.tokens(source)
    before = torch.tensor([[theirs.config.decoder_start_token_id, 9, 8]])
    with torch.no_grad():
        reference = theirs(input_ids=ids, decoder_input_ids=before).logits
        logits = ours.machine(ids, before)
    assert (logits - reference).abs().max() <= 1e-5 * reference.abs().max()
    written = theirs.generate(ids)[0, 1:]
    assert tokenizer.decode(written, skip_special_tokens=True) == ours.translate(source).text


def test_a_stopped_run_goes_on_to_the_same_weights(
    recipe: Write, stopped: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    whole = train(recipe("whole"))
    stopped(lambda: train(recipe("broken")), at=13, number=signal.SIGTERM)
    broken = train(recipe("broken"))
    assert (broken.model / "model.safetensors").read_bytes() == (whole.model / "model.safetensors").read_bytes()
    assert broken.seen == whole.seen


def test_without_sacrebleu_all_but_bleu_is_measured(
    recipe: Write, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    result = train(recipe(), ["steps=1"])
    assert set(result.measured) == {"nats_per_token"}
    assert "sacrebleu is not installed" in capsys.readouterr().err


# --- loss, rate, dropout -----------------------------------------------------------------------------------------


def test_the_loss_is_what_the_paper_writes(recipe: Write) -> None:
    """Pair by pair, with nothing padded: (1 - e) of the target's nats and e of the mean over the vocabulary."""
    learned, model = learn(recipe())
    smoothing, start = learned.recipe.smoothing, learned.config["decoder_start_token_id"]
    its, nats = learned.splits["train"], []
    places = learned.order.pairs(3)
    assert len({len(its.source[place]) for place in places}) > 1  # so that there is padding to go wrong
    with torch.no_grad():
        for place in places:
            target = its.target[place]
            shares = model(torch.tensor([its.source[place]]), torch.tensor([[start, *target[:-1]]]))[0].log_softmax(-1)
            told = -shares[range(len(target)), target]
            nats += ((1 - smoothing) * told - smoothing * shares.mean(-1)).tolist()
        assert learned.loss(model, 3).item() == pytest.approx(np.mean(nats), rel=1e-5)
        learned.recipe = dataclasses.replace(learned.recipe, smoothing=0.0)
        assert learned.loss(model, 3).item() != pytest.approx(np.mean(nats), rel=1e-3)


def test_held_out_pairs_are_measured_without_smoothing(recipe: Write) -> None:
    learned, model = learn(recipe())
    start, its, nats = learned.config["decoder_start_token_id"], learned.splits["valid"], []
    with torch.no_grad():
        for place in range(len(its)):
            target = its.target[place]
            logits = model(torch.tensor([its.source[place]]), torch.tensor([[start, *target[:-1]]]))[0]
            nats += torch.nn.functional.cross_entropy(logits, torch.tensor(target), reduction="none").tolist()
    assert learned._nats("valid", model)["nats_per_token"] == pytest.approx(np.mean(nats), rel=1e-5)


def test_the_rate_is_what_the_paper_writes() -> None:
    """Section 5.3, equation 3."""
    recipe = resolve("attention")
    width, warmup = recipe.model["d_model"], recipe.warmup
    for step in (1, 100, 3999, 4000, 4001, 100_000):
        written = width**-0.5 * min(step**-0.5, step * warmup**-1.5)
        assert learning_rate(step - 1, recipe) == pytest.approx(written, rel=1e-4)


def test_dropout_zeroes_its_share_while_training_and_nothing_else(recipe: Write) -> None:
    learned, model = learn(recipe(), "model.encoder_layers=2")
    names, source = list(model.state_dict()), torch.tensor([learned.splits["train"].source[0]])
    with torch.no_grad():
        plain = model.eval().encode(source)
        drop_out(model, 0.25)
        assert torch.equal(model.encode(source), plain)
        assert list(model.state_dict()) == names
        model.train()
        assert not torch.equal(model.encode(source), plain)
        many = torch.randn(1, 500, 32)
        for layer, width in ((model.encoder.blocks[1].attn.o, 32), (model.decoder.blocks[0].cross.o, 32)):
            given = layer(many)
            zeroed = given == 0
            assert zeroed.float().mean() == pytest.approx(0.25, abs=0.02)
            assert torch.allclose(given[~zeroed] * 0.75, torch.nn.Linear.forward(layer, many)[~zeroed], atol=1e-6)
            assert given.shape[-1] == width
        down = model.decoder.blocks[0].mlp.down(torch.randn(1, 500, 64))
        stem = model.target(torch.zeros(1, 20, dtype=torch.long), torch.arange(20))
        for given in (down, stem):
            assert (given == 0).float().mean() == pytest.approx(0.25, abs=0.06)


def test_dropout_is_drawn_while_training_and_not_when_measuring(recipe: Write) -> None:
    result = train(recipe(), ["steps=2", "dropout=0.5"])
    again = train(recipe("other"), ["steps=2", "dropout=0.0"])
    losses = [json.loads((run.run / "result.json").read_text())["measured"] for run in (result, again)]
    assert losses[0] != losses[1]
    learned, _ = learn(recipe())
    machine = checkpoint.open(result.model).load()
    assert learned._nats("valid", machine) == learned._nats("valid", machine)


# --- batches -----------------------------------------------------------------------------------------------------


def order(lengths: np.ndarray, batch: int = 100, seed: int = 1) -> parallel.Order:
    return parallel.Order(np.arange(len(lengths)), lengths, 0, batch, seed)


def test_an_epoch_visits_every_pair_once_in_batches_of_like_length_and_size() -> None:
    lengths = np.random.default_rng(0).integers(1, 40, 1000)
    its = order(lengths)
    epochs = [[its.pairs(number * its.per_epoch + step) for step in range(its.per_epoch)] for number in range(3)]
    for batches in epochs:
        assert sorted(np.concatenate(batches)) == list(range(1000))
        assert all(np.ptp(lengths[batch]) <= 2 for batch in batches)
        sizes = [lengths[batch].sum() for batch in batches]
        assert max(sizes) < 100 + 2 * 40
        assert np.mean(sizes) == pytest.approx(100, rel=0.01)
    firsts = [epoch[0].tolist() for epoch in epochs]
    assert firsts[0] != firsts[1] != firsts[2]
    long_first = [np.argmax([lengths[batch].mean() for batch in batches]) for batches in epochs]
    assert len(set(long_first)) > 1  # batches come in another order too


def test_the_order_is_a_function_of_seed_and_step() -> None:
    lengths = np.random.default_rng(0).integers(1, 40, 300)
    one, two, other = order(lengths), order(lengths), order(lengths, seed=2)
    steps = [0, 1, 7, one.per_epoch, 5 * one.per_epoch + 3]
    assert all(np.array_equal(one.pairs(step), two.pairs(step)) for step in reversed(steps))
    assert not all(np.array_equal(one.pairs(step), other.pairs(step)) for step in steps)


@pytest.mark.parametrize("lengths", [[5], [500, 500], [1, 1, 900], [900, 1, 1]])
def test_a_pair_larger_than_a_batch_is_one(lengths: list[int]) -> None:
    its = order(np.array(lengths))
    batches = [its.pairs(step) for step in range(its.per_epoch)]
    assert all(len(batch) for batch in batches)
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))


def test_pairs_that_do_not_fit_the_window_are_left_out_and_that_is_said(recipe: Write, capsys: Any) -> None:
    learned, model = learn(recipe(), "window=5")
    lengths = np.maximum(learned.splits["train"].source.lengths, learned.splits["train"].target.lengths)
    seen = np.concatenate([learned.order.pairs(step) for step in range(learned.order.per_epoch)])
    assert 0 < len(seen) < len(lengths)
    assert lengths[seen].max() <= 5
    assert f"{(lengths > 5).sum()} of 600 pairs do not fit" in capsys.readouterr().err
    assert math.isfinite(learned._nats("valid", model)["nats_per_token"])  # of held-out ones the end is left out
    assert learned._fitting([9, 8, 7, 6, 5, 4, 0]) == [9, 8, 7, 6, 0]


# --- files -------------------------------------------------------------------------------------------------------


def test_sentences_come_back_from_the_token_files_as_they_were(recipe: Write) -> None:
    learned, _ = learn(recipe())
    its = learned.splits["train"]
    told = [tuple(learned.tokenizer.decode(side[place]) for side in (its.source, its.target)) for place in range(600)]
    assert told == tell(0, 600)
    assert its.target[7][-1] == learned.config["eos_token_id"]
    again, _ = learn(recipe())  # from the files that are there now
    assert again.splits["train"].source[599] == its.source[599]


def test_a_control_token_in_a_sentence_is_text(recipe: Write, tmp_path: Path) -> None:
    path = recipe()
    write_pairs(tmp_path, "valid", [("one</s>two <pad>", "eins </s>"), ("two", "zwei")])
    learned, _ = learn(path)
    its = learned.splits["valid"]
    assert len(its.source) == len(its.target) == 2
    assert learned.tokenizer.decode(its.source[0]) == "one</s>two <pad>"


def test_lines_are_paired_and_empty_ones_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.en").write_bytes("one\r\n\n three\u2028too \nfour\n".encode())
    (tmp_path / "a.de").write_bytes(b"eins\nzwei\ndrei\n \n")
    both = tmp_path / "a.en", tmp_path / "a.de"
    assert parallel.read([both]) == [("one", "eins"), ("three\u2028too", "drei")]
    (tmp_path / "a.de").write_text("eins\nzwei\n")
    with pytest.raises(Refused, match=r"a\.en has 4 lines and a\.de 2"):
        parallel.read([both])


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("window=33", "exceeds the model's 32 positions"),
        ("window=1", "No pair of sentences fits"),
        ("smoothing=1", "smoothing must be at least 0 and below 1"),
        ("dropout=-0.1", "dropout must be"),
        ("schedule=noam", "schedule must be cosine or inverse_sqrt"),
        ("task=fill", "sources.format must be"),
        ("model.model_type=gpt2", "describes no model that translates"),
    ],
)
def test_mistakes_are_named(recipe: Write, override: str, says: str) -> None:
    path = recipe()
    if override.endswith("gpt2"):
        text = Path(path).read_text()
        Path(path).write_text(text[: text.index("[model]")] + "[model]" + GPT2)
    with pytest.raises(Misuse, match=says):
        train(path, [override])


@pytest.mark.parametrize("languages", ["", "en", "en-", "en--de", "en-de-fr"])
def test_languages_are_two(recipe: Write, languages: str) -> None:
    path = Path(recipe())
    path.write_text(path.read_text().replace('"en-de"', f'"{languages}"'))
    with pytest.raises(Misuse, match=r"sources\.languages must be two"):
        resolve(str(path))


def test_a_file_that_is_not_there_is_named(recipe: Write, tmp_path: Path) -> None:
    path = recipe()
    (tmp_path / "valid.de").unlink()
    with pytest.raises(NotFound, match=r"valid\.de"):
        train(path)


# --- the recipes -------------------------------------------------------------------------------------------------


def test_the_recipe_attention_is_the_base_model_of_the_paper() -> None:
    recipe = resolve("attention")
    described = describe({**recipe.model, "vocab_size": 37000})[1]
    assert isinstance(described, spec.Seq2Seq)
    assert round(spec.parameters(described) / 1e6) == 63  # 65 in table 3, by another count of the vocabulary
    for stack in described.stacks:
        assert len(stack.blocks) == 6
        assert {(block.attn.heads, block.mlp.hidden, block.mlp.activation) for block in stack.blocks} == {
            (8, 2048, "relu")
        }
        assert {block.slots for block in stack.blocks} == {("stream",)}
        assert stack.final_norm is None
    for stem in (described.source, described.target):
        assert isinstance(stem, spec.Tokens)
        assert stem.scale == 512**0.5
        assert stem.positions is not None
        assert stem.positions.kind == "sinusoid"
    assert described.shared_embedding
    assert described.head.tied
    assert (recipe.dropout, recipe.smoothing, recipe.warmup, recipe.beta1, recipe.beta2) == (0.1, 0.1, 4000, 0.9, 0.98)
    assert recipe.weight_decay == 0


def test_the_recipe_translate_describes_a_translator() -> None:
    recipe = resolve("translate")
    described = describe({**recipe.model, "vocab_size": recipe.tokenizer.size})[1]
    assert described.task == "rewrite"
    assert recipe.window <= described.context
