"""The ten benchmarks of Text-to-LoRA (Charakorn et al. 2025): files to items (`docs/data.md` has the schemas).

The input of a row is the user's message as it stands, with no instruction added. Multiple choice is scored by
likelihood as is usual for small models, which seldom answer with a letter; arithmetic by the last number of the reply;
code by its tests. Knows no model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from localhyper.config import did_you_mean
from localhyper.errors import ConfigError
from localhyper.evaluate.bench_replies import grade_number, grade_program, mbpp_tests, worked_solution
from localhyper.evaluate.choice_set import ChoiceQuestion, read_choices
from localhyper.evaluate.json_lines import Row, read_rows
from localhyper.evaluate.task_items import ChoiceItem, ReplyItem, Shot, Subject

NUMBER_TOKENS, CODE_TOKENS = 160, 256
DESCRIPTIONS = "descriptions"
_ENDINGS = (".jsonl.gz", ".jsonl")
_CODE_HINT = 'one object a line: {"id", "prompt", "test", "solution"}, with "entry_point" in HumanEval'
_NUMBER_HINT = 'one object a line: {"id", "question", "answer": number as text, "solution"}'
_DESCRIPTION_HINT = 'one object a line: {"task", "descriptions": [text, …], "eval_descriptions" if any}'


@dataclass(frozen=True)
class Benchmark:
    """How a benchmark is read.

    Attributes:
        group: Benchmarks that one description could fit.
        read: Test rows of a file to items.
        show: Training rows of a file to examples for a prompt.
        shown_from: Whose training rows are shown.
        reply_tokens: Most tokens of a reply; 1 where choices are scored.
    """

    group: str
    read: Callable[[Path], list[ReplyItem | ChoiceItem]]
    show: Callable[[Path], list[Shot]]
    shown_from: str
    reply_tokens: int = 1


def find_benchmarks(paths: Sequence[Path]) -> dict[str, Path]:
    """Test files by benchmark: those named, and in folders all that there are.

    Raises:
        ConfigError: A file that is no benchmark or comes twice, or a folder without any.
    """
    found: dict[str, Path] = {}
    for path in paths:
        inside = [file for name in BENCHMARKS if (file := _file(path, name)) is not None] if path.is_dir() else [path]
        if not inside:
            raise ConfigError(f"folder `{path}` holds no benchmark", f"known are {', '.join(BENCHMARKS)} (.jsonl.gz)")
        for file in inside:
            name = file.name.partition(".")[0]
            if name not in BENCHMARKS or ".train." in file.name:
                raise ConfigError(
                    f"`{file.name}` is no test file of a benchmark", did_you_mean(name, tuple(BENCHMARKS))
                )
            if name in found:
                raise ConfigError(f"benchmark `{name}` is named twice", "name each once, as a file or in its folder")
            found[name] = file
    return {name: found[name] for name in BENCHMARKS if name in found}


def read_benchmarks(paths: Sequence[Path]) -> tuple[list[Subject], list[Subject]]:
    """The benchmarks, and all tasks that the descriptions beside them describe, which have no items.

    Raises:
        ConfigError: A file is missing, damaged or not in its schema.
    """
    files = find_benchmarks(paths)
    described = {subject.name: subject for path in files.values() for subject in _described(path.parent)}
    subjects = []
    for name, path in files.items():
        benchmark = BENCHMARKS[name]
        items = benchmark.read(path)
        if not items:
            raise ConfigError(f"data file `{path}` holds no questions")
        train = _file(path.parent, f"{benchmark.shown_from}.train")
        shots = BENCHMARKS[benchmark.shown_from].show(train) if train is not None else []
        texts = described[name].descriptions if name in described else ()
        subjects.append(Subject(name, benchmark.group, texts, tuple(shots), tuple(items), benchmark.reply_tokens))
    return subjects, list(described.values())


def _file(folder: Path, stem: str) -> Path | None:
    """`STEM.jsonl.gz` or `STEM.jsonl`, where there is one."""
    return next((path for ending in _ENDINGS if (path := folder / f"{stem}{ending}").is_file()), None)


def _described(folder: Path) -> list[Subject]:
    path = _file(folder, DESCRIPTIONS)
    if path is None:
        return []
    subjects = []
    for row in read_rows(path, _DESCRIPTION_HINT):
        name = row.text("task")
        texts = row.texts("eval_descriptions", 0) or row.texts("descriptions")
        group = BENCHMARKS[name].group if name in BENCHMARKS else _GROUPS.get(name, name)
        subjects.append(Subject(name, group, texts, (), (), 1))
    return subjects


def choice_item(question: ChoiceQuestion, by_length: bool) -> ChoiceItem:
    """A multiple-choice question; `by_length` = log-likelihood per byte of the choice, else as it is.

    Per byte is `acc_norm` of lm-evaluation-harness, for choices that are sentences. True and False are words that the
    model has as one token each, so their likelihoods are compared as they are. In WinoGrande the same rest of the
    sentence is scored after each choice ("partial" scoring, `ChoiceQuestion.parts`), so lengths are the same.
    """
    parts = tuple(question.parts(choice) for choice in question.choices)
    lengths = tuple(float(len(scored.encode())) if by_length else 1.0 for _, scored in parts)
    return ChoiceItem(question.id, question.message, parts, lengths, question.answer)


def _read_choices(path: Path, *, by_length: bool = True) -> list[ReplyItem | ChoiceItem]:
    return [choice_item(question, by_length) for question in read_choices(path)]


def _show_choices(path: Path) -> list[Shot]:
    """The right choice as the reply; where it fills a blank, the whole sentence."""
    shots = []
    for question in read_choices(path):
        lead, scored = question.parts(question.choices[question.answer])
        shots.append(Shot(question.message, lead + scored))
    return shots


def _id(row: Row) -> str:
    return str(row.fields.get("id", row.number))


def _read_numbers(path: Path) -> list[ReplyItem | ChoiceItem]:
    return [
        ReplyItem(_id(row), row.text("question"), partial(grade_number, row.text("answer")))
        for row in read_rows(path, _NUMBER_HINT)
    ]


def _show_numbers(path: Path) -> list[Shot]:
    return [Shot(row.text("question"), worked_solution(row.text("solution"))) for row in read_rows(path, _NUMBER_HINT)]


def _read_humaneval(path: Path) -> list[ReplyItem | ChoiceItem]:
    """The message is the beginning of the function, as it stands."""
    items: list[ReplyItem | ChoiceItem] = []
    for row in read_rows(path, _CODE_HINT):
        prompt, entry = row.text("prompt"), row.text("entry_point")
        tests = f"{row.text('test')}\n\ncheck({entry})"
        items.append(ReplyItem(_id(row), prompt, partial(grade_program, prompt, entry, tests)))
    return items


def _read_mbpp(path: Path) -> list[ReplyItem | ChoiceItem]:
    return [
        ReplyItem(_id(row), _mbpp_message(row), partial(grade_program, "", "", mbpp_tests(row)))
        for row in read_rows(path, _CODE_HINT)
    ]


def _show_mbpp(path: Path) -> list[Shot]:
    return [Shot(_mbpp_message(row), f"```python\n{row.text('solution')}\n```") for row in read_rows(path, _CODE_HINT)]


def _mbpp_message(row: Row) -> str:
    """With the tests, as Austin et al. 2021 (arXiv 2108.07732) ask it: nothing else tells the function's name."""
    return "\n".join((row.text("prompt"), "Your code should pass these tests:", "", *row.texts("test")))


_CHOICES = Benchmark("", _read_choices, _show_choices, "")
_GROUPS = {"magicoder": "code"}


def _choices(name: str, group: str, *, by_length: bool = True) -> Benchmark:
    return replace(_CHOICES, group=group, read=partial(_read_choices, by_length=by_length), shown_from=name)


BENCHMARKS = {
    "arc_challenge": _choices("arc_challenge", "science"),
    "arc_easy": _choices("arc_easy", "science"),
    "boolq": _choices("boolq", "reading", by_length=False),
    "gsm8k": Benchmark("arithmetic", _read_numbers, _show_numbers, "gsm8k", NUMBER_TOKENS),
    "hellaswag": _choices("hellaswag", "common sense"),
    "openbookqa": _choices("openbookqa", "science"),
    "piqa": _choices("piqa", "common sense"),
    "winogrande": _choices("winogrande", "common sense"),
    # HumanEval has no rows for training; those of the other code benchmark are examples of the same kind.
    "humaneval": Benchmark("code", _read_humaneval, _show_mbpp, "mbpp", CODE_TOKENS),
    "mbpp": Benchmark("code", _read_mbpp, _show_mbpp, "mbpp", CODE_TOKENS),
}
