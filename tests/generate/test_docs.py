"""What docs/sampling.md shows is what happens."""

from __future__ import annotations

import doctest
from pathlib import Path


def test_the_examples_of_the_page_on_sampling() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "sampling.md"
    assert doctest.testfile(str(page), module_relative=False) == (0, 3)
