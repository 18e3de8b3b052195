"""Matrices in 8 and 4 bits: what they hold, what they lose, and that a machine of them is still seen through."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import cutaway
from cutaway.errors import Misuse
from cutaway.model import quantized
from cutaway.model.quantized import QuantizedEmbedding, pack, unpack

SHAPES = [(1, 1), (16, 32), (97, 48), (200, 330)]


def matrix(rows: int, columns: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bits", [8, 4])
def test_what_fits_the_codes_comes_back_exactly(shape: tuple[int, int], bits: int) -> None:
    top = 127 if bits == 8 else 7
    codes = torch.randint(-top, top + 1, shape, generator=torch.Generator().manual_seed(0)).float()
    codes[:, ::32] = top if bits == 8 else -8  # the largest of each group, as its scale needs it
    weight = codes * 2.0**-5
    assert torch.equal(unpack(pack(weight, bits), bits, *shape), weight)


@pytest.mark.parametrize(("bits", "lost"), [(8, 0.006), (4, 0.081)])
def test_little_is_lost(bits: int, lost: float) -> None:
    weight = matrix(200, 330)
    found = unpack(pack(weight, bits), bits, 200, 330)
    assert 0 < (found - weight).norm() / weight.norm() < lost


def test_the_span_of_a_4_bit_scale_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = matrix(200, 330)
    chosen = (unpack(pack(weight, 4), 4, 200, 330) - weight).norm()
    monkeypatch.setattr(quantized, "SPANS", (1.0,))
    assert chosen < 0.97 * (unpack(pack(weight, 4), 4, 200, 330) - weight).norm()


def test_a_large_matrix_is_packed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pack(matrix(200, 330), 8)
    monkeypatch.setattr(quantized, "AT_ONCE", 1)
    assert torch.equal(pack(matrix(200, 330), 8), whole)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bits", [8, 4])
def test_a_large_matrix_is_unpacked_in_parts(
    shape: tuple[int, int], bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed, x = pack(matrix(*shape), bits), matrix(3, shape[1])
    monkeypatch.setattr(quantized, "AT_ONCE", 1)
    found = quantized.unpacked_product(x, packed, bits, shape[0])
    expected = x.double() @ unpack(packed, bits, *shape).double().T
    assert (found - expected).abs().max() <= 2e-6 * expected.abs().max()


def test_rows_are_looked_up_as_they_are_meant() -> None:
    table = QuantizedEmbedding(matrix(97, 48))
    ids = torch.tensor([[0, 96, 15, 16], [5, 5, 31, 0]])
    assert torch.equal(table(ids), nn.functional.embedding(ids, table.weight))


def test_other_bits_are_refused() -> None:
    with pytest.raises(ValueError, match="not in 3"):
        pack(matrix(16, 32), 3)


@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_a_record_of_it_adds_up(quantize: str) -> None:
    model = cutaway.load("stories", quantize=quantize)
    assert model.card.dtype == quantize
    record = model.run("Once upon a time there was a")
    exact = model.machine(torch.tensor([record.tokens]))[0]
    torch.testing.assert_close(record["logits"], exact, rtol=1e-5, atol=1e-5)
    for cell in ("blocks.2.attn.q[-1,0,3]", "blocks.1.mlp.up[-1,5]", "logits[-1,7]"):
        assert abs(record.explain(cell).difference) < 1e-5, cell


def test_a_quantised_model_says_what_it_wants() -> None:
    with pytest.raises(Misuse, match="int8 or int4"):
        cutaway.load("stories", quantize="int3")
    with pytest.raises(Misuse, match="stays in float32"):
        cutaway.load("stories", quantize="int8", dtype="bfloat16")


@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_all_of_it_lies_where_it_is_asked_for(quantize: str) -> None:
    """On meta, which any product with what lies elsewhere refuses."""
    machine = cutaway.load("stories", quantize=quantize, device="meta").machine
    assert all(tensor.is_meta for tensor in machine.state_dict().values())
    with torch.no_grad():
        assert machine(torch.zeros(1, 5, dtype=torch.long, device="meta")).is_meta


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_on_a_gpu_it_writes_what_it_writes_here(quantize: str) -> None:
    here, there = (cutaway.load("stories", quantize=quantize, device=device) for device in ("cpu", "cuda"))
    tokens = here.tokens("Once upon a time there was a")
    exact = here.machine(torch.tensor([tokens]))
    torch.testing.assert_close(there.machine(torch.tensor([tokens], device="cuda")).cpu(), exact, rtol=1e-3, atol=1e-3)
    assert there.generate("Once upon a time", max_new_tokens=20, temperature=0).text
