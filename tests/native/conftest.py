"""What every test of the kernels needs."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def needs(kernels: None) -> None:
    """The kernels."""
