"""Results of `eval unrelated` and `eval ranks` as tables for people, as JSON for scripts, and case by case.

Knows the results' shapes, nothing of how they came about.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from localhyper.evaluate.ranks import EXACT, BudgetScores, RanksResult
from localhyper.evaluate.report import bracket, figures_json
from localhyper.evaluate.report import write_cases as write_cases  # for the command line, as `to_json`
from localhyper.evaluate.unrelated import UnrelatedResult
from localhyper.evaluate.unrelated_scores import ChatScores, ChoiceScores, Paired

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

Result = UnrelatedResult | RanksResult


def to_json(result: Result) -> str:
    """The result without its cases as one JSON object: options, what it ran with, figures. No NaN, no infinity."""
    return figures_json(result)


def render_table(result: Result) -> RenderableType:
    """The result for a terminal: tables, and lines on what it was measured with."""
    from rich.console import Group
    from rich.text import Text

    tables = _unrelated_tables(result) if isinstance(result, UnrelatedResult) else [_ranks_table(result)]
    return Group(*tables, *(Text(line, style="dim") for line in _notes(result)))


def _notes(result: Result) -> list[str]:
    run, lines = result.run, ["in brackets: 95 % confidence intervals; differences are paired"]
    if isinstance(result, UnrelatedResult):
        lines.append(
            f"{result.documents} documents of {result.mean_tokens:.0f} tokens on average, one attached at a time"
        )
        lines.append(
            f"in force whatever is asked; `ask` would put {bracket(result.asked, '.1f', 100)} % of it to the document"
        )
        if result.skipped:
            lines.append(f"{result.skipped} files could not be read")
        rank = f", rank {result.options.rank or 'unlimited'}"
    else:
        lines.append("decode speed: over that without adapter, median over rounds")
        rank = ""
    made_with = f"{run.base_name} {run.base_quantization}, hypernetwork {run.hypernetwork_name}"
    return [*lines, f"{made_with}, seed {result.options.seed}{rank}, {run.seconds:.0f} s"]


def _unrelated_tables(result: UnrelatedResult) -> list[Table]:
    tables = []
    if result.all_choices is not None:
        tables.append(_choice_table(result.all_choices, result.choice_sets))
    if result.chat is not None:
        tables.append(_chat_table(result.chat))
    return tables


def _choice_table(everything: ChoiceScores, sets: tuple[ChoiceScores, ...]) -> Table:
    from rich.table import Table

    table = Table(title="multiple choice: accuracy %, and points that the adapter adds")
    for heading in ("", "questions", "", "none", "adapter", "points"):
        table.add_column(heading, justify="right" if heading else "left")
    for scores in (*sets, everything):
        table.add_row(*_choice_row(scores, "acc", scores.acc))
        table.add_row(*_choice_row(scores, "acc_norm", scores.acc_norm))
        table.add_section()
    return table


def _choice_row(scores: ChoiceScores, measure: str, pair: Paired) -> list[str]:
    plain = [f"{100 * estimate.value:.1f}" for estimate in (pair.none, pair.adapter)]
    return [scores.name, str(scores.questions), measure, *plain, bracket(pair.difference, "+.1f", 100)]


def _chat_table(chat: ChatScores) -> Table:
    from rich.table import Table

    table = Table(title=f"{chat.prompts} chat prompts, against the base's own replies")
    for heading in ("", "none", "adapter", "difference"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, pair, layout in (
        ("log-likelihood of the base's reply / token", chat.token_log_likelihood, ".3f"),
        ("words of a reply", chat.words, ".1f"),
    ):
        shown = (bracket(pair.none, layout), bracket(pair.adapter, layout), bracket(pair.difference, "+" + layout))
        table.add_row(name, *shown)
    table.add_row("ROUGE-L to the base's reply %", "100", bracket(chat.rouge_l, ".1f", 100), "")
    table.add_row("replies unchanged %", "100", bracket(chat.same, ".1f", 100), "")
    return table


def _ranks_table(result: RanksResult) -> Table:
    from rich.table import Table

    name = "exact %" if result.metric == "exact" else "F1 %"
    title = f"{result.questions} questions on {result.documents} documents of {result.mean_tokens:.0f} tokens"
    table = Table(title=title)
    headings = ("budget", "rank", name, "points to exact sum", "log-likelihood / token", "energy", "MB", "decode")
    for heading in headings:
        table.add_column(heading, justify="right")
    for scores in result.budgets:
        table.add_row(*_budget_row(scores))
    return table


def _budget_row(scores: BudgetScores) -> list[str]:
    return [
        "exact sum" if scores.budget == EXACT else str(scores.budget),
        f"{scores.rank:.0f}",
        bracket(scores.score, ".1f", 100),
        bracket(scores.difference, "+.1f", 100),
        bracket(scores.token_log_likelihood, ".3f"),
        f"{100 * scores.energy_kept:.1f} %",
        f"{scores.memory_bytes / 1e6:.1f}",
        "-" if scores.decode_ratio is None else f"{scores.decode_ratio:.2f}",
    ]
