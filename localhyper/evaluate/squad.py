"""Reading comprehension: does the right document's adapter bring the answer, and another document's not?

Runs the shipped path from text to adapter to answer on any reading-set file. Knows no printing; `report` does that.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from localhyper.engine import ChatMessage, Engine
from localhyper.errors import ConfigError
from localhyper.evaluate.columns import (
    COLUMNS,
    AdapterRing,
    MakeAdapter,
    Reporter,
    RunInfo,
    ask,
    attach_maker,
    fit_document,
    make_document,
    message_for,
    run_info,
    use_column,
)
from localhyper.evaluate.intervals import ClusterBootstrap, Estimate
from localhyper.evaluate.metrics import best, exact_match, f1
from localhyper.evaluate.reading_set import Passage, Question, read_reading_set, sample_questions
from localhyper.hypernet import Hypernetwork
from localhyper.pipeline import DEFAULT_RANK
from localhyper.progress import CancelToken, ProgressCallback, ignore_progress

FloatArray = NDArray[np.float64]
CONTRASTS = (("adapter", "none"), ("adapter", "shuffled"))


@dataclass(frozen=True)
class SquadOptions:
    """What to run.

    Attributes:
        data: Reading-set file (`docs/data.md`).
        limit: Questions drawn at random; 0 = all.
        seed: Seed of the draw and of the bootstrap.
        generate: Whether to generate replies; without, only log-likelihoods are measured.
        rank: Rank budget of the adapters; 0 = no recompression.
        max_tokens: Longest reply.
    """

    data: Path
    limit: int = 200
    seed: int = 0
    generate: bool = True
    rank: int = DEFAULT_RANK
    max_tokens: int = 32


@dataclass(frozen=True)
class SquadCase:
    """One question in one column.

    Attributes:
        log_likelihood: Natural log-probability of the first answer's tokens after the prompt, end of turn not counted.
        answer_tokens: Number of those tokens.
        reply: The greedy reply; None without generation.
        f1: Best F1 over the accepted answers; None without generation.
        exact: 1.0 for an exact match with one of them, else 0.0; None without generation.
    """

    document: str
    question: str
    answers: tuple[str, ...]
    column: str
    log_likelihood: float
    answer_tokens: int
    reply: str | None = None
    f1: float | None = None
    exact: float | None = None


@dataclass(frozen=True)
class SquadScores:
    """Figures of a column, or of one column minus another.

    Attributes:
        answer_log_likelihood: Mean over questions of the first answer's log-likelihood.
        token_log_likelihood: Log-likelihood of all first answers over the number of their tokens.
        f1: Mean F1, 0 to 1; None without generation.
        exact: Share of exact matches; None without generation.
    """

    name: str
    answer_log_likelihood: Estimate
    token_log_likelihood: Estimate
    f1: Estimate | None
    exact: Estimate | None


@dataclass(frozen=True)
class SquadResult:
    """Figures of a run.

    Attributes:
        shortened: Documents cut at the end in the context column, as they did not fit into the window.
        columns: One per column, in the order of `COLUMNS`.
        differences: `adapter - none` and `adapter - shuffled`, paired.
        f1_ratio: F1 with the adapter over F1 with the document in the prompt; None where that is 0 or not measured.
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
    """Measure all columns on a sample of questions.

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
    started = time.monotonic()
    if options.max_tokens < 1:
        raise ConfigError(f"replies of {options.max_tokens} tokens, wanted at least 1")
    passages = sample_questions(read_reading_set(options.data), options.limit, options.seed)
    cancel = cancel or CancelToken()
    make_adapter = make_adapter or attach_maker(engine, hypernetwork, options.rank, cancel)
    before = engine.adapters
    try:
        with tempfile.TemporaryDirectory(prefix="localhyper-eval-") as folder:
            ring = AdapterRing([make_document(p.title, p.text) for p in passages], make_adapter, Path(folder))
            suite = _Suite(options, engine, passages, ring, Reporter(progress, len(passages)), cancel)
            cases = tuple(suite.cases())
    finally:
        engine.set_adapters(before)
    return _summarise(options, run_info(engine, hypernetwork.info, started), passages, suite.shortened, cases)


@dataclass
class _Suite:
    """One run under way."""

    options: SquadOptions
    engine: Engine
    passages: Sequence[Passage]
    ring: AdapterRing
    reporter: Reporter
    cancel: CancelToken
    shortened: int = 0

    def cases(self) -> Iterator[SquadCase]:
        """Document by document, column by column, question by question."""
        for index, passage in enumerate(self.passages):
            self.reporter.report(index, passage.title or passage.id)
            shown = self._shown(passage)
            for column in COLUMNS:
                use_column(self.engine, column, self.ring, index)
                for question in passage.questions:
                    yield self._case(passage, question, column, message_for(column, question.text, shown))
            self.ring.finish(index)
        self.reporter.report(len(self.passages), "")

    def _shown(self, passage: Passage) -> str:
        answers = max(len(self.engine.tokenize(question.answers[0])) for question in passage.questions)
        questions = [question.text for question in passage.questions]
        shown = fit_document(self.engine, passage.text, questions, max(answers, self.options.max_tokens))
        self.shortened += shown != passage.text
        return shown

    def _case(self, passage: Passage, question: Question, column: str, message: str) -> SquadCase:
        self.cancel.check()
        prompt = self.engine.render([ChatMessage("user", message)])
        scores = self.engine.score(prompt, question.answers[0])
        total = float(np.sum(scores, dtype=np.float64))
        case = (passage.id, question.text, question.answers, column, total, len(scores))
        if not self.options.generate:
            return SquadCase(*case)
        reply = ask(self.engine, message, self.options.max_tokens, self.cancel)
        answers = question.answers
        return SquadCase(*case, reply, best(f1, reply, answers), best(exact_match, reply, answers))


@dataclass(frozen=True)
class _Column:
    """Arrays over the questions, float64 [questions], in one order for all columns."""

    likelihood: FloatArray
    tokens: FloatArray
    f1: FloatArray
    exact: FloatArray


def _column(cases: Sequence[SquadCase], name: str) -> _Column:
    rows = [case for case in cases if case.column == name]
    likelihood = np.array([case.log_likelihood for case in rows])
    tokens = np.array([case.answer_tokens for case in rows], np.float64)
    return _Column(likelihood, tokens, np.array([c.f1 or 0.0 for c in rows]), np.array([c.exact or 0.0 for c in rows]))


def _summarise(
    options: SquadOptions, info: RunInfo, passages: Sequence[Passage], shortened: int, cases: tuple[SquadCase, ...]
) -> SquadResult:
    clusters = [index for index, passage in enumerate(passages) for _ in passage.questions]
    bootstrap = ClusterBootstrap(clusters, options.seed)
    columns = {name: _column(cases, name) for name in COLUMNS}
    zeros = np.zeros(len(clusters))
    nothing = _Column(zeros, zeros, zeros, zeros)
    both = options.generate
    return SquadResult(
        options=options,
        run=info,
        documents=len(passages),
        questions=len(clusters),
        shortened=shortened,
        columns=tuple(_scores(bootstrap, name, columns[name], nothing, both) for name in COLUMNS),
        differences=tuple(
            _scores(bootstrap, f"{one} - {two}", columns[one], columns[two], both) for one, two in CONTRASTS
        ),
        f1_ratio=bootstrap.ratio(columns["adapter"].f1, columns["context"].f1) if both else None,
        cases=cases,
    )


def _scores(bootstrap: ClusterBootstrap, name: str, one: _Column, minus: _Column, generated: bool) -> SquadScores:
    """Figures of `one` minus those of another column; the answers, and so their tokens, are the same in both."""
    likelihood = one.likelihood - minus.likelihood
    return SquadScores(
        name=name,
        answer_log_likelihood=bootstrap.mean(likelihood),
        token_log_likelihood=bootstrap.ratio(likelihood, one.tokens) or Estimate(0.0, 0.0, 0.0),
        f1=bootstrap.mean(one.f1 - minus.f1) if generated else None,
        exact=bootstrap.mean(one.exact - minus.exact) if generated else None,
    )
