"""Learning what images show: images and their classes from IDX files, changed a little at random, to a classifier.

Shapes: N images, B of a batch, Y rows and X columns of pixels.

    images (N, Y, X), grey levels 0 to 255 --> picked, moved, turned, zoomed, perhaps inverted --> (B, 1, Y, X)
"""

from __future__ import annotations

import gzip
import json
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cutaway.errors import Misuse, NotFound, Refused
from cutaway.families import describe
from cutaway.files import write_atomically
from cutaway.model import spec
from cutaway.training.confusion import told
from cutaway.training.data import SPLITS, Order
from cutaway.training.objective import Told, of_held_out
from cutaway.training.recipe import Images, Recipe

LARGEST_FILE = 2**31  # bytes, unpacked
SHOWN = 500  # images that are looked at together when nothing is learned


@dataclass(frozen=True)
class Labelled:
    """Images uint8 (N, Y, X) and the class of each, int64 (N)."""

    images: Tensor
    classes: Tensor

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, places: slice) -> Labelled:
        return Labelled(self.images[places], self.classes[places])


class See:
    """The objective of images: cross-entropy of the class."""

    unit = "images"
    stored = torch.float32

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.splits = read(recipe)
        self.config = _complete(recipe, self.splits)
        self.classes = list(self.config["id2label"].values())
        self.per_step = recipe.batch
        self.order = Order(len(self.splits["train"]), recipe.batch, recipe.seed)

    def loss(self, model: nn.Module, step: int) -> Tensor:
        train, places = self.splits["train"], torch.from_numpy(self.order.places(step))
        random = np.random.Generator(np.random.PCG64([self.recipe.seed, step, 1]))
        shown = normalised(changed(train.images[places], self.recipe.images, random), self.recipe.images)
        return F.cross_entropy(model(shown), train.classes[places])

    def place(self, step: int) -> str:
        return f"images {self.order.places(step).tolist()}"

    def validate(self, model: nn.Module) -> dict[str, float]:
        return self._measures("valid", model)[0]

    def measure(self, model: nn.Module) -> Told:
        """Loss and accuracy on all of valid and test, and the table of what was taken for what in the test."""
        return of_held_out(self.splits, lambda split: self._measures(split, model))

    @torch.no_grad()
    def _measures(self, split: str, model: nn.Module) -> tuple[dict[str, float], list[list[int]]]:
        model.eval()
        its = self.splits[split]
        parts = (its[slice(i, i + SHOWN)] for i in range(0, len(its), SHOWN))
        return told((model(normalised(some.images[:, None] / 255, self.recipe.images)), some.classes) for some in parts)

    def export(self, folder: Path) -> None:
        side, images = self.config["image_size"], self.recipe.images
        says = {
            "image_processor_type": "ViTImageProcessor",
            "do_resize": True,
            "size": {"height": side, "width": side},
            "resample": 2,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": [images.mean],
            "image_std": [images.std],
        }
        with write_atomically(folder / "preprocessor_config.json") as beside:
            beside.write_text(json.dumps(says, indent=2) + "\n")


# --- how an image is shown ---------------------------------------------------------------------------------------


def normalised(levels: Tensor, how: Images) -> Tensor:
    """Grey levels from 0 to 1, less ``how.mean``, over ``how.std``."""
    return (levels - how.mean) / how.std


def changed(images: Tensor, how: Images, random: np.random.Generator) -> Tensor:
    """Images (B, Y, X) of grey levels to 255 -> (B, 1, Y, X) of levels to 1, each moved, turned, zoomed and perhaps
    made a negative as ``random`` has it. What comes in from outside is black, in a negative white."""
    levels = images[:, None] / 255
    count, side = len(images), images.shape[-1]

    def drawn(most: float, size: tuple[int, ...] = ()) -> Tensor:
        return torch.from_numpy(random.uniform(-most, most, (count, *size))).float()

    angle, zoom = drawn(math.radians(how.turn)), 1 / (1 + drawn(how.zoom))
    moved = drawn(2 * how.shift / side, (2, 1))  # the whole side is 2 in the grid's own measure
    turned = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).reshape(count, 2, 2)
    grid = F.affine_grid(torch.cat([turned * zoom[:, None, None], moved], -1), list(levels.shape), align_corners=False)
    levels = F.grid_sample(levels, grid, align_corners=False)
    negative = torch.from_numpy(random.random(count) < how.invert)[:, None, None, None]
    return torch.where(negative, 1 - levels, levels)


