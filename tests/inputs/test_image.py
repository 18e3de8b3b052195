"""Images as the reference's processors prepare them, and what is said to files that are no good."""

from __future__ import annotations

import contextlib
import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cutaway.errors import CutawayError, Misuse, NotFound, Refused
from cutaway.inputs import image
from cutaway.model import spec

STEM = spec.Patches(48, image=24, patch=8)
GREY = spec.Patches(48, image=24, patch=8, channels=1)


def picture(width: int = 61, height: int = 37, mode: str = "RGB") -> Image.Image:
    """Waves and noise: every filter makes something else of it."""
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(0).integers(0, 60, (height, width, 3))
    waves = 98 + 97 * np.sin(np.stack([x / 3, y / 5, (x + y) / 7], -1))
    return Image.fromarray((waves + noise).astype(np.uint8)).convert(mode)


def encoded(shown: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    shown.save(file, format, **options)
    return file.getvalue()


def prepared(says: dict[str, Any] | None, folder: Path, stem: spec.Patches = STEM, model_type: str = "vit") -> Any:
    if says is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(says))
    return image.preparation_of(folder, model_type, stem)


# --- as the reference does ---------------------------------------------------------------------------------------

VIT = {"image_processor_type": "ViTImageProcessor", "size": {"height": 24, "width": 24}}
SAYS: dict[str, dict[str, Any]] = {
    "as they are written now": {
        **VIT, "do_resize": True, "do_rescale": True, "do_normalize": True, "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.5, 0.6, 0.7], "resample": 2, "rescale_factor": 0.00392156862745098,
    },
    "as they were written": {
        "do_normalize": True, "do_resize": True, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
        "feature_extractor_type": "ViTFeatureExtractor", "size": 24,
    },
    "deit, as they were written": {
        "crop_size": 24, "do_center_crop": True, "do_normalize": True, "do_resize": True, "resample": 3, "size": 32,
        "feature_extractor_type": "DeiTFeatureExtractor", "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    },
    "deit, silent": {
        "image_processor_type": "DeiTImageProcessor", "size": {"height": 29, "width": 27}, "crop_size": [24, 24]
    },
    "deit, cut larger than it is": {"image_processor_type": "DeiTImageProcessor", "size": 17, "crop_size": 24},
    "shorter side": {**VIT, "size": {"shortest_edge": 25}, "do_center_crop": True, "crop_size": 24, "resample": 1},
    "not normalised": {**VIT, "do_normalize": False, "resample": 0},
    "not rescaled": {**VIT, "do_rescale": False, "resample": 4},
    "another filter, one mean for all": {**VIT, "resample": 5, "image_mean": 0.3, "image_std": 0.2},
}  # fmt: skip


def of_the_reference(name: str, folder: Path, suffix: str) -> Any:
    transformers = pytest.importorskip("transformers", reason="compares with transformers, which is not installed")
    kind = "DeiTImageProcessor" if name.startswith("deit") else "ViTImageProcessor"
    module = kind.removesuffix("ImageProcessor").lower()
    file = f"image_processing_{'pil_' if suffix else ''}{module}"
    found = getattr(transformers.models, module)
    return getattr(getattr(found, file), kind + suffix).from_pretrained(folder)


@pytest.mark.parametrize("size", [(61, 37), (20, 90), (5, 9), (24, 24), (1, 1), (640, 11)])
@pytest.mark.parametrize("name", SAYS)
def test_the_reference_prepares_the_same(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    how, shown = prepared(SAYS[name], tmp_path), picture(*size)
    theirs = of_the_reference(name, tmp_path, "Pil")(shown, return_tensors="pt")["pixel_values"][0]
    ours = how(shown)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs.float(), rtol=0, atol=1e-5 * float(theirs.abs().max()))


@pytest.mark.parametrize("name", SAYS)
def test_the_other_reference_is_within_one_grey_level(name: str, tmp_path: Path) -> None:
    pytest.importorskip("torchvision", reason="compares with torchvision, which is not installed")
    if SAYS[name].get("resample") in (1, 4, 5):
        pytest.skip("torchvision has no such filter on tensors")
    if name == "deit, cut larger than it is":
        pytest.skip("of an odd margin the two references leave the larger half on different sides")
    how, shown = prepared(SAYS[name], tmp_path), picture()
    theirs = of_the_reference(name, tmp_path, "")(shown, return_tensors="pt")["pixel_values"][0]
    level = how.scale / torch.tensor(how.std)[:, None, None]
    assert float(((how(shown) - theirs) / level).abs().max()) <= 1.001


def test_one_channel_is_grey(tmp_path: Path) -> None:
    says = {**VIT, "image_mean": [0.5], "image_std": [0.5]}
    how, shown = prepared(says, tmp_path, GREY), picture()
    theirs = of_the_reference("vit", tmp_path, "Pil")(shown.convert("L"), return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(how(shown), theirs.float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("model_type", "side", "crop"), [("vit", 24, None), ("deit", 27, (24, 24))])
def test_without_a_file_the_family_s_defaults_hold(tmp_path: Path, model_type: str, side: int, crop: Any) -> None:
    how = prepared(None, tmp_path, STEM, model_type)
    assert (how.resize, how.crop, how.mean, how.std) == ((side, side), crop, (0.5,) * 3, (0.5,) * 3)
    assert how.filter == (Image.Resampling.BICUBIC if crop else Image.Resampling.BILINEAR)
    assert how(picture()).shape == (3, 24, 24)


def test_numbers_become_grey_levels_again(tmp_path: Path) -> None:
    how, shown = prepared(SAYS["as they are written now"], tmp_path), picture(24, 24)
    says = how.levels()
    mean, std = (torch.tensor(says[key])[:, None, None] for key in ("mean", "std"))
    levels = (how(shown) * std + mean) / says["scale"]
    assert np.array_equal(levels.round().numpy().astype(np.uint8), np.asarray(shown).transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("says", "named"),
    [
        ({"do_pad": True}, "do_pad"),
        ({"do_flip_channel_order": True}, "do_flip_channel_order"),
        ({"do_anything_else": 1}, "do_anything_else"),
        ({"crop_pct": 0.9}, "crop_pct"),
        ({"image_processor_type": "CLIPImageProcessor"}, "CLIPImageProcessor"),
        ({"image_processor_type": 7}, "of a 7"),
        ({"size": {"height": 32, "width": 32}}, "32 by 32 pixels; the model reads 24 by 24"),
        ({"size": 0}, "whole number"),
        ({"size": 10**6}, "whole number"),
        ({"size": [24, "24"]}, "whole number"),
        ({"size": {"longest_edge": 24}}, "longest_edge"),
        ({"size": {"shortest_edge": 24, "longest_edge": 40}}, "longest_edge"),
        ({"size": {}}, "size.height"),
        ({"do_center_crop": True, "crop_size": {"shortest_edge": 24}}, "shortest_edge"),
        ({"do_center_crop": True, "crop_size": 20}, "20 by 20 pixels"),
        ({"resample": 9}, "resample"),
        ({"resample": "cubic"}, "resample"),
        ({"image_mean": [0.5]}, "3 numbers"),
        ({"image_mean": [0.5, 0.5, "x"]}, "3 numbers"),
        ({"image_std": [0.5, 0.5, 0]}, "divided"),
        ({"rescale_factor": 0}, "rescale_factor"),
        ({"do_resize": "yes"}, "do_resize"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(tmp_path: Path, says: dict[str, Any], named: str) -> None:
    with pytest.raises(Refused, match=named) as caught:
        prepared({**VIT, **says}, tmp_path)
    assert "preprocessor_config.json" in str(caught.value)


def test_what_nobody_knows_is_a_warning(tmp_path: Path) -> None:
    says = {**VIT, "do_pad": False, "do_convert_rgb": None, "processor_class": "ViTProcessor", "mood": "good"}
    (warning,) = prepared(says, tmp_path).warnings
    assert warning == 'preprocessor_config.json says mood = "good", which Cutaway does not know.'


def test_channels_no_file_has(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="4 channels"):
        prepared(VIT, tmp_path, spec.Patches(48, image=24, patch=8, channels=4))


def test_shapes_that_do_not_come_out_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    how = prepared({**VIT, "size": {"shortest_edge": 24}}, tmp_path)
    assert how(picture(50, 50)).shape == (3, 24, 24)
    with pytest.raises(Misuse, match="39 by 24 pixels; the model reads 24 by 24"):
        how(picture())
    with pytest.raises(Misuse, match="30 by 24 pixels"):
        prepared({**VIT, "do_resize": False}, tmp_path)(picture(30, 24))
    long = prepared({**VIT, "size": {"shortest_edge": 24}, "do_center_crop": True, "crop_size": 24}, tmp_path)
    monkeypatch.setattr(image, "MOST_PIXELS", 10**6)
    with pytest.raises(Misuse, match="too long and narrow"):
        long(Image.new("L", (9000, 1)))


# --- files -------------------------------------------------------------------------------------------------------


def png(width: int, height: int, bits: int = 8, colour: int = 2, rows: bytes = b"") -> bytes:
    """A PNG file by hand: its header says what it likes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF"])
def test_a_path_its_content_and_the_image_are_the_same(format: str, tmp_path: Path) -> None:
    content = encoded(picture(), format)
    (tmp_path / "x").write_bytes(content)
    opened = [image.open(source)[0].convert("RGB") for source in (content, tmp_path / "x", str(tmp_path / "x"))]
    opened.append(image.open(Image.open(io.BytesIO(content)))[0].convert("RGB"))
    assert len({one.tobytes() for one in opened}) == 1
    difference = np.abs(np.asarray(opened[0], float) - np.asarray(picture(), float))
    assert difference.mean() < 20


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_exif_says(orientation: int) -> None:
    upright = Image.fromarray(np.kron(np.arange(6).reshape(2, 3) * 50, np.ones((16, 16))).astype(np.uint8))
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored = upright.transpose(turn[orientation]) if orientation in turn else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    opened, _ = image.open(encoded(stored, "JPEG", exif=exif, quality=95))
    assert opened.size == upright.size
    assert np.abs(np.asarray(opened, float) - np.asarray(upright, float)).max() < 6


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    levels = np.linspace(0, 65535, 24 * 24).reshape(24, 24).astype(np.uint16)
    opened, _ = image.open(encoded(Image.fromarray(levels)))
    assert opened.mode == "L"
    assert np.abs(np.asarray(opened, float) - levels / 257).max() <= 0.5
    rows = b"".join(b"\0" + row.tobytes() for row in np.repeat(levels.astype(">u2")[:, :, None], 3, -1))
    opened, _ = image.open(png(24, 24, bits=16, rows=rows))
    assert np.abs(np.asarray(opened.convert("L"), float) - levels / 257).max() <= 1


def test_cmyk_palettes_and_what_is_transparent() -> None:
    cmyk, _ = image.open(encoded(picture().convert("CMYK"), "JPEG", quality=95))
    assert np.abs(np.asarray(cmyk.convert("RGB"), float) - np.asarray(picture(), float)).mean() < 6
    clear = picture().convert("RGBA")
    clear.putalpha(0)
    opened, _ = image.open(encoded(clear))
    assert np.array_equal(np.asarray(opened.convert("RGB")), np.asarray(picture()))
    palette = picture().quantize(16)
    opened, _ = image.open(encoded(palette, transparency=3))
    assert np.array_equal(np.asarray(opened.convert("RGB")), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_of_several_pictures_the_first_is_read(format: str, tmp_path: Path) -> None:
    frames = [Image.new("L", (8, 8), level).convert("RGB") for level in (0, 120, 250)]
    path = tmp_path / "moving"
    path.write_bytes(encoded(frames[0], format, save_all=True, append_images=frames[1:], duration=50))
    opened, (note,) = image.open(path)
    assert note == f"{path} holds several pictures; the first was read."
    assert np.asarray(opened.convert("L")).max() < 10
    assert image.open(encoded(frames[0], format))[1] == []


@pytest.mark.parametrize("size", [(50_000, 50_000), (12_000, 12_000), (2**31 - 1, 1)])
def test_a_decompression_bomb_is_refused_by_its_header(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(Refused, match="pixels.*the limit is 134,217,728"):
        image.open(png(*size))


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.png").write_bytes(encoded(picture()))
    monkeypatch.setattr(image, "LARGEST_FILE", 100)
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("it was read"))
    with pytest.raises(Refused, match="at most 0 are read"):
        image.open(tmp_path / "x.png")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF"])
@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_a_file_that_is_cut_short_is_refused(format: str, kept: float) -> None:
    content = encoded(picture(), format)
    with pytest.raises(Refused, match=r"The image cannot be decoded|is no image"):
        image.open(content[: int(kept * len(content))])


@pytest.mark.parametrize("content", [b"", b"hello", b"%PDF-1.7", b"<svg xmlns='http://www.w3.org/2000/svg'/>"])
def test_what_is_no_image_is_refused(content: bytes) -> None:
    with pytest.raises(Refused, match="no image that can be read.*JPEG, PNG, WebP or GIF"):
        image.open(content)


def test_formats_that_nobody_asked_for_are_not_decoded() -> None:
    for format in ("BMP", "TIFF", "ICO", "PPM"):
        with pytest.raises(Refused, match="no image that can be read"):
            image.open(encoded(picture(), format))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no file"):
        image.open(tmp_path / "x.png")
    with pytest.raises(Misuse, match="folder"):
        image.open(tmp_path)


def test_any_damage_is_refused_or_harmless() -> None:
    random = np.random.default_rng(0)
    for format in ("JPEG", "PNG", "WEBP", "GIF"):
        whole = encoded(picture(), format)
        for _ in range(60):
            hurt = bytearray(whole)
            for place in random.integers(0, len(hurt), 3):
                hurt[place] = random.integers(256)
            with contextlib.suppress(CutawayError):
                image.open(bytes(hurt))[0].convert("RGB")
