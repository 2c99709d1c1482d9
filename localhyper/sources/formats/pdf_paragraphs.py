"""Lines of pages to paragraphs: words joined over hyphens, prose unwrapped, tables left in rows. Knows no pdfium."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Sequence
from itertools import pairwise

from localhyper.sources.formats.pdf_layout import Line

_WORD_END = re.compile(r"([^\W\d_]{2,})[-\u2010]$")
_WORD_START = re.compile(r"[^\W\d_]+")
_COMPOUND = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)+")
_LIST_MARK = re.compile(r"(?:[-•–▪◦*‣]|\(?\d{1,3}[.)]|\(?[a-zA-Z][.)])\s")  # noqa: RUF001
_SENTENCE_END = re.compile(r"[.!?:;…。！？][\"'”’)\]]*$")  # noqa: RUF001
_PROSE_CHARS = 38
_FULL = 0.82  # of the text's width: a line that goes so far right was broken by the margin
_WIDE_GAP = 0.75  # of the usual line distance more than it: a new paragraph


def join_lines(pages: Sequence[Sequence[Line]]) -> list[str]:
    """Text of each page."""
    compounds = {found.lower() for page in pages for line in page for found in _COMPOUND.findall(line.text)}
    return [_page_text(page, compounds) for page in pages]


def _page_text(lines: Sequence[Line], compounds: set[str]) -> str:
    """Text of one page."""
    if not lines:
        return ""
    distance = _usual_distance(lines)
    parts = [lines[0].text]
    for index, (before, line) in enumerate(pairwise(lines)):
        word = _WORD_END.search(parts[-1])
        if before.hyphenated:
            parts[-1] = _dehyphenate(parts[-1], line.text, compounds)
        elif word and line.text[:1].islower() and _is_below(before, line, 3 * distance):
            parts[-1] = _dehyphenate(parts[-1][:-1], line.text, compounds)
        else:
            parts.append(_separator(before, line, lines[max(index - 6, 0) : index + 8], distance))
        parts.append(line.text)
    return "".join(parts)


def _dehyphenate(head: str, tail: str, compounds: set[str]) -> str:
    """`head` as it goes on into `tail`: with its hyphen when the document writes that compound elsewhere."""
    head = head.removesuffix("-").removesuffix("\u2010")
    left, right = re.search(r"[^\W\d_]+$", head), _WORD_START.match(tail)
    if left and right and f"{left.group()}-{right.group()}".lower() in compounds:
        return head + "-"
    if right is None or not right.group()[0].islower():
        return head + "-"
    return head


def _separator(before: Line, line: Line, nearby: Iterable[Line], distance: float) -> str:
    """What stands between two lines: a space in a paragraph, a line end in a table, a blank line between paragraphs."""
    below = _is_below(before, line, (1 + _WIDE_GAP) * distance)
    if len(before.cells) > 1 or len(line.cells) > 1:
        return "\n" if below else "\n\n"
    if _continues(before, line, nearby, distance):
        return " "
    if not below or abs(before.height - line.height) > 0.4 * min(before.height, line.height) + 2:
        return "\n\n"
    return "\n"


def _continues(before: Line, line: Line, nearby: Iterable[Line], distance: float) -> bool:
    """Whether a line was broken by the margin and goes on in the next one."""
    if len(before.text) < _PROSE_CHARS or _LIST_MARK.match(line.text):
        return False
    first = line.text[:1]
    if _SENTENCE_END.search(before.text) and not first.islower():
        # A full line may end a paragraph too: then a wider gap, an indent or another size of letters follows.
        wider = before.middle - line.middle > 1.2 * distance
        indented = line.left > before.left + 0.8 * before.height
        if wider or indented or abs(line.height - before.height) > 0.1 * before.height:
            return False
    column = [mate.right for mate in nearby if abs(mate.left - before.left) < 2 * before.height]
    is_full = before.right - before.left >= _FULL * (max(column) - before.left)
    return is_full and (first.isalnum() or first in "(\"'“‘„«[$€£")  # noqa: RUF001


def _is_below(before: Line, line: Line, most: float) -> bool:
    """Whether a line is the next one down, not further than `most` and not up in another column."""
    return -0.5 * before.height < before.middle - line.middle <= most


def _usual_distance(lines: Sequence[Line]) -> float:
    """Median distance between the middles of lines that follow each other downwards."""
    steps = [before.middle - line.middle for before, line in pairwise(lines)]
    down = [step for step in steps if step > 1]
    # A page of few lines has no usual distance but the one that its letters' height suggests.
    return min(
        statistics.median_low(down) if down else math.inf, 1.6 * statistics.median(line.height for line in lines)
    )
