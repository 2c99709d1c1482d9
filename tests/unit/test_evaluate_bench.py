"""The benchmarks: what is asked and shown of each file, how replies are graded, and one run over all ten."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from localhyper.engine import ChatMessage, FloatArray
from localhyper.errors import ConfigError
from localhyper.evaluate import report_tasks
from localhyper.evaluate.bench_replies import code_of, final_number, grade_number, program_of, worked_solution
from localhyper.evaluate.bench_set import BENCHMARKS, find_benchmarks, read_benchmarks
from localhyper.evaluate.task_items import ChoiceItem, ReplyItem
from localhyper.evaluate.tasks import TasksOptions, run
from tests.evaluation import hypernetwork
from tests.fakes import FakeEngine, fake_info
from tests.task_evaluation import text_maker, write_rows

CHOICES = {"id": "1", "question": "What is wet?", "choices": ["a stone in the sun", "rain"], "answer": 1}
BOOLQ = {"passage": "Rain is wet.", "question": "is rain wet?", "choices": ["False", "True"], "answer": 1}
ADD_ONE = "def f(a):\n    return a + 1"
ROWS: dict[str, dict[str, object]] = {
    **{name: CHOICES for name in ("arc_challenge", "arc_easy", "hellaswag", "openbookqa", "piqa")},
    "boolq": BOOLQ,
    "winogrande": {"id": "1", "question": "The _ are old.", "choices": ["bags", "cats"], "answer": 1},
    "gsm8k": {"id": "1", "question": "2 and 2?", "answer": "1,004", "solution": "<<2+2=4>>4\n#### 1004"},
    "humaneval": {
        "id": "HumanEval/0",
        "prompt": "import math\n\n\ndef up(a):\n    '''One more.'''\n",
        "test": "def check(candidate):\n    assert candidate(math.floor(1.5)) == 2",
        "entry_point": "up",
        "solution": "    return a + 1",
    },
    "mbpp": {"prompt": "Add one.", "test": ["assert f(N) == 2"], "test_setup": "N = 1", "solution": ADD_ONE},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """All ten with one row, four training rows, and descriptions."""
    for name, row in ROWS.items():
        write_rows(tmp_path / f"{name}.jsonl", row)
        if name != "humaneval":
            write_rows(tmp_path / f"{name}.train.jsonl", *[row] * 4)
    tasks = [*ROWS, "magicoder"]
    described = [{"task": name, "descriptions": ["old"], "eval_descriptions": [f"Do {name}."]} for name in tasks]
    write_rows(tmp_path / "descriptions.jsonl", *described)
    return tmp_path


class BookEngine(FakeEngine):
    """Knows the right answers by heart; a token of anything else costs 1 nat."""

    def __init__(self) -> None:
        super().__init__(self._reply, info=fake_info(context=8192), n_ctx=8192)
        self.scored: list[tuple[str, str]] = []

    def _reply(self, messages: Sequence[ChatMessage]) -> str:
        asked = messages[-1].content
        if "2 and 2?" in asked:
            return "It makes #### 1,004.0 apples"
        return "```python\ndef f(a):\n    return a + 1\n```" if "Add one." in asked else "return a + 1"

    def score(self, prompt: str | Sequence[ChatMessage], continuation: str) -> FloatArray:
        text = prompt if isinstance(prompt, str) else prompt[-1].content
        self.scored.append((text, continuation))
        right = continuation in ("True", "rain") or text.endswith("The cats")
        return np.full(len(continuation), -0.1 if right else -1.0, np.float32)


def test_all_ten_are_measured(folder: Path, tmp_path: Path) -> None:
    engine = BookEngine()
    options = TasksOptions("bench", (folder,))
    result = run(options, engine, hypernetwork().info, text_maker())
    assert [task.name for task in result.tasks] == list(BENCHMARKS)
    assert {one.metric for one in result.columns} == {"accuracy"}
    wrong = {
        (one.name, task): note
        for one in result.columns
        for task, estimate in one.tasks.items()
        if estimate.value != 1.0
        for note in [case.scores.note for case in result.cases if (case.task, case.column) == (task, one.name)]
    }
    assert wrong == {}
    assert {column.name for column in result.skipped} == {"multitask", "multitask-described", "per-task"}
    assert [task.texts.description for task in result.tasks] == [f"Do {name}." for name in BENCHMARKS]
    groups = {name: benchmark.group for name, benchmark in BENCHMARKS.items()} | {"magicoder": "code"}
    assert all(groups[task.texts.other_task] != task.group for task in result.tasks)
    assert ("Rain is wet.\n\nis rain wet?", "True") in engine.scored
    json.loads(report_tasks.to_json(result))
    choice = next(case for case in result.cases if case.task == "winogrande" and case.column == "base")
    assert choice.reply is None and choice.log_likelihoods is not None and len(choice.log_likelihoods) == 2
    prompt = len(engine.tokenize(engine.render([ChatMessage("user", "The _ are old.")]), special=True))
    assert choice.spent.prompt_tokens == prompt
    assert choice.spent.reply_tokens == len("The bags are old.") + len("cats are old."), "what both share is read once"


def test_messages_and_examples_are_the_rows_own_words(folder: Path) -> None:
    subjects = {subject.name: subject for subject in read_benchmarks([folder])[0]}
    boolq, winogrande = (subjects[name].items[0] for name in ("boolq", "winogrande"))
    assert isinstance(boolq, ChoiceItem) and isinstance(winogrande, ChoiceItem)
    assert boolq.message == "Rain is wet.\n\nis rain wet?" and boolq.lengths == (1.0, 1.0)
    assert winogrande.parts == (("The bags", " are old."), ("The cats", " are old."))
    piqa = subjects["piqa"].items[0]
    assert isinstance(piqa, ChoiceItem) and piqa.lengths == (18.0, 4.0)
    assert piqa.grade([-18.0, -5.0]).accuracy == 0.0 and piqa.grade([-18.0, -3.9]).accuracy == 1.0
    assert subjects["winogrande"].shots[0].reply == "The cats are old." and subjects["piqa"].shots[0].reply == "rain"
    assert subjects["gsm8k"].shots[0].reply == "4\n#### 1004"
    tested = "Add one.\nYour code should pass these tests:\n\nassert f(N) == 2"
    assert subjects["mbpp"].items[0].message == subjects["humaneval"].shots[0].message == tested
    assert subjects["humaneval"].shots[0].reply == "```python\ndef f(a):\n    return a + 1\n```"
    assert subjects["humaneval"].items[0].message.startswith("import math")


@pytest.mark.parametrize(
    ("reply", "number"),
    [
        ("so 3 and 4 make 7.", "7"),
        ("#### 12\nThat is all 5 of them.", "12"),
        ("It costs $1,234.50", "1234.50"),
        ("-3 degrees", "-3"),
        (".5 of it", ".5"),
        ("#### nothing, but 6", "6"),
        ("none", ""),
    ],
)
def test_the_final_number_of_a_reply(reply: str, number: str) -> None:
    assert final_number(reply) == number


def test_numbers_are_compared_by_value() -> None:
    assert grade_number("1,004", "#### 1004.00").accuracy == 1.0
    assert grade_number("18", "it is 17").note == "got 17" and grade_number("18", "no").note == "got no number"
    assert worked_solution("2+2 = <<2+2=4>>4\n#### 4") == "2+2 = 4\n#### 4"


def test_programs_are_found_in_replies() -> None:
    assert code_of("Here:\n```python\nx = 1\n```\nand\n```\ny\n```") == "x = 1"
    assert code_of("```\nx = 1\nfor") == "x = 1\nfor" and code_of("x = 1") == "x = 1"
    prompt = "import math\n\ndef help():\n    pass\n\ndef up(a):\n    '''Doc.'''"
    assert program_of(prompt, "up", "def up(a):\n    return 1").startswith("import math\n\ndef help():\n    pass")
    assert program_of(prompt, "up", "def up(a):\n    return 1").count("def up") == 1
    assert program_of(prompt, "up", "return 1\n") == f"{prompt}\n    return 1\n"
    assert program_of(prompt, "up", "def upper(a): pass") == f"{prompt}\n    def upper(a): pass"
    assert program_of("", "", "x = '\\d'\ny = 2\nThis sets y.") == "x = '\\d'\ny = 2\n"
    assert program_of("", "", "def f(a):\n    if a:\n        return 1\n    retu rn").endswith("return 1\n")
    assert program_of("", "", "No code at all.") == "No code at all."
    assert program_of(prompt, "up", "return 1\nfor") == f"{prompt}\n    return 1\n"


def test_files_are_found_by_name(folder: Path, tmp_path: Path) -> None:
    assert list(find_benchmarks([folder])) == list(BENCHMARKS)
    assert list(find_benchmarks([folder / "piqa.jsonl", folder / "boolq.jsonl"])) == ["boolq", "piqa"]
    (empty := tmp_path / "empty").mkdir()
    for paths, named in (
        ([empty], "holds no benchmark"),
        ([folder / "piqa.train.jsonl"], "no test file"),
        ([folder / "other.jsonl"], "no test file"),
        ([folder, folder / "piqa.jsonl"], "`piqa` is named twice"),
    ):
        with pytest.raises(ConfigError, match=named):
            find_benchmarks(paths)


def test_what_lies_beside_a_benchmark_decides_on_its_columns(folder: Path) -> None:
    (folder / "descriptions.jsonl").unlink()
    (folder / "piqa.train.jsonl").unlink()
    result = run(TasksOptions("bench", (folder / "piqa.jsonl",)), BookEngine(), hypernetwork().info, text_maker())
    assert {one.name for one in result.columns} == {"base"}
    with pytest.raises(ConfigError, match="no descriptions of task `piqa`"):
        run(TasksOptions("bench", (folder / "piqa.jsonl",), columns=("described",)), BookEngine(), None, None)


@pytest.mark.parametrize(
    ("name", "row", "named"),
    [
        ("gsm8k", {"question": "?", "answer": 4, "solution": "4"}, "`answer`"),
        ("mbpp", {"prompt": "?", "test": "assert 1", "solution": "a"}, "`test` must be a list"),
        ("humaneval", {"prompt": "?", "test": "assert 1"}, "`entry_point`"),
        ("piqa", {"question": "?", "choices": ["a", "b"], "answer": 2}, "`answer`"),
    ],
)
def test_rows_out_of_their_schema_are_refused(folder: Path, name: str, row: object, named: str) -> None:
    write_rows(folder / f"{name}.jsonl", row)
    with pytest.raises(ConfigError, match=f"{name}.*line 1: {named}"):
        read_benchmarks([folder])


def test_graders_keep_no_program_from_the_next(folder: Path) -> None:
    (item,) = next(subject for subject in read_benchmarks([folder])[0] if subject.name == "humaneval").items
    assert isinstance(item, ReplyItem)
    assert item.grade("return a + 1").accuracy == 1.0
    failed = item.grade("return a")
    assert failed.accuracy == 0.0 and failed.note == "AssertionError"
