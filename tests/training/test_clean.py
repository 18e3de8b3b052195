from __future__ import annotations

import collections

import pytest

from cutaway.training.clean import clean_book, clean_text

STORY = ["Once upon a time a fox met a hare upon the road, and it was raining. " * 3, '"Good day," said the hare.']


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("“It’s _so_ late,” he said—‘late’.", "\"It's so late,\" he said--'late'."),
        ("a day -- or two ---- or three", "a day--or two--or three"),
        ("He took the ring.[4] It was gold.*", "He took the ring. It was gold."),
        ("the tars [sailors] before the mast", "the tars before the mast"),
        ("before to- morrow  night", "before to-morrow night"),
        ("a dog\u00a0and\x82 a cat", "a dog and a cat"),
        ("3 * 4", "3 * 4"),
    ],
)
def test_text_becomes_plain(raw: str, clean: str) -> None:
    assert clean_text(raw) == clean


def test_headings_part_the_stories() -> None:
    chapters = clean_book(["The Book of Foxes", "CHAPTER I. THE ROAD", *STORY, "THE SECOND TALE", *STORY])
    assert len(chapters) == 2
    assert all(chapter.startswith("Once upon a time") and chapter.endswith("said the hare.") for chapter in chapters)


@pytest.mark.parametrize(
    "junk",
    [
        "* * * * *",
        "142",
        "[Illustration: The fox]",
        "[THE FOX MET THE HARE.]",
        "[Footnote 3: A kind of fox.]",
        "* A kind of fox, found in Denmark.",
        "(7) Grimm.",
        "From 'West Highland Tales.'",
        "Full page line-art drawing.",
        "THE END.",
        "His Majesty the Scarecrow 71",
        "This etext was prepared by a volunteer",
        "Copyright 1904",
    ],
)
def test_page_furniture_goes(junk: str) -> None:
    dropped: collections.Counter[str] = collections.Counter()
    chapters = clean_book(["CHAPTER I", STORY[0], junk, STORY[1]], dropped)
    assert chapters == [clean_text(STORY[0]) + "\n" + STORY[1]]
    assert dropped["captions, footnotes, page furniture"] == len(junk)


@pytest.mark.parametrize("line", ["'Why?'", "No answer.", "He saw 3 foxes.", "I was eleven then,", "(He had a cold.)"])
def test_prose_stays(line: str) -> None:
    assert line in clean_book(["CHAPTER I", *STORY, line])[0]


def test_prefaces_contents_and_indexes_go() -> None:
    book = ["PREFACE", "My thanks to the printer. " * 20, "CONTENTS", "I. The Road", "CHAPTER I. The Road", *STORY]
    book += ["NOTES AND REFERENCES", "I. THE ROAD", "Told to me by a fox in the county of Kent. " * 10]
    assert clean_book(book) == [clean_text(STORY[0]) + "\n" + STORY[1]]


def test_a_sentence_cut_by_a_page_break_is_mended() -> None:
    book = [
        "CHAPTER I",
        STORY[0],
        "Now, at a word from the Princess, the queer",
        "280 Line-Art Drawing",
        "281 thing flew off.",
    ]
    assert clean_book(book)[0].endswith("the queer thing flew off.")


def test_primers_and_fragments_go() -> None:
    primer = "The lit-tle hen went in-to the gar-den and found a ber-ry. " * 8
    assert clean_book(["CHAPTER I", primer, "CHAPTER II", "Too short."]) == []
