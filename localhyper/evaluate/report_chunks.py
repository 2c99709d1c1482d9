"""Results of `eval chunks` as a table for people, as JSON for scripts, and case by case."""

from __future__ import annotations

from typing import TYPE_CHECKING

from localhyper.evaluate.chunks import ChunkResult
from localhyper.evaluate.report import bracket, figures_json
from localhyper.evaluate.report import write_cases as write_cases  # for the command line, as `to_json`

if TYPE_CHECKING:
    from rich.console import RenderableType


def to_json(result: ChunkResult) -> str:
    """The result without its cases as one JSON object: options, what it ran with, figures. No NaN, no infinity."""
    return figures_json(result)


def render_table(result: ChunkResult) -> RenderableType:
    """The result for a terminal."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    title = f"{result.questions} questions on {result.documents} documents of {result.mean_chunks:.0f} chunks"
    table = Table(title=f"{title}, {result.options.data.name}")
    table.add_column("chosen by")
    for heading in ("holds an answer %", "one of the best three does %"):
        table.add_column(heading, justify="right")
    for scores in result.columns:
        table.add_row(scores.name, bracket(scores.first, ".1f", 100), bracket(scores.among_three, ".1f", 100))
    run = result.run
    overview = []
    if result.general is not None and result.astray is not None:
        asked, astray = bracket(result.general, ".1f", 100), bracket(result.astray, ".1f", 100)
        overview = [f'questions like "What is it about?" find the overview in {asked} %, the others in {astray} %']
    if result.unrelated is not None:
        told = f"taken for questions about something else: {bracket(result.unrelated, '.1f', 100)} %"
        if result.general_unrelated is not None:
            told += f", {bracket(result.general_unrelated, '.1f', 100)} % of the general ones"
        overview.append(told)
    lines = [
        *overview,
        f"{result.left_out} questions were left out: no chunk spells their answer, or their document is a single chunk",
        "in brackets: 95 % confidence intervals",
        f"{run.base_name} {run.base_quantization}, hypernetwork {run.hypernetwork_name}, seed {result.options.seed}, "
        f"{run.seconds:.0f} s",
    ]
    return Group(table, *(Text(line, style="dim") for line in lines))
