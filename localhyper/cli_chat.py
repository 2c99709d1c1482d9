"""`localhyper ask` and `localhyper chat`: replies streamed to stdout, with any set of adapters."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from localhyper.chat import ChatSession
from localhyper.chunk_choice import Choice
from localhyper.cli_making import attach_for_question
from localhyper.cli_options import (
    BaseOption,
    DocumentOption,
    ExamplesOption,
    HypernetsOption,
    JsonOption,
    PasswordOption,
    TaskOption,
    WithOption,
    file_or_name,
    open_workbench,
)
from localhyper.cli_output import (
    EXIT_INTERRUPTED,
    ProgressView,
    note,
    put,
    put_json,
    seconds,
    show_error,
    stop_on_signals,
)
from localhyper.engine import AdapterUse, GenerationStats, Piece
from localhyper.errors import ConfigError, LocalHyperError
from localhyper.progress import CancelToken
from localhyper.workbench import Workbench

Named = tuple[str, AdapterUse]

TemperatureOption = Annotated[
    float | None, typer.Option(min=0.0, max=5.0, help="0 = always the likeliest token; default: as set.")
]
MaxTokensOption = Annotated[int | None, typer.Option("--max-tokens", min=1, help="Longest reply in tokens.")]
SeedOption = Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="Start of the random numbers.")]
WholeOption = Annotated[
    bool, typer.Option("--whole", help="Of long documents, use all chunks at once, not the one a question is about.")
]
SystemOption = Annotated[str, typer.Option(help="System message; default: the model's own, none for a task alone.")]


def ask(
    question: Annotated[str, typer.Argument(help="The question; `-` reads it from stdin.")],
    with_adapters: WithOption = None,
    document: DocumentOption = None,
    task: TaskOption = None,
    examples: ExamplesOption = None,
    compare: Annotated[bool, typer.Option("--compare", help="Answer without the adapters, too.")] = False,
    whole: WholeOption = False,
    system: SystemOption = "",
    temperature: TemperatureOption = None,
    max_tokens: MaxTokensOption = None,
    seed: SeedOption = None,
    password: PasswordOption = "",
    base: BaseOption = "",
    hypernet: HypernetsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Answer one QUESTION, with adapters or without.

    --document and --task attach first, as `attach` does: the adapters stay in the library, and cost nothing the next
    time.
    """
    if question == "-" and "-" in (task, *(document or ())):
        raise ConfigError("only one of QUESTION, --document and --task can be `-`", "stdin can be read once")
    text = sys.stdin.read() if question == "-" else question
    if not text.strip():
        raise ConfigError("the question is empty", '`localhyper ask "What is …?" --with NAME`')
    token = CancelToken()
    settings = _settings(temperature, max_tokens, seed, whole)
    with open_workbench(base, settings=settings) as bench, stop_on_signals(token):
        named = _adapters(bench, with_adapters, document, task, examples, hypernet, password, token)
        sets: list[tuple[Named, ...]] = [(), named] if compare and named else [named]
        session = _session(bench, system)
        answers = []
        for chosen in sets:
            session.reset()
            session.use([use for _, use in chosen])
            if len(sets) > 1 and not as_json:
                put(_heading(chosen))
            answers.append(_answer(session, text, chosen, token, quiet=as_json))
            if token.cancelled:
                raise typer.Exit(EXIT_INTERRUPTED)
        if as_json:
            put_json({"question": text, "base": bench.base_info.name, "answers": answers})


def _settings(temperature: float | None, max_tokens: int | None, seed: int | None, whole: bool) -> dict[str, object]:
    """What the command line says of how replies are made, by setting; None = as set."""
    return {
        "sampling.temperature": temperature,
        "sampling.max_tokens": max_tokens,
        "sampling.seed": seed,
        "adapter.choose_chunk": False if whole else None,
    }


def _adapters(
    bench: Workbench,
    with_adapters: list[str] | None,
    documents: list[str] | None,
    task: str | None,
    examples: Path | None,
    hypernets: list[str] | None,
    password: str,
    token: CancelToken,
) -> tuple[Named, ...]:
    """Those of the library at their strengths, then those that are attached now; none of them twice."""
    named = _named(bench, with_adapters or [], token)
    for name in hypernets or ():
        bench.choose_hypernet(file_or_name(name))
    made = attach_for_question(bench, documents or (), task, examples, password, token)
    taken = {use.path for _, use in named}
    return (*named, *((name, use) for name, use in made if use.path not in taken))


def _named(bench: Workbench, wanted: Sequence[str], token: CancelToken) -> tuple[Named, ...]:
    """Those of the library; that of a whole document is made now where it will answer."""
    with ProgressView() as view:
        return bench.uses(wanted, whole=not bench.config.adapter.choose_chunk, progress=view, cancel=token)


def _session(bench: Workbench, system: str) -> ChatSession:
    with ProgressView() as view:
        engine = bench.engine(view)
    return ChatSession(engine, system=system, sampling=bench.sampling, choose=bench.choose)


def _heading(chosen: tuple[Named, ...]) -> str:
    return f"with {_names(chosen)}:" if chosen else "without adapters:"


