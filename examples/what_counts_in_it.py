"""Cover one patch of an image after another: how far does the logit of what the model sees fall without it?"""

import sys

import torch
from PIL import Image, ImageDraw

import cutaway


def seven() -> Image.Image:
    picture = Image.new("L", (280, 280))
    ImageDraw.Draw(picture).line([(80, 75), (200, 75), (135, 215)], fill=255, width=24, joint="curve")
    return picture


def without(patch: dict, pixels: torch.Tensor) -> torch.Tensor:
    """The pixels (C, Y, X) with everything in a patch as dark as the darkest."""
    side = model.spec.stem.patch
    y, x = side * patch["row"], side * patch["column"]
    pixels = pixels.clone()
    pixels[:, y : y + side, x : x + side] = pixels.min()
    return pixels


model = cutaway.load("digits")
image = sys.argv[1] if len(sys.argv) > 1 else seven()
best = model.see(image).labels[0]
print(f"It sees {best.name}, at {best.p:.2%}.")

run = model.run(image=image, keep=["logits"])
seen = int(run["logits"].argmax())
falls: dict[int, list[float]] = {}
for patch in run.pieces:
    if not patch["special"]:
        covered = model.run(
            image=image, keep=["logits"], edit={"image": lambda pixels, patch=patch: without(patch, pixels)}
        )
        falls.setdefault(patch["row"], []).append(float(covered["logits"][seen] - run["logits"][seen]))
for row in falls.values():
    print("".join(f"{fall:7.2f}" for fall in row))
