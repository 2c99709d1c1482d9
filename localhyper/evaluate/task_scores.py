"""Figures of the task suites: from cases to means, differences, costs and ratios, with 95 % intervals.

Knows cases and numbers: no model, no files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from localhyper.evaluate.intervals import Estimate, TaskBootstrap, wilson
from localhyper.evaluate.task_columns import GENERATED
from localhyper.evaluate.task_costs import AdapterSpent, answer_flops
from localhyper.evaluate.task_frame import TaskCase

SHOWN = "few-shot"


@dataclass(frozen=True)
class TaskFigures:
    """A score of one column, or of one column minus another.

    Attributes:
        name: The column, or `one - other`.
        metric: `rouge_l`, `exact` or `accuracy`.
        mean: Over tasks, each weighing alike; tasks and instances are drawn anew for its interval.
        tasks: Of each task; instances are drawn for the interval.
    """

    name: str
    metric: str
    mean: Estimate
    tasks: Mapping[str, Estimate]


@dataclass(frozen=True)
class ColumnCost:
    """What an answer costs in a column: means over tasks of the means over their answers.

    Attributes:
        prompt_tokens: Tokens of the prompt.
        reply_tokens: Tokens generated, or of choices scored.
        adapter_weights: Numbers in the adapter in force; 0 without one.
        gflops: 10⁹ operations of an answer that is asked alone, without those of making the adapter.
        gflops_in_a_row: The same where the beginning that a task's prompts share is read once for all of them.
        making_gflops: 10⁹ operations of making the adapter, over the answers given with it; 0 where none is made.
        seconds: Of an answer in a row, measured.
        seconds_alone: Of the first answer of each task, measured: nothing was read before.
    """

    name: str
    prompt_tokens: float
    reply_tokens: float
    adapter_weights: float
    gflops: float
    gflops_in_a_row: float
    making_gflops: float
    seconds: float
    seconds_alone: float


@dataclass(frozen=True)
class MakingCost:
    """What making one adapter of a description takes, on average.

    Attributes:
        adapters: Adapters it is the mean of: one of each task's own description.
        description_tokens: Length of the description.
        encode_gflops: 10⁹ operations of reading it.
        generate_gflops: 10⁹ operations of the hypernetwork, at most.
        seconds: From text to file, measured.
        learn_gflops: 10⁹ operations of reading examples that are learnt.
    """

    adapters: int
    description_tokens: float
    encode_gflops: float
    generate_gflops: float
    seconds: float
    learn_gflops: float = 0.0


@dataclass(frozen=True)
class CostRatios:
    """The cost of an answer with examples in the prompt over that of a generated adapter, its making included.

    Attributes:
        gflops: Operations, each answer asked alone.
        gflops_in_a_row: Operations, answers in a row.
        seconds: Measured, answers in a row, without the making.
        seconds_alone: Measured, the first answer of each task, without the making.
    """

    gflops: float
    gflops_in_a_row: float
    seconds: float
    seconds_alone: float


class TaskTables:
    """Figures over the cases of a run; all share the draws of one bootstrap.

    Args:
        cases: Every item in every column; each column has the same items in the same order.
        tasks: Names of the tasks.
        columns: Columns measured.
        metrics: Scores there are.
        seed: Seed of the bootstrap.
        main: The column that the others are compared with.
    """

    def __init__(
        self,
        cases: Sequence[TaskCase],
        tasks: Sequence[str],
        columns: Sequence[str],
        metrics: Sequence[str],
        seed: int,
        main: str = GENERATED,
    ) -> None:
        self._main = main
        self._tasks, self._columns, self._metrics, self._seed = tasks, columns, metrics, seed
        self._cases: dict[tuple[str, str], list[TaskCase]] = {}
        for case in cases:
            self._cases.setdefault((case.column, case.task), []).append(case)
        sizes = [len(self._cases[columns[0], task]) for task in tasks]
        self._bootstrap = TaskBootstrap(sizes, seed)
        self._alone = [TaskBootstrap([size], seed) for size in sizes]

    def columns(self) -> tuple[TaskFigures, ...]:
        """Each column in each metric."""
        return tuple(
            self._figures(name, metric, self._scores(name, metric))
            for metric in self._metrics
            for name in self._columns
        )

    def differences(self) -> tuple[TaskFigures, ...]:
        """The main column minus every other one, paired; none where it was not measured."""
        if self._main not in self._columns:
            return ()
        return tuple(
            self._figures(f"{self._main} - {name}", metric, self._minus(self._main, name, metric), shares=False)
            for metric in self._metrics
            for name in self._columns
            if name != self._main
        )

    def items(self) -> dict[str, dict[str, dict[str, list[float]]]]:
        """Every score by metric, column and task, in the order of the items."""
        return {
            metric: {name: dict(zip(self._tasks, self._scores(name, metric), strict=True)) for name in self._columns}
            for metric in self._metrics
        }

    def costs(self, base_weights: int, made: Mapping[str, Mapping[str, AdapterSpent]]) -> tuple[ColumnCost, ...]:
        """What an answer costs in each column; `made` as in `TaskOutcome`."""
        return tuple(self._cost(name, base_weights, made.get(name, {})) for name in self._columns)

    def _scores(self, name: str, metric: str) -> list[list[float]]:
        """Scores of each task's items."""
        return [[getattr(case.scores, metric) or 0.0 for case in self._cases[name, task]] for task in self._tasks]

    def _minus(self, one: str, other: str, metric: str) -> list[list[float]]:
        pairs = zip(self._scores(one, metric), self._scores(other, metric), strict=True)
        return [[a - b for a, b in zip(ours, theirs, strict=True)] for ours, theirs in pairs]

    def _figures(
        self, name: str, metric: str, scores: Sequence[Sequence[float]], *, shares: bool = True
    ) -> TaskFigures:
        """`shares` = scores that are all 0 or 1 are a share; differences are none."""
        each = zip(self._tasks, self._alone, scores, strict=True)
        single = {task: _of_task(bootstrap, values, shares) for task, bootstrap, values in each}
        return TaskFigures(name, metric, self._bootstrap.mean(scores), single)

    def _mean(self, name: str, value: Callable[[TaskCase], float], *, first: bool = False) -> float:
        """Mean over tasks of the mean over their cases, or of the first one's value."""
        return fmean(
            fmean(value(case) for case in self._cases[name, task] if case.first or not first) for task in self._tasks
        )

    def _cost(self, name: str, base_weights: int, made: Mapping[str, AdapterSpent]) -> ColumnCost:
        def gflops(case: TaskCase, in_a_row: bool) -> float:
            return answer_flops(base_weights + case.adapter_weights, case.spent, in_a_row=in_a_row) / 1e9

        making = 0.0
        if made:
            making = fmean(made[task].flops / len(self._cases[name, task]) / 1e9 for task in self._tasks)
        return ColumnCost(
            name=name,
            prompt_tokens=self._mean(name, lambda case: case.spent.prompt_tokens),
            reply_tokens=self._mean(name, lambda case: case.spent.reply_tokens),
            adapter_weights=self._mean(name, lambda case: case.adapter_weights),
            gflops=self._mean(name, lambda case: gflops(case, False)),
            gflops_in_a_row=self._mean(name, lambda case: gflops(case, True)),
            making_gflops=making,
            seconds=self._mean(name, lambda case: case.spent.seconds),
            seconds_alone=self._mean(name, lambda case: case.spent.seconds, first=True),
        )


