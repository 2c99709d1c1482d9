"""Results of the suites as a table for people, as JSON for scripts, and case by case as JSON Lines.

Knows the results' shapes, nothing of how they came about.
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from localhyper.atomic import write_text_atomic
from localhyper.evaluate.intervals import Estimate
from localhyper.evaluate.needle import NeedleResult
from localhyper.evaluate.squad import SquadResult, SquadScores

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

Result = SquadResult | NeedleResult


def to_json(result: Result) -> str:
    """The result without its cases as one JSON object: options, what it ran with, figures. No NaN, no infinity."""
    figures = {field.name: _plain(getattr(result, field.name)) for field in fields(result) if field.name != "cases"}
    return json.dumps(figures, default=str, ensure_ascii=False, allow_nan=False, indent=2)


def _plain(value: object) -> object:
    """Dataclasses as dictionaries, at any depth."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def cases_to_jsonl(result: Result) -> str:
    """Every question in every column, one JSON object a line."""
    rows = (json.dumps(asdict(case), ensure_ascii=False, allow_nan=False) for case in result.cases)
    return "".join(row + "\n" for row in rows)


def write_cases(result: Result, path: Path) -> None:
    """Write `cases_to_jsonl` to a file, all or nothing.

    Raises:
        OSError: The file cannot be written.
    """
    write_text_atomic(path, cases_to_jsonl(result))


def render_table(result: Result) -> RenderableType:
    """The result for a terminal: a table, and a line on what it was measured with."""
    from rich.console import Group
    from rich.text import Text

    table = _squad_table(result) if isinstance(result, SquadResult) else _needle_table(result)
    return Group(table, *(Text(line, style="dim") for line in _notes(result)))


def _notes(result: Result) -> list[str]:
    run = result.run
    lines = [
        "in brackets: 95 % confidence intervals",
        f"{run.base_name} {run.base_quantization}, hypernetwork {run.hypernetwork_name}, "
        f"seed {result.options.seed}, rank {result.options.rank or 'unlimited'}, {run.seconds:.0f} s",
    ]
    if isinstance(result, SquadResult) and result.f1_ratio is not None:
        lines.insert(0, f"F1 with the adapter / F1 with the document in the prompt: {_bracket(result.f1_ratio, '.2f')}")
    if result.shortened:
        lines.append(f"{result.shortened} documents did not fit into the prompt and were cut at the end there")
    return lines


def _squad_table(result: SquadResult) -> Table:
    from rich.table import Table

    table = Table(title=f"{result.questions} questions on {result.documents} documents, {result.options.data.name}")
    table.add_column("")
    for heading in ("F1 %", "exact %", "log-likelihood / answer", "log-likelihood / token"):
        table.add_column(heading, justify="right")
    for scores in result.columns:
        table.add_row(*_squad_row(scores, ""))
    table.add_section()
    for scores in result.differences:
        table.add_row(*_squad_row(scores, "+"))
    return table


def _squad_row(scores: SquadScores, sign: str) -> list[str]:
    return [
        scores.name,
        _bracket(scores.f1, sign + ".1f", 100),
        _bracket(scores.exact, sign + ".1f", 100),
        _bracket(scores.answer_log_likelihood, sign + ".2f"),
        _bracket(scores.token_log_likelihood, sign + ".3f"),
    ]


def _needle_table(result: NeedleResult) -> Table:
    from rich.table import Table

    options = result.options
    title = f"{options.cases} needles ({options.values}) in documents of {result.mean_tokens:.0f} tokens: exact %"
    table = Table(title=title)
    table.add_column("")
    table.add_column("all", justify="right")
    fifths = len(result.columns[0].by_depth)
    for fifth in range(fifths):
        table.add_column(f"{100 * fifth // fifths}-{100 * (fifth + 1) // fifths} %", justify="right")
    for scores in result.columns:
        table.add_row(scores.name, _bracket(scores.exact, ".1f", 100), *(_share(part) for part in scores.by_depth))
    table.caption = "by depth of the fact: start of the document on the left"
    return table


def _share(estimate: Estimate | None) -> str:
    return "-" if estimate is None else f"{100 * estimate.value:.0f}"


def _bracket(estimate: Estimate | None, layout: str, factor: float = 1.0) -> str:
    """`value [low, high]`; `-` for what was not measured."""
    if estimate is None:
        return "-"
    value, low, high = (format(factor * part, layout) for part in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"
