"""Characters on a page to lines in reading order. Knows boxes, not pdfium and not paragraphs.

The order of the content stream is kept, since writers lay text out as it is read (columns included), and lines are cut
by geometry alone. Two cases are set right: tables written column by column, or in no order at all, are put back into
rows; right-to-left words written from the left are turned round. Wide gaps inside a line become cell borders.
"""

from __future__ import annotations

import statistics
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

_CELL_GAP = 1.3  # of the line's height: more than any space between words
_SENTENCE_GAP = 2.5  # the same after a full stop, where justified lines are stretched most
_BACK = 3.0  # of the height: a pen that goes back further than this begins a line of its own
_OFF_LINE = 0.6  # of the height: how far a character's middle may be off (indices, exponents)
_SHORT_CELL = 26  # characters: a table's cell, where prose columns have more on a line
_SAME_HEIGHT = 0.35  # of the height: how far middles of one row's cells lie apart at most
_MOVED_CELLS = 12  # pieces on a page before its order is judged


@dataclass(frozen=True)
class Glyph:
    """A character and its box in page units (points, y upwards). `hyphen` = it breaks a word at a line's end."""

    text: str
    left: float
    right: float
    bottom: float
    top: float
    hyphen: bool = False

    @property
    def middle(self) -> float:
        """Height of its middle above the page's origin."""
        return (self.top + self.bottom) / 2


@dataclass
class Line:
    """A line of text; `cells` are its parts between wide gaps, `hyphenated` when its last word goes on in the next."""

    cells: list[str] = field(default_factory=list)
    left: float = 0.0
    right: float = 0.0
    bottom: float = 0.0
    top: float = 0.0
    hyphenated: bool = False

    @property
    def text(self) -> str:
        """The line with a bar at every cell border."""
        return " | ".join(self.cells)

    @property
    def height(self) -> float:
        """Height of its tallest character, never zero."""
        return max(self.top - self.bottom, 1.0)

    @property
    def middle(self) -> float:
        """Height of its middle above the page's origin."""
        return (self.top + self.bottom) / 2


@dataclass
class _OpenLine:
    """A line that is still being written."""

    cells: list[list[Glyph]] = field(default_factory=list)
    height: float = 1.0
    middle: float = 0.0

    def add(self, glyph: Glyph, space: bool) -> None:
        """Append a visible character; the tallest so far says where the line is."""
        last = self.cells[-1][-1] if self.cells else None
        if last is None or _gap(last, glyph) > (_SENTENCE_GAP if last.text in ".!?:;" else _CELL_GAP) * self.height:
            self.cells.append([])
        elif space:
            self.cells[-1].append(Glyph(" ", last.right, glyph.left, last.bottom, last.top))
        self.cells[-1].append(glyph)
        if last is None or glyph.top - glyph.bottom > self.height:
            self.height, self.middle = max(glyph.top - glyph.bottom, 1.0), glyph.middle

    def is_left_by(self, glyph: Glyph) -> bool:
        """Whether a character is elsewhere: above or below, or far back against the direction of writing."""
        if not self.cells:
            return False
        height = max(self.height, glyph.top - glyph.bottom)
        back = min(one.left for one in self.cells[-1][-1:]) - glyph.right
        return abs(glyph.middle - self.middle) > _OFF_LINE * height or back > _BACK * height

    def close(self, hyphenated: bool) -> Line:
        """The finished line."""
        glyphs = [glyph for cell in self.cells for glyph in cell]
        return Line(
            [_logical(cell) for cell in self.cells],
            min(glyph.left for glyph in glyphs),
            max(glyph.right for glyph in glyphs),
            min(glyph.bottom for glyph in glyphs),
            max(glyph.top for glyph in glyphs),
            hyphenated,
        )


def gather_lines(glyphs: Sequence[Glyph], quarter_turns: int = 0) -> list[Line]:
    """Lines of a page in reading order; `quarter_turns` counter-clockwise is how its text stands on the page."""
    lines = _split_lines(_upright(glyphs, quarter_turns))
    return _by_rows(lines) if _is_out_of_order(lines) else rows_from_columns(lines)


def _upright(glyphs: Sequence[Glyph], quarter_turns: int) -> Iterable[Glyph]:
    """Boxes as they are when the page is turned until its text reads from left to right."""
    if quarter_turns % 4 == 0:
        return glyphs
    return (Glyph(one.text, *_turned(one, quarter_turns % 4), one.hyphen) for one in glyphs)


def _turned(one: Glyph, quarter_turns: int) -> tuple[float, float, float, float]:
    """Left, right, bottom and top of a box on the turned page."""
    if quarter_turns == 1:
        return one.bottom, one.top, -one.right, -one.left
    if quarter_turns == 2:
        return -one.right, -one.left, -one.top, -one.bottom
    return -one.top, -one.bottom, one.left, one.right


