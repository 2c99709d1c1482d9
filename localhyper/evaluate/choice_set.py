"""What `eval unrelated` asks: multiple-choice files, one JSON object a line, and lists of everyday chat prompts.

Says how a question is put and which part is scored. Checks every line and names the first bad one. Knows no model.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from localhyper.errors import ConfigError
from localhyper.evaluate.json_lines import Row, parse_row, read_lines, read_rows

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
    questions = [_question(row, name) for row in read_rows(path, _HINT)]
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


def packaged_lines(name: str) -> list[str]:
    """Lines of a text file in the package that are not empty."""
    text = resources.files("localhyper.evaluate").joinpath(name).read_text(encoding="utf-8")
    return [line.strip() for line in text.splitlines() if line.strip()]


def read_prompts(path: Path | None) -> list[str]:
    """Chat prompts, each once: lines of text, or the `question` of JSON objects; None = the list in the package.

    Raises:
        ConfigError: The file is missing, damaged or empty, or an object has no question.
    """
    if path is None:
        return packaged_lines("chat_prompts.txt")
    prompts = [_prompt(path, number, line) for number, line in read_lines(path)]
    if not prompts:
        raise ConfigError(f"prompt file `{path}` holds no prompts", _PROMPT_HINT)
    return list(dict.fromkeys(prompts))


def _prompt(path: Path, number: int, line: str) -> str:
    if not line.startswith("{"):
        return line
    question = parse_row(path, number, line, _PROMPT_HINT).fields.get("question")
    if not isinstance(question, str) or not question.strip():
        raise ConfigError(f"prompt file `{path}`, line {number}: `question` must be text that is not empty")
    return question.strip()


def _question(row: Row, name: str) -> ChoiceQuestion:
    choices = row.texts("choices", 2)
    answer = row.whole("answer", len(choices) - 1)
    identity = str(row.fields.get("id", row.number))
    return ChoiceQuestion(name, identity, row.text("question"), choices, answer, row.optional_text("passage"))
