"""Image files to what a vision model reads, as the reference's image processors prepare it.

    file --> header checked --> decoded --> turned as EXIF says --> 8 bits, grey or RGB --> resized --> cropped
         --> rescaled --> normalised --> (C, Y, X), float32

Shapes: C channels, Y rows and X columns of pixels. A file is untrusted: its size and the size of what is in it are
looked at before anything is decoded.
"""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from cutaway.errors import Misuse, NotFound, Refused
from cutaway.families.config import Config, inside, read_json, shown
from cutaway.model import spec

from .guard import first_line

if TYPE_CHECKING:  # else imported where it is used: most models never see an image
    from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
LARGEST_FILE = 128 * 2**20  # bytes
MOST_PIXELS = 2**27  # of a picture as it is decoded, and of one on the way to what a model reads
FILE = "preprocessor_config.json"
LARGEST_CONFIG = 2**20  # bytes; real ones have some hundred
LARGEST_SIDE = 2**13  # pixels, of what a picture is resized to
_STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")

Source: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image"
"""A path, the content of a file, or an image that is already decoded."""


# --- opening -----------------------------------------------------------------------------------------------------


def open(source: Source) -> tuple[Image.Image, list[str]]:
    """A picture the right way up, of 8 bits a channel, and a sentence where it is not all that the file holds.

    Raises NotFound where there is no file, Misuse for what is no file, Refused for one that is too large, damaged or
    no image.
    """
    from PIL import Image, UnidentifiedImageError

    if isinstance(source, Image.Image):
        return _decoded(source, "The image")
    content, name = (source, "The image") if isinstance(source, bytes) else (_content(Path(source)), str(source))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MOST_PIXELS is checked below
            picture = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        raise Refused(f"{name} is no image that can be read.", "Give a JPEG, PNG, WebP or GIF file.") from None
    except Image.DecompressionBombError:
        raise _too_many(name) from None
    except Exception as error:  # whatever a decoder raises over a file it does not like
        raise _damaged(name, error) from None
    return _decoded(picture, name)


def _content(path: Path) -> bytes:
    if path.is_dir():
        raise Misuse(f"{path} is a folder.", "Name an image file.")
    if not path.is_file():
        raise NotFound(f"There is no file {path}.", "Name an image file.")
    if (size := path.stat().st_size) > LARGEST_FILE:
        raise Refused(
            f"{path} has {size / 2**20:,.0f} MiB; at most {LARGEST_FILE // 2**20} are read.", "Make it smaller."
        )
    return path.read_bytes()


def _decoded(picture: Image.Image, name: str) -> tuple[Image.Image, list[str]]:
    from PIL import ImageOps

    if math.prod(picture.size) > MOST_PIXELS:
        raise _too_many(name, picture.size)
    try:
        several = getattr(picture, "is_animated", False)
        picture.load()
        turned = _in_8_bits(ImageOps.exif_transpose(picture))
    except Exception as error:  # whatever a decoder raises over a file that ends too early, or is damaged
        raise _damaged(name, error) from None
    return turned, [f"{name} holds several pictures; the first was read."] if several else []


def _in_8_bits(picture: Image.Image) -> Image.Image:
    """Sixteen bits a channel scaled to eight: converting them would clip."""
    from PIL import Image

    if not picture.mode.startswith("I"):
        return picture
    return Image.fromarray((np.asarray(picture).clip(0, 65535) / 257).round().astype(np.uint8))


def _too_many(name: str, size: tuple[int, int] | None = None) -> Refused:
    what = "more pixels than are read" if size is None else f"{size[0]:,} by {size[1]:,} pixels"
    return Refused(f"{name} has {what}; the limit is {MOST_PIXELS:,} in all.", "Make it smaller.")


def _damaged(name: str, error: Exception) -> Refused:
    return Refused(f"{name} cannot be decoded: {first_line(error)}.", "It may be cut short; fetch it again.")


# --- preparing ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Preparation:
    """How a picture becomes what a model reads: ``resize`` to (Y, X), or its shorter side to a number; ``crop`` of
    (Y, X) from the middle, with black around where it is larger; then ``scale`` * level - ``mean``, over ``std``, one
    number for each channel. ``warnings``: what the file says that nobody here understands."""

    channels: int
    side: int
    resize: tuple[int, int] | int | None
    filter: Image.Resampling
    crop: tuple[int, int] | None
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    warnings: tuple[str, ...] = ()

    def __call__(self, picture: Image.Image) -> Tensor:
        """(C, Y, X), float32. Raises Misuse for a picture that does not come out as the model reads it."""
        picture = picture.convert("L" if self.channels == 1 else "RGB")
        if self.resize is not None:
            columns, rows = self._size(picture.size, self.resize)
            picture = picture.resize((columns, rows), self.filter)
        if self.crop is not None:
            rows, columns = self.crop
            left, top = (picture.width - columns) // 2, (picture.height - rows) // 2
            picture = picture.crop((left, top, left + columns, top + rows))
        if picture.size != (self.side, self.side):
            raise Misuse(
                f"The image comes out {picture.width} by {picture.height} pixels; the model reads {self.side} by "
                f"{self.side}, and its {FILE} leaves the shape as it is.",
                "Cut or resize it first.",
            )
        levels = np.asarray(picture).reshape(self.side, self.side, self.channels).transpose(2, 0, 1)
        scaled = (levels.astype(np.float64) * self.scale).astype(np.float32)
        mean, std = (np.array(numbers, np.float32)[:, None, None] for numbers in (self.mean, self.std))
        return torch.from_numpy((scaled - mean) / std)

    def _size(self, size: tuple[int, int], resize: tuple[int, int] | int) -> tuple[int, int]:
        """(X, Y) after resizing."""
        if isinstance(resize, tuple):
            return resize[1], resize[0]
        width, height = size
        short, long = resize, int(resize * max(size) / min(size))
        if short * long > MOST_PIXELS:
            raise Misuse(f"An image of {width:,} by {height:,} pixels is too long and narrow.", "Cut a part out of it.")
        return (short, long) if width <= height else (long, short)

    def levels(self) -> dict[str, Any]:
        """What makes grey levels of the numbers again, ready for JSON: (number * std + mean) / scale."""
        return {"scale": self.scale, "mean": list(self.mean), "std": list(self.std)}


