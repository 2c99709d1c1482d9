"""Task adapters: does a description become an adapter that does the task? `eval tasks`, `eval bench`, `eval examples`.

Runs the shipped path from description to adapter to answer, beside what a user could do instead: describe the task in
the prompt, show examples there, or train a LoRA. Knows no printing; `report_tasks` does that.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from localhyper.bundle import BundleInfo
from localhyper.engine import Engine
from localhyper.errors import ConfigError
from localhyper.evaluate.bench_set import read_benchmarks
from localhyper.evaluate.columns import RunInfo, Skipped
from localhyper.evaluate.own_task import own_task
from localhyper.evaluate.task_adapters import TaskMaker, find_given
from localhyper.evaluate.task_columns import GENERATED, SHOTS, Available, Texts, choose_columns
from localhyper.evaluate.task_frame import TaskCase, TaskOutcome, TaskSetup, measure_tasks, reply_limit, sample_items
from localhyper.evaluate.task_items import ReplyItem, Shot, Subject, grade_text
from localhyper.evaluate.task_scores import (
    ColumnCost,
    CostRatios,
    MakingCost,
    TaskFigures,
    TaskTables,
    cost_ratios,
    making_cost,
)
from localhyper.evaluate.task_set import TRAINING_INSTANCES, Task, read_tasks
from localhyper.progress import CancelToken, ProgressCallback, ignore_progress

METRICS = {"tasks": ("rouge_l", "exact"), "examples": ("rouge_l", "exact"), "bench": ("accuracy",)}
OWN_COLUMNS = ("base", "described", "few-shot", "generated", "generated-examples")  # of `eval examples`
OWN_UNDESCRIBED = ("base", "few-shot", "examples")  # likewise, without a description


@dataclass(frozen=True)
class TasksOptions:
    """What to run.

    Attributes:
        suite: `tasks`, `bench`, or `examples`.
        data: Task files, or benchmarks and folders of them, or one file of examples.
        limit: Test instances of each task drawn at random; 0 = all.
        seed: Seed of every draw and of the bootstrap.
        columns: Columns to measure; empty = all whose inputs are there.
        multitask: One LoRA of all training tasks.
        per_task: Folder with the LoRA of each task.
        max_tokens: Most tokens of a reply; 0 = as each benchmark has it.
        shots: Examples that stand in the prompt or are learnt.
        description: What the task of the examples is; may be empty. Task files say it themselves.
    """

    suite: str
    data: tuple[Path, ...]
    limit: int = 20
    seed: int = 0
    columns: tuple[str, ...] = ()
    multitask: Path | None = None
    per_task: Path | None = None
    max_tokens: int = 64
    shots: int = SHOTS
    description: str = ""

    @property
    def wanted(self) -> tuple[str, ...]:
        """The columns to measure; none = all whose inputs are there."""
        if self.columns or self.suite != "examples":
            return self.columns
        return OWN_COLUMNS if self.description else OWN_UNDESCRIBED

    @property
    def main(self) -> str:
        """The column that the others are compared with."""
        return self.wanted[-1] if self.suite == "examples" else GENERATED


@dataclass(frozen=True)
class TaskInfo:
    """A task as it was measured.

    Attributes:
        items: Items asked in each column.
        reply_tokens: Most tokens of a reply.
        texts: What was drawn for it: description, controls, examples.
    """

    name: str
    group: str
    items: int
    reply_tokens: int
    texts: Texts


@dataclass(frozen=True)
class Miss:
    """An input of one's own that the main column answered with something else than what is right."""

    input: str
    wanted: str
    said: str


@dataclass(frozen=True)
class TasksResult:
    """Figures of a run.

    Attributes:
        skipped: Columns left out because their inputs are not there.
        columns: Every column in every metric.
        differences: The main column, as a rule `generated`, minus every other one, paired.
        costs: What an answer costs in each column.
        making: What making an adapter costs; None where none was made.
        ratios: Examples in the prompt over generated; None where one was not measured.
        items: Every score by metric, column and task.
        cases: Every item in every column.
        missed: Of `examples`, what the main column got wrong.
    """

    options: TasksOptions
    run: RunInfo
    tasks: tuple[TaskInfo, ...]
    skipped: tuple[Skipped, ...]
    columns: tuple[TaskFigures, ...]
    differences: tuple[TaskFigures, ...]
    costs: tuple[ColumnCost, ...]
    making: MakingCost | None
    ratios: CostRatios | None
    items: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]] = field(repr=False)
    cases: tuple[TaskCase, ...] = field(repr=False)
    suite: str = "tasks"
    missed: tuple[Miss, ...] = ()


