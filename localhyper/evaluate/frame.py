"""The frame of a suite: document by document and column by column, with the right adapter in force, and all put back.

Counts what attaching took and what was cut to fit into the prompt. Knows neither questions' answers nor scores.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Generic, TypeVar

from localhyper.engine import Engine
from localhyper.errors import ConfigError
from localhyper.evaluate.columns import (
    USUAL_COLUMNS,
    AdapterRing,
    Items,
    MakeAdapter,
    Reporter,
    Shown,
    adapters_for,
    attach_maker,
    check_columns,
    show_document,
)
from localhyper.evaluate.costs import AttachCost, AttachMeans, ContextLengths, attach_means, context_lengths
from localhyper.hypernet import Hypernetwork
from localhyper.progress import CancelToken, ProgressCallback, ignore_progress
from localhyper.sources.document import Document

T = TypeVar("T")
Case = TypeVar("Case")
_KEPT = 4  # items of `Lazy` kept: a document, its control, and one to spare at either end


class Lazy(Generic[T]):
    """Items made when asked for, the last few kept: thousands of long documents need not lie in memory together."""

    def __init__(self, count: int, make: Callable[[int], T]) -> None:
        self._count, self._make = count, lru_cache(maxsize=_KEPT)(make)

    def __len__(self) -> int:
        """Number of items."""
        return self._count

    def __getitem__(self, index: int, /) -> T:
        """Item `index`, the same each time."""
        return self._make(index)


@dataclass(frozen=True)
class Setup:
    """What a suite works with.

    Attributes:
        engine: The base model; adapters in force are put back at the end.
        hypernetwork: Makes the adapters.
        columns: Columns to measure, in the order of `columns.COLUMNS`.
        rank: Rank budget of the adapters; 0 = no recompression.
        context_tokens: Most tokens of a document in the context column; 0 = what fits into the window.
        progress: Told after each document.
        cancel: Stops between tokens.
        make_adapter: Document and folder to adapter file; None = as `localhyper attach` does.
        chunk_rank: Rank budget of the adapters of long documents' chunks; 0 = they get none.
        chunk_tokens: Most tokens of a chunk; 0 = as the hypernetwork says.
    """

    engine: Engine
    hypernetwork: Hypernetwork
    columns: tuple[str, ...] = USUAL_COLUMNS
    rank: int = 0
    context_tokens: int = 0
    progress: ProgressCallback = ignore_progress
    cancel: CancelToken | None = None
    make_adapter: MakeAdapter | None = None
    chunk_rank: int = 0
    chunk_tokens: int = 0


@dataclass(frozen=True)
class Subject:
    """A document to attach and what is asked about it.

    Attributes:
        questions: Every question that will be asked; the longest decides what fits into the window.
        reply_tokens: Tokens to keep free after a question.
    """

    document: Document
    questions: tuple[str, ...]
    reply_tokens: int


@dataclass(frozen=True)
class Place:
    """Where a suite stands.

    Attributes:
        shown: The document as the context column sees it; empty in the others.
        cost: What making the document's adapter took; None without one.
        attach: Brings into force what this column has for a question; to be called before each one.
    """

    index: int
    column: str
    shown: str
    cost: AttachCost | None
    attach: Callable[[str], None]


@dataclass(frozen=True)
class Outcome(Generic[Case]):
    """What a suite brought: its cases, the context column's documents, and what attaching took (None = not needed)."""

    cases: tuple[Case, ...]
    context: ContextLengths | None
    attached: AttachMeans | None


def check_setup(columns: Sequence[str], documents: int, max_tokens: int, context_tokens: int = 0) -> None:
    """Refuse what no suite can run.

    Raises:
        ConfigError: Unknown columns, replies without tokens, or a shuffled control with one document only.
    """
    check_columns(columns)
    if max_tokens < 1:
        raise ConfigError(f"replies of {max_tokens} tokens, wanted at least 1")
    if context_tokens < 0:
        raise ConfigError(f"documents of {context_tokens} tokens in the prompt, wanted 0 (the window) or more")
    if "shuffled" in columns and documents < 2:
        raise ConfigError(
            f"{documents} document, the control with another document's adapter needs at least 2",
            "take more documents, or leave `shuffled` out with --columns",
        )


def measure(setup: Setup, subjects: Items[Subject], ask: Callable[[Place], Iterable[Case]]) -> Outcome[Case]:
    """Call `ask` for every document in every column.

    Args:
        setup: What to work with.
        subjects: The documents.
        ask: Gives the cases of a document in a column.

    Raises:
        Cancelled: `setup.cancel` was set; nothing is kept.
    """
    cancel = setup.cancel or CancelToken()
    chunk_rank = setup.chunk_rank if {"adapter", "shuffled"} & set(setup.columns) else 0  # `whole` needs none
    make = setup.make_adapter or attach_maker(
        setup.engine,
        setup.hypernetwork,
        setup.rank,
        cancel,
        chunk_rank,
        setup.chunk_tokens,
        whole="whole" in setup.columns,
    )
    before = setup.engine.adapters
    try:
        with tempfile.TemporaryDirectory(prefix="localhyper-eval-") as folder:
            documents = Lazy(len(subjects), lambda index: subjects[index].document)
            walk = _Walk(setup, subjects, AdapterRing(documents, make, Path(folder)))
            cases = tuple(case for place in walk.places(cancel) for case in ask(place))
    finally:
        setup.engine.set_adapters(before)
    return Outcome(cases, context_lengths(walk.shown), attach_means(list(walk.ring.costs.values())))


class _Walk:
    """One run under way."""

    def __init__(self, setup: Setup, subjects: Items[Subject], ring: AdapterRing) -> None:
        self._setup, self._subjects, self.ring = setup, subjects, ring
        self._reporter = Reporter(setup.progress, len(subjects))
        self.shown: list[tuple[int, int]] = []  # tokens in the prompt, tokens of the document

    def places(self, cancel: CancelToken) -> Iterator[Place]:
        """Document by document, column by column: the cache then keeps what a document's prompts share."""
        for index in range(len(self._subjects)):
            subject = self._subjects[index]
            self._reporter.report(index, subject.document.title or f"document {index + 1}")
            for column in self._setup.columns:
                cancel.check()
                shown = self._show(subject).text if column == "context" else ""
                document = self.ring.attached(column, index)
                cost = self.ring.cost(document) if document is not None else None
                yield Place(index, column, shown, cost, partial(self._attach, column, index))
            self.ring.finish(index)
        self._reporter.report(len(self._subjects), "")

    def _attach(self, column: str, index: int, question: str) -> None:
        engine = self._setup.engine
        engine.set_adapters(adapters_for(column, self.ring, index, question, engine))

    def _show(self, subject: Subject) -> Shown:
        setup, text = self._setup, subject.document.text
        shown = show_document(setup.engine, text, subject.questions, subject.reply_tokens, setup.context_tokens)
        self.shown.append((shown.tokens, shown.whole_tokens))
        return shown
