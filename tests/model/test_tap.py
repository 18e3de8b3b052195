"""Naming intermediates: recording changes nothing, editing changes what it says, compiled blocks stay compiled."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from cutaway.model.tap import record
from tests.model import machines

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", machines.DECODERS)
def test_recording_everything_changes_nothing(name: str) -> None:
    model = machines.lively(machines.DECODERS[name])
    ids = machines.tokens(1, 12)
    before = model(ids)
    with record(model) as tape:
        during = model(ids)
    assert torch.equal(before, during), "recording must not move a single bit"
    assert torch.equal(tape.tensors["logits"], before[0])
    assert torch.equal(model(ids), before)


@pytest.mark.parametrize("name", machines.DECODERS)
def test_blocks_compile_whole_and_only_twice_each(name: str) -> None:
    """One program for a prefill chunk, one for a decode step, per distinct block; looking adds none."""
    machine = machines.DECODERS[name]
    model = machines.lively(machine)
    ids = machines.tokens(1, 12)
    whole = model(ids)
    torch._dynamo.reset()
    compiler = CompileCounterWithBackend("eager")
    for block in model.stack.blocks:
        block.compile(backend=compiler, fullgraph=True)

    def generate() -> torch.Tensor:
        cache = model.cache(1, 32)
        parts = [model(ids[:, :6], cache=cache)] + [model(ids[:, i : i + 1], cache=cache) for i in range(6, 12)]
        return torch.cat(parts, 1)

    assert machines.largest(model, generate(), whole) < 1e-5
    with record(model):
        assert torch.equal(model(ids), whole)
    generate()
    assert compiler.frame_count == 2 * len(set(machine.stack.blocks))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("embed", (12, 48)), ("blocks.1.resid_pre", (12, 48)), ("blocks.1.attn.in", (12, 48)),
        ("blocks.1.attn.q", (12, 4, 16)), ("blocks.1.attn.k_rot", (12, 2, 16)), ("blocks.1.attn.v", (12, 2, 16)),
        ("blocks.1.attn.scores", (4, 12, 12)), ("blocks.1.attn.pattern", (4, 12, 12)), ("blocks.1.attn.z", (12, 4, 16)),
        ("blocks.1.attn.out", (12, 48)), ("blocks.1.resid_mid", (12, 48)), ("blocks.1.mlp.gate", (12, 80)),
        ("blocks.1.mlp.hidden", (12, 80)), ("blocks.1.resid_post", (12, 48)), ("final", (12, 48)), ("logits", (12, 97)),
    ],
)  # fmt: skip
def test_a_tensor_has_its_name_and_shape(name: str, shape: tuple[int, ...]) -> None:
    model = machines.lively(machines.DECODERS["llama"])
    with record(model, keep=lambda full: full == name) as tape:
        model(machines.tokens(1, 12))
    assert list(tape.tensors) == [name]
    assert tape.tensors[name].shape == shape


def test_a_sublayer_adds_exactly_what_it_says() -> None:
    for name in ("llama", "gemma2", "olmo2", "phi"):
        model = machines.lively(machines.DECODERS[name])
        with record(model) as tape:
            model(machines.tokens(1, 12))
        seen = tape.tensors
        assert torch.equal(seen["blocks.1.resid_pre"] + seen["blocks.1.attn.out"], seen["blocks.1.resid_mid"])
        assert torch.equal(seen["blocks.1.resid_mid"] + seen["blocks.1.mlp.out"], seen["blocks.1.resid_post"])


@pytest.mark.parametrize("name", ["blocks.0.attn.pattern", "blocks.1.mlp.hidden", "blocks.1.attn.q_rot", "logits"])
def test_an_edit_is_felt_downstream_and_only_while_recording(name: str) -> None:
    model = machines.lively(machines.DECODERS["llama"])
    ids = machines.tokens(1, 12)
    before = model(ids)
    with record(model, edit={name: torch.zeros_like}) as tape:
        during = model(ids)
    assert tape.edited == {name}
    assert not tape.tensors[name].any()
    assert not torch.allclose(before, during, atol=1e-3)
    assert torch.equal(model(ids), before)


def test_editing_the_pattern_with_itself_is_the_written_out_attention() -> None:
    model = machines.lively(machines.DECODERS["windows"])
    ids = machines.tokens(1, 12)
    with record(model, edit={f"blocks.{i}.attn.pattern": lambda p: p for i in range(4)}):
        written_out = model(ids)
    assert machines.largest(model, written_out, model(ids)) < 1e-5


def test_recording_does_not_bring_in_the_compiler() -> None:
    code = """
import sys, torch
from cutaway.model.tap import record
from tests.model import machines
model = machines.lively(machines.DECODERS["llama"])
with record(model):
    model(machines.tokens(1, 5))
sys.exit("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


def test_an_edit_of_another_shape_is_refused() -> None:
    model = machines.lively(machines.DECODERS["llama"])
    wrong = pytest.raises(ValueError, match=r"embed must return a tensor of shape \(12, 48\)")
    with wrong, record(model, edit={"embed": lambda x: x[:3]}):
        model(machines.tokens(1, 12))
    with record(model):  # and the failed recording is over
        pass


def test_a_tape_hears_only_its_own_model_thread_and_first_forward() -> None:
    model, other = machines.lively(machines.DECODERS["llama"]), machines.lively(machines.DECODERS["llama"], seed=1)
    ids = machines.tokens(1, 5)
    with record(model) as tape:
        other(ids)
        thread = threading.Thread(target=lambda: model(machines.tokens(1, 9)))
        thread.start()
        thread.join()
        assert not tape.tensors
        model(ids)
        model(ids + 1)
    assert torch.equal(tape.tensors["logits"], model(ids)[0])


def test_encoders_and_decoders_keep_their_names_apart() -> None:
    model = machines.lively(machines.T5)
    with record(model) as tape:
        model(machines.tokens(1, 7), machines.tokens(1, 5))
    assert {"encoder.embed", "encoder.blocks.0.attn.z", "decoder.blocks.1.cross.pattern", "decoder.final", "logits",
            "encoder.relative.bias"} <= set(tape.tensors)  # fmt: skip
    assert tape.tensors["decoder.blocks.1.cross.pattern"].shape == (4, 5, 7)