def run(
    options: TasksOptions,
    engine: Engine,
    bundle: BundleInfo | None,
    maker: TaskMaker | None,
    progress: ProgressCallback = ignore_progress,
    cancel: CancelToken | None = None,
) -> TasksResult:
    """Measure the columns on test instances of every task.

    Args:
        options: What to run.
        engine: The base model; adapters in force are put back at the end.
        bundle: The hypernetwork's description; None without one.
        maker: Makes adapters of descriptions; None without a hypernetwork.
        progress: Told after each item.
        cancel: Stops between tokens.

    Raises:
        ConfigError: A file is not in its schema, an option is out of range, or a wanted column lacks its input.
        AdapterError: A given adapter is damaged or for another base model.
        Cancelled: `cancel` was set; nothing is kept.
    """
    started = time.monotonic()
    subjects, others = read_subjects(options)
    given_files = options.multitask is not None, options.per_task is not None
    available = Available(maker is not None, *given_files, options.shots)
    columns, skipped = choose_columns(options.wanted, available, subjects, others)
    given = find_given(engine, options.multitask, options.per_task, [subject.name for subject in subjects])
    drawn = sample_items(subjects, options.limit, options.seed)
    setup = TaskSetup(engine, columns, given, maker, options.seed, progress, cancel, options.shots)
    outcome = measure_tasks(setup, drawn, others)
    return _summarise(options, _run_info(engine, bundle, started), engine, drawn, columns, skipped, outcome)


def read_subjects(options: TasksOptions) -> tuple[list[Subject], list[Subject]]:
    """The tasks to measure, and those that the control may take a description from.

    Raises:
        ConfigError: A file cannot be used, or an option is out of range.
    """
    if not options.data:
        raise ConfigError("no data is named", "name a file with --data")
    if options.suite == "bench":
        return read_benchmarks(options.data)
    if options.max_tokens < 1:
        raise ConfigError(f"replies of {options.max_tokens} tokens, wanted at least 1")
    subjects = [_subject(task, options.max_tokens) for path in options.data for task in _tasks(path, options)]
    names = [subject.name for subject in subjects]
    twice = next((name for name in names if names.count(name) > 1), "")
    if twice:
        raise ConfigError(f"task `{twice}` is in two data files", "name each file once")
    return subjects, subjects


def _tasks(path: Path, options: TasksOptions) -> list[Task]:
    if options.suite == "examples":
        return [own_task(path, options.description, options.shots, options.seed)]
    return read_tasks(path)


def _subject(task: Task, max_tokens: int) -> Subject:
    if not task.test:
        raise ConfigError(
            f"task `{task.name}` has {len(task.train)} instances and none to test on",
            f"the first {TRAINING_INSTANCES} are for training; take a task with more",
        )
    items = [
        ReplyItem(str(number), example.input, partial(grade_text, example.outputs), example.outputs[0])
        for number, example in enumerate(task.test)
    ]
    shots = tuple(Shot(example.input, example.outputs[0]) for example in task.train)
    return Subject(task.name, task.group, task.unseen_descriptions, shots, tuple(items), max_tokens)


def _run_info(engine: Engine, bundle: BundleInfo | None, started: float) -> RunInfo:
    base, made_by = engine.info, (bundle.name, bundle.sha256) if bundle is not None else ("", "")
    return RunInfo(base.name, base.quantization, base.fingerprint, *made_by, round(time.monotonic() - started, 3))


def _summarise(
    options: TasksOptions,
    info: RunInfo,
    engine: Engine,
    subjects: Sequence[Subject],
    columns: Sequence[str],
    skipped: tuple[Skipped, ...],
    outcome: TaskOutcome,
) -> TasksResult:
    names = [subject.name for subject in subjects]
    tables = TaskTables(outcome.cases, names, columns, METRICS[options.suite], options.seed, options.main)
    costs = tables.costs(engine.info.parameter_count, outcome.made)
    tasks = [
        TaskInfo(subject.name, subject.group, len(subject.items), reply_limit(engine, subject), texts)
        for subject, texts in zip(subjects, outcome.texts, strict=True)
    ]
    return TasksResult(
        options=options,
        run=info,
        tasks=tuple(tasks),
        skipped=skipped,
        columns=tables.columns(),
        differences=tables.differences(),
        costs=costs,
        making=making_cost(outcome.made.get(options.main, {})),
        ratios=cost_ratios(costs, options.main),
        items=tables.items(),
        cases=outcome.cases,
        suite=options.suite,
        missed=tuple(_missed(options.main, subjects[0], outcome.cases)) if options.suite == "examples" else (),
    )


def _missed(column: str, subject: Subject, cases: Sequence[TaskCase]) -> Iterator[Miss]:
    """What a column got wrong of the items that were asked."""
    items = {item.id: item for item in subject.items if isinstance(item, ReplyItem)}
    for case in cases:
        if case.column == column and not case.scores.exact:
            item = items[case.id]
            yield Miss(item.message, item.wanted, case.reply or "")
