"""The engine reads as the machine does: every kind of decoder, whole, in pieces, token by token and side by side."""

from __future__ import annotations

import copy
import ctypes
import functools
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from cutaway.errors import Failed
from cutaway.generate import beam, in_c, loop
from cutaway.generate.batch import Batch, Request
from cutaway.generate.in_c import InC as Engine
from cutaway.generate.rules import Rules
from cutaway.generate.sampler import Sampler
from cutaway.model import spec
from cutaway.model.attention import Attention
from cutaway.model.quantized import Quantized, quantize
from cutaway.model.transformer import Seq2Seq, Transformer
from cutaway.native import library
from cutaway.native.product import install
from tests.model.machines import (
    CONTEXT,
    DECODERS,
    IDS,
    LENGTH,
    RMS,
    SOURCES,
    VOCABULARY,
    attention,
    decoder,
    in_8_bits,
    lively,
)


@pytest.fixture(params=sorted(DECODERS))
def machine(request: pytest.FixtureRequest) -> Transformer:
    return lively(DECODERS[request.param])  # type: ignore[return-value]


def in_pieces(machine: Transformer, size: int, ids: list[int] = IDS) -> np.ndarray:
    """Logits (T, V), reading ``size`` tokens at a time; only the last row of each piece is filled."""
    engine, rows = Engine(machine, CONTEXT), np.full((LENGTH, VOCABULARY), np.nan, np.float32)
    for start in range(0, LENGTH, size):
        piece = ids[start : start + size]
        rows[start + len(piece) - 1] = engine.read(piece)
    return rows


def side_by_side(machine: Transformer) -> np.ndarray:
    """Three texts, each a token further on than the one before, go on together: logits (3, V)."""
    engine = Engine(machine, CONTEXT, texts=3)
    for text in range(3):
        engine.read(IDS[: 5 + text], text)
    return np.concatenate(engine.together([(text, [IDS[5 + text]], False) for text in range(3)]))


def worst(found: np.ndarray, expected: np.ndarray) -> float:
    filled = ~np.isnan(found[:, 0])
    return float(np.abs(found - expected)[filled].max() / np.abs(expected).max())


@torch.no_grad()
def logits(machine: Transformer, ids: list[int] = IDS) -> np.ndarray:
    return machine(torch.tensor([ids]))[0].numpy()


@pytest.mark.parametrize("size", [1, 2, 5, 11, LENGTH])
def test_it_reads_as_the_machine_does(machine: Transformer, size: int) -> None:
    assert worst(in_pieces(machine, size), logits(machine)) < 2e-6


def test_texts_side_by_side_do_not_meet(machine: Transformer) -> None:
    assert worst(side_by_side(machine), logits(machine)[5:8]) < 2e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("texts", [2, 3, 4, 6, 8])
def test_long_rows_of_a_matrix_meet_a_few_texts_part_by_part(texts: int, dtype: torch.dtype) -> None:
    long = spec.MLP(3201, "silu", gated=True)  # its last part is no whole vectors
    block = spec.Block(attention(), long, RMS)
    machine = lively(decoder(block, block)).to(dtype)
    assert isinstance(machine, Transformer)
    engine = Engine(machine, CONTEXT, texts=texts)
    for text in range(texts):
        for token in IDS[:text]:  # one by one, or a prompt in bfloat16 is rounded
            engine.read([token], text)
    found = engine.together([(text, [IDS[text]], False) for text in range(texts)])
    assert worst(np.concatenate(found), logits(copy.deepcopy(machine).float())[:texts]) < 2e-6


def test_a_prompt_longer_than_a_chunk(machine: Transformer) -> None:
    found = Engine(machine, CONTEXT, chunk=4).read(IDS)
    assert worst(found[None], logits(machine)[-1:]) < 2e-6


def check_that_rows_do_not_meet(machine: Transformer) -> None:
    """To the last bit the same alone, in pieces of any size, and beside other texts."""
    alone = in_pieces(machine, 1)
    for size in (2, 7, 11, LENGTH):
        pieces = in_pieces(machine, size)
        filled = ~np.isnan(pieces[:, 0])
        assert np.array_equal(pieces[filled], alone[filled])
    assert np.array_equal(side_by_side(machine), alone[5:8])


@pytest.mark.parametrize("bits", [8, 4])
def test_quantised_a_row_does_not_see_what_is_read_beside_it(machine: Transformer, bits: int) -> None:
    quantize(machine, bits)
    check_that_rows_do_not_meet(machine)


