"""What does recompression cost? The same documents at several rank budgets against the exact concatenation of chunks.

Everything but merging is done once a document, so all budgets share what the hypernetwork generated. Documents are
filler text with invented facts, or those of a reading set. Knows no printing; `report_adapters` does that.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, median
from typing import Literal

import numpy as np

from localhyper.engine import AdapterUse, ChatMessage, Engine, Sampling
from localhyper.errors import ConfigError
from localhyper.evaluate.attach_once import AttachOnce
from localhyper.evaluate.columns import Reporter, RunInfo, ask, make_document, run_info
from localhyper.evaluate.fact_documents import MOST_FACTS, FactDocuments
from localhyper.evaluate.haystack import read_sentences
from localhyper.evaluate.intervals import ClusterBootstrap, Estimate
from localhyper.evaluate.metrics import best, f1, holds_value
from localhyper.evaluate.reading_set import Passage, Question, read_reading_set, sample_questions
from localhyper.gguf_header import read_header
from localhyper.hypernet import Hypernetwork
from localhyper.library import AdapterInfo
from localhyper.progress import CancelToken, ProgressCallback, ignore_progress

EXACT = 0  # rank budget 0 = chunks concatenated, nothing recompressed
RANKS = (16, 32, 64, 128, 256, 512, EXACT)
MOST_RANK = 4096
SPEED_PROMPT = "Write a long story about a river."
SPEED_ATTEMPTS = 4


@dataclass(frozen=True)
class RanksOptions:
    """What to run.

    Attributes:
        ranks: Rank budgets; 0, the exact concatenation, is always among them.
        tokens: Length of each document in base-model tokens, reached to within one sentence.
        facts: Facts and questions in each document.
        values: What the facts hold: 4-digit numbers or words.
        limit: Questions in all; 0 = all of `data`.
        data: Reading set in place of documents with facts.
        filler: Text the sentences round the facts come from; None = the one in the package.
        seed: Seed of documents, draws and of the bootstrap.
        max_tokens: Longest reply.
        speed_rounds: Rounds of the decode measurement, at most one a document; 0 = none.
        speed_tokens: Tokens decoded in each.
    """

    ranks: tuple[int, ...] = RANKS
    tokens: int = 1024
    facts: int = 4
    values: Literal["digits", "words"] = "digits"
    limit: int = 64
    data: Path | None = None
    filler: Path | None = None
    seed: int = 0
    max_tokens: int = 32
    speed_rounds: int = 5
    speed_tokens: int = 48


@dataclass(frozen=True)
class RankCase:
    """One question at one rank budget.

    Attributes:
        document: Number of the document.
        score: 1.0 where the reply holds the fact's value, else 0.0; on a reading set the best F1 over the answers.
        log_likelihood: Natural log-probability of the first answer's tokens after the prompt.
        answer_tokens: Number of those tokens.
    """

    document: int
    budget: int
    question: str
    answers: tuple[str, ...]
    reply: str
    score: float
    log_likelihood: float
    answer_tokens: int


@dataclass(frozen=True)
class BudgetScores:
    """Figures of one rank budget.

    Attributes:
        budget: As given to `localhyper attach --rank`; 0 = exact concatenation.
        rank: Mean rank of the adapters.
        score: Mean score, 0 to 1.
        difference: Score minus that of the exact concatenation, paired; None for itself.
        token_log_likelihood: Log-likelihood of all first answers over the number of their tokens.
        energy_kept: Mean share of the update's energy that was kept.
        file_bytes: Mean size of the adapter file.
        memory_bytes: Mean size of a and b in the file's number format, as llama.cpp holds them; its work buffers not
            counted.
        decode_ratio: Decode speed over that without adapter, median over rounds; None where not measured.
    """

    budget: int
    rank: float
    score: Estimate
    difference: Estimate | None
    token_log_likelihood: Estimate
    energy_kept: float
    file_bytes: float
    memory_bytes: float
    decode_ratio: float | None


@dataclass(frozen=True)
class RanksResult:
    """Figures of a run.

    Attributes:
        metric: What `score` is: `exact` (the value is in the reply) or `f1`.
        budgets: The smallest budget first, the exact concatenation last.
        cases: Every question at every budget.
    """

    options: RanksOptions
    run: RunInfo
    metric: str
    documents: int
    questions: int
    mean_tokens: float
    budgets: tuple[BudgetScores, ...]
    cases: tuple[RankCase, ...] = field(repr=False)
    suite: str = "ranks"


def run(
    options: RanksOptions,
    engine: Engine,
    hypernetwork: Hypernetwork,
    progress: ProgressCallback = ignore_progress,
    cancel: CancelToken | None = None,
) -> RanksResult:
    """Ask every question at every budget; adapters in force are put back at the end.

    Raises:
        ConfigError: An option is out of range, or a file is unusable.
        Cancelled: `cancel` was set; nothing is kept.
    """
    started = time.monotonic()
    _check(options)
    passages = _passages(options, engine)
    suite = _Suite(options, engine, hypernetwork, cancel or CancelToken())
    before = engine.adapters
    try:
        with tempfile.TemporaryDirectory(prefix="localhyper-eval-") as folder:
            cases = tuple(suite.cases(passages, Path(folder), Reporter(progress, len(passages))))
    finally:
        engine.set_adapters(before)
    return RanksResult(
        options=options,
        run=run_info(engine, hypernetwork.info, started),
        metric="exact" if options.data is None else "f1",
        documents=len(passages),
        questions=sum(len(passage.questions) for passage in passages),
        mean_tokens=fmean(len(engine.tokenize(passage.text)) for passage in passages),
        budgets=_summarise(suite, cases, options.seed),
        cases=cases,
    )


def _check(options: RanksOptions) -> None:
    if options.values not in MOST_FACTS:
        raise ConfigError(f"values `{options.values}`, wanted `digits` or `words`")
    for name, value, least, most in (
        *(("as a rank budget", rank, 0, MOST_RANK) for rank in options.ranks),
        ("facts in a document", options.facts, 1, MOST_FACTS[options.values]),
        ("questions", options.limit, 0 if options.data else 1, 1 << 20),
        ("tokens of a reply", options.max_tokens, 1, 1 << 20),
        ("rounds of decoding", options.speed_rounds, 0, 1 << 20),
        ("tokens of a round", options.speed_tokens, 2, 1 << 20),
    ):
        if not least <= value <= most:
            raise ConfigError(f"{value} {name}, wanted {least} to {most}")


def _passages(options: RanksOptions, engine: Engine) -> list[Passage]:
    """Documents and their questions, `limit` in all; a document of facts has its value as the last answer."""
    if options.data is not None:
        return sample_questions(read_reading_set(options.data), options.limit, options.seed, least=1)
    sentences, wanted = read_sentences(options.filler), options.facts
    documents = FactDocuments(sentences, engine.tokenize, options.tokens, wanted, options.values, options.seed)
    passages = [documents.make(index) for index in range(-(-options.limit // wanted))]
    surplus = len(passages) * wanted - options.limit
    return [*passages[:-1], replace(passages[-1], questions=passages[-1].questions[: wanted - surplus])]


class _Suite:
    """One run under way, and what it measured besides the cases."""

    def __init__(self, options: RanksOptions, engine: Engine, hypernetwork: Hypernetwork, cancel: CancelToken) -> None:
        self._options, self._engine, self._hypernetwork, self._cancel = options, engine, hypernetwork, cancel
        self.budgets = (*sorted({rank for rank in options.ranks if rank != EXACT}), EXACT)
        self.adapters: dict[int, list[AdapterInfo]] = {budget: [] for budget in self.budgets}
        self.memory: dict[int, list[int]] = {budget: [] for budget in self.budgets}
        self.speeds: dict[int, list[float]] = {budget: [] for budget in self.budgets}

    def cases(self, passages: Sequence[Passage], folder: Path, reporter: Reporter) -> Iterator[RankCase]:
        """Document by document, budget by budget, question by question."""
        for index, passage in enumerate(passages):
            reporter.report(index, passage.title or passage.id)
            own = folder / str(index)
            own.mkdir()
            document = make_document(passage.title or passage.id, passage.text)
            uses = self._attach(AttachOnce(document, self._engine, self._hypernetwork, own, self._cancel))
            for budget, use in uses.items():
                self._engine.set_adapters([use])
                for question in passage.questions:
                    yield self._case(index, budget, question)
            if index < self._options.speed_rounds:
                self._measure_speed(uses, index)
            shutil.rmtree(own, ignore_errors=True)
        reporter.report(len(passages), "")

    def _attach(self, once: AttachOnce) -> dict[int, AdapterUse]:
        uses = {}
        for budget in self.budgets:
            info = once.adapter(budget)
            self.adapters[budget].append(info)
            self.memory[budget].append(sum(tensor.size_bytes for tensor in read_header(info.path).tensors))
            uses[budget] = AdapterUse(info.path)
        return uses

    def _case(self, document: int, budget: int, question: Question) -> RankCase:
        self._cancel.check()
        scores = self._engine.score([ChatMessage("user", question.text)], question.answers[0])
        reply = ask(self._engine, question.text, self._options.max_tokens, self._cancel)
        score = float(holds_value(reply, question.answers[-1]))
        if self._options.data is not None:
            score = best(f1, reply, question.answers)
        total = float(np.sum(scores, dtype=np.float64))
        return RankCase(document, budget, question.text, question.answers, reply, score, total, len(scores))

    def _measure_speed(self, uses: dict[int, AdapterUse], turn: int) -> None:
        """One round: each budget right after no adapter, so that a machine that slows down slows both."""
        for budget, use in uses.items():
            self._engine.set_adapters([])
            without = self._tokens_per_second(turn)
            self._engine.set_adapters([use])
            speed = self._tokens_per_second(turn)
            if without and speed:
                self.speeds[budget].append(speed / without)

    def _tokens_per_second(self, turn: int) -> float | None:
        """Decode speed over a reply of exactly `speed_tokens` tokens; None where none came to that length.

        The tokens are drawn nearly at random, as adapters that answer briefly would end a sensible reply too early.
        """
        for attempt in range(SPEED_ATTEMPTS):
            sampling = Sampling(
                temperature=100.0, top_p=1.0, min_p=0.0, max_tokens=self._options.speed_tokens,
                seed=SPEED_ATTEMPTS * turn + attempt,
            )  # fmt: skip
            *_, last = self._engine.generate([ChatMessage("user", SPEED_PROMPT)], sampling, cancel=self._cancel)
            self._cancel.check()
            if last.stats is not None and last.stats.generated_tokens == self._options.speed_tokens:
                return last.stats.tokens_per_second
        return None


def _summarise(suite: _Suite, cases: Sequence[RankCase], seed: int) -> tuple[BudgetScores, ...]:
    exact = [case for case in cases if case.budget == EXACT]
    clusters = [case.document for case in exact]
    if len(set(clusters)) < 2:
        clusters = list(range(len(exact)))  # a single document: the intervals hold for it alone
    bootstrap = ClusterBootstrap(clusters, seed)
    reference = np.array([case.score for case in exact])
    figures = []
    for budget in suite.budgets:
        rows, adapters = [case for case in cases if case.budget == budget], suite.adapters[budget]
        score = np.array([case.score for case in rows])
        likelihood = bootstrap.ratio([case.log_likelihood for case in rows], [case.answer_tokens for case in rows])
        figures.append(
            BudgetScores(
                budget=budget,
                rank=fmean(adapter.rank for adapter in adapters),
                score=bootstrap.mean(score),
                difference=None if budget == EXACT else bootstrap.mean(score - reference),
                token_log_likelihood=likelihood or Estimate(0.0, 0.0, 0.0),
                energy_kept=fmean(adapter.energy_kept for adapter in adapters),
                file_bytes=fmean(adapter.size_bytes for adapter in adapters),
                memory_bytes=fmean(suite.memory[budget]),
                decode_ratio=median(suite.speeds[budget]) if suite.speeds[budget] else None,
            )
        )
    return tuple(figures)
