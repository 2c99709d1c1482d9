"""What `eval unrelated` asks: multiple-choice files, one JSON object a line, and lists of everyday chat prompts.

Says how a question is put and which part is scored. Checks every line and names the first bad one. Knows no model.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import NoReturn

from localhyper.errors import ConfigError

MAX_FILE_BYTES = 256 << 20
_GZIP_MAGIC = b"\x1f\x8b"
_HINT = 'one object a line: {"id", "question", "choices": [text, …], "answer": 0-based index, "passage" if any}'
_PROMPT_HINT = 'one prompt a line, or one object a line with "question"'
_BLANK = re.compile(r"(?<![\w_])_(?![\w_])")


@dataclass(frozen=True)
class ChoiceQuestion:
    """A question of which one choice is right.

    Attributes:
        set_name: File it comes from, without its endings.
        passage: Text the question is about (BoolQ); empty where there is none.
        answer: Index of the right choice.
    """

    set_name: str
    id: str
    question: str
    choices: tuple[str, ...]
    answer: int
    passage: str = ""

    @property
    def message(self) -> str:
        """The user's message: passage, blank line, question; no instruction is added."""
        return f"{self.passage}\n\n{self.question}" if self.passage else self.question

    def parts(self, choice: str) -> tuple[str, str]:
        """What opens the assistant's turn, and what is scored after it.

        A choice is scored as the whole reply. Where it fills a blank (WinoGrande's `_`), the sentence up to the filled
        blank opens the turn and the rest of the sentence is scored: "partial" scoring of Trinh and Le 2018 (arXiv
        1806.02847), as in lm-evaluation-harness; what is scored is then the same text for each choice.
        """
        before, mark, after = _split_blank(self.question)
        return (before + choice, after) if mark and after.strip() else ("", choice)


def _split_blank(question: str) -> tuple[str, str, str]:
    """Text before a lone `_`, the `_`, text after; no `_` unless there is exactly one."""
    found = list(_BLANK.finditer(question))
    if len(found) != 1:
        return question, "", ""
    return question[: found[0].start()], "_", question[found[0].end() :].rstrip()


def read_choices(path: Path) -> list[ChoiceQuestion]:
    """All questions of a `.jsonl` or `.jsonl.gz` file.

    Raises:
        ConfigError: The file is missing, damaged or empty, or a line is not in the schema.
    """
    name = path.name.split(".")[0]
    questions = [_question(path, number, name, line) for number, line in _lines(path)]
    if not questions:
        raise ConfigError(f"data file `{path}` holds no questions", _HINT)
    return questions


def sample_choices(paths: Sequence[Path], limit: int, seed: int) -> list[ChoiceQuestion]:
    """At most `limit` questions of each file drawn at random (0 = all), all files mixed.

    Raises:
        ConfigError: A negative limit, two files of one name, or a file that cannot be used.
    """
    if limit < 0:
        raise ConfigError(f"the limit is {limit}, wanted 0 (all questions) or more")
    drawn: dict[str, list[ChoiceQuestion]] = {}
    for path in paths:
        questions = read_choices(path)
        name = questions[0].set_name
        if name in drawn:
            raise ConfigError(f"two data files are named `{name}`", "name each file once, test files only")
        rng = random.Random(f"{seed}/{name}")
        drawn[name] = rng.sample(questions, min(limit or len(questions), len(questions)))
    mixed = [question for questions in drawn.values() for question in questions]
    random.Random(seed).shuffle(mixed)
    return mixed


def read_prompts(path: Path | None) -> list[str]:
    """Chat prompts, each once: lines of text, or the `question` of JSON objects; None = the list in the package.

    Raises:
        ConfigError: The file is missing, damaged or empty, or an object has no question.
    """
    if path is None:
        text = resources.files("localhyper.evaluate").joinpath("chat_prompts.txt").read_text(encoding="utf-8")
        return [line.strip() for line in text.splitlines() if line.strip()]
    prompts = [_prompt(path, number, line) for number, line in _lines(path)]
    if not prompts:
        raise ConfigError(f"prompt file `{path}` holds no prompts", _PROMPT_HINT)
    return list(dict.fromkeys(prompts))


def _prompt(path: Path, number: int, line: str) -> str:
    if not line.startswith("{"):
        return line
    question = _object(path, number, line).get("question")
    if not isinstance(question, str) or not question.strip():
        raise ConfigError(f"prompt file `{path}`, line {number}: `question` must be text that is not empty")
    return question.strip()


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Line numbers (from 1) and stripped lines that are not blank; gzip'd or not, the content decides."""
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


def _refuse(path: Path, number: int, what: str) -> NoReturn:
    raise ConfigError(f"data file `{path}`, line {number}: {what}", _HINT)


def _object(path: Path, number: int, line: str) -> dict[str, object]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        _refuse(path, number, f"not valid JSON ({error})")
    if not isinstance(row, dict):
        _refuse(path, number, f"must be an object, got {type(row).__name__}")
    return row


def _question(path: Path, number: int, name: str, line: str) -> ChoiceQuestion:
    row = _object(path, number, line)
    choices, answer, passage = row.get("choices"), row.get("answer"), row.get("passage", "")
    if not isinstance(choices, list) or len(choices) < 2:
        _refuse(path, number, "`choices` must be a list of at least two texts")
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(choices):
        _refuse(path, number, f"`answer` must be a whole number from 0 to {len(choices) - 1}")
    if not isinstance(passage, str):
        _refuse(path, number, "`passage` must be text")
    texts = tuple(_text(path, number, f"choices[{index}]", choice) for index, choice in enumerate(choices))
    question = _text(path, number, "question", row.get("question"))
    return ChoiceQuestion(name, str(row.get("id", number)), question, texts, answer, passage.strip())


def _text(path: Path, number: int, field: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        _refuse(path, number, f"`{field}` must be text that is not empty")
    return value.strip()