def mixed_from_halves(mix: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, *rest: object) -> Tensor:
    return mix(q, k.half().float(), v.half().float(), *rest)


@pytest.mark.parametrize("bits", [8, 4])
def test_quantised_it_differs_by_what_its_inputs_lose(machine: Transformer, bits: int) -> None:
    """The machine with its matrices' inputs put in 8 bits, 32 by 32, and keys and values in float16, is met to
    rounding; without, it is not."""
    quantize(machine, bits)
    exact = logits(machine)
    rounded = copy.deepcopy(machine)
    for module in rounded.modules():
        if isinstance(module, Quantized) and not isinstance(module, nn.Embedding):
            module.register_forward_pre_hook(lambda _, given: (in_8_bits(given[0]), *given[1:]))
        if isinstance(module, Attention):
            module.mix = functools.partial(mixed_from_halves, module.mix)  # type: ignore[method-assign]
    tied = machine.head is not None and machine.head.head.tied
    if tied:
        rounded.head.register_forward_pre_hook(lambda _, given: (in_8_bits(given[0]), *given[1:]))  # type: ignore[union-attr]
    found, backwards = in_pieces(machine, 1), IDS[::-1]
    # A number half-way between two codes may go either way, and all that reads it goes along; some row has none.
    met = [(found, logits(rounded)), (in_pieces(machine, 1, backwards), logits(rounded, backwards))]
    nearest = min(worst(rows[i : i + 1], its[i : i + 1]) for rows, its in met for i in range(LENGTH))
    assert nearest < 2e-6 < 1e-4 < min(worst(found[i : i + 1], exact[i : i + 1]) for i in range(LENGTH))
    assert worst(found, exact) < 0.03


@pytest.mark.parametrize("sampler", [Sampler(temperature=0), Sampler(temperature=1.2, top_k=30)])
def test_what_is_written_is_what_the_plain_loop_writes(
    machine: Transformer, sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []
    run = library.Library.run
    monkeypatch.setattr(library.Library, "run", lambda *given: used.append(1) or run(*given))
    fast = loop.generate(machine, IDS[:5], sampler=sampler, seed=4, max_new_tokens=40).finish()
    plain = loop.generate(machine, IDS[:5], sampler=sampler, seed=4, max_new_tokens=40, cached=False).finish()
    assert used
    assert fast.tokens == plain.tokens


@pytest.mark.parametrize("bits", [None, 8, 4])
def test_nan_does_not_get_lost(bits: int | None) -> None:
    machine = lively(DECODERS["llama"])
    machine.stack.blocks[1].mlp.pre.weight[3] = torch.nan  # type: ignore[union-attr, index]
    if bits:
        quantize(machine, bits)
    with pytest.raises(Failed, match=r"NaN or infinity, .*: the first is in blocks\.1\.mlp\.in, at token 0\."):
        loop.generate(machine, IDS[:5], max_new_tokens=2).finish()
    batch = Batch(machine, None)  # type: ignore[arg-type]
    batch.submit(Request(tuple(IDS[:5])))
    (event,) = batch.step()
    assert "blocks.1.mlp.in" in str(event.error)


def test_a_text_that_does_not_fit_is_refused() -> None:
    engine = Engine(lively(DECODERS["gpt2"]), 8)  # type: ignore[arg-type]
    engine.read(IDS[:6])
    with pytest.raises(ValueError, match="3 tokens do not go after 6 where 8 have room"):
        engine.read(IDS[:3])


def test_without_kernels_text_is_written_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "ready", lambda: None)
    machine = lively(DECODERS["gpt2"])
    quantize(machine, 8)
    assert len(loop.generate(machine, IDS[:5], seed=1, max_new_tokens=4).finish().tokens) == 4


