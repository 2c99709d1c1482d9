"""`localhyper eval …`: what attaching brings, measured through the shipped path."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Protocol, TypeVar, cast

import typer

from localhyper.cli_options import BaseOption, HypernetOption, JsonOption, open_workbench
from localhyper.cli_output import EXIT_CODES, ProgressView, note, put, stop_on_signals
from localhyper.errors import ConfigError
from localhyper.progress import CancelToken

if TYPE_CHECKING:
    from rich.console import RenderableType

ResultT = TypeVar("ResultT", contravariant=True)


class ReportOf(Protocol[ResultT]):
    """A module that knows how to show results of its suites."""

    def write_cases(self, result: ResultT, path: Path) -> None:
        """Every question in every column, one JSON object a line."""
        ...

    def to_json(self, result: ResultT) -> str:
        """Everything but the cases."""
        ...

    def render_table(self, result: ResultT) -> RenderableType:
        """For a terminal."""
        ...


eval_app = typer.Typer(help="Measure what an attached document brings, and what it costs.", no_args_is_help=True)

USUAL_COLUMNS = "none,context,adapter,shuffled"
PIPE_WIDTH = 160  # where stdout is no terminal; no cell of a table is broken at this width

SeedOption = Annotated[int, typer.Option(min=0, help="Seed of every random choice.")]
RankOption = Annotated[int | None, typer.Option(min=0, max=4096, help="Rank budget of the adapters; default: as set.")]
CasesOption = Annotated[
    Path | None, typer.Option("--cases-file", help="Write every question in every column, one JSON object a line.")
]
MaxTokensOption = Annotated[int, typer.Option(min=1, help="Longest reply in tokens.")]
ColumnsOption = Annotated[
    str,
    typer.Option(
        metavar="NAME,…",
        help="What to measure: none = the question alone, context = the document in the prompt, adapter = the document "
        "attached, whole = the same, and of a long one all chunks at once, shuffled = another document attached.",
    ),
]


@eval_app.command(epilog=EXIT_CODES)
def squad(
    data: Annotated[Path, typer.Option(help="Reading set: JSON lines, gzip'd or not (see docs).")],
    limit: Annotated[int, typer.Option(min=0, help="Questions drawn at random; 0 = all.")] = 200,
    documents: Annotated[
        int, typer.Option(min=0, help="Documents drawn at random, questions are drawn among theirs; 0 = all.")
    ] = 0,
    columns: ColumnsOption = USUAL_COLUMNS,
    max_tokens: MaxTokensOption = 32,
    context_tokens: Annotated[
        int, typer.Option(min=0, help="Most tokens of a document in the prompt, its end is cut; 0 = what fits.")
    ] = 0,
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
    """Reading comprehension: F1, exact match, answers in replies, ROUGE-L and log-likelihood, with 95 % intervals.

    Each question is asked without the document, with it in the prompt, with its adapter, and with another one's. Long
    documents take long to read into the prompt: --documents and --context-tokens bound the time, --max-tokens 128 makes
    room for answers in sentences.
    """
    from localhyper.evaluate import report
    from localhyper.evaluate.columns import parse_columns
    from localhyper.evaluate.squad import SquadOptions, run

    chosen = parse_columns(columns)
    check_cases_file(cases_file)
    token = CancelToken()
    with open_workbench(base, hypernet) as bench, stop_on_signals(token):
        with ProgressView() as view:
            made = bench.options(rank=rank)
            chunks = (made.chunk_rank, made.chunk_tokens)
            options = SquadOptions(
                data, limit, seed, generate, made.rank, max_tokens, documents, context_tokens, chosen, *chunks
            )
            result = run(options, bench.engine(view), bench.hypernetwork(view), view, token)
        show_result(result, report, cases_file, as_json)


@eval_app.command(epilog=EXIT_CODES)
def needle(
    tokens: Annotated[int, typer.Option(min=48, help="Length of each document in tokens.")] = 256,
    limit: Annotated[int, typer.Option("--limit", "--cases", min=1, help="Documents, one fact each.")] = 200,
    values: Annotated[str, typer.Option(help="What the facts hold: digits, words or both.")] = "digits",
    columns: ColumnsOption = USUAL_COLUMNS,
    max_tokens: MaxTokensOption = 32,
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
    """Needle in a haystack: one invented fact in filler text; the share of replies that hold its value.

    Facts are about persons, cities and code names in turn, and stand at depths from the very start to the very end. The
    column `context` is left out where documents do not fit into the model's window.
    """
    from localhyper.evaluate import report
    from localhyper.evaluate.columns import parse_columns
    from localhyper.evaluate.needle import NeedleOptions, run

    if values not in ("digits", "words", "both"):
        raise ConfigError(f"--values is `{values[:40]}`", "say `digits`, `words` or `both`")
    kind, chosen = cast("Literal['digits', 'words', 'both']", values), parse_columns(columns)
    check_cases_file(cases_file)
    token = CancelToken()
    with open_workbench(base, hypernet) as bench, stop_on_signals(token):
        with ProgressView() as view:
            made = bench.options(rank=rank)
            chunks = (made.chunk_rank, made.chunk_tokens)
            options = NeedleOptions(tokens, limit, kind, data, seed, made.rank, max_tokens, chosen, *chunks)
            result = run(options, bench.engine(view), bench.hypernetwork(view), view, token)
        show_result(result, report, cases_file, as_json)


def check_cases_file(path: Path | None) -> None:
    """Before the run: nobody wants to hear after an hour that there is no such folder.

    Raises:
        ConfigError: The file cannot be made.
    """
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise ConfigError(f"`{path}` cannot be written", "name a file in a folder that exists")


def show_result(result: ResultT, report: ReportOf[ResultT], cases_file: Path | None, as_json: bool) -> None:
    """Print a run's table or JSON, and write its cases where that is asked for.

    Raises:
        ConfigError: The file of cases cannot be written.
    """
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

        width = None if sys.stdout.isatty() else PIPE_WIDTH
        Console(file=sys.stdout, width=width).print(report.render_table(result))
