"""Reading comprehension: does the right document's adapter bring the answer, and another document's not?

Runs the shipped path from text to adapter to answer on any reading-set file. Knows no printing; `report` does that.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from localhyper.engine import ChatMessage, Engine
from localhyper.evaluate.columns import USUAL_COLUMNS, MakeAdapter, RunInfo, ask, make_document, message_for, run_info
from localhyper.evaluate.costs import AttachMeans, ContextLengths
from localhyper.evaluate.frame import Outcome, Place, Setup, Subject, check_setup, measure
from localhyper.evaluate.intervals import Estimate
from localhyper.evaluate.metrics import best, contains, exact_match, f1, rouge_l
from localhyper.evaluate.reading_set import Passage, Question, read_reading_set, sample_questions
from localhyper.evaluate.squad_scores import SquadCase, SquadFigures, SquadScores
from localhyper.hypernet import Hypernetwork
from localhyper.pipeline import DEFAULT_CHUNK_RANK, DEFAULT_RANK
from localhyper.progress import CancelToken, ProgressCallback, ignore_progress


@dataclass(frozen=True)
class SquadOptions:
    """What to run.

    Attributes:
        data: Reading-set file (`docs/data.md`).
        limit: Questions drawn at random; 0 = all.
        seed: Seed of the draw and of the bootstrap.
        generate: Whether to generate replies; without, only log-likelihoods are measured.
        rank: Rank budget of the documents' adapters; 0 = no recompression.
        max_tokens: Longest reply.
        documents: Documents drawn at random, questions are drawn among theirs; 0 = all.
        context_tokens: Most tokens of a document in the context column; 0 = what fits into the window.
        columns: Columns to measure.
        chunk_rank: Rank budget of the adapters of a long document's chunks; 0 = it answers as a whole.
        chunk_tokens: Most tokens of a chunk; 0 = as the hypernetwork says.
    """

    data: Path
    limit: int = 200
    seed: int = 0
    generate: bool = True
    rank: int = DEFAULT_RANK
    max_tokens: int = 32
    documents: int = 0
    context_tokens: int = 0
    columns: tuple[str, ...] = USUAL_COLUMNS
    chunk_rank: int = DEFAULT_CHUNK_RANK
    chunk_tokens: int = 0


@dataclass(frozen=True)
class SquadResult:
    """Figures of a run.

    Attributes:
        shortened: Documents cut at the end in the context column.
        columns: One per column measured, in the order of `columns.COLUMNS`.
        differences: `adapter - none` and `adapter - shuffled`, paired; those whose columns were measured.
        f1_ratio: F1 with the adapter over F1 with the document in the prompt; None where it cannot be given.
        rouge_l_ratio: The same of ROUGE-L.
        f1_shuffled_ratio: F1 with the adapter over F1 with another document's; None where it cannot be given.
        rouge_l_shuffled_ratio: The same of ROUGE-L.
        context: Lengths of the documents in the context column; None without that column.
        attached: What attaching took; None without an adapter.
        cases: Every question in every column.
    """

    options: SquadOptions
    run: RunInfo
    documents: int
    questions: int
    shortened: int
    columns: tuple[SquadScores, ...]
    differences: tuple[SquadScores, ...]
    f1_ratio: Estimate | None
    rouge_l_ratio: Estimate | None
    f1_shuffled_ratio: Estimate | None
    rouge_l_shuffled_ratio: Estimate | None
    context: ContextLengths | None
    attached: AttachMeans | None
    cases: tuple[SquadCase, ...] = field(repr=False)
    suite: str = "squad"


def run(
    options: SquadOptions,
    engine: Engine,
    hypernetwork: Hypernetwork,
    progress: ProgressCallback = ignore_progress,
    cancel: CancelToken | None = None,
    make_adapter: MakeAdapter | None = None,
) -> SquadResult:
    """Measure the columns on a sample of questions.

    Args:
        options: What to run.
        engine: The base model; adapters in force are put back at the end.
        hypernetwork: Makes the adapters.
        progress: Told after each document.
        cancel: Stops between tokens.
        make_adapter: Document and folder to adapter file; None = as `localhyper attach` does.

    Raises:
        ConfigError: The data file is not in the schema, or an option is out of range.
        Cancelled: `cancel` was set; nothing is kept.
    """
    started, cancel = time.monotonic(), cancel or CancelToken()
    least = 2 if "shuffled" in options.columns else 1
    check_setup(options.columns, least, options.max_tokens, options.context_tokens)
    everything = read_reading_set(options.data)
    passages = sample_questions(everything, options.limit, options.seed, documents=options.documents, least=least)
    setup = Setup(
        engine,
        hypernetwork,
        options.columns,
        options.rank,
        options.context_tokens,
        progress,
        cancel,
        make_adapter,
        options.chunk_rank,
        options.chunk_tokens,
    )
    subjects = [_subject(engine, passage, options.max_tokens) for passage in passages]
    outcome = measure(setup, subjects, _Asker(options, engine, passages, cancel).cases)
    return _summarise(options, run_info(engine, hypernetwork.info, started), passages, outcome)


def _subject(engine: Engine, passage: Passage, max_tokens: int) -> Subject:
    """An answer may be longer than the longest reply: it is scored whole, so it must fit too."""
    longest = max(len(engine.tokenize(question.answers[0])) for question in passage.questions)
    questions = tuple(question.text for question in passage.questions)
    return Subject(make_document(passage.title, passage.text), questions, max(longest, max_tokens))


@dataclass
class _Asker:
    """Puts a passage's questions."""

    options: SquadOptions
    engine: Engine
    passages: Sequence[Passage]
    cancel: CancelToken

    def cases(self, place: Place) -> Iterator[SquadCase]:
        """All questions of a document in a column, one after the other: what their prompts share is read once."""
        passage = self.passages[place.index]
        for question in passage.questions:
            place.attach(question.text)
            yield self._case(passage, question, place.column, message_for(place.column, question.text, place.shown))

    def _case(self, passage: Passage, question: Question, column: str, message: str) -> SquadCase:
        self.cancel.check()
        answers, reply = question.answers, None
        if self.options.generate:  # before the scoring: a reply can be stopped while a long prompt is read
            reply = ask(self.engine, message, self.options.max_tokens, self.cancel)
        # As messages, so that control tokens spelled out in the data are text here as they are in the reply's prompt.
        scores = self.engine.score([ChatMessage("user", message)], answers[0])
        total = float(np.sum(scores, dtype=np.float64))
        case = (passage.id, question.text, answers, column, total, len(scores))
        if reply is None:
            return SquadCase(*case)
        return SquadCase(*case, reply, *(best(score, reply, answers) for score in (f1, exact_match, contains, rouge_l)))


def _summarise(
    options: SquadOptions, info: RunInfo, passages: Sequence[Passage], outcome: Outcome[SquadCase]
) -> SquadResult:
    clusters = [index for index, passage in enumerate(passages) for _ in passage.questions]
    figures = SquadFigures(outcome.cases, clusters, options.columns, options.generate, options.seed)
    return SquadResult(
        options=options,
        run=info,
        documents=len(passages),
        questions=len(clusters),
        shortened=outcome.context.shortened if outcome.context is not None else 0,
        columns=figures.columns(),
        differences=figures.differences(),
        f1_ratio=figures.ratio("f1", "context"),
        rouge_l_ratio=figures.ratio("rouge_l", "context"),
        f1_shuffled_ratio=figures.ratio("f1", "shuffled"),
        rouge_l_shuffled_ratio=figures.ratio("rouge_l", "shuffled"),
        context=outcome.context,
        attached=outcome.attached,
        cases=outcome.cases,
    )
