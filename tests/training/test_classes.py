"""Learning to tell classes of texts apart: what is read, going on after a stop, what is left in the end."""

from __future__ import annotations

import gzip
import json
import random
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cutaway
from cutaway import cli
from cutaway.errors import Misuse, Refused
from cutaway.families import checkpoint, describe
from cutaway.model.init import initialise
from cutaway.model.transformer import build
from cutaway.training import state, train
from cutaway.training.classes import Classify
from cutaway.training.confusion import draw, told
from cutaway.training.passages import cut, plain, read
from cutaway.training.recipe import resolve
from tests.families.making import GPT2, LLAMA
from tests.tasks.encoders import BERT, ROBERTA, byte_level

SEA, WOOD, BOTH = "wave ship salt gull sail".split(), "oak fern moss fox path".split(), "the a old and saw".split()
RECIPE = """
task = "classify"
start = "{start}"
data = "{data}"
run = "{run}"
threads = 1
passage = 10
window = 40
batch = 8
steps = 30
warmup = 5
lr = 5e-3
beta2 = 0.98
log_every = 5
save_every = 10
validate_every = 10

[[sources]]
label = "sea"
format = "text"
train = "sea.txt.gz"
hold_out = 0.2

[[sources]]
label = "wood"
format = "text"
train = "wood.txt"
hold_out = 0.2
"""

STARTS: dict[str, dict[str, Any]] = {
    "bert": {**BERT, "vocab_size": 330, "pad_token_id": 1},
    "roberta": ROBERTA,
    "gpt2": {**GPT2, "architectures": ["GPT2LMHeadModel"], "vocab_size": 330, "n_positions": 64, "eos_token_id": 2},
    "llama": {
        **LLAMA, "architectures": ["LlamaForCausalLM"], "vocab_size": 330, "max_position_embeddings": 64,
        "eos_token_id": 2,
    },
}  # fmt: skip

Recipe = Callable[..., str]


def tell(words: list[str], count: int, seed: int) -> str:
    return " ".join(random.Random(seed).choices(words + BOTH, k=count))


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """recipe("run", "gpt2"): the path of a recipe that makes a classifier of a tiny random model of that family."""
    (tmp_path / "sea.txt.gz").write_bytes(gzip.compress(tell(SEA, 700, 1).encode()))
    (tmp_path / "wood.txt").write_text(tell(WOOD, 1000, 2))

    def make(run: str = "run", family: str = "roberta") -> str:
        folder = tmp_path / family
        if not folder.is_dir():
            config = STARTS[family]
            checkpoint.save(initialise(build(describe(config)[1]), seed=0, deviation=0.2), config, folder)
            tokenizer = json.loads(byte_level().to_str())
            if family in ("gpt2", "llama"):  # which frame no text
                tokenizer["post_processor"] = None
            (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
        path = tmp_path / f"{run}.toml"
        words = {"start": folder.as_posix(), "data": tmp_path.as_posix(), "run": (tmp_path / run).as_posix()}
        path.write_text(RECIPE.format(**words))
        return str(path)

    return make


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("family", STARTS)
def test_a_model_learns_to_tell_two_kinds_of_texts_apart(recipe: Recipe, family: str) -> None:
    result = train(recipe(family=family), ["steps=60"])
    assert result.measured["accuracy"]["test"] >= 0.9
    assert (result.seen, result.unit, result.classes) == (480, "texts", ["sea", "wood"])
    model = cutaway.load(result.model)
    assert model.warnings == []
    found = model.classify("the old ship and a gull saw salt")
    assert found.exclusive
    assert found.labels[0].name == "sea"
    assert model.config["label2id"] == {"sea": 0, "wood": 1}
    assert model.config["architectures"][0].endswith("ForSequenceClassification")


@pytest.mark.parametrize("family", STARTS)
def test_transformers_agrees_with_the_exported_model(recipe: Recipe, family: str) -> None:
    transformers = pytest.importorskip("transformers", reason="compares with transformers, which is not installed")
    result = train(recipe(family=family))
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(result.model).eval()
    learned = Classify(resolve(recipe(family=family)))
    ids, present, _ = learned.splits["valid"].batch(range(12))
    assert present is not None
    read_as = {"attention_mask": present.long()}
    ids = ids.masked_fill(~present, theirs.config.pad_token_id)
    with torch.no_grad():
        ours, reference = checkpoint.open(result.model).load()(ids, present), theirs(ids, **read_as).logits
    assert (ours - reference).abs().max() <= 1e-5 * reference.abs().max()
    assert theirs.config.id2label == {0: "sea", 1: "wood"}


def test_it_begins_as_the_model_that_is_named(recipe: Recipe) -> None:
    path = recipe()
    before = checkpoint.open(Path(path).parent / "roberta").load().state_dict()
    after = checkpoint.open(train(path, ["steps=1", "warmup=0", "lr=1e-9", "lr_end=0"]).model).load().state_dict()
    for name, tensor in after.items():
        if not name.startswith("head."):
            torch.testing.assert_close(tensor, before[name], atol=1e-6, rtol=0)


def test_what_is_frozen_stays_as_it_was(recipe: Recipe) -> None:
    before = cutaway.load("words", "float32").machine.state_dict()
    result = train(recipe(), ["start=words", "freeze=true"])
    after = checkpoint.open(result.model).load().state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items() if not name.startswith("head."))
    assert result.measured["loss"]["valid"] < 0.68  # a guess is 0.69


