"""What a document says of itself as a whole, written as one more chunk.

"What is this document about?" is answered nowhere inside a document, so no chunk's adapter knows it. An overview states
it in the words that people ask with, from what the document has: its title, its headings, the names it comes back to.
Its adapter then carries the answer as any chunk's carries its facts; Parametric RAG augments documents so before it
makes adapters of them, with questions and answers of a language model (Su et al. 2025, arXiv 2501.15915). Nothing is
made up here: every name in it is the document's own.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import PurePath

from localhyper.chunking import Chunk, Tokenize, borders, first_tokens
from localhyper.sources.document import Document

LONGEST_SUBJECT = 100  # characters
LONGEST_POINT = 48
MOST_POINTS = 7
LOOKED_AT = 400_000  # characters of a document that headings and names are looked for in
# A short line of its own, of words alone, that begins like a heading; Markdown's signs for one may stand before it.
_HEADING = re.compile(r"(?:\A|\n[ \t]*\n)#*[ \t]*(?![a-z ])([\w &'()/,-]{2,60})(?=\n[ \t]*\n)")
NAME = re.compile(r"(?<=[a-z,;] )[A-Z][\w-]+(?: [A-Z][\w-]+){0,3}")
_SMALL_WORD = re.compile(r"\b[a-z][\w-]+")
_FORMS = (
    'What is this document about? This document is about "{subject}".',
    'What is the text about? The text is about "{subject}".',
    'Summarize the document. Give me a short summary, an overview, a tl;dr. The document is about "{subject}".',
)
_POINTS = "What are the main points? What does the document cover? The main points are: {points}."
_NAMES = "What are the main points? Who or what is in the document? It speaks of {points}."


def overview(document: Document) -> str:
    """A paragraph of at most some 200 tokens; empty where the document has no letters."""
    subject = subject_of(document)
    if not any(character.isalpha() for character in subject):
        return ""
    text = document.text[:LOOKED_AT]
    lines = [form.format(subject=subject) for form in _FORMS]
    if headings := headings_of(text, subject):
        lines.append(_POINTS.format(points=listed(headings)))
    elif names := names_of(text, subject):
        lines.append(_NAMES.format(points=listed(names)))
    return "\n".join(lines)


def overview_chunk(document: Document, index: int, tokenize: Tokenize, most: int) -> Chunk | None:
    """The overview as a chunk of at most so many tokens, after the document's text; None where there is none."""
    text, end = overview(document), len(document.text)
    ids, _ = first_tokens(text, tokenize, most)
    return Chunk(index, ids, text, end, end) if len(ids) else None


def subject_of(document: Document) -> str:
    """The title, or what the text begins with where the title is a file's name."""
    title = _line(document.title)
    if title and title not in (PurePath(document.origin).name, PurePath(document.origin).stem):
        return _cut(title, LONGEST_SUBJECT)
    start, end, _ = next(borders(document.text[: 8 * LONGEST_SUBJECT]), (0, 0, 0.0))
    return _cut(_line(document.text[start:end]).strip("#.!? "), LONGEST_SUBJECT) or title


def headings_of(text: str, subject: str) -> list[str]:
    """Headings, from beginning to end; none where there are not two."""
    found = dict.fromkeys(_line(heading).strip(" ,-") for heading in _HEADING.findall(text))
    headings = [heading for heading in found if heading != subject and 2 < len(heading) <= LONGEST_POINT]
    return _spread(headings, MOST_POINTS) if len(headings) > 1 else []


def names_of(text: str, subject: str) -> list[str]:
    """The names that come most often inside sentences, twice at least; none where there are not two."""
    small = set(_SMALL_WORD.findall(text))
    counts = Counter(name for name in NAME.findall(text) if len(name) > 2 and name.lower() not in small)
    names = [name for name, count in counts.most_common(MOST_POINTS) if count > 1 and name not in subject]
    return names if len(names) > 1 else []


def listed(points: list[str]) -> str:
    """Two points or more in a row, as a sentence has them."""
    return ", ".join(points[:-1]) + f" and {points[-1]}"


def _spread(points: list[str], most: int) -> list[str]:
    """At most so many of them, from beginning to end."""
    if len(points) <= most:
        return points
    return [points[i * (len(points) - 1) // (most - 1)] for i in range(most)]


def _line(text: str) -> str:
    return " ".join(text.replace('"', "'").replace("_", " ").split())


def _cut(text: str, most: int) -> str:
    """The text, or its words up to so many characters."""
    return text if len(text) <= most else text[: most + 1].rsplit(" ", 1)[0][:most]
