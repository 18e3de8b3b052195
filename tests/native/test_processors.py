"""The kernels of other processors than this one: compiled for those without AVX-512, for those without AVX, for those
that had better multiply bfloat16 themselves, and for those that had better not."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterable
from pathlib import Path

import pytest

from cutaway.model.quantized import quantize
from cutaway.native import library
from tests.model.machines import DECODERS, lively

from . import test_engine as engines
from .test_engine import IDS, LENGTH, check_that_rows_do_not_meet, in_pieces, logits, worst

pytestmark = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="compiled for x86-64")


@pytest.fixture(scope="module", params=["haswell", "x86-64"])
def other(request: pytest.FixtureRequest, kernels: None, tmp_path_factory: pytest.TempPathFactory) -> library.Library:
    flags = [f"-march={request.param}" if flag == "-march=native" else flag for flag in library.FLAGS]
    return compiled(tmp_path_factory.mktemp("kernels"), flags)


def compiled(folder: Path, flags: Iterable[str]) -> library.Library:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(library, "FLAGS", flags)
        library._compile(folder / "kernels.so")
    return library.Library(ctypes.CDLL(str(folder / "kernels.so")))


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


@pytest.mark.parametrize("halves", [True, False])
def test_prompts_in_bfloat16_either_way(
    halves: bool, kernels: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Multiplied as bfloat16 or as floats: the library goes by whose the processor is, and this one is one of them."""
    if "avx512_bf16" not in library._processor().split():
        pytest.skip("this processor does not multiply bfloat16")
    other = compiled(tmp_path, (*library.FLAGS, f"-DHALVED={int(halves)}"))
    assert other.halves is halves
    monkeypatch.setattr(library, "load", lambda: other)
    for size in (1, 5, LENGTH):
        engines.test_a_machine_in_bfloat16("llama", size)
    engines.test_a_prompt_in_bfloat16_is_read_the_same_in_pieces_and_among_others()
    engines.test_a_prompt_in_bfloat16_is_one_to_a_batch_as_to_a_text_alone(9)
