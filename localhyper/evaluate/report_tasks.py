"""Results of the suites of tasks as tables for people, as JSON for scripts, and case by case as JSON Lines.

Knows the results' shapes, nothing of how they came about.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from localhyper.evaluate.intervals import Estimate
from localhyper.evaluate.report import bracket, figures_json
from localhyper.evaluate.report import write_cases as write_cases  # for the command line, as `to_json`
from localhyper.evaluate.task_columns import COLUMNS
from localhyper.evaluate.task_scores import ColumnCost, CostRatios, MakingCost, TaskFigures
from localhyper.evaluate.tasks import METRICS, TasksResult
from localhyper.sources.cleaning import one_line, shortened

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

WIDE = 11  # columns beside each other that leave no room for blanks on both sides
NARROW = (0, 0, 0, 1)  # a blank on the left side only
LONGEST_NAME = 11  # of a column on one line
WIDEST = 13  # more are told in two tables
MOST_MISSED = 10  # told in full by --json
LONGEST_CELL = 100  # characters
TITLES = {"rouge_l": "ROUGE-L %", "exact": "exact match %", "accuracy": "right %"}


def to_json(result: TasksResult) -> str:
    """The result without its cases as one JSON object; `items` has every score. No NaN, no infinity."""
    return figures_json(result)


def render_table(result: TasksResult) -> RenderableType:
    """The result for a terminal: means, task by task, costs, and lines on what it was measured with."""
    from rich.console import Group
    from rich.text import Text

    metrics = METRICS[result.suite]
    by_task = [table for metric in metrics for table in _task_tables(result, metric)]
    of_own = result.suite == "examples"  # one task, whose misses say more than its figures once more
    tables = [_mean_table(result, metrics), *(_missed_tables(result) if of_own else by_task), _cost_table(result)]
    return Group(*tables, *(Text(line, style="dim") for line in _notes(result)))


def _mean_table(result: TasksResult, metrics: Sequence[str]) -> Table:
    from rich.table import Table

    items = sum(task.items for task in result.tasks)
    over = f"mean over {len(result.tasks)} tasks, " if len(result.tasks) > 1 else ""
    table = Table(title=f"{over}{items} test instances in all", padding=NARROW if result.differences else (0, 1))
    table.add_column("column", no_wrap=True)
    table.add_column("", overflow="fold")
    for metric in metrics:
        table.add_column(TITLES[metric], justify="right")
        if result.differences:
            table.add_column(f"points that\n{_broken(result.options.main)}\nadds to it", justify="right")
    for name in dict.fromkeys(figures.name for figures in result.columns):
        cells = [cell for metric in metrics for cell in _mean_cells(result, name, metric)]
        table.add_row(_broken(name), COLUMNS[name].title, *cells, style="bold" if name == result.options.main else "")
    return table


def _broken(name: str) -> str:
    """A column's name on several lines, each of which fits where tables are narrow."""
    return name.replace("-", "-\n") if len(name) > LONGEST_NAME else name


def _mean_cells(result: TasksResult, name: str, metric: str) -> list[str]:
    own = next(one for one in result.columns if (one.name, one.metric) == (name, metric))
    cells = [bracket(own.mean, ".1f", 100)]
    if result.differences:
        wanted = (f"{result.options.main} - {name}", metric)
        found = [one.mean for one in result.differences if (one.name, one.metric) == wanted]
        cells.append(bracket(found[0], "+.1f", 100) if found else "")
    return cells