# --- files -------------------------------------------------------------------------------------------------------


def read(recipe: Recipe) -> dict[str, Labelled]:
    """The splits of the recipe's sources; of its training images a source gives up the last ``hold_out`` to valid.

    Raises Misuse where there is nothing to train on or to validate on.
    """
    found: dict[str, list[Labelled]] = {}
    for source in recipe.sources:
        for split in SPLITS:
            if name := getattr(source, split):
                found.setdefault(split, []).append(_labelled(Path(recipe.data) / name))
        if source.hold_out and source.train:
            whole = found["train"].pop()
            kept = round(len(whole) * (1 - source.hold_out))
            found["train"].append(whole[slice(kept)])
            found.setdefault("valid", []).append(whole[slice(kept, None)])
    present = [split for split in SPLITS if sum(map(len, found.get(split, [])))]
    if not {"train", "valid"} <= set(present):
        raise Misuse(
            "The sources hold no images to train on or none to validate on.",
            "Name a train file, and valid or hold_out.",
        )
    if len({part.images.shape[1:] for parts in found.values() for part in parts}) > 1:
        raise Misuse("The sources hold images of several sizes.", "Name files of one size.")
    return {
        split: Labelled(*(torch.cat([getattr(part, what) for part in found[split]]) for what in ("images", "classes")))
        for split in present
    }


def _labelled(place: Path) -> Labelled:
    """``place``-images-idx3-ubyte(.gz) and ``place``-labels-idx1-ubyte(.gz)."""
    images = read_idx(place.with_name(f"{place.name}-images-idx3-ubyte"), 3)
    classes = read_idx(place.with_name(f"{place.name}-labels-idx1-ubyte"), 1)
    if len(images) != len(classes):
        raise Refused(f"{place} has {len(images):,} images and {len(classes):,} classes.", "Fetch both files again.")
    return Labelled(torch.from_numpy(images), torch.from_numpy(classes).long())


def read_idx(path: Path, axes: int) -> np.ndarray:
    """An IDX file of bytes, gzipped where it ends in .gz: uint8, with as many ``axes`` (LeCun, Cortes & Burges 1998).

    Raises NotFound where there is none, Refused for one that is not what its first bytes say.
    """
    packed = path.with_name(f"{path.name}.gz")
    if not path.is_file() and not packed.is_file():
        raise NotFound(f"No training data at {packed}.", "Say where the data folder is: data=/path/to/folder.")
    problem = f"{path.name} is damaged"
    try:
        with open(path, "rb") if path.is_file() else gzip.open(packed) as file:
            kind = file.read(4)
            if kind != bytes([0, 0, 8, axes]):
                raise Refused(f"{problem}: it begins with {kind!r}.", f"Give an IDX file of bytes with {axes} axes.")
            shape = struct.unpack(f">{axes}I", file.read(4 * axes))
            size = math.prod(shape)
            if size > LARGEST_FILE:
                raise Refused(f"{path.name} describes {size:,} bytes; at most {LARGEST_FILE:,} are read.", "Split it.")
            content = file.read(size + 1)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise Refused(f"{problem}: {error}.", "Fetch the file again.") from error
    if len(content) != size:
        raise Refused(f"{problem}: it does not hold the {size:,} bytes that it describes.", "Fetch the file again.")
    return np.frombuffer(bytearray(content), np.uint8).reshape(shape)


def _complete(recipe: Recipe, splits: dict[str, Labelled]) -> dict[str, Any]:
    """The recipe's [model] as a whole config.json, with a name for each class where it has none."""
    count = 1 + max(int(its.classes.max()) for its in splits.values())
    named = {str(i): str(i) for i in range(count)}
    config = {"id2label": named, "label2id": {name: int(i) for i, name in named.items()}, **recipe.model}
    config["num_labels"] = len(config["id2label"])
    if config["num_labels"] < count:
        raise Misuse(f"model.id2label names {config['num_labels']} classes, the data has {count}.", "Name them all.")
    stem, shape = describe(config)[1].stem, tuple(splits["train"].images.shape[1:])
    if not isinstance(stem, spec.Patches) or (stem.channels, stem.image, stem.image) != (1, *shape):
        raise Misuse(
            f"The data has images of {shape[0]} by {shape[1]} pixels and one channel, which [model] does not read.",
            f"Write model_type = 'vit', image_size = {shape[0]} and num_channels = 1 there.",
        )
    return config
