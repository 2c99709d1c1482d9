"""Needle in a haystack: one invented fact somewhere in filler text; is its value in the reply?

Runs the shipped path on the documents of `haystack`. Knows no printing; `report` does that.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from localhyper.engine import Engine
from localhyper.errors import ConfigError
from localhyper.evaluate.columns import (
    USUAL_COLUMNS,
    Items,
    MakeAdapter,
    RunInfo,
    Skipped,
    ask,
    document_room,
    make_document,
    message_for,
    run_info,
)
from localhyper.evaluate.costs import AttachMeans
from localhyper.evaluate.frame import Lazy, Place, Setup, Subject, check_setup, measure
from localhyper.evaluate.haystack import SMALLEST_DOCUMENT, Haystack, HaystackMaker, Values
from localhyper.evaluate.haystack import read_sentences as read_sentences  # other suites and the benchmarks use it
from localhyper.evaluate.metrics import holds_value
from localhyper.evaluate.needle_scores import NeedleCase, NeedleScores, needle_scores
from localhyper.hypernet import Hypernetwork
from localhyper.pipeline import DEFAULT_CHUNK_RANK, DEFAULT_RANK
from localhyper.progress import CancelToken, ProgressCallback, ignore_progress


@dataclass(frozen=True)
class NeedleOptions:
    """What to run.

    Attributes:
        tokens: Length of each document in base-model tokens, reached to within one sentence.
        cases: Documents, one fact and one question each.
        values: 4-digit numbers, words, or both in turn.
        filler: Text file (gzip'd or not) the sentences round the fact come from; None = the one in the package.
        seed: Seed of facts and filler.
        rank: Rank budget of the documents' adapters; 0 = no recompression.
        max_tokens: Longest reply.
        columns: Columns to measure.
        chunk_rank: Rank budget of the adapters of a long document's chunks; 0 = it answers as a whole.
        chunk_tokens: Most tokens of a chunk; 0 = as the hypernetwork says.
    """

    tokens: int = 256
    cases: int = 200
    values: Values = "digits"
    filler: Path | None = None
    seed: int = 0
    rank: int = DEFAULT_RANK
    max_tokens: int = 32
    columns: tuple[str, ...] = USUAL_COLUMNS
    chunk_rank: int = DEFAULT_CHUNK_RANK
    chunk_tokens: int = 0


@dataclass(frozen=True)
class NeedleResult:
    """Figures of a run.

    Attributes:
        mean_tokens: Mean length of the documents.
        columns: One per column measured, in the order of `columns.COLUMNS`.
        skipped: Columns left out: the context column where documents do not fit into the window.
        attached: What attaching took; None without an adapter.
        cases: Every question in every column.
    """

    options: NeedleOptions
    run: RunInfo
    mean_tokens: float
    columns: tuple[NeedleScores, ...]
    skipped: tuple[Skipped, ...]
    attached: AttachMeans | None
    cases: tuple[NeedleCase, ...] = field(repr=False)
    suite: str = "needle"


def run(
    options: NeedleOptions,
    engine: Engine,
    hypernetwork: Hypernetwork,
    progress: ProgressCallback = ignore_progress,
    cancel: CancelToken | None = None,
    make_adapter: MakeAdapter | None = None,
) -> NeedleResult:
    """Measure the columns; the arguments are those of `squad.run`.

    Raises:
        ConfigError: An option is out of range, the filler file is unusable, or nothing is left to measure.
        Cancelled: `cancel` was set; nothing is kept.
    """
    started, cancel = time.monotonic(), cancel or CancelToken()
    _check(options)
    sentences = read_sentences(options.filler)
    maker = HaystackMaker(sentences, engine.tokenize, options.tokens, options.values, options.seed)
    skipped = _skipped(options, engine, maker)
    columns = tuple(name for name in options.columns if name not in {column.name for column in skipped})
    if not columns:
        raise ConfigError(skipped[0].reason, "make the documents shorter with --tokens, or name other --columns")
    haystacks = Lazy(options.cases, maker.make)
    chunks = (options.chunk_rank, options.chunk_tokens)
    setup = Setup(engine, hypernetwork, columns, options.rank, 0, progress, cancel, make_adapter, *chunks)
    subjects = Lazy(options.cases, lambda index: _subject(index, haystacks[index], options.max_tokens))
    outcome = measure(setup, subjects, _Asker(options, engine, haystacks, cancel).cases)
    lengths = [case.tokens for case in outcome.cases if case.column == columns[0]]
    return NeedleResult(
        options=options,
        run=run_info(engine, hypernetwork.info, started),
        mean_tokens=sum(lengths) / len(lengths),
        columns=tuple(needle_scores(name, outcome.cases) for name in columns),
        skipped=skipped,
        attached=outcome.attached,
        cases=outcome.cases,
    )


def _check(options: NeedleOptions) -> None:
    if options.tokens < SMALLEST_DOCUMENT:
        raise ConfigError(f"documents of {options.tokens} tokens, wanted at least {SMALLEST_DOCUMENT}")
    if options.cases < 1:
        raise ConfigError(f"{options.cases} cases, wanted at least 1")
    if options.values not in ("digits", "words", "both"):
        raise ConfigError(f"values `{options.values}`, wanted `digits`, `words` or `both`")
    check_setup(options.columns, options.cases, options.max_tokens)


def _skipped(options: NeedleOptions, engine: Engine, maker: HaystackMaker) -> tuple[Skipped, ...]:
    """The context column, where a document of the wanted length would have to be cut: its fact might be what is cut."""
    if "context" not in options.columns:
        return ()
    questions = [maker.fact(index).question for index in range(options.cases)]
    room = document_room(engine, questions, options.max_tokens)
    if options.tokens <= room:
        return ()
    reason = f"a document of {options.tokens} tokens does not fit into the window of {engine.n_ctx} beside a question"
    return (Skipped("context", f"{reason}; up to {max(0, room)} would"),)


def _subject(index: int, haystack: Haystack, max_tokens: int) -> Subject:
    return Subject(make_document(f"case {index + 1}", haystack.text), (haystack.fact.question,), max_tokens)


@dataclass
class _Asker:
    """Asks for a document's fact."""

    options: NeedleOptions
    engine: Engine
    haystacks: Items[Haystack]
    cancel: CancelToken

    def cases(self, place: Place) -> Iterator[NeedleCase]:
        """The one question of a document in a column."""
        haystack = self.haystacks[place.index]
        question, value = haystack.fact.question, haystack.fact.value
        message = message_for(place.column, question, place.shown)
        place.attach(question)
        reply = ask(self.engine, message, self.options.max_tokens, self.cancel)
        yield NeedleCase(
            case=place.index,
            column=place.column,
            depth=haystack.depth,
            tokens=haystack.tokens,
            question=question,
            value=value,
            reply=reply,
            found=holds_value(reply, value),
            kind=haystack.fact.kind,
            values=haystack.values,
            attach=place.cost,
        )
