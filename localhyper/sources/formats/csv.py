"""Comma-, semicolon- and tab-separated tables of any encoding."""

from __future__ import annotations

import csv
import io
import sys

from localhyper.sources.decoding import decode_text
from localhyper.sources.formats.extracted import Extracted
from localhyper.sources.formats.rows import table_lines
from localhyper.sources.frames import Request


def read(data: bytes, job: Request) -> Extracted:
    """One line a row."""
    text = decode_text(data)
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=False)
    return Extracted(text="\n".join(table_lines(rows)))


def _delimiter(text: str) -> str:
    """The separator that is found in the first lines most evenly; a comma when none is."""
    lines = [line for line in text[:20_000].splitlines()[:20] if line.strip()]
    best, score = ",", 0
    for candidate in (",", ";", "\t", "|"):
        counts = [line.count(candidate) for line in lines]
        even = sum(count == counts[0] for count in counts) * min(counts[0], 1) if counts else 0
        if even > score:
            best, score = candidate, even
    return best
