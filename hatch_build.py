"""The build hook: a wheel or an sdist of Cutaway holds the built page, or is not made at all."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).resolve().parent / "tools"))
import build_page


class PageHook(BuildHookInterface):
    """Builds web/ into src/cutaway/page/ with tools/build_page.py.

    An editable install needs no page (`make setup` builds it), and an sdist carries it already built, so that
    installing from one needs neither Node nor npm's registry.
    """

    def dependencies(self) -> list[str]:
        """Node itself, where the page is still to be built and the system's Node will not do."""
        if self.carried() or build_page.system_node(self.web) is not None or build_page.packaged_node() is not None:
            return []
        return [build_page.NODE_WHEEL]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        if not self.carried():
            build_page.build(Path(self.root))
        build_page.check(Path(self.root) / "src/cutaway/page")

    @property
    def web(self) -> Path:
        return Path(self.root) / "web"

    def carried(self) -> bool:
        """Whether this is an unpacked sdist (only those have PKG-INFO), whose page was built when it was made."""
        return (Path(self.root) / "PKG-INFO").is_file()
