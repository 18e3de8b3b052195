"""What the page's source must never hold."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

WEB = Path(__file__).resolve().parents[2] / "web"
SOURCES = sorted(path for path in (WEB / "src").rglob("*") if path.suffix in {".ts", ".svelte", ".css"})

FORBIDDEN = {
    "a random number: every number drawn comes from a record or from the seed": r"Math\.random|crypto\.getRandom",
    "markup made from text": r"\{@html|innerHTML|outerHTML|insertAdjacentHTML|document\.write",
    "code made from text": r"\beval\(|new Function",
    "an address of another machine": r"https?://(?!www\.w3\.org)",
    "a physical direction, which would not turn with the script": r"(?:margin|padding|border)-(?:left|right)\s*:",
    "a style attribute, which the content policy forbids": r"""\sstyle=["{]""",
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_source_of_the_page_holds(what: str) -> None:
    assert SOURCES
    pattern = re.compile(FORBIDDEN[what])
    found = [f"{path.relative_to(WEB)}: {match[0]}" for path in SOURCES for match in pattern.finditer(path.read_text())]
    assert found == []


def test_every_message_is_used_and_every_one_used_is_there() -> None:
    messages = (WEB / "src/messages/en.ts").read_text()
    defined = set(re.findall(r"^  '([^']+)':", messages, re.MULTILINE))
    code = "\n".join(path.read_text() for path in SOURCES if path.name != "en.ts")
    used = set(re.findall(r"'([a-z][\w.-]*)'", code))
    assert defined - used == set()