def _of_task(bootstrap: TaskBootstrap, values: Sequence[float], shares: bool) -> Estimate:
    """Mean over a task's items. Of a share, Wilson's interval: it is not empty where all are wrong, or all right."""
    if shares and all(value in (0.0, 1.0) for value in values):
        return wilson(round(sum(values)), len(values))
    return bootstrap.mean([values])


def making_cost(made: Mapping[str, AdapterSpent]) -> MakingCost | None:
    """Means over adapters; None of none."""
    spent = list(made.values())
    if not spent:
        return None
    return MakingCost(
        adapters=len(spent),
        description_tokens=fmean(one.description_tokens for one in spent),
        encode_gflops=fmean(one.encode_flops for one in spent) / 1e9,
        generate_gflops=fmean(one.generate_flops for one in spent) / 1e9,
        learn_gflops=fmean(one.learn_flops for one in spent) / 1e9,
        seconds=fmean(one.seconds for one in spent),
    )


def cost_ratios(costs: Sequence[ColumnCost], main: str = GENERATED) -> CostRatios | None:
    """Examples in the prompt over the main column; None where one of the two was not measured."""
    by_name = {cost.name: cost for cost in costs}
    if main == SHOWN or SHOWN not in by_name or main not in by_name:
        return None
    shown, generated = by_name[SHOWN], by_name[main]
    return CostRatios(
        gflops=_ratio(shown.gflops, generated.gflops + generated.making_gflops),
        gflops_in_a_row=_ratio(shown.gflops_in_a_row, generated.gflops_in_a_row + generated.making_gflops),
        seconds=_ratio(shown.seconds, generated.seconds),
        seconds_alone=_ratio(shown.seconds_alone, generated.seconds_alone),
    )


def _ratio(above: float, below: float) -> float:
    return above / below if below else 0.0
