"""Reading-set files: passages with questions and answers, one JSON object a line (`docs/data.md` has the schema).

Checks every line and names the first bad one. Knows no model and no scores.
"""

from __future__ import annotations

import gzip
import json
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, NoReturn

from localhyper.errors import ConfigError

MAX_LINE_CHARACTERS = 16 << 20
_GZIP_MAGIC = b"\x1f\x8b"
_HINT = 'one object a line: {"id", "title", "context", "qas": [{"question", "answers": [text, …]}]}; see docs/data.md'


@dataclass(frozen=True)
class Question:
    """A question and every answer that counts as right; the first is the one whose likelihood is measured."""

    text: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Passage:
    """A document and questions about it."""

    id: str
    title: str
    text: str
    questions: tuple[Question, ...]


def read_reading_set(path: Path) -> list[Passage]:
    """All passages of a `.jsonl` or `.jsonl.gz` file; lines with the same context become one passage.

    Raises:
        ConfigError: The file is missing, unreadable or empty, or a line is not in the schema.
    """
    by_text: dict[str, Passage] = {}
    for number, line in _lines(path):
        passage = _passage(path, number, line)
        known = by_text.get(passage.text)
        if known is not None:
            passage = replace(known, questions=known.questions + passage.questions)
        by_text[passage.text] = passage
    if not by_text:
        raise ConfigError(f"data file `{path}` holds no passages", _HINT)
    return list(by_text.values())


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Line numbers (from 1) and non-blank lines."""
    number = 0
    try:
        with _open(path) as stream:
            while line := stream.readline(MAX_LINE_CHARACTERS):
                number += 1
                if len(line) >= MAX_LINE_CHARACTERS:
                    _refuse(path, number, f"is longer than {MAX_LINE_CHARACTERS} characters")
                if line.strip():
                    yield number, line
    except FileNotFoundError:
        raise ConfigError(f"data file `{path}` does not exist", "name a .jsonl or .jsonl.gz file") from None
    except UnicodeDecodeError:
        _refuse(path, number + 1, "is not UTF-8")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ConfigError(f"data file `{path}` is damaged after line {number}: {error}", "fetch it again") from error
    except OSError as error:
        raise ConfigError(f"data file `{path}` cannot be read: {error.strerror or error}") from error


def _open(path: Path) -> IO[str]:
    """As UTF-8 text, with or without gzip: the content decides, not the name."""
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP_MAGIC
    if packed:
        return gzip.open(path, "rt", encoding="utf-8-sig")
    return path.open(encoding="utf-8-sig")


def _refuse(path: Path, number: int, what: str) -> NoReturn:
    raise ConfigError(f"data file `{path}`, line {number}: {what}", _HINT)


def _passage(path: Path, number: int, line: str) -> Passage:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        _refuse(path, number, f"not valid JSON ({error})")
    if not isinstance(row, dict):
        _refuse(path, number, f"must be an object, got {type(row).__name__}")
    identity, title = row.get("id", number), row.get("title", "")
    if isinstance(identity, bool) or not isinstance(identity, str | int):
        _refuse(path, number, "`id` must be text or a whole number")
    if not isinstance(title, str):
        _refuse(path, number, "`title` must be text")
    qas = row.get("qas")
    if not isinstance(qas, list) or not qas:
        _refuse(path, number, "`qas` must be a list with at least one question")
    questions = tuple(_question(path, number, index, qa) for index, qa in enumerate(qas))
    return Passage(str(identity), title, _text(path, number, "context", row.get("context")), questions)


def _question(path: Path, number: int, index: int, qa: object) -> Question:
    where = f"qas[{index}]"
    if not isinstance(qa, dict):
        _refuse(path, number, f"`{where}` must be an object")
    answers = qa.get("answers")
    if not isinstance(answers, list) or not answers:
        _refuse(path, number, f"`{where}.answers` must be a list with at least one text")
    texts = tuple(_text(path, number, f"{where}.answers[{i}]", answer) for i, answer in enumerate(answers))
    return Question(_text(path, number, f"{where}.question", qa.get("question")), texts)


def _text(path: Path, number: int, field: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        _refuse(path, number, f"`{field}` must be text that is not empty")
    return value.strip()


def sample_questions(
    passages: list[Passage], limit: int, seed: int, *, documents: int = 0, least: int = 2
) -> list[Passage]:
    """At most `limit` questions drawn at random (0 = all), with their passages in random order.

    Args:
        passages: All there are.
        limit: Most questions; 0 = all.
        seed: Seed of the draw.
        documents: Draw so many passages first, and questions about them only; 0 = all passages.
        least: Fewest passages that will do; the shuffled control needs 2.

    Raises:
        ConfigError: A negative number, or fewer than `least` passages are left.
    """
    for value, what in ((limit, "limit"), (documents, "number of documents")):
        if value < 0:
            raise ConfigError(f"the {what} is {value}, wanted 0 (all) or more")
    rng = random.Random(seed)
    among = _draw_passages(len(passages), documents, seed)
    places = [(p, q) for p in among for q in range(len(passages[p].questions))]
    if limit and limit < len(places):
        places = rng.sample(places, limit)
    chosen: dict[int, list[int]] = {}
    for p, q in sorted(places):
        chosen.setdefault(p, []).append(q)
    if len(chosen) < least:
        raise ConfigError(
            f"the sample has {len(chosen)} passage, the control with another document's adapter needs at least {least}",
            "raise --limit or --documents, give a file with more passages, or leave `shuffled` out with --columns",
        )
    order = list(chosen)
    rng.shuffle(order)
    return [replace(passages[p], questions=tuple(passages[p].questions[q] for q in chosen[p])) for p in order]


def _draw_passages(count: int, wanted: int, seed: int) -> list[int]:
    """Numbers of the passages to draw from, ascending; the draw of questions does not depend on this one."""
    if not wanted or wanted >= count:
        return list(range(count))
    return sorted(random.Random(f"{seed}/documents").sample(range(count), wanted))