#: What the reference's processors do where a file is silent, by the beginning of their names.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "ViT": {"size": 224, "resample": 2, "do_center_crop": False, "crop_size": 224},
    "DeiT": {"size": 256, "resample": 3, "do_center_crop": True, "crop_size": 224},
}
_BY_MODEL = {"vit": "ViT", "deit": "DeiT"}
#: What a file says of its makers and of how their arrays are laid out; nothing here depends on it.
_INERT = (
    "processor_class", "feature_extractor_type", "image_processor_type", "_valid_processor_keys", "data_format",
    "input_data_format", "return_tensors", "device", "disable_grouping", "do_convert_rgb",
)  # fmt: skip


def preparation_of(folder: Path, model_type: str, stem: spec.Patches) -> Preparation:
    """What preprocessor_config.json says, or the family's defaults where there is none.

    Raises Refused for a step that is not computed here, and for one whose result the model does not read.
    """
    if stem.channels not in (1, 3):
        raise Refused(
            f"The model reads images of {stem.channels} channels; files hold 1 or 3.", "Choose another model."
        )
    path = inside(folder, FILE)
    if path.is_file():
        content = read_json(path, LARGEST_CONFIG)
    else:  # at the model's own size, with the margin that the family's defaults have around theirs
        content = {"size": _DEFAULTS[_BY_MODEL[model_type]]["size"] * stem.image // 224, "crop_size": stem.image}
    return _read(Config(content, file=FILE), _kind(content, model_type), stem)


def _kind(content: Mapping[str, Any], model_type: str) -> str:
    """Whose defaults hold: those of the processor that the file names, or of the model's family."""
    named = content.get("image_processor_type") or content.get("feature_extractor_type") or _BY_MODEL[model_type]
    for kind in _DEFAULTS:
        if isinstance(named, str) and named.startswith(kind):
            return kind
    raise Refused(
        f"{FILE} is of a {shown(named)}, whose steps Cutaway does not know.",
        f"Known are those of {' and '.join(f'{kind}ImageProcessor' for kind in _DEFAULTS)}.",
    )


def _read(c: Config, kind: str, stem: spec.Patches) -> Preparation:
    from PIL import Image

    defaults = _DEFAULTS[kind]
    c.ignore(*_INERT)
    size, cut = _extent(c, "size", defaults["size"]), _extent(c, "crop_size", defaults["crop_size"])
    resize = size if c.flag("do_resize", True) else None
    crop = cut if c.flag("do_center_crop", defaults["do_center_crop"]) else None
    if isinstance(crop, int):
        raise Refused(f"{FILE} says crop_size.shortest_edge, by which nothing is cut.", "Say height and width.")
    last = crop or resize
    if isinstance(last, tuple) and last != (stem.image, stem.image):
        raise Refused(
            f"{FILE} makes images of {last[1]} by {last[0]} pixels; the model reads {stem.image} by {stem.image}.",
            "Check that it belongs to this checkpoint.",
        )
    resample = c.integer("resample", defaults["resample"], most=max(Image.Resampling), least=0)
    factor = c.number("rescale_factor", 1 / 255)
    mean, std = (_of_channels(c, key, stem.channels) for key in ("image_mean", "image_std"))
    if 0 in std:
        raise Refused(f"{FILE} says image_std = 0, by which nothing can be divided.", "Correct it.")
    rescale, normalise = c.flag("do_rescale", True), c.flag("do_normalize", True)
    for key in c:
        if key.startswith("do_") and key not in _STEPS:
            c.only(key, False)
    c.only("crop_pct")
    return Preparation(
        stem.channels,
        stem.image,
        resize,
        Image.Resampling(resample),
        crop,
        scale=factor if rescale else 1.0,
        mean=mean if normalise else (0.0,) * stem.channels,
        std=std if normalise else (1.0,) * stem.channels,
        warnings=tuple(c.warnings()),
    )


def _extent(c: Config, key: str, default: int) -> tuple[int, int] | int:
    """(Y, X), which a file may write as one number, as two or by name; or the number that the shorter side becomes."""
    stated = c.any(key, default)
    if isinstance(stated, dict):
        named = c.part(key)
        for other in ("longest_edge", "max_height", "max_width"):
            named.only(other)
        if named.has("shortest_edge"):
            return int(named.integer("shortest_edge", most=LARGEST_SIDE))
        return named.integer("height", most=LARGEST_SIDE), named.integer("width", most=LARGEST_SIDE)
    sides = stated if isinstance(stated, list) and len(stated) == 2 else [stated, stated]
    rows, columns = (Config({key: side}, file=FILE).integer(key, most=LARGEST_SIDE) for side in sides)
    return rows, columns


def _of_channels(c: Config, key: str, channels: int) -> tuple[float, ...]:
    """A number for each channel, of which a file may write one for all."""
    stated = c.any(key, 0.5)
    numbers = stated if isinstance(stated, list) else [stated] * channels
    if len(numbers) != channels or any(isinstance(x, bool) or not isinstance(x, int | float) for x in numbers):
        raise Refused(f"{FILE} says {key} = {shown(stated)}; it must be {channels} numbers.", "Correct it.")
    return tuple(map(float, numbers))
