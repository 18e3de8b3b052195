"""The engine of PyTorch's reads as the machine does, and what it does at every step could be a graph of a GPU's."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cutaway.generate import in_pytorch
from cutaway.generate.in_pytorch import InPyTorch
from cutaway.model.quantized import quantize
from cutaway.model.transformer import Seq2Seq, Transformer, build
from tests.model.machines import CONTEXT, DECODERS, IDS, LENGTH, SOURCES, VOCABULARY, lively


@pytest.fixture(params=sorted(DECODERS))
def machine(request: pytest.FixtureRequest) -> Transformer:
    return lively(DECODERS[request.param])  # type: ignore[return-value]


@torch.no_grad()
def logits(machine: Transformer, ids: list[int]) -> np.ndarray:
    """(T, V), read whole."""
    return machine(torch.tensor([ids]))[0].numpy()


def worst(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("size", [1, 4, LENGTH])
def test_it_reads_as_the_machine_does(machine: Transformer, size: int) -> None:
    engine = InPyTorch(machine, CONTEXT, chunk=4)
    parts = [engine.together([(0, IDS[at : at + size], True)])[0] for at in range(0, LENGTH, size)]
    assert worst(np.concatenate(parts), logits(machine, IDS)) < 2e-6
    engine.back(LENGTH - 3)
    assert worst(engine.read(IDS[-3:]), logits(machine, IDS)[-1]) < 2e-6


def test_what_is_read_in_chunks_is_wanted_whole(machine: Transformer) -> None:
    engine = InPyTorch(machine, CONTEXT, chunk=4)
    engine.read(IDS[:5])
    (found,) = engine.together([(0, IDS[5:], True)])
    assert worst(found, logits(machine, IDS)[5:]) < 2e-6


class Repeating:
    """A stand-in for a graph: does anew what was done, with the memory it was done with, and has its result where it
    was."""

    def __init__(self, run: in_pytorch.Run, found: Tensor) -> None:
        self._run, self._found, self._memory = run, found, memory_of(run)

    @classmethod
    def captured(cls, run: in_pytorch.Run, device: torch.device) -> tuple[Repeating, Tensor]:
        found = run()
        return cls(run, found), found

    def replay(self) -> None:
        assert all(now is then for now, then in zip(memory_of(self._run), self._memory, strict=True))
        self._found.copy_(self._run())


def memory_of(run: in_pytorch.Run) -> list[Tensor]:
    """What a step of all texts writes to, besides its result."""
    texts = run.func.__self__._texts  # type: ignore[attr-defined]
    return [*texts.rings.values(), *(held for layer in texts.layers for held in (layer.k, layer.v))]


TURN = st.tuples(st.integers(0, 3), st.sampled_from([1, 1, 1, 2, 7]))  # a text, and how many tokens
STEPS = st.lists(st.lists(TURN, max_size=4, unique_by=lambda turn: turn[0]), min_size=1, max_size=25)
TOKEN = st.integers(0, VOCABULARY - 1)


@pytest.mark.parametrize("on_gpu", [False, True], ids=["cpu", "as on a gpu"])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "windows", "original"])
@settings(max_examples=15, deadline=None)
@given(steps=STEPS, data=st.data())
def test_texts_do_not_meet(kind: str, on_gpu: bool, steps: list[list[tuple[int, int]]], data: st.DataObject) -> None:
    """Texts go on or not, begin anew, and go on from each other; each is read as if it were alone."""
    machine: Transformer = lively(DECODERS[kind])  # type: ignore[assignment]
    engine = InPyTorch(machine, 12, texts=4, chunk=3)
    engine.grow(CONTEXT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "_on_gpu", on_gpu)
        patch.setattr(in_pytorch, "_captured", Repeating.captured)
        check_that_texts_do_not_meet(machine, engine, steps, data)


def check_that_texts_do_not_meet(
    machine: Transformer, engine: InPyTorch, steps: list[list[tuple[int, int]]], data: st.DataObject
) -> None:
    texts: list[list[int]] = [[] for _ in range(4)]
    for step in steps:
        turns = []
        for text, count in step:
            if len(texts[text]) + count > CONTEXT:
                engine.copy(text, text, 0)
                texts[text] = []
            turns.append((text, data.draw(st.lists(TOKEN, min_size=count, max_size=count)), False))
        found = engine.together(turns)
        for (text, new, _), its in zip(turns, found, strict=True):
            texts[text] += new
            assert worst(its, logits(machine, texts[text])[-1:]) < 1e-5
        if data.draw(st.sampled_from([False, False, True])):
            order = data.draw(st.permutations(range(4)) | st.lists(st.integers(0, 3), min_size=4, max_size=4))
            engine.reorder(order)
            texts = [list(texts[text]) for text in order]
        elif engine.shares:
            source, to = data.draw(st.integers(0, 3)), data.draw(st.integers(0, 3))
            length = data.draw(st.integers(0, len(texts[source])))
            engine.copy(source, to, length)
            texts[to] = texts[source][:length]
        assert engine.lengths == [len(text) for text in texts]


def test_the_longest_text_keeps_its_beginning() -> None:
    """A text that is full reads along with the others, and is not written over."""
    machine: Transformer = lively(DECODERS["llama"])  # type: ignore[assignment]
    engine = InPyTorch(machine, 8, texts=3)
    for text in range(3):
        engine.read(IDS[: 8 - text], text)
    engine.together([(1, IDS[7:8], False), (2, IDS[6:7], False)])
    engine.grow(CONTEXT)
    found = engine.together([(0, IDS[8:9], False), (1, IDS[8:9], False)])
    assert worst(found[0], logits(machine, IDS[:9])[-1:]) < 2e-6
    assert worst(found[1], logits(machine, IDS[:9])[-1:]) < 2e-6


def test_a_text_that_broke_leaves_nothing_behind() -> None:
    """Nothing times NaN is NaN, so the next text in that place would be NaN too."""
    machine: Transformer = lively(DECODERS["llama"])  # type: ignore[assignment]
    engine = InPyTorch(machine, CONTEXT, texts=2)
    engine.read(IDS)
    with torch.inference_mode():
        for layer in engine._texts.layers:
            layer.v[0, :, :LENGTH] = torch.nan
    engine.copy(1, 0, 0)
    engine.read(IDS[:2], 1)
    found = engine.together([(0, IDS[:1], False), (1, IDS[2:3], False)])
    assert worst(found[0], logits(machine, IDS[:1])) < 2e-6


def test_what_does_not_fit_is_refused() -> None:
    engine = InPyTorch(lively(DECODERS["gpt2"]), 8)  # type: ignore[arg-type]
    engine.read(IDS[:6])
    for new in (IDS[:3], []):
        with pytest.raises(ValueError, match=f"{len(new)} tokens do not go after 6 where 8 have room"):
            engine.read(new)


@pytest.mark.parametrize("name", sorted(SOURCES))
@torch.no_grad()
def test_texts_behind_an_encoder(name: str) -> None:
    machine = lively(SOURCES[name])
    assert isinstance(machine, Seq2Seq)
    memory = torch.randn(1, 11, machine.spec.decoder.width)
    expected = machine.decode(torch.tensor([IDS]), memory)[0].numpy()
    engine = InPyTorch(machine, LENGTH, texts=3, memory=memory)
    for text in range(3):
        engine.read(IDS[: 4 + text], text)
    found = engine.together([(text, [IDS[4 + text]], False) for text in range(3)])
    assert worst(np.concatenate(found), expected[4:7]) < 2e-6


# --- a GPU -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [None, 8, 4])
@pytest.mark.parametrize("kind", sorted({**DECODERS, **SOURCES}))
def test_a_step_asks_nothing_of_the_host(kind: str, bits: int | None) -> None:
    """On meta tensors, which have no numbers: whatever reads one raises, and so does what meets a tensor elsewhere, and
    what has as many results as the numbers say. None of that can be captured."""
    described = {**DECODERS, **SOURCES}[kind]
    with torch.device("meta"):
        machine = build(described)
        if bits is not None:
            quantize(machine, bits)
        memory = torch.empty(1, 11, machine.spec.decoder.width) if isinstance(machine, Seq2Seq) else None
    engine = InPyTorch(machine, CONTEXT, texts=3, memory=memory)
    with torch.inference_mode():
        found = engine._all()
    assert found.shape == (3, VOCABULARY)
    assert found.is_meta


def test_a_prompt_that_needs_more_room_ends_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was captured goes on with the memory that there was then."""
    machine: Transformer = lively(DECODERS["llama"])  # type: ignore[assignment]
    monkeypatch.setattr(in_pytorch, "_captured", Repeating.captured)
    monkeypatch.setattr(in_pytorch, "ROOM", 4)
    engine = InPyTorch(machine, CONTEXT, texts=2)
    monkeypatch.setattr(engine, "_on_gpu", True)
    engine.read(IDS[:1])
    engine.read(IDS[:9], text=1)
    assert worst(engine.read(IDS[1:2]), logits(machine, IDS[:2])[-1]) < 2e-6


