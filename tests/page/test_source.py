"""What the page's source must never hold."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

WEB = Path(__file__).resolve().parents[2] / "web"
SOURCES = sorted(path for path in (WEB / "src").rglob("*") if path.suffix in {".ts", ".svelte", ".css"})
SOURCES += [WEB / "index.html", WEB / "firstpicture.ts", WEB / "preload.ts", WEB / "standalone.ts"]

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


# Where the token that is drawn is shown.
DRAWN = re.compile(r"^(?:app\.css|paint/(?:ink|weave|draw)\.ts|parts/(?:next/.*|shell/(?:Prompt|Written))\.svelte)$")


def test_amber_is_the_drawn_token_and_nothing_else() -> None:
    files = [path for path in SOURCES if re.search(r"--drawn|ink\.drawn", path.read_text())]
    amber = [path.relative_to(WEB / "src").as_posix() for path in files]
    assert [path for path in amber if not DRAWN.match(path)] == []


MESSAGES = sorted((WEB / "src/messages/en").glob("*.ts"))
CODE = "\n".join(path.read_text() for path in SOURCES if path not in MESSAGES)

# Sentences whose name is put together where they are said: how it begins, and the file that has the words it ends with.
COMPOSED = {
    "act.play.": "web/src/parts/shell/Prompt.svelte",  # to continue a text, or to fill masks
    "act.play.hint.": "web/src/parts/shell/Prompt.svelte",
    "act.step.": "web/src/parts/shell/Prompt.svelte",
    "act.step.hint.": "web/src/parts/shell/Prompt.svelte",
    "distribution.": "web/src/recording.ts",  # what the model does
    "distribution.row.": "web/src/recording.ts",
    "drawing.plain.": "web/src/recording.ts",
    "text.placeholder.": "web/src/recording.ts",
    "final.": "web/src/recording.ts",  # what stands before the unembedding
    "opened.end.plain.": "web/src/recording.ts",
    "attention.in.": "web/src/parts/attention/reading.svelte.ts",  # over the heads: mean, max
    "cell.over.": "web/src/parts/attention/reading.svelte.ts",
    "head.": "web/src/parts/attention/reading.svelte.ts",
    "square.": "web/src/parts/attention/reading.svelte.ts",
    "kind.": "web/src/heads.ts",
    "compare.preset.": "web/src/parts/compare/Compare.svelte",
    "formula.": "web/src/distribution.ts",  # the steps of the sampler
    "short.": "web/src/distribution.ts",
    "how.": "web/src/parts/next/arithmetic.ts",
    "lesson.": "web/src/lessons/lessons.ts",
    "number.": "web/src/parts/numbers/cell.ts",  # the rules
    "lens.stop.": "web/src/recording.ts",  # the branches of a block
    "lens.head.": "web/src/recording.ts",
    "step.": "src/cutaway/look/explain/work.py",  # the operations
    "opened.embedding.": "web/src/parts/opened/Embedding.svelte",
    "pace.": "web/src/session.svelte.ts",
    "run.bad.": "web/src/cutawayfile.ts",
}


def test_every_message_is_said() -> None:
    defined = [key for path in MESSAGES for key in re.findall(r"^  '([^']+)':", path.read_text(), re.MULTILINE)]
    assert len(defined) > 500
    said = set(re.findall(r"'([\w. -]+)'", CODE))
    assert [key for key in defined if key not in said and not composed(key)] == []


def composed(key: str) -> bool:
    """Whether the longest beginning that fits is put before a word somewhere, and what follows it is in its file."""
    beginning = max((start for start in COMPOSED if key.startswith(start)), key=len, default=None)
    if beginning is None or not re.search(rf"`{re.escape(beginning)}(?:[\w-]+\.)?\${{", CODE):
        return False
    source = (WEB.parent / COMPOSED[beginning]).read_text()
    words = key.removeprefix(beginning).removesuffix(".about").removesuffix(".then")
    return all(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", source) for word in words.split("."))
