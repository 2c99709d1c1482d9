"""Needle in a haystack: one invented fact somewhere in filler text; is its value in the reply?

Runs the shipped path. Facts come from the word pools that training never sees. Knows no printing; `report` does that.
"""

from __future__ import annotations

import gzip
import random
import re
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Literal

from localhyper.engine import Engine, TokenArray
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
from localhyper.evaluate.facts import Fact, make_fact
from localhyper.evaluate.intervals import Estimate, wilson
from localhyper.evaluate.metrics import holds_value
from localhyper.hypernet import Hypernetwork
from localhyper.pipeline import DEFAULT_RANK
from localhyper.progress import CancelToken, ProgressCallback, ignore_progress

QUINTILES = 5
SMALLEST_DOCUMENT = 48  # tokens; the longest fact has about thirty
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_GZIP_MAGIC = b"\x1f\x8b"

Tokenize = Callable[[str], TokenArray]


@dataclass(frozen=True)
class NeedleOptions:
    """What to run.

    Attributes:
        tokens: Length of each document in base-model tokens, reached to within one sentence.
        cases: Documents, one fact and one question each.
        values: 4-digit numbers or words.
        filler: Text file (gzip'd or not) the sentences round the fact come from; None = the one in the package.
        seed: Seed of facts, depths and filler.
        rank: Rank budget of the adapters; 0 = no recompression.
        max_tokens: Longest reply.
    """

    tokens: int = 256
    cases: int = 200
    values: Literal["digits", "words"] = "digits"
    filler: Path | None = None
    seed: int = 0
    rank: int = DEFAULT_RANK
    max_tokens: int = 32


@dataclass(frozen=True)
class Haystack:
    """A document with its fact.

    Attributes:
        depth: Where the fact stands, 0.0 (start) to 1.0 (end).
        tokens: Length of the text.
    """

    text: str
    fact: Fact
    depth: float
    tokens: int


@dataclass(frozen=True)
class NeedleCase:
    """One question in one column."""

    case: int
    column: str
    depth: float
    tokens: int
    question: str
    value: str
    reply: str
    found: bool


@dataclass(frozen=True)
class NeedleScores:
    """Shares of replies that hold the value, with Wilson's intervals.

    Attributes:
        exact: Over all cases.
        by_depth: By fifths of the depth, from the start of the document; None where no case fell.
        by_depth_cases: Cases of each fifth.
    """

    name: str
    exact: Estimate
    by_depth: tuple[Estimate | None, ...]
    by_depth_cases: tuple[int, ...]


@dataclass(frozen=True)
class NeedleResult:
    """Figures of a run.

    Attributes:
        mean_tokens: Mean length of the documents.
        shortened: Documents cut at the end in the context column, as they did not fit into the window.
        columns: One per column, in the order of `COLUMNS`.
        cases: Every question in every column.
    """

    options: NeedleOptions
    run: RunInfo
    mean_tokens: float
    shortened: int
    columns: tuple[NeedleScores, ...]
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
    """Measure all columns; the arguments are those of `squad.run`.

    Raises:
        ConfigError: An option is out of range, or the filler file is unusable.
        Cancelled: `cancel` was set; nothing is kept.
    """
    started = time.monotonic()
    _check(options)
    maker = HaystackMaker(read_sentences(options.filler), engine.tokenize, options)
    haystacks = [maker.make(index) for index in range(options.cases)]
    cancel = cancel or CancelToken()
    make_adapter = make_adapter or attach_maker(engine, hypernetwork, options.rank, cancel)
    before = engine.adapters
    try:
        with tempfile.TemporaryDirectory(prefix="localhyper-eval-") as folder:
            documents = [make_document(f"case {i}", haystack.text) for i, haystack in enumerate(haystacks)]
            ring = AdapterRing(documents, make_adapter, Path(folder))
            cases, shortened = _ask_all(options, engine, haystacks, ring, Reporter(progress, options.cases), cancel)
    finally:
        engine.set_adapters(before)
    return NeedleResult(
        options=options,
        run=run_info(engine, hypernetwork.info, started),
        mean_tokens=sum(haystack.tokens for haystack in haystacks) / len(haystacks),
        shortened=shortened,
        columns=tuple(_scores(name, cases) for name in COLUMNS),
        cases=tuple(cases),
    )


def _check(options: NeedleOptions) -> None:
    if options.tokens < SMALLEST_DOCUMENT:
        raise ConfigError(f"documents of {options.tokens} tokens, wanted at least {SMALLEST_DOCUMENT}")
    if options.cases < 2:
        raise ConfigError(f"{options.cases} cases, the control with another document's adapter needs at least 2")
    if options.values not in ("digits", "words"):
        raise ConfigError(f"values `{options.values}`, wanted `digits` or `words`")
    if options.max_tokens < 1:
        raise ConfigError(f"replies of {options.max_tokens} tokens, wanted at least 1")


