"""Learning from images: the files, the order, the changes, going on after a stop, and what is left in the end."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cutaway import cli
from cutaway.errors import Failed, Misuse, NotFound, Refused
from cutaway.families import checkpoint
from cutaway.training import images, state, train
from cutaway.training.data import Order
from cutaway.training.images import changed, read, read_idx
from cutaway.training.recipe import Images, resolve

SIDE = 8
RECIPE = """
task = "see"
data = "{data}"
run = "{run}"
threads = 1
batch = 4
steps = 40
warmup = 5
lr = 1e-2
log_every = 5
save_every = 10
validate_every = 10

[[sources]]
format = "idx"
train = "train"
test = "test"
hold_out = 0.2

[images]
shift = 1.0
turn = 10.0
zoom = 0.1
invert = 0.25

[model]
model_type = "vit"
architectures = ["ViTForImageClassification"]
image_size = 8
patch_size = 4
num_channels = 1
hidden_size = 16
num_hidden_layers = 1
num_attention_heads = 2
intermediate_size = 24
"""


def write_idx(path: Path, numbers: np.ndarray) -> None:
    header = bytes([0, 0, 8, numbers.ndim]) + struct.pack(f">{numbers.ndim}I", *numbers.shape)
    path.write_bytes(gzip.compress(header + numbers.astype(np.uint8).tobytes()))


def draw(folder: Path, split: str, count: int, seed: int) -> None:
    """Bars of three kinds: lying, standing, none."""
    random = np.random.Generator(np.random.PCG64(seed))
    classes = random.integers(3, size=count)
    pictures = random.integers(40, size=(count, SIDE, SIDE))
    for picture, kind in zip(pictures, classes, strict=True):
        if kind == 0:
            picture[3:5] = 250
        elif kind == 1:
            picture[:, 3:5] = 250
    write_idx(folder / f"{split}-images-idx3-ubyte.gz", pictures)
    write_idx(folder / f"{split}-labels-idx1-ubyte.gz", classes)


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[[str], str]:
    draw(tmp_path, "train", 60, 1)
    draw(tmp_path, "test", 30, 2)

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


def test_training_tells_bars_apart_and_leaves_a_model(recipe: Callable[..., str]) -> None:
    result = train(recipe(), ["steps=150"])
    assert result.measured["accuracy"]["test"] >= 0.9
    assert (result.seen, result.unit) == (600, "images")
    assert np.trace(result.confusion) == round(30 * result.measured["accuracy"]["test"])
    assert np.sum(result.confusion) == 30
    assert {path.name for path in result.model.iterdir()} == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }
    config = checkpoint.open(result.model, strict=True).config
    assert config["id2label"] == {"0": "0", "1": "1", "2": "2"}
    assert config["dtype"] == "float32"
    lines = [json.loads(line) for line in (result.run / "metrics.jsonl").read_text().splitlines()]
    assert "valid_accuracy" in {key for line in lines for key in line}
    assert lines[-1]["images"] == 600


def test_the_table_counts_what_was_taken_for_what(recipe: Callable[..., str]) -> None:
    learned = images.See(resolve(recipe()))
    always_one = torch.nn.Module()
    always_one.forward = lambda shown: torch.tensor([[0.0, 5.0, 0.0]]).expand(len(shown), 3)  # type: ignore[assignment]
    measured, table = learned.measure(always_one)
    true = learned.splits["test"].classes.bincount(minlength=3).tolist()
    assert table == [[0, count, 0] for count in true]
    assert measured["accuracy"]["test"] == true[1] / 30


def test_a_stopped_run_goes_on_to_the_same_weights(recipe: Callable[..., str], stopped: Callable[..., None]) -> None:
    whole = train(recipe("whole"))
    stopped(lambda: train(recipe("broken")), at=17)
    broken = train(recipe("broken"))
    one, two = (run.run / "checkpoints/step-00000040" / state.TENSORS for run in (whole, broken))
    assert one.read_bytes() == two.read_bytes()
    assert broken.seen == whole.seen == 160


def test_a_step_that_is_not_finite_names_its_images(
    recipe: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = images.See.loss
    poisoned = lambda self, model, step: original(self, model, step) * (float("nan") if step == 3 else 1)  # noqa: E731
    monkeypatch.setattr(images.See, "loss", poisoned)
    with pytest.raises(Failed, match=r"step 3.*, images \["):
        train(recipe())


def test_an_epoch_visits_every_image_once_and_depends_on_seed_and_step_alone() -> None:
    order = Order(10, 4, seed=3)
    seen = np.concatenate([order.places(step) for step in range(5)])
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10].tolist() != seen[10:].tolist()
    assert np.array_equal(Order(10, 4, seed=3).places(2), order.places(2))
    assert not np.array_equal(Order(10, 4, seed=4).places(2), order.places(2))


def shown(how: Images, picture: torch.Tensor) -> torch.Tensor:
    return changed(picture, how, np.random.Generator(np.random.PCG64(0)))[:, 0]


def test_what_is_changed_in_an_image() -> None:
    picture = torch.zeros(50, 9, 9, dtype=torch.uint8)
    picture[:, 3:6, 4] = 255  # a bar in the middle
    torch.testing.assert_close(shown(Images(), picture), picture / 255, atol=1e-5, rtol=0)
    torch.testing.assert_close(shown(Images(invert=1), picture), 1 - picture / 255, atol=1e-5, rtol=0)
    share = (shown(Images(invert=0.3), picture)[:, 0, 0] > 0.5).float().mean()
    assert 0.1 < share < 0.5
    rows, columns = torch.meshgrid(torch.arange(9.0), torch.arange(9.0), indexing="ij")

    def centre(x: torch.Tensor) -> torch.Tensor:
        mass = x.sum((1, 2))
        return torch.stack([(x * rows).sum((1, 2)), (x * columns).sum((1, 2))], -1) / mass[:, None]

    moved = centre(shown(Images(shift=2.0), picture)) - 4
    assert 1.5 < moved.abs().max() <= 2.01
    assert moved.abs().min(1).values.max() > 0.5  # both ways
    turned = shown(Images(turn=40.0), picture)
    assert (centre(turned) - 4).abs().max() < 0.05
    assert (turned[:, 3:6, 4].sum(1) < 2.9).float().mean() > 0.7  # the bar leans
    zoomed = shown(Images(zoom=0.3), picture).sum((1, 2))
    assert zoomed.min() < 2.4
    assert zoomed.max() > 3.6


def test_splits_do_not_overlap(recipe: Callable[..., str]) -> None:
    splits = read(resolve(recipe()))
    assert {split: len(its) for split, its in splits.items()} == {"train": 48, "valid": 12, "test": 30}
    whole = torch.cat([splits["train"].images, splits["valid"].images])
    assert len(whole.flatten(1).unique(dim=0)) == 60


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "x-images-idx3-ubyte"
    packed = tmp_path / "x-images-idx3-ubyte.gz"
    with pytest.raises(NotFound, match="data="):
        read_idx(path, 3)
    write_idx(packed, np.arange(24).reshape(2, 3, 4))
    assert np.array_equal(read_idx(path, 3), np.arange(24).reshape(2, 3, 4))
    whole = gzip.decompress(packed.read_bytes())
    for damaged in (
        whole[:-1],
        whole + b"0",
        b"\x00\x00\x0d\x03" + whole[4:],
        whole[:7],
        b"",
        whole[:4] + b"\xff" * 12 + whole[16:],
    ):
        path.write_bytes(damaged)
        with pytest.raises(Refused):
            read_idx(path, 3)
    path.unlink()
    packed.write_bytes(packed.read_bytes()[:-10])
    with pytest.raises(Refused, match="damaged"):
        read_idx(path, 3)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("task=hear", "task must be continue or fill or see"),
        ("task=continue", "sources.format must be books"),
        ("images.zoom=1", "images.zoom must be below 1"),
        ("images.shift=-1", "images.shift must be at least 0"),
        ("images.std=0", "images.std must be above 0"),
        ("images.tilt=3", "No recipe has a key images.tilt"),
        ("model.image_size=16", "8 by 8 pixels"),
        ("model.num_channels=3", "one channel"),
        ("model.id2label={0 = 'lying', 1 = 'standing'}", "names 2 classes, the data has 3"),
    ],
)
def test_mistakes_are_named(recipe: Callable[..., str], override: str, says: str) -> None:
    with pytest.raises(Misuse, match=says):
        train(recipe(), [override])


def test_data_without_enough_in_it(recipe: Callable[..., str], tmp_path: Path) -> None:
    source = (tmp_path / "run.toml", RECIPE.replace("hold_out = 0.2", ""))
    recipe()
    source[0].write_text(source[1].format(data=tmp_path.as_posix(), run=(tmp_path / "run").as_posix()))
    with pytest.raises(Misuse, match="none to validate on"):
        train(str(source[0]))
    draw(tmp_path, "train", 0, 1)
    with pytest.raises(Misuse, match="no images to train on"):
        train(recipe())
    draw(tmp_path, "train", 60, 1)
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.zeros(59))
    with pytest.raises(Refused, match="60 images and 59 classes"):
        train(recipe())


def test_transformers_agrees_with_the_exported_model(recipe: Callable[..., str]) -> None:
    transformers = pytest.importorskip("transformers", reason="compares with transformers, which is not installed")
    result = train(recipe())
    theirs = transformers.AutoModelForImageClassification.from_pretrained(result.model)
    shown = torch.randn(2, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, reference = checkpoint.open(result.model).load()(shown), theirs(shown).logits
    assert (ours - reference).abs().max() <= 1e-5 * reference.abs().max()


def test_the_command_prints_what_was_measured_and_the_table(
    recipe: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.call(["train", recipe(), "steps=5"]) == 0
    model, valid, test, _, title, columns, *rows, _, picture = capsys.readouterr().out.splitlines()
    assert model.endswith("parameters, 5 steps, 20 images")
    assert [line.split(":")[0] for line in (valid, test)] == ["valid", "test"]
    assert "row" in title
    assert columns.split() == ["0", "1", "2"]
    assert cli.call(["train", recipe(), "steps=5", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [[int(word) for word in row.split()[1:]] for row in rows] == told["confusion"]
    assert told["images"] == 20
    assert picture.endswith(told["picture"])
    assert f"test: {told['accuracy']['test']:.4f} accuracy, {told['loss']['test']:.4f} loss" == test