def test_a_graph_that_finds_other_numbers_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    machine: Transformer = lively(DECODERS["llama"])  # type: ignore[assignment]

    class Broken(Repeating):
        def replay(self) -> None:
            self._found.copy_(self._run() + 1)

    def refused(run: in_pytorch.Run, device: torch.device) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    for captured, says in ((Repeating.captured, ""), (Broken.captured, "other numbers"), (refused, "not permitted")):
        engine = InPyTorch(machine, CONTEXT)
        with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.WARNING):
            patch.setattr(engine, "_on_gpu", True)
            patch.setattr(in_pytorch, "_captured", captured)
            found = [engine.read([token]).copy() for token in IDS]
        assert worst(np.stack(found), logits(machine, IDS)) < 2e-6
        assert says in caplog.text
        assert bool(caplog.text) is bool(says)
        caplog.clear()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_a_graph_reads_as_the_machine_does(machine: Transformer, caplog: pytest.LogCaptureFixture) -> None:
    expected = logits(machine, IDS)
    engine = InPyTorch(machine.to("cuda"), CONTEXT, texts=3)
    engine.read(IDS[:5])
    found = [engine.read([token]) for token in IDS[5:]]
    assert worst(np.stack(found), expected[5:]) < 1e-4
    assert not caplog.text