def read_sentences(path: Path | None) -> list[str]:
    """Sentences of a filler text, of 20 to 400 characters.

    Raises:
        ConfigError: The file is missing, damaged, not UTF-8, or holds no such sentence.
    """
    if path is None:
        text = resources.files("localhyper.evaluate").joinpath("filler.txt").read_text(encoding="utf-8")
    else:
        text = _read_text(path)
    sentences = [" ".join(sentence.split()) for sentence in _SENTENCE_END.split(text)]
    usable = [sentence for sentence in sentences if 20 <= len(sentence) <= 400]
    if not usable:
        raise ConfigError(f"filler file `{path}` holds no sentence of 20 to 400 characters", "give plain prose")
    return usable


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if data.startswith(_GZIP_MAGIC) else data).decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"filler file `{path}` does not exist", "name a .txt or .txt.gz file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"filler file `{path}` is not UTF-8 text", "convert it first") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ConfigError(f"filler file `{path}` is damaged: {error}", "fetch it again") from error
    except OSError as error:
        raise ConfigError(f"filler file `{path}` cannot be read: {error.strerror or error}") from error


class HaystackMaker:
    """Case number to document; a case depends on the seed and its own number only."""

    def __init__(self, sentences: Sequence[str], tokenize: Tokenize, options: NeedleOptions) -> None:
        self._sentences, self._tokenize, self._options = sentences, tokenize, options
        self._lengths: dict[int, int] = {}

    def make(self, index: int) -> Haystack:
        """The document of case `index`: consecutive filler sentences with the fact between two of them."""
        rng = random.Random(f"{self._options.seed}/{index}")
        fact = make_fact(rng, "test", digits=self._options.values == "digits")
        depth = rng.random()
        filler = self._filler(rng.randrange(len(self._sentences)), self._options.tokens - self._count(fact.statement))
        while True:
            text = " ".join(self._insert(filler, fact.statement, depth))
            tokens = self._count(text)
            if tokens <= self._options.tokens or not filler:
                return Haystack(text, fact, depth, tokens)
            filler.pop()  # sentences may have more tokens joined than alone

    def _insert(self, filler: Sequence[str], statement: str, depth: float) -> list[str]:
        place = min(len(filler), int(depth * (len(filler) + 1)))
        return [*filler[:place], statement, *filler[place:]]

    def _filler(self, start: int, room: int) -> list[str]:
        """Sentences from `start` on, over the end of the text to its beginning, as many as fit into `room` tokens."""
        chosen: list[str] = []
        number = start
        while (room := room - self._length(number % len(self._sentences))) >= 0:
            chosen.append(self._sentences[number % len(self._sentences)])
            number += 1
        return chosen

    def _length(self, number: int) -> int:
        if number not in self._lengths:
            self._lengths[number] = max(1, self._count(" " + self._sentences[number]))
        return self._lengths[number]

    def _count(self, text: str) -> int:
        return len(self._tokenize(text))


def _ask_all(
    options: NeedleOptions,
    engine: Engine,
    haystacks: Sequence[Haystack],
    ring: AdapterRing,
    reporter: Reporter,
    cancel: CancelToken,
) -> tuple[list[NeedleCase], int]:
    """All cases, and how many documents were cut in the context column."""
    cases, shortened = [], 0
    for index, haystack in enumerate(haystacks):
        reporter.report(index, f"case {index + 1}")
        question, value = haystack.fact.question, haystack.fact.value
        shown = fit_document(engine, haystack.text, [question], options.max_tokens)
        shortened += shown != haystack.text
        for column in COLUMNS:
            cancel.check()
            use_column(engine, column, ring, index)
            reply = ask(engine, message_for(column, question, shown), options.max_tokens, cancel)
            found = holds_value(reply, value)
            cases.append(NeedleCase(index, column, haystack.depth, haystack.tokens, question, value, reply, found))
        ring.finish(index)
    reporter.report(len(haystacks), "")
    return cases, shortened


def _scores(name: str, cases: Sequence[NeedleCase]) -> NeedleScores:
    rows = [case for case in cases if case.column == name]
    fifths = [[case for case in rows if int(case.depth * QUINTILES) == fifth] for fifth in range(QUINTILES)]
    return NeedleScores(
        name=name,
        exact=wilson(sum(case.found for case in rows), len(rows)),
        by_depth=tuple(wilson(sum(case.found for case in part), len(part)) if part else None for part in fifths),
        by_depth_cases=tuple(len(part) for part in fifths),
    )