@pytest.mark.parametrize(("compiler", "says"), [("no-such-compiler", "could not be compiled"), ("false", "did not")])
def test_a_compiler_that_fails_is_a_sentence(tmp_path: Path, compiler: str, says: str) -> None:
    code = "from cutaway.native import library\ntry: library.load()\nexcept library.Unavailable as e: print(e)"
    environment = {"PATH": "/usr/bin:/bin", "CC": compiler, "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": "src"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert says in done.stdout
    assert not list((tmp_path / "cutaway").iterdir())


def test_room_grows_and_what_was_read_stays(machine: Transformer) -> None:
    engine = Engine(machine, 8, texts=2)
    engine.together([(0, IDS[:3], False), (1, IDS[:7], True)])
    engine.grow(CONTEXT)
    first, second = engine.together([(0, IDS[3:], True), (1, IDS[7:9], False)])
    expected = logits(machine)
    assert worst(first, expected[3:]) < 2e-6
    assert worst(second, expected[8:9]) < 2e-6
    assert np.abs(first[:1] - expected[2:3]).max() > 0.01  # it is no matter which row


@torch.no_grad()
def written(name: str, bits: int | None = None) -> tuple[Seq2Seq, Tensor, np.ndarray]:
    """A machine, what its encoder makes of two sources (2, S, D), and its decoder's logits for each (2, T, V)."""
    machine = lively(SOURCES[name])
    assert isinstance(machine, Seq2Seq)
    if bits is not None:
        quantize(machine, bits)
        install()
    generator = torch.Generator().manual_seed(5)
    if isinstance(machine.spec.source, spec.Tokens):
        inputs = torch.randint(0, VOCABULARY, (2, 19), generator=generator)
    else:
        inputs = torch.randn(2, machine.spec.source.bins, 2 * machine.spec.source.length, generator=generator)
    memory = machine.encode(inputs)
    return machine, memory, machine.decode(torch.tensor([IDS, IDS]), memory).numpy()


@pytest.mark.parametrize("size", [1, 5, LENGTH])
@pytest.mark.parametrize("name", sorted(SOURCES))
def test_a_decoder_behind_an_encoder(name: str, size: int) -> None:
    machine, memory, expected = written(name)
    for which in range(2):
        engine = Engine(machine, LENGTH, memory=memory[which : which + 1])
        for start in range(0, LENGTH, size):
            found = engine.read(IDS[start : start + size])
            last = min(start + size, LENGTH) - 1
            assert worst(found[None], expected[which, last : last + 1]) < 2e-6


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_texts_that_read_one_memory_or_each_its_own(name: str) -> None:
    machine, memory, expected = written(name)
    own = Engine(machine, LENGTH, texts=2, memory=memory).together([(0, IDS[:9], False), (1, IDS[:9], False)])
    assert worst(np.concatenate(own), expected[:, 8]) < 2e-6
    shared = Engine(machine, LENGTH, texts=3, memory=memory[1:])
    for text in range(3):
        shared.read(IDS[: 4 + text], text)
    found = np.concatenate(shared.together([(text, [IDS[4 + text]], False) for text in range(3)]))
    assert worst(found, expected[1, 4:7]) < 2e-6


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", sorted(SOURCES))
def test_a_quantised_decoder_behind_an_encoder(name: str, bits: int) -> None:
    """As near as a quantised decoder is: its inputs take 8 bits. To the last bit the same whole, in pieces, beside
    another with a source of its own, and as three beams."""
    machine, memory, expected = written(name, bits)
    alone = []
    for which in range(2):
        engine = Engine(machine, LENGTH, memory=memory[which : which + 1])
        alone.append(np.stack([engine.read([token]).copy() for token in IDS]))
        assert worst(alone[which], expected[which]) < 0.05
        for size in (5, LENGTH):
            engine.back(0)
            for start in range(0, LENGTH, size):
                piece = IDS[start : start + size]
                assert np.array_equal(engine.read(piece), alone[which][start + len(piece) - 1])
    own = Engine(machine, LENGTH, texts=2, memory=memory).together([(0, IDS[:9], False), (1, IDS[:9], False)])
    assert all((row == rows[8]).all() for row, rows in zip(own, alone, strict=True))
    beams = Engine(machine, LENGTH, texts=3, memory=memory[:1])
    beams.read(IDS[:4])
    beams.reorder([0, 0, 0])
    assert all((row == alone[0][4]).all() for row in beams.together([(text, [IDS[4]], False) for text in range(3)]))


@torch.no_grad()
def test_a_quantised_encoder_rounds_what_its_matrices_read_where_text_is_written() -> None:
    """And nowhere else: what is recorded is what the weights as they are kept make."""
    machine, memory, _ = written("whisper", 8)
    stem = machine.spec.source
    assert isinstance(stem, spec.Mel)
    sound = torch.randn(2, stem.bins, 2 * stem.length, generator=torch.Generator().manual_seed(5))[:1]
    found = loop.encode(machine, sound).memory
    assert 1e-4 < worst(found[0].numpy(), memory[0].numpy()) < 0.05
    assert torch.equal(loop.encode(machine, sound).memory, found)
    assert worst(machine.encode(sound)[0].numpy(), memory[0].numpy()) < 2e-6


def test_places_go_on_with_each_others_texts() -> None:
    machine = lively(DECODERS["llama"])
    assert isinstance(machine, Transformer)
    engine = Engine(machine, CONTEXT, texts=3)
    for text in range(3):
        engine.read(IDS[text : text + 6], text)
    engine.reorder([2, 2, 0])
    found = engine.together([(text, [7], False) for text in range(3)])
    for row, begun in zip(found, (2, 2, 0), strict=True):
        whole = Engine(machine, CONTEXT).read([*IDS[begun : begun + 6], 7])
        assert worst(row, whole[None]) < 2e-6


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_what_is_written_is_what_the_machine_writes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn, and by beams: with the engine and without it."""
    machine, memory, _ = written(name)
    given = loop.Encoded(memory[:1])

    def both() -> tuple[list[int], list[list[int]]]:
        drawn = loop.generate(machine, [1], source=given, max_new_tokens=15, seed=3).finish().tokens
        guessed = loop.generate(machine, [1], source=given, max_new_tokens=15, seed=3, draft="prompt").finish().tokens
        assert guessed == drawn
        found = beam.beam_search(machine, [1], source=given, beams=3, max_new_tokens=15, eos=[2])
        return drawn, [one.tokens for one in found]

    fast = both()
    monkeypatch.setattr(in_c, "_suits", lambda machine: False)
    assert both() == fast


def in_bfloat16(name: str) -> tuple[Transformer | Seq2Seq, Transformer | Seq2Seq]:
    """A machine in bfloat16, and one in float32 with the same weights."""
    machine = lively({**DECODERS, **SOURCES}[name]).bfloat16()
    return machine, copy.deepcopy(machine).float()


@pytest.mark.parametrize("size", [1, 5, LENGTH])
@pytest.mark.parametrize("name", sorted(DECODERS))
def test_a_machine_in_bfloat16(name: str, size: int) -> None:
    """What it makes is what float32 makes of the same weights; where the processor multiplies bfloat16 itself, of
    prompts that are rounded where they meet the blocks' matrices. Token by token nothing is."""
    machine, whole = in_bfloat16(name)
    assert isinstance(machine, Transformer)
    assert isinstance(whole, Transformer)
    assert in_c._suits(machine)
    exact = worst(in_pieces(machine, size), logits(whole))
    if size == 1 or not library.load().halves:
        assert exact < 2e-6
        return
    for module in whole.stack.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(rounded)
    # A number half-way between two may go either way, and all that reads it goes along; some row has none.
    texts = IDS, IDS[::-1], [IDS[-1], *IDS[:-1]], IDS[5:] + IDS[:5]
    met = [(in_pieces(machine, size, ids), logits(whole, ids)) for ids in texts]
    read = [*range(size - 1, LENGTH - 1, size), LENGTH - 1]
    assert min(worst(found[i : i + 1], its[i : i + 1]) for found, its in met for i in read) < 2e-6
    assert 1e-5 < exact < 1e-2


def keys(engine: Engine, count: int) -> Tensor:
    """Those of the first text's first tokens, in the second block."""
    panel = engine._program.caches[2][0, :, :16]  # (G, 16, E), which is (G, E, 16) in truth
    return panel.reshape(len(panel), -1, 16)[..., :count]


def test_a_prompt_in_bfloat16_is_read_the_same_in_pieces_and_among_others() -> None:
    """To the last bit where prompts are rounded, else by sums in another order; and who goes on beside it does so as
    ever."""
    machine, _ = in_bfloat16("llama")
    assert isinstance(machine, Transformer)
    alone = Engine(machine, CONTEXT)
    alone.read(IDS[:16])
    among = Engine(machine, CONTEXT, texts=3)
    among.read(IDS[:9], 1)
    among.together([(0, IDS[:9], False), (1, [IDS[9]], False)], prompts={0})
    found = among.together([(1, [IDS[10]], False), (0, IDS[9:15], False), (2, IDS[3:7], False)], prompts={0, 2})[0]
    among.together([(0, IDS[15:16], False)], prompts={0})
    assert torch.allclose(keys(among, 16), keys(alone, 16), rtol=0, atol=0 if library.load().halves else 1e-5)
    beside = Engine(machine, CONTEXT)
    for part in (IDS[:9], IDS[9:10], IDS[10:11]):
        expected = beside.read(part)
    assert worst(found, expected[None]) < 2e-6


def test_texts_in_bfloat16_are_written_as_alone() -> None:
    """Whose prompt is read in pieces, or shared, or while others write."""
    machine, _ = in_bfloat16("llama")
    assert isinstance(machine, Transformer)
    texts = [IDS[:20], IDS[:20], IDS[:19], IDS[3:12], IDS[:2], IDS[4:5]]

    def asked(number: int) -> dict[str, Any]:
        return {"sampler": Sampler(temperature=1.5), "max_new_tokens": 20, "seed": number}

    alone = [loop.generate(machine, ids, **asked(number)).finish().tokens for number, ids in enumerate(texts)]
    batch = Batch(machine, None, slots=3)
    written: dict[int, list[int]] = {}
    waiting = list(enumerate(texts))
    numbers = {}
    while waiting or batch.free < 3:
        if waiting and batch.free:  # one at a step: the others write meanwhile
            number, ids = waiting.pop(0)
            numbers[batch.submit(Request(tuple(ids), **asked(number)))] = number
        for event in batch.step():
            assert event.error is None
            written.setdefault(numbers[event.handle], []).append(event.token)  # type: ignore[arg-type]
    assert [written[number] for number in range(len(texts))] == alone


@pytest.mark.parametrize("count", [1, 2, 9])
def test_a_prompt_in_bfloat16_is_one_to_a_batch_as_to_a_text_alone(count: int) -> None:
    """The keys of the second block are the same to the last bit; a prompt of one token is a step to both."""
    machine, _ = in_bfloat16("llama")
    assert isinstance(machine, Transformer)
    alone = Engine(machine, CONTEXT)
    alone.read(IDS[:count])
    batch = Batch(machine, None)
    batch.submit(Request(tuple(IDS[:count]), max_new_tokens=1))
    batch.step()
    assert isinstance(batch._engine, Engine)
    assert torch.equal(keys(batch._engine, count), keys(alone, count))


def rounded(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (given[0].bfloat16().float(), *given[1:])


def test_rounding_leaves_nan_and_infinity() -> None:
    """And goes to even from half-way."""
    dll = library.load()._library
    given = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8 - 2**-20, float("nan"), float("inf"), 3.4e38, 1e-40])
    found = torch.empty_like(given)
    dll.cutaway_halve.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    dll.cutaway_halve(given.data_ptr(), found.data_ptr(), len(given))
    np.testing.assert_array_equal(found.numpy(), given.bfloat16().float().numpy())


