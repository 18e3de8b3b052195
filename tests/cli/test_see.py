"""see, and run --image: what they print is what Python says, and how they say no."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

import cutaway as package
from tests.tasks.test_see import HEADLESS, VIT, Make, photo, vision

__all__ = ["photo", "vision"]  # fixtures


def test_see_one_image(cutaway: Any, vision: Make, photo: Path) -> None:
    folder = vision(VIT, id2label={"0": "cat", "1": "\x1b[31mdog", "2": "nothing"})
    found = package.load(folder).see(photo)
    code, out, err = cutaway("see", photo, "-m", folder, "--top", 2)
    lines = out.splitlines()
    assert (code, err, len(lines)) == (0, "", 4)
    assert lines[0].split() == ["probability", "logit", "class"]
    assert [line.split()[0] for line in lines[1:3]] == [f"{label.p:.4%}" for label in found.labels[:2]]
    assert lines[3].split() == [f"{found.labels[2].p:.4%}", "everything", "else,", "1", "classes"]
    assert "\x1b" not in cutaway("see", photo, "-m", folder).out
    assert "else" not in cutaway("see", photo, "-m", folder).out


def test_see_several_and_as_json(cutaway: Any, vision: Make, photo: Path) -> None:
    folder = vision()
    found = package.load(folder).see(photo)
    out = cutaway("see", photo, photo, "-m", folder).out
    assert out.count(f"{photo}:\n") == 2
    told = json.loads(cutaway("see", photo, photo, "-m", folder, "--top", 2, "--json").out)
    assert [one["image"] for one in told["images"]] == [str(photo)] * 2
    assert [label["p"] for label in told["images"][0]["labels"]] == [label.p for label in found.labels[:2]]
    assert told["images"][0]["rest"] == pytest.approx(found.labels[2].p)


def test_an_image_comes_from_standard_input(
    cutaway: Any, vision: Make, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = vision()
    expected = cutaway("see", photo, "-m", folder).out
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(photo.read_bytes())))
    assert cutaway("see", "-", "-m", folder).out == expected
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"x" * 100)))
    monkeypatch.setattr("cutaway.inputs.image.LARGEST_FILE", 99)
    assert cutaway("see", "-", "-m", folder).code == 2


def test_run_of_an_image(cutaway: Any, vision: Make, photo: Path, tmp_path: Path) -> None:
    folder = vision()
    code, out, _ = cutaway("run", "--image", photo, "-m", folder, "--save", tmp_path / "x.cutaway")
    lines = out.splitlines()
    assert (code, lines[0]) == (0, f"{folder}: 10 tokens, {len(lines) - 1} tensors by name")
    assert lines[1].split() == ["image", "C", "Y", "X", "3×24×24"]
    record = package.open(tmp_path / "x.cutaway")
    assert record["image"].shape == (3, 24, 24)
    told = json.loads(cutaway("run", "--image", photo, "-m", folder, "--json").out)
    assert told["pieces"][1]["text"] == "row 0, column 0"
    assert told["stored"]["image"] == [3, 24, 24]
    names = cutaway("names", folder)
    assert names.out.splitlines()[0].split() == ["image", "C", "Y", "X"]
    assert "pixels" in names.err


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["see"], 2, "There is no image."),
        (["see", "PHOTO", "--top", 0], 2, "--top is 0."),
        (["see", "nothing.png"], 3, "There is no file nothing.png."),
        (["see", "."], 2, ". is a folder."),
        (["see", "BROKEN"], 4, "cannot be decoded"),
        (["run"], 2, "Give a text, --image or --sound, one of the three."),
        (["run", "a", "--image", "PHOTO"], 2, "Give a text, --image or --sound, one of the three."),
        (["run", "a"], 2, "reads images, not texts."),
        (["heads", "a"], 2, "reads images, not texts."),
        (["explain", "logits[0]", "--text", "a"], 2, "reads images, not texts."),
        (["lens", "a"], 2, "has no words at the end of its stream."),
        (["classify", "a"], 2, "does not classify texts: it tells what an image shows."),
        (["next", "a"], 2, "does not continue texts: it tells what an image shows."),
    ],
)
def test_what_makes_no_sense_is_said(
    cutaway: Any, vision: Make, photo: Path, tmp_path: Path, words: list[Any], code: int, says: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (tmp_path / "broken.png").write_bytes(photo.read_bytes()[:300])
    monkeypatch.chdir(tmp_path)
    files = {"PHOTO": photo, "BROKEN": tmp_path / "broken.png"}
    found = cutaway(*(files.get(word, word) for word in words), "-m", vision())
    assert (found.code, found.out) == (code, "")
    assert says in found.err
    assert len(found.err.splitlines()) <= 2


def test_a_model_without_a_head_says_what_it_does(cutaway: Any, vision: Make, photo: Path) -> None:
    code, _, err = cutaway("see", photo, "-m", vision(HEADLESS))
    assert (code, err.splitlines()[1]) == (2, "Ask it with embed or similar.")
    assert "48 numbers" in cutaway("embed", photo, "-m", vision(HEADLESS)).out


def test_a_number_of_a_picture_goes_back_to_its_grey_levels(cutaway: Any, tmp_path: Path) -> None:
    Image.new("L", (28, 28), 51).save(tmp_path / "grey.png")
    for cell, told in (
        ("image[0,6,10]", ["channel 0, row 6, column 10", "51 level[0,6,10]", "recorded"]),
        ("embed[3,7]", ["position 3 'row 0, column 2', number 7", "weights.stem.patch.weight[7,0,"]),
        ("logits[7]", ["class 7 '7'", "final[0,"]),
    ):
        code, out, err = cutaway("explain", cell, "--image", tmp_path / "grey.png")
        assert code == 0, err
        for words in told:
            assert words in out
