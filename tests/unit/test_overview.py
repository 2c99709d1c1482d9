"""What a document says of itself: subjects, headings, names, and texts that are odd or hostile."""

from __future__ import annotations

import time

import pytest

from localhyper.overview import LONGEST_SUBJECT, MOST_POINTS, headings_of, names_of, overview, subject_of
from localhyper.sources.document import Document

HANDBOOK = """Handbook

Welcome to the harbour.

The office

It is yellow.

## Ships and boats

Boats unload early. Later, "no"

Later

it rains.
"""


def document(text: str, title: str = "", origin: str = "") -> Document:
    return Document(title, text, "txt", "0" * 64, origin)


def test_the_title_is_said_in_the_words_that_people_ask_with() -> None:
    text = overview(document(HANDBOOK, "Handbook", "a/b.txt"))
    assert text.count('is about "Handbook".') == 3
    assert "What is this document about?" in text and "Summarize the document." in text
    assert text.endswith("The main points are: The office, Ships and boats and Later.")


@pytest.mark.parametrize(
    ("title", "origin", "subject"),
    [
        ("Harbour", "docs/x.txt", "Harbour"),
        ("x.txt", "docs/x.txt", "A boat came in"),
        ("x", "docs/x.md", "A boat came in"),
        ("", "", "A boat came in"),
        ('The "old"_mill', "", "The 'old' mill"),
    ],
)
def test_where_the_title_is_a_files_name_the_text_begins(title: str, origin: str, subject: str) -> None:
    assert subject_of(document("# A boat\ncame in. It left again.".replace("\n", " "), title, origin)) == subject


def test_a_long_beginning_is_cut_between_words() -> None:
    subject = subject_of(document("word " * 100))
    assert 90 < len(subject) <= LONGEST_SUBJECT and subject.endswith("word")
    assert len(subject_of(document("w" * 3000))) == LONGEST_SUBJECT


def test_headings_are_lines_of_their_own_that_begin_like_one() -> None:
    assert headings_of(HANDBOOK, "Handbook") == ["The office", "Ships and boats", "Later"]
    assert headings_of("\n\nOnly one\n\ntext", "x") == []
    assert headings_of("\n\nsmall one\n\ntwo\n\nKey: value\n\nDone.\n\n", "x") == []
    assert headings_of("\n\nÜber uns\n\nText hier.\n\nGröße\n\nx", "x") == ["Über uns", "Größe"]
    many = headings_of("".join(f"\n\nPart {number}\n\ntext" for number in range(40)), "x")
    assert len(many) == MOST_POINTS and (many[0], many[-1]) == ("Part 0", "Part 39")


def test_without_headings_the_names_that_come_back_are_told() -> None:
    text = "So the miller Ines Falk came. Then came Juan, and Ines Falk saw Juan. Some say So what, so And and Rosa."
    assert names_of(text, "x") == ["Ines Falk", "Juan"]
    assert overview(document(text, "Tale")).endswith("It speaks of Ines Falk and Juan.")
    assert names_of(text, "The tale of Juan") == []  # one is left: no list
    assert "main points" not in overview(document("Nothing here.", "Note"))


@pytest.mark.parametrize("text", ["", " \n\n ", "123 456", "—…!"])
def test_what_has_no_letters_has_no_overview(text: str) -> None:
    assert overview(document(text)) == ""


@pytest.mark.parametrize(
    "text",
    [
        "\n \n" * 300_000,
        "\n\nA" + "a " * 300_000,
        "#" * 900_000,
        "A b " * 200_000,
        "a A" + "-A" * 300_000,
        "\n\nAb" * 9**6,
    ],
)
def test_hostile_texts_take_no_time(text: str) -> None:
    started = time.monotonic()
    assert len(overview(document(text, "x"))) < 2000
    assert time.monotonic() - started < 2
