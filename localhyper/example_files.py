"""Examples of a task from a file: a table, JSON Lines, or paragraphs as they follow a description."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from localhyper.errors import SourceError
from localhyper.sources.decoding import decode_text
from localhyper.task_examples import HINT, MOST_EXAMPLES, TaskExample, read_task_text

MAX_BYTES = 4 << 20
COLUMNS = ("input", "output")
TABLE_HINT = "give two columns, `input` and `output`"
_TABLES = {".csv": ",", ".tsv": "\t"}
_JSON = (".jsonl", ".ndjson")


def read_examples(path: Path) -> tuple[TaskExample, ...]:
    """Examples of a file, at least one.

    `.csv` and `.tsv`: a head with `input` and `output`, or two columns without one. `.jsonl`: objects with these keys.
    Anything else: paragraphs of `Input: …` and `Output: …`.

    Raises:
        SourceError: The file cannot be read, holds none, too many, or one without input or output.
    """
    text, kind = decode_text(_read(path)), path.suffix.lower()
    if kind in _TABLES:
        found = list(_of_table(text, _TABLES[kind], path))
    elif kind in _JSON:
        found = list(_of_json_lines(text, path))
    else:
        found = list(_of_paragraphs(text, path))
    if not found:
        raise SourceError(f"`{path}` has no examples", HINT)
    if len(found) > MOST_EXAMPLES:
        raise SourceError(f"`{path}` has {len(found):,} examples, at most {MOST_EXAMPLES:,} are read", "give fewer")
    return tuple(found)


def _read(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise SourceError(f"`{path}` is a folder, wanted a file of examples", "name a file in it")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise SourceError(f"`{path}` cannot be read: {error.strerror or error}", "name a file of examples") from error
    if len(data) > MAX_BYTES:
        raise SourceError(f"`{path}` has more than {MAX_BYTES >> 20} MB, too much for examples", "give fewer")
    return data


def _of_table(text: str, delimiter: str, path: Path) -> Iterator[TaskExample]:
    first = text.partition("\n")[0]
    if delimiter == "," and ";" in first and "," not in first:  # as spreadsheets write it where commas are decimal
        delimiter = ";"
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if any(row)]
    except csv.Error as error:
        raise SourceError(f"`{path}` is no table: {error}", TABLE_HINT) from error
    head = [name.strip().lower() for name in rows[0]] if rows else []
    if all(name in head for name in COLUMNS):
        places, rows = [head.index(name) for name in COLUMNS], rows[1:]
    elif len(head) == len(COLUMNS):
        places = [0, 1]
    elif rows:
        raise SourceError(f"`{path}` has {len(head)} columns and no head that names them", TABLE_HINT)
    for number, row in enumerate(rows, 1):
        yield _example([row[place] if place < len(row) else "" for place in places], number, path)


def _of_json_lines(text: str, path: Path) -> Iterator[TaskExample]:
    for number, line in enumerate((line for line in text.split("\n") if line.strip()), 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise SourceError(
                f"example {number} of `{path}` is no JSON: {error}", 'lines {"input": …, "output": …}'
            ) from (error)
        given = [row.get(name) for name in COLUMNS] if isinstance(row, dict) else [None, None]
        yield _example([text if isinstance(text, str) else "" for text in given], number, path)


def _of_paragraphs(text: str, path: Path) -> Iterator[TaskExample]:
    task = read_task_text(text.replace("\r\n", "\n"))
    if task.description and task.examples:
        raise SourceError(f"`{path}` begins with something that is no example", f"{HINT}; --task @FILE reads both")
    yield from task.examples


def _example(pair: Sequence[str], number: int, path: Path) -> TaskExample:
    for what, text in zip(COLUMNS, pair, strict=True):
        if not text.strip():
            raise SourceError(f"example {number} of `{path}` has no {what}", "each needs both")
    return TaskExample(pair[0].strip(), pair[1].strip())
