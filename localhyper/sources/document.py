"""A source once it has become text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Document:
    """Text of one source.

    Attributes:
        title: For people; the file's title or its name.
        text: Unicode text, LF line ends, pages and sections separated by blank lines.
        kind: Source kind: `txt`, `md`, `html`, `pdf`, `docx`, `pptx`, `xlsx`, `csv`, `epub`, `odt`, `stdin`, `text`,
            `folder`.
        sha256: Hex digest of the UTF-8 text (so the same words in another container are the same document).
        origin: Where it came from (path or `-`), for people.
        notes: What was left out and why (a page without text, say), for people.
        pages: Pages of the file, or of a folder's files together; 0 where the format has none.
    """

    title: str
    text: str
    kind: str
    sha256: str
    origin: str = ""
    notes: tuple[str, ...] = ()
    pages: int = 0
