"""Fixtures every wing uses."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of data and weights beside the repository; users do not have it."""
    if not SHARED.is_dir():
        pytest.skip("needs the data folder ../shared, which is not part of the repository")
    return SHARED


@pytest.fixture(scope="session")
def kernels() -> None:
    """The engine in C is there, and not only being compiled."""
    from cutaway.native import library

    try:
        library.load()
    except library.Unavailable as reason:
        pytest.skip(f"needs the kernels in C: {reason}")