def test_a_stopped_run_goes_on_to_the_same_weights(recipe: Recipe, stopped: Callable[..., None]) -> None:
    whole = train(recipe("whole"))
    stopped(lambda: train(recipe("broken")), at=17)
    broken = train(recipe("broken"))
    one, two = (run.run / "checkpoints/step-00000030" / state.TENSORS for run in (whole, broken))
    assert one.read_bytes() == two.read_bytes()


# --- what is read ------------------------------------------------------------------------------------------------


def test_passages_are_as_many_of_each_label_and_stand_in_one_split_only(recipe: Recipe) -> None:
    splits, names = read(resolve(recipe()))
    assert names == ["sea", "wood"]
    counts = {split: np.bincount(its.classes).tolist() for split, its in splits.items()}
    assert counts == {"train": [42, 42], "valid": [14, 14], "test": [14, 14]}
    texts = [text for its in splits.values() for text in its.texts]
    assert all(len(text.split()) == 10 for text in texts)
    whole = tell(SEA, 700, 1).split()
    sea = [text for split in ("train", "valid", "test") for text in splits[split].texts if set(SEA) & {*text.split()}]
    assert " ".join(sea).split()[: 42 * 10] == whole[: 42 * 10]  # what is held out stands behind
    assert " ".join(splits["test"].texts[:14]).split() == whole[560:]


def test_a_document_that_is_held_out_is_not_trained_on(recipe: Recipe, tmp_path: Path) -> None:
    path = Path(recipe())
    same, other = tell(SEA, 100, 5), tell(SEA, 100, 6)
    (tmp_path / "again.txt").write_text(f"{other}<|endoftext|>{same}")
    (tmp_path / "held.txt").write_text(same)
    source = '[[sources]]\nlabel = "sea"\nformat = "text"\ntrain = "again.txt"\ntest = "held.txt"\n'
    path.write_text(path.read_text().replace('train = "wood.txt"', 'train = "wood.txt"') + source)
    learned = resolve(str(path))
    texts = {split: set(its.texts) for split, its in read(learned)[0].items()}
    assert set(cut(same, 10)) & texts["test"]
    assert not set(cut(same, 10)) & texts["train"]
    assert set(cut(other, 10)) & texts["train"]


def test_texts_are_in_one_typography() -> None:
    spaced = ' = Lobster = \n The lobsters , only " lobster red " when cooked ( 5 @-@ 6 @.@ 3 ) , are it \'s own .'
    assert (
        plain(spaced).split() == 'Lobster The lobsters, only "lobster red" when cooked (5-6.3), are it\'s own.'.split()
    )
    typed = "“So,” said he—“come!” 'Tis don't = 3."
    assert " ".join(plain(typed).split()) == '"So," said he--"come!" \'Tis don\'t 3.'


def test_labelled_lines(recipe: Recipe, tmp_path: Path) -> None:
    path = Path(recipe())
    sources = path.read_text().index("[[sources]]")
    made = [{"text": tell(SEA if i % 3 else WOOD, 6, i), "label": "no" if i % 3 else 1} for i in range(120)]
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, made)))
    rest = '[[sources]]\nformat = "labelled"\ntrain = "lines.jsonl"\nhold_out = 0.2\n'
    path.write_text(path.read_text()[:sources] + rest)
    splits, names = read(resolve(str(path)))
    assert set(names) == {"no", "1"}
    assert sum(len(its.texts) for its in splits.values()) == 120
    assert sum(names[one] == "1" for its in splits.values() for one in its.classes) == 40  # as they are
    assert train(str(path), ["start=words", "lr=1e-3"]).measured["accuracy"]["test"] > 0.9
    for wrong in (
        "no json",
        '{"text": "no label"}',
        '{"text": " ", "label": "no"}',
        '{"text": 3, "label": "no"}',
        "[]",
    ):
        (tmp_path / "lines.jsonl").write_text(f"{json.dumps(made[0])}\n{wrong}")
        with pytest.raises(Refused, match=r"line 2 is no labelled text"):
            read(resolve(str(path)))


