from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cutaway import training
from cutaway.errors import Misuse, NotFound
from cutaway.training.recipe import resolve, to_toml

Write = Callable[..., str]


def test_overrides_and_the_resolved_file(recipe: Write, tmp_path: Path) -> None:
    resolved = resolve(recipe(), ["steps=7", "model.num_hidden_layers=2", "name=some words", "lr=1"])
    assert (resolved.steps, resolved.model["num_hidden_layers"], resolved.name, resolved.lr) == (
        7,
        2,
        "some words",
        1.0,
    )
    (tmp_path / "again.toml").write_text(to_toml(resolved))
    assert resolve(str(tmp_path / "again.toml")) == resolved


def test_bundled_recipes_by_name() -> None:
    assert "stories" in training.names()
    for name in training.names():
        assert resolve(name).name == name


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("step=5", "key step"),
        ("tokenizer.sise=5", "tokenizer.sise"),
        ("steps=many", "steps must be a whole number"),
        ("steps=0", "steps must be at least 1"),
        ("steps=true", "steps must be a whole number"),
        ("lr=nan", "lr must be above 0"),
        ("steps", "key=value"),
        ("steps.x=1", "steps.x"),
    ],
)
def test_mistakes_are_named(recipe: Write, override: str, says: str) -> None:
    with pytest.raises(Misuse, match=says):
        resolve(recipe(), [override])


def test_unknown_recipe_and_bad_file(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="stories"):
        resolve("storys")
    (tmp_path / "bad.toml").write_text("steps = ")
    with pytest.raises(Misuse, match=r"bad\.toml is not TOML"):
        resolve(str(tmp_path / "bad.toml"))
    (tmp_path / "bad.toml").write_text("steps = 3")
    with pytest.raises(Misuse, match="lacks model"):
        resolve(str(tmp_path / "bad.toml"))


def test_listing_recipes_needs_no_torch() -> None:
    code = "import sys, cutaway.training as t; t.names(); t.resolve('stories'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
