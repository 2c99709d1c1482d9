"""`localhyper eval unrelated`, `ranks`, `chunks`: what an adapter costs, and which chunk of a document answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from localhyper.cli_eval import CasesOption, RankOption, SeedOption, check_cases_file, show_result
from localhyper.cli_options import BaseOption, HypernetOption, JsonOption, open_workbench
from localhyper.cli_output import EXIT_CODES, ProgressView, stop_on_signals
from localhyper.errors import ConfigError
from localhyper.progress import CancelToken


def register(app: typer.Typer) -> None:
    """Add the three commands to `localhyper eval`; `cli.py` calls it."""
    app.command(epilog=EXIT_CODES)(unrelated)
    app.command(epilog=EXIT_CODES)(ranks)
    app.command(epilog=EXIT_CODES)(chunks)


def unrelated(
    documents: Annotated[
        Path, typer.Option(help="What is attached: a reading set, a folder of documents, or one document.")
    ],
    data: Annotated[
        list[Path] | None, typer.Option(help="Multiple-choice file, JSON lines (see docs); may be given again.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Chat prompts: one a line, or JSON lines; default: the shipped ones.")
    ] = None,
    chat: Annotated[bool, typer.Option("--chat/--no-chat", help="Ask the chat prompts.")] = True,
    limit: Annotated[int, typer.Option(min=0, help="Questions drawn at random from each file; 0 = all.")] = 50,
    attached: Annotated[int, typer.Option(min=1, help="Documents drawn at random, one attached at a time.")] = 16,
    tokens: Annotated[int, typer.Option(min=0, help="Cut documents to this many tokens; 0 = whole.")] = 0,
    seed: SeedOption = 0,
    rank: RankOption = None,
    base: BaseOption = "",
    hypernet: HypernetOption = "",
    cases_file: CasesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Unrelated questions with a document attached: accuracy on multiple choice, and how far everyday chat moves."""
    from localhyper.evaluate import report_adapters
    from localhyper.evaluate.unrelated import UnrelatedOptions, run

    check_cases_file(cases_file)
    token = CancelToken()
    with open_workbench(base, hypernet) as bench, stop_on_signals(token):
        budget = bench.options(rank=rank).rank
        options = UnrelatedOptions(
            documents, tuple(data or ()), prompts, limit, attached, tokens, chat, seed, rank=budget
        )
        with ProgressView() as view:
            result = run(options, bench.engine(view), bench.hypernetwork(view), view, token)
        show_result(result, report_adapters, cases_file, as_json)


def ranks(
    budgets: Annotated[
        str, typer.Option("--ranks", help="Rank budgets with commas between; 0 = exact sum, always among them.")
    ] = "16,32,64,128,256,512,0",
    tokens: Annotated[int, typer.Option(min=48, help="Length of each document in tokens.")] = 1024,
    facts: Annotated[int, typer.Option(min=1, help="Facts and questions in each document.")] = 4,
    values: Annotated[str, typer.Option(help="What the facts hold: digits or words.")] = "digits",
    limit: Annotated[int, typer.Option(min=0, help="Questions in all; 0 = all of --data.")] = 64,
    data: Annotated[Path | None, typer.Option(help="Reading set in place of documents with facts.")] = None,
    filler: Annotated[
        Path | None, typer.Option(help="Text round the facts, gzip'd or not; default: the shipped one.")
    ] = None,
    seed: SeedOption = 0,
    base: BaseOption = "",
    hypernet: HypernetOption = "",
    cases_file: CasesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Rank budgets against the exact sum of all chunks: answers, memory and decode speed at each."""
    from localhyper.evaluate import report_adapters
    from localhyper.evaluate.ranks import RanksOptions, run

    kind = cast("Literal['digits', 'words']", values)  # `run` checks it
    options = RanksOptions(_budgets(budgets), tokens, facts, kind, limit, data, filler, seed)
    check_cases_file(cases_file)
    token = CancelToken()
    with open_workbench(base, hypernet) as bench, stop_on_signals(token):
        with ProgressView() as view:
            result = run(options, bench.engine(view), bench.hypernetwork(view), view, token)
        show_result(result, report_adapters, cases_file, as_json)


def chunks(
    data: Annotated[Path, typer.Option(help="Reading set of documents of several chunks: JSON lines (see docs).")],
    joined: Annotated[
        bool, typer.Option("--joined", help="Make one document of all contexts that have a title in common.")
    ] = False,
    limit: Annotated[int, typer.Option(min=0, help="Questions drawn at random; 0 = all.")] = 200,
    documents: Annotated[
        int, typer.Option(min=0, help="Documents drawn at random, questions are drawn among theirs; 0 = all.")
    ] = 0,
    seed: SeedOption = 0,
    base: BaseOption = "",
    hypernet: HypernetOption = "",
    cases_file: CasesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Which chunk of a long document a question is about: how often the chosen one holds the answer.

    By words, by the hypernetwork's search keys, by both as in `ask`, and drawn blindly. No adapter is made, no reply.
    """
    from localhyper.evaluate import report_chunks
    from localhyper.evaluate.chunks import ChunkOptions, run

    check_cases_file(cases_file)
    token = CancelToken()
    with open_workbench(base, hypernet) as bench, stop_on_signals(token):
        with ProgressView() as view:
            options = ChunkOptions(data, limit, documents, joined, seed, bench.config.adapter.chunk_tokens)
            result = run(options, bench.engine(view), bench.hypernetwork(view), view, token)
        show_result(result, report_chunks, cases_file, as_json)


def _budgets(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"`--ranks` must be whole numbers with commas between, got `{text[:80]}`") from None
