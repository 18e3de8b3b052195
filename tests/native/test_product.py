"""A product with a quantised matrix by the kernels is the product with what the matrix means."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch.nn.functional import linear

import cutaway
from cutaway.model import linear as products
from cutaway.model.linear import MANY, Linear
from cutaway.model.quantized import QuantizedLinear, pack, rounded, unpack, unpacked_product
from cutaway.native import library
from cutaway.native.product import _product, in_turn, install
from tests.model.machines import in_8_bits


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("count", [1, 3, 4, 12, 29])
@pytest.mark.parametrize("shape", [(16, 32), (97, 48), (200, 330), (1, 1)])
def test_it_is_the_product_with_what_the_matrix_means(shape: tuple[int, int], count: int, bits: int) -> None:
    generator = torch.Generator().manual_seed(count)
    packed = pack(torch.randn(shape, generator=generator), bits)
    x = torch.randn(count, shape[1], generator=generator)
    found = _product(x, packed, bits, shape[0])
    expected = x.double() @ unpack(packed, bits, *shape).double().T
    assert (found - expected).abs().max() <= 2e-6 * expected.abs().max()


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("shape", [(97, 48), (200, 330)])
def test_where_inputs_may_be_rounded_they_are(shape: tuple[int, int], bits: int) -> None:
    """To 8 bits, 32 by 32; a row's numbers do not hang on those beside it."""
    packed = pack(torch.randn(shape, generator=torch.Generator().manual_seed(1)), bits)
    x = torch.randn(29, shape[1], generator=torch.Generator().manual_seed(2))
    with rounded():
        found = _product(x, packed, bits, shape[0])
        assert torch.equal(torch.cat([_product(row[None], packed, bits, shape[0]) for row in x]), found)
    expected = in_8_bits(x) @ unpack(packed, bits, *shape).T
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (_product(x, packed, bits, shape[0]) - expected).abs().max() > 1e-3 * expected.abs().max()


def test_any_leading_axes_and_any_layout() -> None:
    packed = pack(torch.randn(64, 96), 8)
    x = torch.randn(96, 2, 3).permute(1, 2, 0)
    assert torch.allclose(_product(x, packed, 8, 64), unpacked_product(x, packed, 8, 64), atol=1e-4)
    assert _product(x[:0], packed, 8, 64).shape == (0, 3, 64)


def test_nan_is_not_lost() -> None:
    x = torch.ones(5, 64)
    x[3, 7] = torch.nan
    assert _product(x, pack(torch.randn(32, 64), 4), 4, 32).isnan().any(-1).tolist() == [i == 3 for i in range(5)]


def test_it_is_an_operation_of_pytorchs() -> None:
    """With a fake kernel, for compilers, and with a gradient."""
    install()
    torch.library.opcheck(
        torch.ops.cutaway.product.default, (torch.randn(3, 64, requires_grad=True), pack(torch.randn(48, 64), 8), 8, 48)
    )


def test_a_recorded_run_takes_it() -> None:
    """Loading a quantised model puts the kernels in place: none of its matrices is unpacked."""
    script = """
import cutaway
from cutaway.model import quantized
model = cutaway.load("stories", quantize="int8")
def unpack(*given): raise AssertionError("a matrix was unpacked")
quantized.unpacked_product = unpack
from cutaway.native import product
product.unpacked_product = unpack
record = model.run("Once upon a time")
print(record["logits.last"].argmax().item(), record["logits"].shape[0])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    model = cutaway.load("stories", quantize="int8")
    best = int(model.run("Once upon a time")["logits.last"].argmax())
    assert done.stdout.split() == [str(best), str(len(model.tokens("Once upon a time")))]


def test_what_it_takes_the_place_of_is_the_same() -> None:
    layer = QuantizedLinear(torch.randn(80, 64), 8, torch.nn.Parameter(torch.randn(80)))
    x = torch.randn(7, 64)
    assert torch.allclose(layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias), atol=1e-4)


# --- few vectors with floats


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of each product that PyTorch makes how many vectors."""
    found: list[int] = []
    monkeypatch.setattr(products, "_ONEDNN", False)
    monkeypatch.setattr(products, "LARGE", 1)
    monkeypatch.setattr(products, "intel", lambda: True)

    def counted(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        found.append(x.numel() // x.shape[-1])
        return linear(x, weight, bias)

    monkeypatch.setattr(products.F, "linear", counted)
    return found


@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(300, 500), (97, 48), (1, 1), (16, 333)])
def test_few_vectors_meet_floats_in_the_kernels(shape: tuple[int, int], bias: bool, seen: list[int]) -> None:
    layer = Linear(shape[1], shape[0], bias)
    for count in range(1, MANY):
        x = torch.randn(shape[1], 1, count).permute(1, 2, 0)
        with in_turn(layer, torch.zeros(1, count, dtype=torch.long)):
            found = layer(x)
        assert not seen
        expected = linear(x.double(), layer.weight.double(), layer.bias.double() if bias else None)
        assert (found - expected).abs().max() <= 2e-6 * expected.abs().max()


def test_others_are_pytorchs(seen: list[int]) -> None:
    layer, x = Linear(40, 30), torch.randn(5, 40)
    tokens = torch.zeros(1, 5, dtype=torch.long)
    with torch.no_grad():
        layer(x)  # outside
        with in_turn(layer, torch.zeros(1, MANY, dtype=torch.long)):
            layer(x)  # many tokens
        with in_turn(layer, torch.randn(1, 3, 4, 4)):
            layer(x)  # a picture
        with in_turn(Linear(40, 30).bfloat16(), tokens):
            layer(x)  # another dtype, for whose products PyTorch needs its threads
        with in_turn(layer, tokens):
            layer(torch.randn(MANY, 40))
            products.linear(x, torch.randn(40, 30).T, None)  # lies otherwise
    with in_turn(layer, tokens):
        layer(x)  # with a gradient
    assert seen == [5, 5, 5, 5, MANY, 5, 5]


def test_meanwhile_pytorch_takes_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the kernels all: with few tokens, and with quantised matrices in any case."""
    threads: list[int] = []
    run = library.Library.run

    def counted(kernels: library.Library, ops: object, batch: object, count: int) -> None:
        threads.append(count)
        run(kernels, ops, batch, count)  # type: ignore[arg-type]

    monkeypatch.setattr(library.Library, "run", counted)
    monkeypatch.setattr(products, "LARGE", 1)
    install()
    few, many = torch.zeros(1, 5, dtype=torch.long), torch.zeros(1, MANY, dtype=torch.long)
    floats, halves = Linear(40, 30), Linear(40, 30).bfloat16()
    packed = QuantizedLinear(torch.randn(30, 40), 8, floats.bias)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        for layer, ids, meanwhile in (
            (floats, few, 1), (packed, few, 1), (packed, many, 1), (floats, many, 3), (halves, few, 3)
        ):  # fmt: skip
            with torch.no_grad(), in_turn(layer, ids):
                layer(torch.randn(ids.numel(), 40).to(next(layer.parameters()).dtype))
                assert torch.get_num_threads() == meanwhile
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert threads == [3, 3, 3]


def test_a_run_of_few_tokens_is_read_so(seen: list[int]) -> None:
    model = cutaway.load("stories")
    record = model.run("Once upon a time there was a")
    model.run("Once upon a time there was a dog", after=record)
    assert not seen
    model.run("Once upon a time there was a " * 9)
    assert seen
