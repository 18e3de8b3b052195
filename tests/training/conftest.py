"""A corpus and a model so small that training takes a second; nothing here needs ../shared."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cutaway.training import loop

WORDS = """
the a king queen fox hare went saw said old little forest house bread golden once upon time and then to into of
happily ever after river stone door night morning cried laughed gave took three seven brother sister wolf
"""

RECIPE = """
data = "{data}"
run = "{run}"
threads = 1
window = 16
batch = 2
steps = 30
warmup = 5
lr = 3e-3
log_every = 5
save_every = 10
validate_every = 10
validate_windows = 4

[[sources]]
format = "text"
train = "train.txt"
valid = "valid.txt"

[tokenizer]
size = 300
pattern = "gpt2"

[model]
model_type = "llama"
hidden_size = 16
num_hidden_layers = 1
num_attention_heads = 2
num_key_value_heads = 1
head_dim = 8
intermediate_size = 24
max_position_embeddings = 16
rms_norm_eps = 1e-5
tie_word_embeddings = true
"""


def tell(seed: int, stories: int) -> str:
    """Stories that no two seeds share, as a "text" source has them."""
    rng = random.Random(seed)
    return "<|endoftext|>".join(" ".join(rng.choices(WORDS.split(), k=60)) + "." for _ in range(stories))


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[[str], str]:
    """Writes the tiny recipe with a run folder of that name; returns the recipe's path."""
    (tmp_path / "train.txt").write_text(tell(1, 40))
    (tmp_path / "valid.txt").write_text(tell(2, 6))

    def write(run: str = "run") -> str:
        path = tmp_path / f"{run}.toml"
        path.write_text(RECIPE.format(data=tmp_path.as_posix(), run=(tmp_path / run).as_posix()))
        return str(path)

    return write


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Trains until a signal comes in the step of that number (from 1), and sees that it ends there."""

    def train(training: Callable[[], Any], at: int, number: signal.Signals = signal.SIGINT) -> None:
        original, taken = loop._step, 0

        def step(*arguments: Any) -> Any:
            nonlocal taken
            taken += 1
            if taken == at:
                signal.raise_signal(number)
            return original(*arguments)

        with monkeypatch.context() as patched:
            patched.setattr(loop, "_step", step)
            with pytest.raises(SystemExit):
                training()

    return train