def _split_lines(glyphs: Iterable[Glyph]) -> list[Line]:
    """Cut the stream of characters where the pen leaves the line."""
    lines: list[Line] = []
    line, space = _OpenLine(), False
    for glyph in glyphs:
        if glyph.hyphen and line.cells:
            lines.append(line.close(hyphenated=True))
            line, space = _OpenLine(), False
        elif glyph.text.isspace():
            space = True
        elif glyph.text.isprintable() and not glyph.hyphen:
            if line.is_left_by(glyph):
                lines.append(line.close(hyphenated=False))
                line, space = _OpenLine(), False
            line.add(glyph, space)
            space = False
    return [*lines, line.close(hyphenated=False)] if line.cells else lines


def _gap(before: Glyph, after: Glyph) -> float:
    """Horizontal distance between two characters, whichever way the script runs."""
    return max(after.left - before.right, before.left - after.right)


def _logical(cell: Sequence[Glyph]) -> str:
    """Text of a cell in the order in which it is read: right-to-left runs that were drawn from the left are turned."""
    if not any(_is_rtl(glyph.text) for glyph in cell):
        return "".join(glyph.text for glyph in cell)
    parts: list[str] = []
    run: list[Glyph] = []
    for glyph in [*cell, None]:
        if glyph is not None and (_is_rtl(glyph.text) or (run and _is_neutral(glyph.text))):
            run.append(glyph)
            continue
        tail: list[str] = []
        while run and not _is_rtl(run[-1].text):
            tail.insert(0, run.pop().text)
        letters = [one.text for one in run]
        # One box for a whole run (replacement text) means that pdfium has turned it already, the wrong way.
        drawn_from_left = len(run) > 1 and run[-1].left >= run[0].left
        parts += (letters[::-1] if drawn_from_left else letters) + tail + ([glyph.text] if glyph else [])
        run = []
    return "".join(parts)


def _is_rtl(text: str) -> bool:
    """Whether a character belongs to a script written from the right."""
    return unicodedata.bidirectional(text[0]) in ("R", "AL")


def _is_neutral(text: str) -> bool:
    """Whether a character goes with its neighbours' direction: spaces and combining marks."""
    return unicodedata.bidirectional(text[0]) in ("WS", "NSM")


def _is_out_of_order(lines: Sequence[Line]) -> bool:
    """Whether a page's short pieces were written in an order that leads up the page again and again."""
    if len(lines) < _MOVED_CELLS or statistics.median(len(line.text) for line in lines) > 2 * _SHORT_CELL:
        return False
    upward = sum(after.middle > before.middle + before.height for before, after in pairwise(lines))
    return upward >= 0.15 * len(lines)


def rows_from_columns(lines: list[Line]) -> list[Line]:
    """Put a table that was written column by column back into rows; everything else stays as it is."""
    columns = _columns(lines)
    result: list[Line] = []
    index = 0
    while index < len(columns):
        group = [columns[index]]
        while index + len(group) < len(columns) and _is_beside(group[0], columns[index + len(group)]):
            group.append(columns[index + len(group)])
        index += len(group)
        result.extend(_by_rows([line for column in group for line in column]) if len(group) > 1 else group[0])
    return result


def _columns(lines: list[Line]) -> list[list[Line]]:
    """Runs of lines that go down the page."""
    columns: list[list[Line]] = []
    for line in lines:
        if columns and line.top < columns[-1][-1].top - 0.2 * line.height:
            columns[-1].append(line)
        else:
            columns.append([line])
    return columns


def _is_beside(first: Sequence[Line], other: Sequence[Line]) -> bool:
    """Whether two runs are columns of one table: several short cells, most on the heights of the other's."""
    small, large = sorted((first, other), key=len)
    if len(small) < 3 or not (_is_short(first) or _is_short(other)):
        return False
    matched = sum(any(_same_row(line, mate) for mate in large) for line in small)
    return matched >= 0.7 * len(small)


def _is_short(lines: Sequence[Line]) -> bool:
    """Whether a run's lines are cells rather than prose."""
    return statistics.median(len(line.text) for line in lines) <= _SHORT_CELL


def _same_row(line: Line, other: Line) -> bool:
    """Whether two cells stand on one height."""
    return abs(line.middle - other.middle) <= _SAME_HEIGHT * max(line.height, other.height)


def _by_rows(lines: list[Line]) -> list[Line]:
    """Lines from the top, those on one height joined from left to right."""
    rows: list[list[Line]] = []
    for line in sorted(lines, key=lambda line: -line.middle):
        if rows and _same_row(rows[-1][0], line):
            rows[-1].append(line)
        else:
            rows.append([line])
    return [_one_line(sorted(row, key=lambda line: line.left)) for row in rows]


def _one_line(row: list[Line]) -> Line:
    """A row's cells as one line."""
    return Line(
        [cell for line in row for cell in line.cells],
        row[0].left,
        max(line.right for line in row),
        min(line.bottom for line in row),
        max(line.top for line in row),
        row[-1].hyphenated,
    )