@torch.no_grad()
def test_a_decoder_behind_an_encoder_in_bfloat16() -> None:
    machine, whole = in_bfloat16("t5")
    assert isinstance(machine, Seq2Seq)
    assert isinstance(whole, Seq2Seq)
    generator = torch.Generator().manual_seed(0)
    memory = torch.randn(1, 11, machine.spec.decoder.width, generator=generator).bfloat16()
    found = Engine(machine, LENGTH, memory=memory).read(IDS)
    cross = whole.decode(torch.tensor([IDS]), memory.float())[:, -1].numpy()
    assert worst(found[None], cross) < 1e-2  # the keys and values of the memory are PyTorch's, in bfloat16


def test_few_numbers_are_one_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = lively(DECODERS["llama"])
    assert isinstance(machine, Transformer)
    seen: list[int] = []
    monkeypatch.setattr(library.Library, "run", lambda self, ops, batch, threads: seen.append(threads))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        engine = Engine(machine, CONTEXT)
        engine.read(IDS[:1])
        monkeypatch.setattr(in_c, "ALONE", 0)
        engine.read(IDS[:1])
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 2]


class Awake(TorchDispatchMode):
    """Notes what is worked out while PyTorch has more threads than one."""

    def __init__(self) -> None:
        super().__init__()
        self.by_all: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **kwargs or {})
        works = isinstance(found, Tensor) and func.overloadpacket.__name__ not in MOVES
        if works and torch.get_num_threads() > 1:
            self.by_all.append(func.overloadpacket.__name__)
        return found


MOVES = ("arange", "detach", "empty", "lift_fresh", "slice", "view")  # what only makes room, or looks


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_what_goes_before_a_run_wakes_no_thread_of_pytorch(machine: Transformer, two_threads: None) -> None:
    """They stay awake on cores that the engine needs: a prompt took twice as long."""
    with Awake() as awake:
        engine = Engine(machine, CONTEXT)
        engine.read(IDS)
    assert awake.by_all == []
    assert torch.get_num_threads() == 2


def test_what_rules_make_of_logits_wakes_none_either(two_threads: None) -> None:
    machine: Any = lively(DECODERS["llama"])
    with Awake() as awake:
        loop.generate(machine, IDS, rules=Rules(no_repeat_ngram_size=2), max_new_tokens=3).finish()
    assert awake.by_all == []
