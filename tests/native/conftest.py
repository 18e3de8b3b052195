"""What every test of the kernels needs."""

from __future__ import annotations

import pytest

from cutaway.native import library


@pytest.fixture(autouse=True, scope="module")
def kernels() -> library.Library:
    try:
        return library.load()
    except library.Unavailable as reason:
        pytest.skip(f"needs the kernels in C: {reason}")
