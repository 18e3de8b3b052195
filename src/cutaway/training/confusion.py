"""Which class was taken for which: the table, and a picture of it.

       taken for
true   [ 12  1 ]     a row for each true class; what lies off the diagonal was told wrong
       [  0 13 ]
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

import torch
import torch.nn.functional as F
from torch import Tensor


def told(batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[dict[str, float], list[list[int]]]:
    """Accuracy and mean loss of logits (B, V) beside the true classes (B); and the table of how many of each true class
    (row) were taken for which (column)."""
    loss, table = 0.0, torch.zeros(0, 0, dtype=torch.int64)
    for logits, classes in batches:
        count = logits.shape[-1]
        loss += F.cross_entropy(logits, classes, reduction="sum").item()
        found = (classes * count + logits.argmax(-1)).bincount(minlength=count**2).reshape(count, count)
        table = found + table if len(table) else found
    whole = int(table.sum())
    return {"accuracy": int(table.trace()) / whole, "loss": loss / whole}, table.tolist()


# --- the picture -------------------------------------------------------------------------------------------------

LEAST, MOST = (251, 250, 246), (55, 45, 97)  # of a row's share: the page's colours of data (web/src/app.css)
INK, SOFT, FAINT, LINE = "#23252b", "#5a5c66", "#8a8c96", "#d5d1df"
CELL, GAP, EDGE = 76, 3, 24  # pixels
LETTER = 8.0  # about as wide as a letter is, in pixels
FONT = "'Source Sans 3', 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"


def draw(table: Sequence[Sequence[int]], names: Sequence[str], unit: str) -> str:
    """The table as an SVG: in each cell how many, and below that how much of its row; the darker, the more of it.

    Darkness grows with the root of the share, so that few mistakes are seen as well.
    """
    names = [name if len(name) <= 24 else f"{name[:23]}…" for name in names]
    longest = max(len(name) for name in names) * LETTER
    slanted = longest > CELL
    left, top = EDGE + 30 + max(longest, 60), EDGE + 58 + (longest * 0.72 if slanted else 20)
    side = len(names) * CELL
    right = max(EDGE, longest * 0.72 - CELL / 2 + 8) if slanted else EDGE
    width, height = left + side + right, top + side + EDGE
    right_ones = sum(table[i][i] for i in range(len(table)))
    whole = sum(map(sum, table))
    said = f"{right_ones:,} of {whole:,} {unit} of the test told right ({right_ones / max(1, whole):.1%})"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" font-family="{FONT}" fill="{INK}" role="img">',
        f"<title>{escape(said)}</title>",
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        _text(EDGE, EDGE + 14, said, size=17, anchor="start", weight=600),
        _text(left + side / 2, EDGE + 42, "taken for", fill=SOFT),
        _text(EDGE + 8, top + side / 2, "true class", fill=SOFT, turn=-90),
    ]
    for i, name in enumerate(names):
        middle = (i + 0.5) * CELL
        slant = ("start", -45) if slanted else ("middle", 0)
        parts.append(_text(left + middle, top - 12, name, anchor=slant[0], turn=slant[1]))
        parts.append(_text(left - 12, top + middle - 3, name, anchor="end"))
        parts.append(_text(left - 12, top + middle + 15, f"{sum(table[i]):,}", size=12, anchor="end", fill=SOFT))
    for i, row in enumerate(table):
        for j, count in enumerate(row):
            parts += _cell(left + j * CELL, top + i * CELL, count, count / max(1, sum(row)), i == j)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _cell(x: float, y: float, count: int, share: float, right: bool) -> list[str]:
    """A square as dark as its share, with how many and how much of the row in it."""
    depth = share**0.5
    red, green, blue = (round(a + (b - a) * depth) for a, b in zip(LEAST, MOST, strict=True))
    ink = "#ffffff" if depth > 0.6 else INK if count else FAINT
    soft = SOFT if count and depth < 0.25 else ink
    edge = f'stroke="{INK}" stroke-width="1.5"' if right else f'stroke="{LINE}"'
    middle = x + CELL / 2
    return [
        f'<rect x="{x + GAP / 2:.1f}" y="{y + GAP / 2:.1f}" width="{CELL - GAP}" height="{CELL - GAP}" rx="4" '
        f'fill="#{red:02x}{green:02x}{blue:02x}" {edge}/>',
        _text(middle, y + CELL / 2 - 1, f"{count:,}", size=18, weight=600, fill=ink),
        _text(middle, y + CELL / 2 + 19, f"{share:.1%}", size=13, fill=soft),
    ]


def _text(
    x: float,
    y: float,
    words: str,
    *,
    size: int = 15,
    anchor: str = "middle",
    fill: str = INK,
    weight: int = 400,
    turn: int = 0,
) -> str:
    turned = f' transform="rotate({turn} {x:.1f} {y:.1f})"' if turn else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" '
        f'fill="{fill}"{turned}>{escape(words)}</text>'
    )
