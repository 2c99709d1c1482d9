"""What a format reader gives back. Knows no format."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Extracted:
    """Text of one file before cleaning.

    Attributes:
        text: Paragraphs separated by blank lines, headings led by `#`, table rows on lines of their own.
        title: The file's own title; empty when it has none.
        notes: What was left out and why, for people.
        pages: Pages or slides the file has; 0 where the format has none.
        empty_hint: What to do about it when there turns out to be no text.
    """

    text: str
    title: str = ""
    notes: tuple[str, ...] = ()
    empty_hint: str = ""
    pages: int = 0