def test_too_long_a_text_loses_its_end_and_keeps_its_frame(recipe: Recipe) -> None:
    learned = Classify(resolve(recipe(), ["window=7"]))
    assert {len(ids) for ids in learned.splits["train"].ids} == {7}
    assert {(ids[0], ids[-1]) for ids in learned.splits["train"].ids} == {(0, 2)}


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("start=''", "start must be there"),
        ("task=fill", "start must be there, and only there, where task = classify"),
        ("model={model_type = 'bert'}", "model must be left out"),
        ("freeze=yes", "freeze must be true or false"),
        ("passage=0", "passage must be at least 1"),
        ("passage=400", "no texts to train on"),
        ("start=digits", "cannot become a classifier of texts"),
        ("sources=[]", "fewer than two labels"),
        ("sources=[{format = 'text', train = 'wood.txt'}]", "sources.label must be there"),
        ("sources=[{format = 'labelled', label = 'x', train = 'wood.txt'}]", "sources.label must be there"),
    ],
)
def test_mistakes_are_named(recipe: Recipe, override: str, says: str) -> None:
    with pytest.raises(Misuse, match=says):
        train(recipe(), [override])


# --- the table, and its picture ----------------------------------------------------------------------------------


def test_the_table_counts_what_was_taken_for_what() -> None:
    logits = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 1.0]])
    classes = torch.tensor([0, 0, 1])
    whole = told([(logits, classes)])
    assert whole[1] == [[1, 1], [1, 0]]
    assert whole[0]["accuracy"] == pytest.approx(1 / 3)
    apart = told([(logits[:1], classes[:1]), (logits[1:], classes[1:])])
    assert apart[1] == whole[1]
    assert apart[0]["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, classes).item())


def test_the_picture_adds_up(recipe: Recipe) -> None:
    result = train(recipe())
    assert result.picture is not None
    words = [each.text for each in ElementTree.parse(result.picture).iter() if each.text and each.tag.endswith("text")]
    counts = [count for row in result.confusion for count in row]
    assert np.sum(result.confusion) == 28
    assert np.trace(result.confusion) == round(28 * result.measured["accuracy"]["test"])
    shares = [f"{count / 14:.1%}" for count in counts]
    assert [word for word in words if word in {str(count) for count in counts} | {*shares}][-8:] == [
        word for pair in zip(map(str, counts), shares, strict=True) for word in pair
    ]
    assert words.count("sea") == words.count("wood") == 2
    assert words.count("14") >= 2  # how many there are of each
    told_right = f"{np.trace(result.confusion)} of 28 texts of the test told right"
    assert any(word.startswith(told_right) for word in words)


def test_a_picture_of_anything_is_well_formed_and_within_its_edges() -> None:
    names = ["<b>&", "a name that is far too long to be written there at all", *map(str, range(8))]
    picture = ElementTree.fromstring(draw([[1000 * i for i in range(10)] for _ in range(10)], names, "images"))
    _, _, width, height = map(float, picture.attrib["viewBox"].split())
    for each in picture.iter():
        assert 0 <= float(each.attrib.get("x", 0)) <= width
        assert 0 <= float(each.attrib.get("y", 0)) <= height
    assert "<b>&" in [each.text for each in picture.iter()]
    ElementTree.fromstring(draw([[0, 0], [0, 0]], ["none", "at all"], "texts"))


def test_the_command_prints_the_table_by_name_and_where_the_picture_is(
    recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.call(["train", recipe(), "steps=5"]) == 0
    *_, title, columns, first, second, _, picture = capsys.readouterr().out.splitlines()
    assert title.startswith("How many texts of the test")
    assert columns.split() == ["sea", "wood"]
    assert cli.call(["train", recipe(), "steps=5", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [row.split()[0] for row in (first, second)] == said["classes"]
    assert [[int(word) for word in row.split()[1:]] for row in (first, second)] == said["confusion"]
    assert picture.endswith(said["picture"])
    assert Path(said["picture"]).is_file()
