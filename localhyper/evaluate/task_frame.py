"""The frame of a task suite: task by task, column by column, item by item, with the right prompt and adapter in force.

Counts what each answer cost. Columns that share the beginning of their prompts (examples, a description) read it once
for all items of a task, as a person would who asks them in a row; the counts know both that and each one alone.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from localhyper.engine import AdapterUse, ChatMessage, Engine, TokenArray
from localhyper.errors import ConfigError
from localhyper.evaluate.columns import Reporter, converse
from localhyper.evaluate.task_adapters import DescriptionAdapters, GivenAdapters, TaskMaker
from localhyper.evaluate.task_columns import (
    COLUMNS,
    SHOTS,
    Column,
    Texts,
    conversation,
    description_for,
    draw_texts,
)
from localhyper.evaluate.task_costs import AdapterSpent, Spent, adapter_weights, common_beginning, tree_tokens
from localhyper.evaluate.task_items import ChoiceItem, ReplyItem, Scores, Subject
from localhyper.own_system import has_own_system, without_own_system
from localhyper.progress import CancelToken, ProgressCallback, ignore_progress

LEAST_REPLY_TOKENS = 16  # and twice the longest training reply, at most what the suite allows


@dataclass(frozen=True)
class TaskCase:
    """One item in one column.

    Attributes:
        reply: The greedy reply; None where choices are scored.
        log_likelihoods: Natural log-probability of each choice; None where there is a reply.
        scores: Of the answer.
        spent: Tokens and time.
        first: Whether it is the first of its task and column: nothing was in the cache.
        adapter_weights: Numbers in the adapter in force.
    """

    task: str
    id: str
    column: str
    reply: str | None
    log_likelihoods: tuple[float, ...] | None
    scores: Scores
    spent: Spent
    first: bool
    adapter_weights: int


@dataclass(frozen=True)
class TaskSetup:
    """What a suite works with.

    Attributes:
        engine: The base model; adapters in force are put back at the end.
        columns: Columns to measure, in the order of `COLUMNS`.
        given: Adapter files.
        maker: Makes the adapters of descriptions; None = no column needs it.
        seed: Seed of every draw.
        progress: Told after each item.
        cancel: Stops between tokens.
        shots: Examples that stand in the prompt or are learnt.
    """

    engine: Engine
    columns: tuple[str, ...]
    given: GivenAdapters
    maker: TaskMaker | None
    seed: int
    progress: ProgressCallback = ignore_progress
    cancel: CancelToken | None = None
    shots: int = SHOTS


@dataclass(frozen=True)
class TaskOutcome:
    """What a run brought.

    Attributes:
        cases: Every item in every column.
        texts: What was drawn for each task, in their order.
        made: What the adapters of the tasks' own descriptions cost, by column, then by task; without columns that have
            none.
    """

    cases: tuple[TaskCase, ...]
    texts: tuple[Texts, ...]
    made: dict[str, dict[str, AdapterSpent]]


def sample_items(subjects: Sequence[Subject], limit: int, seed: int) -> list[Subject]:
    """Each task with at most `limit` items drawn at random, in random order; 0 = all.

    Raises:
        ConfigError: A negative limit.
    """
    if limit < 0:
        raise ConfigError(f"the limit is {limit}, wanted 0 (all) or more")
    drawn = []
    for subject in subjects:
        count = min(limit or len(subject.items), len(subject.items))
        items = random.Random(f"{seed}/{subject.name}/items").sample(subject.items, count)
        drawn.append(replace(subject, items=tuple(items)))
    return drawn


def measure_tasks(setup: TaskSetup, subjects: Sequence[Subject], others: Sequence[Subject]) -> TaskOutcome:
    """Ask every item in every column.

    Args:
        setup: What to work with.
        subjects: The tasks.
        others: Tasks that the control may take a description from.

    Raises:
        Cancelled: `setup.cancel` was set; nothing is kept.
        ContextError: A prompt does not fit into the window.
    """
    texts = tuple(draw_texts(subject, others, setup.seed, setup.shots) for subject in subjects)
    before = setup.engine.adapters
    try:
        with tempfile.TemporaryDirectory(prefix="localhyper-eval-") as folder:
            made = DescriptionAdapters(setup.maker, Path(folder)) if setup.maker is not None else None
            run = _Run(setup, made, Reporter(setup.progress, len(setup.columns) * sum(len(s.items) for s in subjects)))
            cases = tuple(
                case for subject, drawn in zip(subjects, texts, strict=True) for case in run.task(subject, drawn)
            )
    finally:
        setup.engine.set_adapters(before)
    spent = made.spent if made is not None else {}
    own = {name: COLUMNS[name] for name in setup.columns if COLUMNS[name].adapter == "own"}
    return TaskOutcome(
        cases,
        texts,
        {
            name: {s.name: spent[description_for(column, t)] for s, t in zip(subjects, texts, strict=True)}
            for name, column in own.items()
        },
    )


def reply_limit(engine: Engine, subject: Subject) -> int:
    """Longest reply in tokens: twice the longest of the training rows, within bounds."""
    longest = max((len(engine.tokenize(shot.reply)) for shot in subject.shots), default=subject.reply_tokens)
    return min(subject.reply_tokens, max(LEAST_REPLY_TOKENS, 2 * longest))


class _Run:
    """One run under way."""

    def __init__(self, setup: TaskSetup, made: DescriptionAdapters | None, reporter: Reporter) -> None:
        self._setup, self._engine, self._made, self._reporter = setup, setup.engine, made, reporter
        self._cancel = setup.cancel or CancelToken()
        self._done = 0
        self._cached: TokenArray = np.empty(0, np.int32)

    def task(self, subject: Subject, texts: Texts) -> Iterator[TaskCase]:
        """All columns of a task."""
        limit = reply_limit(self._engine, subject)
        for name in self._setup.columns:
            self._reporter.report(self._done, f"{subject.name}, {name}")
            column = COLUMNS[name]
            adapter = self._adapter(column, subject, texts)
            self._engine.set_adapters([AdapterUse(adapter)] if adapter is not None else [])
            weights = adapter_weights(adapter) if adapter is not None else 0
            self._forget()
            bare = column.generated and has_own_system(self._engine)  # as `ask` does
            for index, item in enumerate(subject.items):
                self._cancel.check()
                told = conversation(column, texts, item.message)
                reply, likelihoods, scores, spent = self._answer(
                    item, without_own_system(told) if bare else told, limit
                )
                yield TaskCase(subject.name, item.id, name, reply, likelihoods, scores, spent, not index, weights)
                self._done += 1
                self._reporter.report(self._done, f"{subject.name}, {name}")

    def _adapter(self, column: Column, subject: Subject, texts: Texts) -> Path | None:
        if column.adapter == "multitask":
            return self._setup.given.multitask
        if column.adapter == "per-task":
            return self._setup.given.per_task[subject.name]
        if not column.generated:
            return None
        assert self._made is not None, "columns that generate are chosen only where there is a hypernetwork"
        return self._made.of(description_for(column, texts))

    def _forget(self) -> None:
        """Empty the engine's cache: the first answer of a column costs what it costs alone."""
        self._engine.logits(np.zeros(1, np.int32))
        self._cached = np.empty(0, np.int32)

    def _answer(
        self, item: ReplyItem | ChoiceItem, messages: Sequence[ChatMessage], limit: int
    ) -> tuple[str | None, tuple[float, ...] | None, Scores, Spent]:
        started = time.perf_counter()
        if isinstance(item, ReplyItem):
            reply, stats = converse(self._engine, messages, limit, self._cancel)
            seconds = time.perf_counter() - started
            spent = Spent(stats.prompt_tokens, stats.reused_tokens, stats.generated_tokens, seconds)
            return reply, None, item.grade(reply), spent
        likelihoods = [self._score(messages, lead, scored) for lead, scored in item.parts]
        spent = self._spent(messages, item, time.perf_counter() - started)
        return None, tuple(likelihoods), item.grade(likelihoods), spent

    def _score(self, messages: Sequence[ChatMessage], lead: str, scored: str) -> float:
        """Log-likelihood of `scored` after the opened turn."""
        prompt = self._engine.render(messages) + lead if lead else messages
        return float(np.sum(self._engine.score(prompt, scored), dtype=np.float64))

    def _spent(self, messages: Sequence[ChatMessage], item: ChoiceItem, seconds: float) -> Spent:
        """The prompt is read once, and then what each choice does not share with the one before."""
        rendered = self._engine.render(messages)
        sequences = [
            np.concatenate([self._engine.tokenize(rendered + lead, special=True), self._engine.tokenize(scored)])
            for lead, scored in item.parts
        ]
        prompt = len(self._engine.tokenize(rendered, special=True))
        reused = min(prompt, common_beginning(self._cached, sequences[0]))
        self._cached = sequences[-1]
        return Spent(prompt, reused, max(0, tree_tokens(sequences) - prompt), seconds)
