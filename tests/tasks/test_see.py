"""What images show, as the reference sees it; the run of an image; and what is said where it makes no sense."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import cutaway
from cutaway import look
from cutaway.errors import CutawayError, Misuse, NotFound, Refused
from tests.families.making import make
from tests.families.variants import IMAGE

NAMES = {"0": "cat", "1": "dog", "2": "nothing"}
VIT: dict[str, Any] = {
    "model_type": "vit", "architectures": ["ViTForImageClassification"], **IMAGE, "num_hidden_layers": 2,
    "id2label": NAMES, "label2id": {name: int(i) for i, name in NAMES.items()},
}  # fmt: skip
DEIT = {**VIT, "model_type": "deit", "architectures": ["DeiTForImageClassificationWithTeacher"]}
HEADLESS = {**VIT, "architectures": ["ViTModel"]}

Make = Callable[..., Path]


@pytest.fixture
def vision(tmp_path: Path) -> Make:
    """vision(VIT, num_channels=1) -> the folder of a random model of that config, with its preprocessing."""

    def made(config: dict[str, Any] = VIT, **changes: Any) -> Path:
        config = {**config, **changes}
        folder = make(tmp_path / f"vision{len(list(tmp_path.iterdir()))}", config)
        kind = "DeiTImageProcessor" if config["model_type"] == "deit" else "ViTImageProcessor"
        side = {"height": 24, "width": 24}
        channels = config.get("num_channels", 3)
        says = {
            "image_processor_type": kind, "size": side, "crop_size": side, "resample": 2,
            "image_mean": [0.5] * channels, "image_std": [0.25] * channels,
        }  # fmt: skip
        (folder / "preprocessor_config.json").write_text(json.dumps(says))
        return folder

    return made


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    levels = np.random.default_rng(0).integers(0, 256, (30, 40, 3)).astype(np.uint8)
    Image.fromarray(levels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.mark.parametrize("config", [VIT, DEIT], ids=["vit", "deit"])
def test_the_reference_sees_the_same(vision: Make, photo: Path, config: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers", reason="compares with transformers, which is not installed")
    folder = vision(config)
    reference = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    kind = config["model_type"]
    module = getattr(getattr(transformers.models, kind), f"image_processing_pil_{kind}")
    (name,) = module.__all__
    shown = getattr(module, name).from_pretrained(folder)(Image.open(photo), return_tensors="pt")
    with torch.no_grad():
        logits = reference(**shown).logits[0]
    found = cutaway.load(folder).see(photo)
    order = logits.argsort(descending=True).tolist()
    assert [label.name for label in found.labels] == [NAMES[str(i)] for i in order]
    assert [label.p for label in found.labels] == pytest.approx(logits.softmax(0)[order].tolist(), abs=1e-5)
    assert (found.exclusive, found.tokens, found.notes) == (True, [], [])


def test_a_path_its_content_and_an_image_are_one(vision: Make, photo: Path) -> None:
    model = cutaway.load(vision())
    seen = [model.see(source) for source in (photo, str(photo), photo.read_bytes(), Image.open(photo))]
    assert all(one == seen[0] for one in seen)


def test_classes_that_do_not_exclude_each_other(vision: Make, photo: Path) -> None:
    found = cutaway.load(vision(problem_type="multi_label_classification")).see(photo)
    assert not found.exclusive
    for label in found.labels:
        assert label.p == pytest.approx(1 / (1 + 2.718281828459045**-label.logit))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_an_image_is_read_in_the_dtype_of_the_model(vision: Make, photo: Path, dtype: str) -> None:
    folder = vision()
    half, whole = (cutaway.load(folder, dtype=its).see(photo) for its in (dtype, "float32"))
    by_name = {label.name: label.logit for label in whole.labels}
    assert [label.logit for label in half.labels] == pytest.approx([by_name[x.name] for x in half.labels], rel=0.1)


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (24, 24)])
def test_images_of_any_shape_are_seen(vision: Make, size: tuple[int, int]) -> None:
    shares = [label.p for label in cutaway.load(vision()).see(Image.new("RGB", size, "red")).labels]
    assert sum(share or 0 for share in shares) == pytest.approx(1)


def test_notes_say_what_was_not_read(vision: Make, tmp_path: Path) -> None:
    folder = vision()
    says = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps({**says, "mood": "good"}))
    frames = [Image.new("RGB", (30, 30), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    several, unknown = cutaway.load(folder).see(tmp_path / "moving.gif").notes
    assert several.endswith("moving.gif holds several pictures; the first was read.")
    assert "mood" in unknown


# --- the run of an image -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [VIT, DEIT, HEADLESS], ids=["vit", "deit", "no head"])
def test_a_run_of_an_image_has_every_name_and_comes_back(
    vision: Make, photo: Path, tmp_path: Path, config: dict[str, Any]
) -> None:
    model = cutaway.load(vision(config))
    run = model.run(image=photo)
    assert run.names() == [*model.names(), "river"]
    for name in run.names():
        assert run[name].shape == run.shape(name)
        assert len(run.axes(name)) == run[name].ndim
    assert run.axes("image") == ("C", "Y", "X")
    assert run["image"].shape == (3, 24, 24)
    if config is not HEADLESS:
        by_name = {label.name: label.logit for label in model.see(photo).labels}
        assert run["logits"].tolist() == pytest.approx([by_name[name] for name in NAMES.values()], abs=1e-5)
        assert run.vocabulary() == list(NAMES.values())
    run.save(tmp_path / "run.cutaway", include="blocks.0.attn.pattern")
    again = cutaway.open(tmp_path / "run.cutaway")
    assert again.description() == run.description()
    for name in ("image", "blocks.0.attn.pattern", "final", *(["logits"] if config is not HEADLESS else [])):
        assert torch.equal(again[name], run[name]), name
    assert again.vocabulary() == run.vocabulary()


def test_what_stands_at_each_position_is_named(vision: Make, photo: Path) -> None:
    run = cutaway.load(vision(DEIT)).run(image=photo)
    assert [piece["text"] for piece in run.pieces[:4]] == [
        "class",
        "distillation",
        "row 0, column 0",
        "row 0, column 1",
    ]
    assert run.pieces[-1] == {"text": "row 2, column 2", "special": False, "row": 2, "column": 2}
    assert len(run.pieces) == run.length == len(run["embed"]) == 11
    assert (run.tokens, run.text) == ([], None)


def test_each_patch_becomes_the_vector_of_its_name(vision: Make, photo: Path) -> None:
    model = cutaway.load(vision())
    run = model.run(image=photo)
    weight = model.machine.state_dict()["stem.patch.weight"].flatten(1)
    for position, piece in list(enumerate(run.pieces))[1:]:
        y, x = 8 * piece["row"], 8 * piece["column"]
        patch = run["image"][:, y : y + 8, x : x + 8].flatten()
        expected = weight @ patch + model.machine.state_dict()["stem.patch.bias"]
        torch.testing.assert_close(run["embed"][position], expected, rtol=1e-4, atol=1e-4)


def test_numbers_of_the_image_become_grey_levels_again(vision: Make, photo: Path) -> None:
    run = cutaway.load(vision()).run(image=photo)
    how = run.settings["image"]
    mean, std = (torch.tensor(how[key])[:, None, None] for key in ("mean", "std"))
    levels = (run["image"] * std + mean) / how["scale"]
    expected = np.asarray(Image.open(photo).resize((24, 24), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.abs(levels.numpy() - expected).max() < 1e-3


def test_a_part_of_the_image_can_be_covered(vision: Make, photo: Path) -> None:
    model = cutaway.load(vision())

    def covered(pixels: torch.Tensor) -> torch.Tensor:
        pixels = pixels.clone()
        pixels[:, :8, 8:16] = 0
        return pixels

    plain, edited = model.run(image=photo), model.run(image=photo, edit={"image": covered})
    assert edited.edits == ["image"]
    assert torch.equal(plain["embed"][1], edited["embed"][1])
    assert not torch.equal(plain["embed"][2], edited["embed"][2])
    assert not torch.equal(plain["logits"], edited["logits"])
    found = look.compare(plain, edited, at=(0, 0))
    assert found.cosine is not None
    assert found.cosine[0] == pytest.approx(1)
    assert found.cosine[-1] < 1


def test_what_needs_tokens_says_so(vision: Make, photo: Path) -> None:
    run = cutaway.load(vision()).run(image=photo, keep=["*"])
    for ask in (
        lambda: run["blocks.0.attn.kinds"],
        lambda: run["lens.p"],
        lambda: run["blocks.0.mlp.promotes.ids"],
    ):
        with pytest.raises(Misuse):
            ask()


def test_keep_and_what_is_too_large(vision: Make, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = cutaway.load(vision())
    assert set(model.run(image=photo, keep=["image", "logits"]).tensors) == {"image", "logits"}
    monkeypatch.setattr("cutaway.api.RECORD_BYTES", 1000)
    with pytest.raises(Misuse, match="Recording 10 tokens"):
        model.run(image=photo)


# --- vectors -----------------------------------------------------------------------------------------------------


def test_vectors_of_images(vision: Make, photo: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="compares with transformers, which is not installed")
    folder = vision(HEADLESS)
    Image.new("RGB", (40, 30), "green").save(tmp_path / "green.png")
    paths = [str(photo), str(tmp_path / "green.png")] * 6
    model = cutaway.load(folder)
    found = model.embed(paths)
    assert found.shape == (12, 48)
    pixels = model.run(image=photo)["image"][None]
    with torch.no_grad():
        theirs = transformers.AutoModel.from_pretrained(folder)(pixels).last_hidden_state[0, 0]
    torch.testing.assert_close(found[0], theirs, rtol=0, atol=1e-5 * float(theirs.abs().max()))
    assert model.similar(paths[0], paths[:2])[0] == pytest.approx(1, abs=1e-5)
    assert model.similar(paths[0], paths[:2])[1] < 0.9999


# --- what makes no sense -----------------------------------------------------------------------------------------


def test_every_model_says_what_it_is_instead(vision: Make, photo: Path, tmp_path: Path) -> None:
    sees, embeds, continues = (
        cutaway.load(folder) for folder in (vision(), vision(HEADLESS), make(tmp_path / "llama"))
    )
    for ask, says in (
        (lambda: sees.next("a"), "does not continue texts: it tells what an image shows. Ask it with see."),
        (lambda: sees.generate("a"), "does not continue texts"),
        (lambda: sees.fill("[MASK]"), "does not fill masks: it tells what an image shows"),
        (lambda: sees.classify("a"), "does not classify texts: it tells what an image shows"),
        (lambda: sees.run("a"), "reads images, not texts"),
        (lambda: sees.run(tokens=[1]), "reads images, not texts"),
        (lambda: sees.tokens("a"), "reads images, not texts"),
        (lambda: embeds.see(photo), "does not see images: it makes vectors. Ask it with embed or similar."),
        (lambda: continues.see(photo), "does not see images: it continues a text. Ask it with next or generate."),
        (lambda: continues.run(image=photo), "reads texts, not images"),
        (lambda: sees.run("a", image=photo), "one of them"),
    ):
        with pytest.raises(Misuse, match=says):
            ask()


def test_files_that_are_no_good(vision: Make, photo: Path, tmp_path: Path) -> None:
    model = cutaway.load(vision())
    whole = photo.read_bytes()
    for source, kind in (
        (tmp_path / "nothing.png", NotFound),
        (tmp_path, Misuse),
        (b"hello", Refused),
        (whole[: len(whole) // 2], Refused),
    ):
        with pytest.raises(CutawayError) as caught:
            model.see(source)
        assert type(caught.value) is kind
    with pytest.raises(Misuse, match="no text"):
        model.embed([])


def test_preprocessing_is_read_when_it_is_needed(vision: Make, photo: Path) -> None:
    folder = vision()
    (folder / "preprocessor_config.json").write_text('{"size": 24, "do_pad": true}')
    model = cutaway.load(folder)
    with pytest.raises(Refused, match="do_pad"):
        model.see(photo)


def test_grey_models_see_colours_as_grey(vision: Make) -> None:
    model = cutaway.load(vision(num_channels=1))
    colour = Image.fromarray(np.random.default_rng(1).integers(0, 256, (24, 24, 3)).astype(np.uint8))
    file = io.BytesIO()
    colour.save(file, "PNG")
    assert model.see(colour) == model.see(colour.convert("L")) == model.see(file.getvalue())
    assert model.run(image=colour)["image"].shape == (1, 24, 24)
