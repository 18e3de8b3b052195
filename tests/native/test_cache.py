"""Keys and values in 8 bits: what is lost is what rounding them loses, and nothing else changes."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from cutaway.errors import Failed
from cutaway.generate import loop
from cutaway.generate.in_c import InC as Engine
from cutaway.model.attention import Attention
from cutaway.model.quantized import quantize
from cutaway.model.transformer import Seq2Seq, Transformer
from tests.model.machines import CONTEXT, DECODERS, LLAMA, attention, decoder, lively
from tests.native.test_engine import (
    IDS,
    LENGTH,
    SOURCES,
    check_that_rows_do_not_meet,
    in_pieces,
    logits,
    worst,
    written,
)  # fmt: skip

#: Heads of a part of a vector, of one and a part, of two and a part.
ODD = {
    f"{width} wide": decoder(*[dataclasses.replace(LLAMA, attn=attention(width=width, rope=None))] * 2)
    for width in (7, 24, 40)
}
KINDS = DECODERS | ODD


@pytest.fixture(params=sorted(KINDS))
def machine(request: pytest.FixtureRequest) -> Transformer:
    machine = lively(KINDS[request.param])
    assert isinstance(machine, Transformer)
    machine.cache_in = "int8"
    return machine


def in_codes(x: Tensor) -> Tensor:
    """(B, G, S, E): of each vector of E numbers what 8 bits hold, by its largest."""
    largest = x.abs().amax(-1, keepdim=True)
    return (x * (127 / largest)).round() * largest / 127


def mixed_from_codes(mix: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, *rest: object) -> Tensor:
    return mix(q, in_codes(k), in_codes(v), *rest)


def rounded(machine: Transformer | Seq2Seq) -> Transformer | Seq2Seq:
    """PyTorch's machine, whose decoder attends to keys and values of its own text as 8 bits hold them."""
    made = copy.deepcopy(machine)
    for name, module in made.named_modules():
        if isinstance(module, Attention) and name.endswith(".attn") and not name.startswith("encoder"):
            module.mix = functools.partial(mixed_from_codes, module.mix)  # type: ignore[method-assign]
    return made


@pytest.mark.parametrize("size", [1, 2, 5, LENGTH])
def test_it_reads_as_pytorch_does_with_rounded_keys_and_values(machine: Transformer, size: int) -> None:
    """To rounding, from which keys and values as they are lead far away."""
    its, met, lost = rounded(machine), [], []
    assert isinstance(its, Transformer)
    for ids in (IDS, IDS[::-1]):
        found = in_pieces(machine, size, ids)
        met.append(worst(found, logits(its, ids)))
        lost.append(worst(found, logits(machine, ids)))
    # A number half-way between two codes may go either way, and all that reads it goes along; some text has none.
    assert min(met) < 1e-5
    assert 1e-4 < min(lost) <= max(lost) < 0.05


@pytest.mark.parametrize("bits", [8, 4])
def test_a_row_does_not_see_what_is_read_beside_it(machine: Transformer, bits: int) -> None:
    quantize(machine, bits)
    check_that_rows_do_not_meet(machine)


def test_what_is_kept_goes_along_where_room_grows_and_places_change(machine: Transformer) -> None:
    quantize(machine, 8)
    alone = in_pieces(machine, 1)
    engine = Engine(machine, 16, texts=3)
    engine.read(IDS[:13])
    engine.grow(CONTEXT)
    engine.copy(0, to=1, length=11)
    assert np.array_equal(engine.read(IDS[11:18], 1), alone[17])
    engine.reorder([1, 0, 0])
    for text, begun in enumerate((18, 13, 13)):
        assert np.array_equal(engine.read([IDS[begun]], text), alone[begun])


def test_they_take_a_quarter_and_their_scales(machine: Transformer) -> None:
    def held(of: Transformer) -> int:
        return sum(cache.nbytes for cache in Engine(of, CONTEXT)._program.caches)

    floats = copy.deepcopy(machine)
    floats.cache_in = None
    width = machine.spec.stack.blocks[0].attn.width
    assert held(machine) == held(floats) * (width + 4) / (4 * width)


@pytest.mark.parametrize("bits", [None, 8])
@pytest.mark.parametrize("of", ["k", "v"])
@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_what_is_no_number_does_not_get_lost(number: float, of: str, bits: int | None) -> None:
    """One number of one key, or of one value, of the first token: it is met by all that read it."""
    machine = lively(DECODERS["gpt2"])
    assert isinstance(machine, Transformer)
    machine.cache_in = "int8"
    if bits:
        quantize(machine, bits)
    getattr(machine.stack.blocks[0].attn, of).bias[3] = number
    assert np.isnan(Engine(machine, CONTEXT).read(IDS[:5])).all()
    with pytest.raises(Failed, match="NaN or infinity"):
        loop.generate(machine, IDS[:5], max_new_tokens=2).finish()


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_behind_an_encoder_a_text_keeps_its_own_so(name: str) -> None:
    """What is kept of the encoder's output stays float32."""
    machine, memory, expected = written(name)
    machine.cache_in = "int8"
    its = rounded(machine)
    assert isinstance(its, Seq2Seq)
    with torch.no_grad():
        met = its.decode(torch.tensor([IDS, IDS]), memory).numpy()
    engine = Engine(machine, LENGTH, texts=2, memory=memory)
    found = np.stack([engine.together([(text, IDS, True)])[0] for text in range(2)])
    assert min(worst(found[text], met[text]) for text in range(2)) < 1e-5 < 1e-4 < worst(found[0], expected[0])
