"""Books as people typed them in, to stories: what is not the story is left out.

Page numbers, tables of contents, prefaces, footnotes and captions of pictures that are not there would teach a small
model to write page numbers. docs/training.md says how much each rule takes away from the bundled model's corpus.
"""

from __future__ import annotations

import collections
import re
import unicodedata
from collections.abc import Sequence

SHORTEST = 200  # characters; title pages, dedications and lone verses are shorter, stories are not

# --- one paragraph -----------------------------------------------------------------------------------------------

QUOTES = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "`": "'", "\u00a0": " ", "\u00ad": None})
FOOTNOTE_MARK = re.compile(r" ?\[(?:\d{1,3}|[A-Z])\]| ?\{[^{}]{0,30}\}|(?<=[\w.,;!?'\"])\*+(?=\s|$)")
INSERTION = re.compile(r" ?\[[^\[\]]{0,80}\]")  # an editor's gloss, "[Greek text]", "[Illustration]"
ITALICS = re.compile(r"_([^_]+)_")
DASH = re.compile(r" ?(?:—|--)[—-]* ?")
SPLIT_COMPOUND = re.compile(r"(?<=[a-z]-) (?=[a-z])")  # "to- morrow"


def clean_text(text: str) -> str:
    """One paragraph in plain typography: straight quotes, ``--`` for every dash, no italics or footnote marks."""
    text = unicodedata.normalize("NFC", text).translate(QUOTES)
    text = "".join(c if c == " " or unicodedata.category(c)[0] not in "CZ" else " " for c in text)
    text = INSERTION.sub("", FOOTNOTE_MARK.sub("", text))
    text = ITALICS.sub(r"\1", text).replace("_", "")
    text = SPLIT_COMPOUND.sub("", DASH.sub("--", text))
    return " ".join(text.split()).lstrip("|")


# --- one book ----------------------------------------------------------------------------------------------------

NUMERAL = r"(?:\d+|[IVXLC]+|[A-Z][a-z]+|ONE|TWO|THREE|FOUR|FIVE|SIX|SEVEN|EIGHT|NINE|TEN|[A-Z]+TEEN|[A-Z]+TY[A-Z-]*)"
DIVISION = re.compile(rf"^-* ?(?:CHAPTER|Chapter|PART|BOOK|STORY|VOLUME|CANTO|ACT|SCENE)\b\.? {NUMERAL}\b")
NUMBERED = re.compile(r"^(?:\d{1,3}|[IVXLC]+)\.? +[A-Z][^.!?]{0,70}\.?$|^[IVXLC]+[.:]?$")
ASIDE = re.compile(  # opens a section that is not the story, up to the next heading
    r"(?i)^(?:the |list of |table of |author'?s |preparer'?s |publisher'?s |editor'?s |transcriber'?s |translator'?s )*"
    r"(?:contents|preface|introduction|introductory|dedication|illustrations|chapters|note|notes on the text"
    r"|advertisements?|foreword|errata|prologue to the reader)\b.{0,40}$"
)
BACK_MATTER = re.compile(  # in the second half of a book: from here to its end
    r"(?i)^(?:the )?(?:index|glossary|appendix|authorities|endnotes?|notes and references|notes|bibliography)\b.{0,12}$"
)
JUNK = re.compile(
    "|".join(
        (
            r"^\[|^\{|^.{0,160}\]$",  # captions
            r"^\* ?\w|^(?:Foot|End)notes?\b|^(?i:\(?\d+\)\s)",  # footnotes
            r"^[\W\d_]*$",  # page numbers, rows of stars
            r"(?i:line-?art drawing|full page)",
            r"^(?i:the end\.?|finis\.?)$",
            r"^(?i:.{0,120}\b(?:transcriber|e-?text|scanned by)\b)",
            r"(?i:project gutenberg|copyright|all rights reserved)",
            r"^(?i:(?:published|printed|edited by|illustrated by|by)(?:\s.{0,40})?)$",
            # where a tale was taken from
            r"^\(?(?:From|FROM|Adapted|Translated|Abridged) (?:by |from )?(?:the )?['A-Z_][^!?\"]{0,60}$",
            r"^.{0,80}[a-z!?] \d{1,3}$",  # a line of a table of contents
        )
    )
)
PAGE_NUMBER = re.compile(r"^\d{1,3} (?=[a-z\"'])")  # in front of a sentence that a page break cut in two
ENDS = re.compile(r"[.!?:;,)\]*]['\"]*$|--['\"]*$")


def _kind(line: str) -> str:
    """What a line of a book is: "prose", "heading", or the reason for which it is left out."""
    if BACK_MATTER.match(line):
        return "back matter"
    if ASIDE.match(line) and _in_title_case(line):
        return "front matter"
    if JUNK.search(line):
        return "captions, footnotes, page furniture"
    if line[0] not in "\"'" and (DIVISION.match(line) or NUMBERED.match(line) or _in_title_case(line)):
        return "heading"
    return "prose"


def _in_title_case(line: str) -> bool:
    """Whether a line is all capitals or, being short and no sentence, capitalises every long word."""
    if len(line) > 110 or sum(c.isalpha() for c in line) < 3:
        return False
    long_words = re.findall(r"[^\W\d]{4,}", line)
    titled = len(line) < 70 and not ENDS.search(line) and bool(long_words) and all(w[0].isupper() for w in long_words)
    return line.isupper() or titled


def clean_book(lines: Sequence[str], dropped: collections.Counter[str] | None = None) -> list[str]:
    """The chapters or tales of one book, cleaned; ``lines`` holds a paragraph each.

    ``dropped`` is added to: the characters left out, by reason.
    """
    dropped = collections.Counter() if dropped is None else dropped
    documents: list[list[str]] = [[]]
    reason = ""  # why prose is being left out just now
    broken = False  # did a page break cut the paragraph before?
    for number, line in enumerate(lines):
        line = line.translate(QUOTES).strip()
        if not line:
            continue
        kind = _kind(line)
        if reason == "back matter":
            kind = "prose"
        elif kind == "back matter" and 2 * number < len(lines):
            kind = "heading"
        if kind == "prose" and not reason:
            paragraph = clean_text(PAGE_NUMBER.sub("", line))
            if broken and paragraph[:1].islower():
                documents[-1][-1] += " " + paragraph
            elif paragraph:
                documents[-1].append(paragraph)
            broken = bool(paragraph) and not ENDS.search(paragraph)
            continue
        dropped[reason if kind == "prose" else kind] += len(line)
        if kind in ("heading", "front matter", "back matter"):
            reason, broken = "" if kind == "heading" else kind, False
            documents.append([])
    kept = []
    for document in ("\n".join(paragraphs) for paragraphs in documents):
        if _is_story(document):
            kept.append(document)
        else:
            dropped["fragments"] += len(document)
    return kept


def _is_story(document: str) -> bool:
    """Long enough, hardly a digit in it, and not a primer that "hy-phen-ates ev-er-y word"."""
    digits = sum(c.isdigit() for c in document)
    hyphens = len(re.findall(r"\w-\w", document))
    return len(document) >= SHORTEST and digits < 0.01 * len(document) and hyphens < 0.06 * len(document.split())
