"""Data files of one JSON object a line, gzip'd or not: lines with their numbers, and fields that name what is wrong.

Knows no schema; the readers of each kind of file do.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from localhyper.errors import ConfigError

MAX_FILE_BYTES = 256 << 20
_GZIP_MAGIC = b"\x1f\x8b"


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Line numbers (from 1) and stripped lines that are not blank; the content decides whether it is gzip.

    Raises:
        ConfigError: The file is missing, damaged, too large or not UTF-8.
    """
    try:
        with path.open("rb") as file:
            packed = file.read(2) == _GZIP_MAGIC
        with gzip.open(path) if packed else path.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
        lines = data.decode("utf-8-sig").split("\n")  # not splitlines: JSON texts may hold U+2028
    except FileNotFoundError:
        raise ConfigError(f"data file `{path}` does not exist", "name a text or .jsonl file, gzip'd or not") from None
    except UnicodeDecodeError:
        raise ConfigError(f"data file `{path}` is not UTF-8 text", "convert it first") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ConfigError(f"data file `{path}` is damaged: {error}", "fetch it again") from error
    except OSError as error:
        raise ConfigError(f"data file `{path}` cannot be read: {error.strerror or error}") from error
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"data file `{path}` is larger than {MAX_FILE_BYTES >> 20} MiB", "give a part of it")
    yield from ((number, line.strip()) for number, line in enumerate(lines, 1) if line.strip())


@dataclass(frozen=True)
class Row:
    """One object of a file, or one inside another.

    Attributes:
        path: The file.
        number: Its line, from 1.
        hint: What a line looks like, for messages.
        fields: The object.
        where: Put before a field's name in messages: `instances[3].`.
    """

    path: Path
    number: int
    hint: str
    fields: dict[str, object]
    where: str = ""

    def refuse(self, what: str) -> NoReturn:
        """End with one message that names file and line.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(f"data file `{self.path}`, line {self.number}: {what}", self.hint)

    def text(self, key: str) -> str:
        """A text that is not empty, stripped."""
        return self._checked(f"{self.where}{key}", self.fields.get(key))

    def optional_text(self, key: str) -> str:
        """A text, stripped; empty where there is none."""
        value = self.fields.get(key, "")
        if not isinstance(value, str):
            self.refuse(f"`{self.where}{key}` must be text")
        return value.strip()

    def texts(self, key: str, least: int = 1) -> tuple[str, ...]:
        """A list of at least so many texts, none empty; may be missing where `least` is 0."""
        name, value = f"{self.where}{key}", self.fields.get(key, [] if least == 0 else None)
        if not isinstance(value, list) or len(value) < least:
            self.refuse(f"`{name}` must be a list of at least {least} text{'s' if least > 1 else ''}")
        return tuple(self._checked(f"{name}[{index}]", item) for index, item in enumerate(value))

    def whole(self, key: str, most: int) -> int:
        """A whole number from 0 to `most`."""
        value = self.fields.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
            self.refuse(f"`{self.where}{key}` must be a whole number from 0 to {most}")
        return value

    def rows(self, key: str) -> list[Row]:
        """A list of at least one object."""
        name, value = f"{self.where}{key}", self.fields.get(key)
        if not isinstance(value, list) or not value:
            self.refuse(f"`{name}` must be a list of at least one object")
        for index, item in enumerate(value):
            if not isinstance(item, dict):
                self.refuse(f"`{name}[{index}]` must be an object")
        return [Row(self.path, self.number, self.hint, item, f"{name}[{index}].") for index, item in enumerate(value)]

    def _checked(self, name: str, value: object) -> str:
        if not isinstance(value, str) or not value.strip():
            self.refuse(f"`{name}` must be text that is not empty")
        return value.strip()


def read_rows(path: Path, hint: str) -> list[Row]:
    """All objects of a file; `hint` says what a line looks like.

    Raises:
        ConfigError: The file cannot be used, or a line is no JSON object.
    """
    return [parse_row(path, number, line, hint) for number, line in read_lines(path)]


def parse_row(path: Path, number: int, line: str, hint: str) -> Row:
    """One line as an object.

    Raises:
        ConfigError: It is none.
    """
    row = Row(path, number, hint, {})
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        row.refuse(f"not valid JSON ({error})")
    if not isinstance(value, dict):
        row.refuse(f"must be an object, got {type(value).__name__}")
    return Row(path, number, hint, value)
