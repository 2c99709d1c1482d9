"""`localhyper eval …`: what attaching brings, measured through the shipped path."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from localhyper.cli_options import BaseOption, HypernetOption, JsonOption, open_workbench
from localhyper.cli_output import EXIT_CODES, ProgressView, note, put, stop_on_signals
from localhyper.errors import ConfigError
from localhyper.progress import CancelToken

if TYPE_CHECKING:
    from localhyper.evaluate.report import Result

eval_app = typer.Typer(help="Measure no adapter, in-context, adapter and shuffled adapter.", no_args_is_help=True)

SeedOption = Annotated[int, typer.Option(min=0, help="Seed of every random choice.")]
RankOption = Annotated[int | None, typer.Option(min=0, max=4096, help="Rank budget of the adapters; default: as set.")]
CasesOption = Annotated[
    Path | None, typer.Option("--cases-file", help="Write every question in every column, one JSON object a line.")
]


@eval_app.command(epilog=EXIT_CODES)
def squad(
    data: Annotated[Path, typer.Option(help="Reading set: JSON lines, gzip'd or not (see docs).")],
    limit: Annotated[int, typer.Option(min=0, help="Questions drawn at random; 0 = all.")] = 200,
    seed: SeedOption = 0,
    generate: Annotated[
        bool, typer.Option("--generate/--no-generate", help="Generate replies; without, only log-likelihoods.")
    ] = True,
    rank: RankOption = None,
    base: BaseOption = "",
    hypernet: HypernetOption = "",
    cases_file: CasesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Reading comprehension: F1, exact match and log-likelihood of the answers, with 95 % intervals."""
    from localhyper.evaluate.squad import SquadOptions, run

    token = CancelToken()
    with open_workbench(base, hypernet) as bench, stop_on_signals(token):
        with ProgressView() as view:
            options = SquadOptions(data, limit, seed, generate, bench.options(rank=rank).rank)
            result = run(options, bench.engine(view), bench.hypernetwork(view), view, token)
        _show(result, cases_file, as_json)


@eval_app.command(epilog=EXIT_CODES)
def needle(
    tokens: Annotated[int, typer.Option(min=48, help="Length of each document in tokens.")] = 256,
    limit: Annotated[int, typer.Option("--limit", "--cases", min=2, help="Documents, one fact each.")] = 200,
    values: Annotated[str, typer.Option(help="What the facts hold: digits or words.")] = "digits",
    data: Annotated[
        Path | None, typer.Option(help="Text round the facts, gzip'd or not; default: the shipped one.")
    ] = None,
    seed: SeedOption = 0,
    rank: RankOption = None,
    base: BaseOption = "",
    hypernet: HypernetOption = "",
    cases_file: CasesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Needle in a haystack: one invented fact in filler text; the share of replies that hold its value."""
    from localhyper.evaluate.needle import NeedleOptions, run

    if values not in ("digits", "words"):
        raise ConfigError(f"--values must be `digits` or `words`, got `{values[:40]}`")
    kind = cast("Literal['digits', 'words']", values)
    token = CancelToken()
    with open_workbench(base, hypernet) as bench, stop_on_signals(token):
        with ProgressView() as view:
            options = NeedleOptions(tokens, limit, kind, data, seed, bench.options(rank=rank).rank)
            result = run(options, bench.engine(view), bench.hypernetwork(view), view, token)
        _show(result, cases_file, as_json)


def _show(result: Result, cases_file: Path | None, as_json: bool) -> None:
    from localhyper.evaluate import report

    if cases_file is not None:
        try:
            report.write_cases(result, cases_file)
        except OSError as error:
            raise ConfigError(f"`{cases_file}` cannot be written: {error.strerror or error}") from error
        note(f"every case: {cases_file}")
    if as_json:
        put(report.to_json(result))
    else:
        from rich.console import Console

        Console(file=sys.stdout).print(report.render_table(result))
