"""docs/server.md says what the server does."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

from cutaway.serve.gate import METHODS
from cutaway.serve.limits import Limits, MiB
from cutaway.serve.live import Live
from cutaway.serve.supervisor import Supervisor

DOCUMENT = (Path(__file__).parents[2] / "docs" / "server.md").read_text()


def test_the_limits_table_is_right() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+)( MiB)? \|", DOCUMENT, re.MULTILINE)
    stated = {name: int(value.replace(",", "")) * (MiB if unit else 1) for name, value, unit in rows}
    assert stated == asdict(Limits())


def test_every_route_is_described() -> None:
    for route in Live(Supervisor(), Limits()).routes():
        method = next(iter(route.methods - {"HEAD"}))
        assert f"`{method} {route.path.replace(':path', '')}" in DOCUMENT
        assert method in METHODS
