"""Tables as lines of text that can be read alone. Knows no file format.

A table with a heading row is written as `column: value` pairs, so that a row makes sense in a chunk without its
heading; any other table as cells between bars.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

from localhyper.sources.cleaning import one_line

_HEADER_CHARS = 40


def table_lines(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """One line for each row that is not empty, in order, read lazily."""
    filled = (row for row in (_trim(row) for row in rows) if row)
    head = list(itertools.islice(filled, 3))
    if len(head) < 3 or not _is_header(head[0], head[1:]):
        yield from map(bar_line, itertools.chain(head, filled))
        return
    yield bar_line(head[0])
    yield from (_labelled(head[0], row) for row in itertools.chain(head[1:], filled))


def bar_line(row: Iterable[str]) -> str:
    """Cells between bars; empty cells keep their place."""
    return " | ".join(row)


def _trim(row: Sequence[str]) -> list[str]:
    """Cells on one line each, without the empty ones at the end."""
    cells = [one_line(cell) for cell in row]
    while cells and not cells[-1]:
        cells.pop()
    return cells


def _is_header(first: list[str], rest: list[list[str]]) -> bool:
    """Whether the first row names the columns: short, distinct, worded, and as wide as the next rows."""
    if len(first) < 2 or any(len(row) > len(first) for row in rest) or len(set(first)) < len(first):
        return False
    return all(cell and len(cell) <= _HEADER_CHARS and not _is_number(cell) for cell in first)


def _is_number(cell: str) -> bool:
    """Whether a cell is a figure rather than a name."""
    digits = sum(character.isdigit() for character in cell)
    return digits > 0 and not any(character.isalpha() for character in cell)


def _labelled(header: list[str], row: list[str]) -> str:
    """`column: value` pairs of the cells that have a value; cells beyond the heading stand alone."""
    pairs = [f"{name}: {cell}" for name, cell in zip(header, row, strict=False) if cell]
    return ", ".join(pairs + [cell for cell in row[len(header) :] if cell])
