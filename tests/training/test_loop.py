from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cutaway.errors import Failed, Misuse, NotFound
from cutaway.training import loop, state, text, train
from cutaway.training.optim import learning_rate, make_optimiser
from cutaway.training.recipe import resolve

Write = Callable[..., str]


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def final_state(result: Any) -> bytes:
    return bytes((result.run / "checkpoints" / f"step-{result.steps:08d}" / state.TENSORS).read_bytes())


def test_training_learns_and_leaves_a_model(recipe: Write) -> None:
    result = train(recipe(), ["steps=60"])
    lines = [json.loads(line) for line in (result.run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert [line["step"] for line in lines if "loss" in line] == list(range(5, 61, 5))
    assert losses[-1] < 0.8 * losses[0]
    assert result.measured["nats_per_token"]["valid"] == pytest.approx(losses[-1], rel=0.2)
    assert set(os.listdir(result.model)) == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert {t.dtype for t in load_file(result.model / "model.safetensors").values()} == {torch.bfloat16}
    assert (result.run / "recipe.toml").is_file()
    assert (result.seen, result.unit) == (60 * 2 * 16, "tokens")


def test_transformers_agrees_with_the_exported_model(recipe: Write) -> None:
    transformers = pytest.importorskip("transformers", reason="compares with transformers, which is not installed")
    from cutaway.families import checkpoint

    result = train(recipe())
    ids = torch.randint(0, 300, (2, 16), generator=torch.Generator().manual_seed(0))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(result.model)
    assert theirs.dtype == torch.float32
    with torch.no_grad():
        ours, reference = checkpoint.open(result.model).load()(ids), theirs(ids).logits
    assert (ours - reference).abs().max() <= 1e-5 * reference.abs().max()


def test_a_stopped_run_goes_on_to_the_same_weights(recipe: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(recipe("whole"))
    original = loop._step
    for stop_after, number in ((7, signal.SIGINT), (9, signal.SIGTERM)):  # counted anew in each session
        taken = 0

        def step(*arguments: Any, stop_after: int = stop_after, number: signal.Signals = number) -> Any:
            nonlocal taken
            taken += 1
            if taken == stop_after:
                signal.raise_signal(number)
            return original(*arguments)

        monkeypatch.setattr(loop, "_step", step)
        with pytest.raises(SystemExit) as stopped:
            train(recipe("broken"))
        assert stopped.value.code == 128 + number
    monkeypatch.setattr(loop, "_step", original)
    broken = train(recipe("broken"))
    assert final_state(broken) == final_state(whole)
    assert (broken.model / "model.safetensors").read_bytes() == (whole.model / "model.safetensors").read_bytes()
    steps = [json.loads(line)["step"] for line in (broken.run / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)


def test_kill_9_at_twenty_moments(recipe: Write) -> None:
    """The driver imports torch once and forks a trainer for each life; it prints what it did."""
    driver = Path(__file__).with_name("kill_driver.py")
    done = subprocess.run(
        [sys.executable, str(driver), recipe("whole"), recipe("killed")], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    killed = json.loads(done.stdout)
    assert killed["kills"] == 20
    assert killed["lives_that_resumed"] >= 3
    one, two = (Path(resolve(recipe(name)).run) for name in ("whole", "killed"))
    last = f"checkpoints/step-{killed['steps']:08d}/{state.TENSORS}"
    assert (one / last).read_bytes() == (two / last).read_bytes()
    assert (one / "model/model.safetensors").read_bytes() == (two / "model/model.safetensors").read_bytes()
    assert not list(two.glob("checkpoints/*.tmp"))


@pytest.mark.parametrize("damage", ["truncated", "flipped", "no manifest", "manifest cut"])
def test_a_damaged_checkpoint_is_passed_over(recipe: Write, damage: str) -> None:
    whole = train(recipe("whole"))
    train(recipe("hurt"))
    newest = Path(resolve(recipe("hurt")).run) / "checkpoints/step-00000030"
    content = (newest / state.TENSORS).read_bytes()
    if damage == "truncated":
        (newest / state.TENSORS).write_bytes(content[:-100])
    elif damage == "flipped":
        (newest / state.TENSORS).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "no manifest":
        (newest / state.MANIFEST).unlink()
    else:
        (newest / state.MANIFEST).write_text('{"state.saf')
    with pytest.warns(UserWarning, match="step-00000030 is damaged"):
        again = train(recipe("hurt"))
    assert final_state(again) == final_state(whole)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_training_stops_before_a_step_that_is_not_finite(
    recipe: Write, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    calls, original = 0, text._loss
    seen: list[torch.nn.Module] = []

    def poisoned(model: torch.nn.Module, ids: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
        nonlocal calls
        if not torch.is_grad_enabled():
            return original(model, ids, reduction)
        seen.append(model)
        calls += 1
        loss = original(model, ids, reduction)
        if calls == 13:
            before.update({name: p.detach().clone() for name, p in model.named_parameters()})
            if where == "loss":
                return loss * float("nan")
            loss.register_hook(lambda gradient: gradient * float("inf"))
        return loss

    before: dict[str, torch.Tensor] = {}
    monkeypatch.setattr(text, "_loss", poisoned)
    with pytest.raises(Failed, match=r"step 12.*windows at tokens"):
        train(recipe())
    assert all(torch.equal(p, before[name]) for name, p in seen[-1].named_parameters())
    checkpoints = Path(resolve(recipe()).run) / "checkpoints"
    assert [path.name for path in checkpoints.iterdir()] == ["step-00000010"]
    assert not state._damage(checkpoints / "step-00000010")


def test_disk_full_keeps_the_checkpoint_before(recipe: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    original, saves = state.save_file, 0

    def full(tensors: Any, path: Path) -> None:
        nonlocal saves
        saves += 1
        if saves == 2:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        original(tensors, path)

    monkeypatch.setattr(state, "save_file", full)
    with pytest.raises(Failed, match=r"No space left for [\d,]+ bytes .*checkpoints"):
        train(recipe("full"))
    checkpoints = Path(resolve(recipe("full")).run) / "checkpoints"
    assert [path.name for path in checkpoints.iterdir()] == ["step-00000010"]
    monkeypatch.setattr(state, "save_file", original)
    assert final_state(train(recipe("full"))) == final_state(train(recipe("whole")))


def test_a_disk_too_small_is_noticed_before_the_first_step(recipe: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(Failed, match="No space left"):
        train(recipe(), ["model.num_hidden_layers=8"])
    assert not (Path(resolve(recipe()).run) / "checkpoints").exists()


def test_a_second_trainer_is_refused(recipe: Write) -> None:
    run = Path(resolve(recipe()).run)
    with state.only_trainer(run), pytest.raises(Misuse, match=f"Process {os.getpid()} is already training"):
        train(recipe())
    train(recipe(), ["steps=1"])


def test_checkpoints_are_pruned_and_leftovers_removed(recipe: Write) -> None:
    run = Path(resolve(recipe()).run)
    (run / "checkpoints/step-00000007.tmp").mkdir(parents=True)
    train(recipe(), ["keep=2"])
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["step-00000020", "step-00000030"]


def test_checkpoints_hold_tensors_and_json_only(recipe: Write) -> None:
    result = train(recipe())
    files = sorted(path.name for path in (result.run / "checkpoints/step-00000030").iterdir())
    assert files == sorted([state.MANIFEST, state.PLACE, state.TENSORS])
    tensors = load_file(result.run / "checkpoints/step-00000030" / state.TENSORS)
    assert {"random", "model.stem.tokens.weight", "optimiser.exp_avg.stem.tokens.weight"} <= set(tensors)


def test_another_recipe_in_the_same_folder_is_refused(recipe: Write) -> None:
    train(recipe(), ["steps=10"])
    with pytest.raises(Misuse, match=r"lr = 0\.003, not 0\.001"):
        train(recipe(), ["steps=10", "lr=1e-3"])


def test_missing_data_and_too_long_a_window(recipe: Write) -> None:
    with pytest.raises(NotFound, match="data="):
        train(recipe(), ["data=/nowhere"])
    with pytest.raises(Misuse, match="exceeds the model's 16 positions"):
        train(recipe(), ["window=32"])


def test_learning_rate_rises_then_falls(recipe: Write) -> None:
    wanted = resolve(recipe(), ["steps=100", "warmup=10", "lr=1e-2", "lr_end=1e-3"])
    rates = [learning_rate(step, wanted) for step in range(100)]
    assert rates[:10] == pytest.approx([1e-3 * (i + 1) for i in range(10)])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert learning_rate(55, wanted) == pytest.approx(5.5e-3)
    assert learning_rate(100, wanted) == pytest.approx(1e-3)
    twice = dataclasses.replace(wanted, steps=200, cycles=2)
    assert [learning_rate(step, twice) for step in range(200)] == rates * 2


def test_only_matrices_decay(recipe: Write) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    decayed, kept = make_optimiser(model, resolve(recipe())).param_groups
    assert [p.shape for p in decayed["params"]] == [(4, 3)]
    assert decayed["weight_decay"] > 0 == kept["weight_decay"]
    assert len(kept["params"]) == 3


def test_the_module_runs_by_itself(recipe: Write) -> None:
    command = [sys.executable, "-m", "cutaway.training.loop", recipe(), "steps=5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 5
    assert "step 5/5" in done.stderr
    assert "tokens/s" in done.stderr
    done = subprocess.run([*command[:-1], "stepps=5"], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert "stepps" in done.stderr