def _names(chosen: tuple[Named, ...]) -> str:
    return ", ".join(name if use.scale == 1 else f"{name}@{use.scale:g}" for name, use in chosen)


def _answer(
    session: ChatSession, text: str, chosen: tuple[Named, ...], token: CancelToken, *, quiet: bool
) -> dict[str, object]:
    """Stream a reply (unless quiet) and return it for scripts."""
    reply, stats = _stream(session.ask(text, cancel=token), quiet)
    if not quiet:
        put("\n" if not reply.endswith("\n") else "", end="")
        note(_cost(stats, session.choice))
    return {
        "adapters": [{"name": name, "path": str(use.path), "scale": use.scale} for name, use in chosen],
        "chunk": dataclasses.asdict(session.choice.chunk) if session.choice.chunk is not None else None,
        "left_out": session.choice.left_out,
        "text": reply,
        **_stats_json(stats),
    }


def _stream(pieces: Iterator[Piece], quiet: bool) -> tuple[str, GenerationStats | None]:
    texts, stats = [], None
    for piece in pieces:
        if piece.text and not quiet:
            put(piece.text, end="")
        texts.append(piece.text)
        stats = piece.stats or stats
    return "".join(texts), stats


def _cost(stats: GenerationStats | None, choice: Choice) -> str:
    if stats is None:
        return ""
    by = f"{'by ' if choice.chunk is not None else ''}{choice}, " if str(choice) else ""
    end = {
        "length": ", cut at the longest reply",
        "loop": ", ended because it went in circles",
        "cancelled": ", stopped",
    }.get(stats.finish_reason, "")
    return (
        f"({by}{stats.prompt_tokens} tokens read, first token after {seconds(stats.first_token_seconds)}, "
        f"{stats.generated_tokens} tokens at {stats.tokens_per_second:.1f}/s{end})"
    )


def _stats_json(stats: GenerationStats | None) -> dict[str, object]:
    if stats is None:
        return {}
    speed = stats.tokens_per_second
    return {
        "finish_reason": stats.finish_reason,
        "prompt_tokens": stats.prompt_tokens,
        "generated_tokens": stats.generated_tokens,
        "first_token_seconds": round(stats.first_token_seconds, 4),
        "tokens_per_second": round(speed, 2) if math.isfinite(speed) else 0.0,
    }


HELP = """/use NAME[@SCALE] ...  chat with these adapters from now on; /use alone takes all away
/reset                 forget the conversation
/exit                  end (so does Ctrl+D); Ctrl+C stops a reply"""


def chat(
    with_adapters: WithOption = None,
    document: DocumentOption = None,
    task: TaskOption = None,
    examples: ExamplesOption = None,
    whole: WholeOption = False,
    system: SystemOption = "",
    temperature: TemperatureOption = None,
    max_tokens: MaxTokensOption = None,
    seed: SeedOption = None,
    password: PasswordOption = "",
    base: BaseOption = "",
    hypernet: HypernetsOption = None,
) -> None:
    """Chat line by line, with adapters or without; `/help` lists what else it understands.

    --document and --task attach first, as `attach` does.
    """
    if "-" in (task, *(document or ())):
        raise ConfigError("`chat` reads its questions from stdin, so `-` is no document and no task", "name a file")
    with open_workbench(base, settings=_settings(temperature, max_tokens, seed, whole)) as bench:
        token = CancelToken()
        with stop_on_signals(token):
            named = _adapters(bench, with_adapters, document, task, examples, hypernet, password, token)
        session = _session(bench, system)
        session.use([use for _, use in named])
        note(f"{bench.base_info.name}, {_heading(named).rstrip(':')}; /help, /exit")
        _converse(bench, session)


def _converse(bench: Workbench, session: ChatSession) -> None:
    interrupted = False
    while True:
        try:
            line = _read_line()
            interrupted = False
        except EOFError:
            return
        except KeyboardInterrupt:
            if interrupted:
                raise
            interrupted = True
            note("\n/exit ends; Ctrl+C once more, too")
            continue
        if line in ("/exit", "/quit"):
            return
        try:
            _turn(bench, session, line)
        except LocalHyperError as error:
            show_error(error)


def _read_line() -> str:
    """One line of the user's; the prompt goes to stderr, and only where somebody sees it."""
    if sys.stdin.isatty():
        sys.stderr.write("> ")
        sys.stderr.flush()
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.strip()


def _turn(bench: Workbench, session: ChatSession, line: str) -> None:
    command, *arguments = line.split() or [""]
    if not command:
        return
    if command == "/help":
        note(HELP)
    elif command == "/reset":
        session.reset()
        note("forgotten")
    elif command == "/use":
        token = CancelToken()
        with stop_on_signals(token):
            named = _named(bench, arguments, token)
        session.use([use for _, use in named])
        note(_heading(named).rstrip(":"))
    elif command.startswith("/"):
        note(f"`{command}` is not known; /help lists what is")
    else:
        token = CancelToken()
        with stop_on_signals(token):
            _answer(session, line, (), token, quiet=False)
