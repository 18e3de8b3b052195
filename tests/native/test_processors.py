"""The kernels of other processors than this one: compiled for those without AVX-512, and for those without AVX."""

from __future__ import annotations

import ctypes
import platform

import pytest

from cutaway.model.quantized import quantize
from cutaway.native import library
from tests.model.machines import DECODERS, lively

from .test_engine import IDS, LENGTH, check_that_rows_do_not_meet, in_pieces, logits, worst

pytestmark = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="compiled for x86-64")


@pytest.fixture(scope="module", params=["haswell", "x86-64"])
def other(request: pytest.FixtureRequest, kernels: None, tmp_path_factory: pytest.TempPathFactory) -> library.Library:
    made = tmp_path_factory.mktemp("kernels") / "kernels.so"
    flags = [f"-march={request.param}" if flag == "-march=native" else flag for flag in library.FLAGS]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(library, "FLAGS", flags)
        library._compile(made)
    return library.Library(ctypes.CDLL(str(made)))


@pytest.mark.parametrize("name", sorted(DECODERS))
def test_they_read_as_the_machine_does(name: str, other: library.Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "load", lambda: other)
    machine = lively(DECODERS[name])
    for size in (1, 7, 11, LENGTH):
        assert worst(in_pieces(machine, size), logits(machine)) < 2e-6


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", sorted(DECODERS))
def test_quantised_they_read_as_this_one_does(
    name: str, bits: int, other: library.Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = lively(DECODERS[name])
    quantize(machine, bits)
    texts = IDS, IDS[::-1]
    own = [in_pieces(machine, 1, ids) for ids in texts]
    monkeypatch.setattr(library, "load", lambda: other)
    check_that_rows_do_not_meet(machine)
    met = [(in_pieces(machine, 1, ids), rows) for ids, rows in zip(texts, own, strict=True)]
    # A number half-way between two codes may go either way, and all that reads it goes along; some row has none.
    assert min(worst(found[i : i + 1], rows[i : i + 1]) for found, rows in met for i in range(LENGTH)) < 2e-6
    assert max(worst(found, rows) for found, rows in met) < 0.03