def _task_tables(result: TasksResult, metric: str) -> Iterator[Table]:
    """One table, or two of about as many columns each."""
    columns = [one for one in result.columns if one.metric == metric]
    tables = -(-len(columns) // WIDEST)
    step = -(-len(columns) // max(1, tables))
    for start in range(0, len(columns), max(1, step)):
        yield _task_table(result, metric, columns[start : start + step])


def _task_table(result: TasksResult, metric: str, columns: Sequence[TaskFigures]) -> Table:
    from rich.table import Table

    padding = NARROW if len(columns) > WIDE else (0, 1)
    table = Table(title=f"{TITLES[metric]} by task", padding=padding)
    table.add_column("task")
    table.add_column("n", justify="right")
    for one in columns:
        table.add_column(_broken(one.name), justify="right")
    for task in result.tasks:
        table.add_row(task.name, str(task.items), *(_task_cell(one, task.name) for one in columns))
    return table


def _task_cell(figures: TaskFigures, task: str) -> str:
    """The interval below the figure, in whole percent: ten columns fit into a wide terminal."""
    estimate: Estimate = figures.tasks[task]
    return f"{100 * estimate.value:.1f}\n[{100 * estimate.low:.0f}, {100 * estimate.high:.0f}]"


def _missed_tables(result: TasksResult) -> Iterator[Table]:
    """The first few of what the main column got wrong, if it did."""
    from rich.table import Table
    from rich.text import Text

    if not result.missed:
        return
    shown = result.missed[:MOST_MISSED]
    some = f"the first {len(shown)} of {len(result.missed)}" if len(shown) < len(result.missed) else str(len(shown))
    table = Table(title=f"what {result.options.main} got wrong: {some}")
    for heading in ("input", "right", "said"):
        table.add_column(heading, overflow="fold")
    for miss in shown:
        # As text: what a file or a model says is no markup.
        table.add_row(*(Text(shortened(one_line(text), LONGEST_CELL)) for text in (miss.input, miss.wanted, miss.said)))
    yield table


def _cost_table(result: TasksResult) -> Table:
    from rich.table import Table

    table = Table(title="cost of an answer", padding=NARROW)
    headings = (
        "column", "tokens\nread", "tokens\nwritten", "adapter\nweights\n/ 10⁶", "GFLOP,\nalone", "GFLOP,\nin a\nrow",
        "GFLOP,\nmaking\nadapter", "s,\nalone", "s,\nin a\nrow",
    )  # fmt: skip
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "column" else "right", no_wrap=True)
    for cost in result.costs:
        table.add_row(*_cost_row(cost))
    return table


def _cost_row(cost: ColumnCost) -> list[str]:
    return [
        _broken(cost.name),
        f"{cost.prompt_tokens:.0f}",
        f"{cost.reply_tokens:.0f}",
        f"{cost.adapter_weights / 1e6:.2f}" if cost.adapter_weights else "",
        f"{cost.gflops:.1f}",
        f"{cost.gflops_in_a_row:.1f}",
        f"{cost.making_gflops:.1f}" if cost.making_gflops else "",
        f"{cost.seconds_alone:.2f}",
        f"{cost.seconds:.2f}",
    ]


def _notes(result: TasksResult) -> Iterator[str]:
    if result.making is not None:
        yield _making_note(result.making)
    if result.ratios is not None:
        yield _ratio_note(result.ratios, result.options.main)
    for column in result.skipped:
        yield f"{column.name} was not measured: {column.reason}"
    yield "in brackets: 95 % confidence intervals; differences are paired"
    run, by = result.run, result.run.hypernetwork_name
    made = f", hypernetwork {by}" if by else ""
    yield f"{run.base_name} {run.base_quantization}{made}, seed {result.options.seed}, {run.seconds:.0f} s"


def _making_note(making: MakingCost) -> str:
    learnt = f", {making.learn_gflops:.1f} to learn the examples" if making.learn_gflops else ""
    return (
        f"an adapter is made of {making.description_tokens:.0f} tokens in {making.seconds:.2f} s: "
        f"{making.encode_gflops:.1f} GFLOP to read them, at most {making.generate_gflops:.1f} in the hypernetwork"
        f"{learnt}"
    )


def _ratio_note(ratios: CostRatios, main: str) -> str:
    return (
        f"examples in the prompt / {main}, making included: {ratios.gflops:.2f} of the operations alone, "
        f"{ratios.gflops_in_a_row:.2f} in a row; of the seconds, without making, {ratios.seconds_alone:.2f} alone, "
        f"{ratios.seconds:.2f} in a row"
    )
