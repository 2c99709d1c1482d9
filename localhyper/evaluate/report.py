"""Results of the suites as a table for people, as JSON for scripts, and case by case as JSON Lines.

Knows the results' shapes, nothing of how they came about.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from localhyper.atomic import write_text_atomic
from localhyper.evaluate.costs import AttachMeans, ContextLengths
from localhyper.evaluate.intervals import Estimate
from localhyper.evaluate.needle import NeedleResult
from localhyper.evaluate.needle_scores import NeedleScores, Part
from localhyper.evaluate.squad import SquadResult
from localhyper.evaluate.squad_scores import SquadScores

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

Result = SquadResult | NeedleResult
# Short ones: log-likelihood is cut on 80 columns.
SQUAD_HEADINGS = ("F1 %", "exact %", "answer in it %", "ROUGE-L %", "log-lik.\n/ answer", "log-lik.\n/ token")


class Figures(Protocol):
    """Any suite's result: a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


def to_json(result: Result) -> str:
    """The result without its cases as one JSON object: options, what it ran with, figures. No NaN, no infinity."""
    return figures_json(result)


def figures_json(result: Figures) -> str:
    """Any suite's result without its `cases` as one JSON object."""
    figures = {field.name: _plain(getattr(result, field.name)) for field in fields(result) if field.name != "cases"}
    return json.dumps(figures, default=str, ensure_ascii=False, allow_nan=False, indent=2)


def _plain(value: object) -> object:
    """Dataclasses as dictionaries, at any depth."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


class WithCases(Protocol):
    """Any suite's result with its `cases`: dataclasses."""

    @property
    def cases(self) -> Sequence[Any]:
        """Every question in every column."""
        ...


def cases_to_jsonl(result: WithCases) -> str:
    """Every question in every column, one JSON object a line."""
    rows = (json.dumps(asdict(case), ensure_ascii=False, allow_nan=False) for case in result.cases)
    return "".join(row + "\n" for row in rows)


def write_cases(result: WithCases, path: Path) -> None:
    """Write `cases_to_jsonl` to a file, all or nothing; what all suites do.

    Raises:
        OSError: The file cannot be written.
    """
    write_text_atomic(path, cases_to_jsonl(result))


def render_table(result: Result) -> RenderableType:
    """The result for a terminal: tables, and lines on what it was measured with."""
    from rich.console import Group
    from rich.text import Text

    if isinstance(result, SquadResult):
        tables, lines = [_squad_table(result)], list(_squad_notes(result))
    else:
        tables, lines = [_depth_table(result), _kind_table(result)], list(_needle_notes(result))
    lines += _common_notes(result)
    return Group(*tables, *(Text(line, style="dim") for line in lines))


def _squad_notes(result: SquadResult) -> Iterator[str]:
    measured = {scores.name for scores in result.columns}
    if result.options.generate and {"adapter", "context"} <= measured:
        yield f"adapter / document in the prompt: {_ratios(result.f1_ratio, result.rouge_l_ratio)}"
    if result.options.generate and {"adapter", "shuffled"} <= measured:
        pair = _ratios(result.f1_shuffled_ratio, result.rouge_l_shuffled_ratio)
        yield f"adapter / another document's adapter: {pair}"
    if result.context is not None:
        yield from _context_notes(result.context)


def _ratios(f1: Estimate | None, rouge_l: Estimate | None) -> str:
    def shown(estimate: Estimate | None) -> str:
        return "too many zeros to say" if estimate is None else bracket(estimate, ".2f")

    return f"F1 {shown(f1)}, ROUGE-L {shown(rouge_l)}"


def _context_notes(context: ContextLengths) -> Iterator[str]:
    if context.shortened_from is not None and context.shortened_to is not None:
        lengths = f"from {context.shortened_from:.0f} to {context.shortened_to:.0f} tokens on average"
        yield f"{context.shortened} of {context.documents} documents were cut at the end in the prompt, {lengths}"


def _needle_notes(result: NeedleResult) -> Iterator[str]:
    for column in result.skipped:
        yield f"{column.name} was not measured: {column.reason}"


def _common_notes(result: Result) -> Iterator[str]:
    run = result.run
    if result.attached is not None:
        yield _attach_note(result.attached)
    alone = isinstance(result, SquadResult) and result.documents == 1
    yield "in brackets: 95 % confidence intervals" + (", which one document cannot give" if alone else "")
    yield (
        f"{run.base_name} {run.base_quantization}, hypernetwork {run.hypernetwork_name}, "
        f"seed {result.options.seed}, rank {result.options.rank or 'unlimited'}, {run.seconds:.0f} s"
    )


def _attach_note(attached: AttachMeans) -> str:
    parts = [f"{attached.seconds:.2f} s", f"{attached.size_bytes / 1e6:.2f} MB"]
    if attached.rank is not None:
        parts.append(f"rank {attached.rank:.0f}")
    if attached.energy_kept is not None:
        parts.append(f"{attached.energy_kept:.1%} of the energy kept")
    return f"{attached.adapters} adapters made, each on average: {', '.join(parts)}"


def _squad_table(result: SquadResult) -> Table:
    from rich.table import Table

    table = Table(title=f"{result.questions} questions on {result.documents} documents, {result.options.data.name}")
    table.add_column("")
    for heading in SQUAD_HEADINGS:
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
        bracket(scores.f1, sign + ".1f", 100),
        bracket(scores.exact, sign + ".1f", 100),
        bracket(scores.contained, sign + ".1f", 100),
        bracket(scores.rouge_l, sign + ".1f", 100),
        bracket(scores.answer_log_likelihood, sign + ".2f"),
        bracket(scores.token_log_likelihood, sign + ".3f"),
    ]


def _depth_table(result: NeedleResult) -> Table:
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
        table.add_row(scores.name, bracket(scores.exact, ".1f", 100), *(_share(part) for part in scores.by_depth))
    for column in result.skipped:
        table.add_row(column.name, *["-"] * (fifths + 1))
    table.caption = "by depth of the fact: start of the document on the left"
    return table


def _kind_table(result: NeedleResult) -> Table:
    from rich.table import Table

    table = Table()
    table.add_column("")
    for part in _kinds(result.columns[0]):
        table.add_column(part.name, justify="right")
    for scores in result.columns:
        table.add_row(scores.name, *(bracket(part.exact, ".1f", 100) for part in _kinds(scores)))
    table.caption = "by what the fact is about" + (" and by its value" if result.options.values == "both" else "")
    return table


def _kinds(scores: NeedleScores) -> list[Part]:
    """Parts of the second table; kinds of which there are no cases are left out, and values where all are alike."""
    values = scores.by_value if all(part.cases for part in scores.by_value) else ()
    return [part for part in (*scores.by_kind, *values) if part.cases]


def _share(estimate: Estimate | None) -> str:
    return "-" if estimate is None else f"{100 * estimate.value:.0f}"


def bracket(estimate: Estimate | None, layout: str, factor: float = 1.0) -> str:
    """`value [low, high]`; `-` for what was not measured."""
    if estimate is None:
        return "-"
    value, low, high = (format(factor * part, layout) for part in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"
