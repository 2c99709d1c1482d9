"""Task files: descriptions of a task with examples of it, one JSON object a line (`docs/data.md` has the two schemas).

Says which examples are for training and which for testing, for the evaluation and for the training room alike: nothing
that is tested on may have been trained on or shown in a prompt. Knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from localhyper.errors import ConfigError
from localhyper.evaluate.json_lines import Row, read_rows

T = TypeVar("T")
TRAINING_INSTANCES = 50  # of a task whose file does not say itself which are for training
HINT = (
    'one object a line: {"task", "descriptions": [text, …], "eval_descriptions" if any, '
    '"instances": [{"input", "output", "outputs" if several}, …]}, or "train" and "test" in place of "instances"'
)


@dataclass(frozen=True)
class Example:
    """An input and every output that counts as right; the first is the one to learn."""

    input: str
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        name: Its short name (`lol_701`, `antonyms`).
        group: What kind of task it is, as the file says; its name where it does not.
        descriptions: Texts that say what is to be done, for training.
        eval_descriptions: More of them, which no training may see; may be empty.
        train: Examples to learn from: training of its own adapter, examples in a prompt.
        test: Examples to be measured on.
    """

    name: str
    group: str
    descriptions: tuple[str, ...]
    eval_descriptions: tuple[str, ...]
    train: tuple[Example, ...]
    test: tuple[Example, ...]

    @property
    def unseen_descriptions(self) -> tuple[str, ...]:
        """Those to evaluate with: the ones kept from training where there are any, else all."""
        return self.eval_descriptions or self.descriptions


def split_instances(instances: Sequence[T]) -> tuple[tuple[T, ...], tuple[T, ...]]:
    """The first `TRAINING_INSTANCES` of a task are for training, the rest for testing."""
    return tuple(instances[:TRAINING_INSTANCES]), tuple(instances[TRAINING_INSTANCES:])


def read_tasks(path: Path) -> list[Task]:
    """All tasks of a `.jsonl` or `.jsonl.gz` file, in its order.

    Raises:
        ConfigError: The file is missing, damaged or empty, a line is not in the schema, or a task comes twice.
    """
    tasks: dict[str, Task] = {}
    for row in read_rows(path, HINT):
        task = _task(row)
        if task.name in tasks:
            row.refuse(f"task `{task.name}` is there twice")
        tasks[task.name] = task
    if not tasks:
        raise ConfigError(f"data file `{path}` holds no tasks", HINT)
    return list(tasks.values())


def _task(row: Row) -> Task:
    if "instances" in row.fields:
        train, test = split_instances([_example(item) for item in row.rows("instances")])
    else:
        train, test = (tuple(_example(item) for item in row.rows(key)) for key in ("train", "test"))
    name = row.text("task")
    return Task(
        name=name,
        group=row.optional_text("category") or name,
        descriptions=row.texts("descriptions"),
        eval_descriptions=row.texts("eval_descriptions", 0),
        train=train,
        test=test,
    )


def _example(row: Row) -> Example:
    """`outputs`, where given, hold `output` too: the first stays first and none comes twice."""
    return Example(row.text("input"), tuple(dict.fromkeys((row.text("output"), *row.texts("outputs", 0)))))
