"""Which chunk of a long document a question is about: how often the one that is chosen holds the answer.

Chunks, passages, keys, overviews and scores are those of `localhyper attach` and `ask`; no adapter is made and nothing
is asked, so hundreds of questions take minutes. Knows no printing; `report_chunks` does that.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from localhyper.attach_steps import encode_chunks
from localhyper.chunk_keys import ChunkKeys, decide, in_memory, read_question
from localhyper.chunking import Chunk, cut_document
from localhyper.engine import Engine
from localhyper.errors import ConfigError
from localhyper.evaluate.choice_set import packaged_lines
from localhyper.evaluate.columns import Reporter, RunInfo, library_in, make_document, run_info
from localhyper.evaluate.intervals import ClusterBootstrap, Estimate
from localhyper.evaluate.reading_set import Passage, read_reading_set, sample_questions
from localhyper.hypernet import Hypernetwork
from localhyper.library import AdapterInfo, Library
from localhyper.lora import FloatArray
from localhyper.overview import overview_chunk
from localhyper.pipeline import passages_of
from localhyper.progress import CancelToken, ProgressCallback, ignore_progress
from localhyper.search_head import SearchHead
from localhyper.sources.document import Document

COLUMNS = ("any chunk", "words", "keys", "both")
FIRST = 3
GENERAL = "general"  # column of the questions that ask for the overview


@dataclass(frozen=True)
class ChunkOptions:
    """What to run.

    Attributes:
        data: Reading set; documents of a single chunk are left out.
        limit: Questions drawn at random; 0 = all.
        documents: Documents drawn first; 0 = all.
        joined: Contexts of one title become one document.
        seed: Seed of the draw.
        chunk_tokens: Most tokens of a chunk; 0 = as the hypernetwork says.
    """

    data: Path
    limit: int = 200
    documents: int = 0
    joined: bool = False
    seed: int = 0
    chunk_tokens: int = 0


@dataclass(frozen=True)
class ChunkCase:
    """One question in one column.

    Attributes:
        column: One of `COLUMNS`, or `GENERAL`.
        rank: Place of the best chunk with an answer, from 0, where chunks and overview are sorted by score; -1 in `any
            chunk`. Of a general question, the place of the overview.
        chunks: Chunks of the document.
        holding: How many of them hold an answer.
        astray: Whether the overview comes first, where it should not.
        unrelated: Whether `ask` would answer without the document, as if the question were not about it.
    """

    document: str
    question: str
    column: str
    rank: int
    chunks: int
    holding: int
    astray: bool = False
    unrelated: bool = False


@dataclass(frozen=True)
class ChunkScores:
    """Share of questions whose first chunk, or one of the first three, holds an answer."""

    name: str
    first: Estimate
    among_three: Estimate


@dataclass(frozen=True)
class ChunkResult:
    """Figures of a run.

    Attributes:
        left_out: Questions whose answers stand in no chunk.
        mean_chunks: Chunks of a document on average over questions.
        general: Share of the general questions that find the overview; None where there is none.
        astray: Share of the other questions that find it too; likewise.
        unrelated: Share of the other questions that `ask` would answer without the document; likewise.
        general_unrelated: The same of the general ones.
        columns: `any chunk` = drawn blindly; `words` = BM25 alone; `keys` = the search head alone and `both`, where the
            hypernetwork has one.
    """

    options: ChunkOptions
    run: RunInfo
    documents: int
    questions: int
    left_out: int
    mean_chunks: float
    columns: tuple[ChunkScores, ...]
    general: Estimate | None
    astray: Estimate | None
    unrelated: Estimate | None
    general_unrelated: Estimate | None
    cases: tuple[ChunkCase, ...] = field(repr=False)
    suite: str = "chunks"


def run(
    options: ChunkOptions,
    engine: Engine,
    hypernetwork: Hypernetwork,
    progress: ProgressCallback = ignore_progress,
    cancel: CancelToken | None = None,
) -> ChunkResult:
    """Measure how often the chunk with the answer is found.

    Raises:
        ConfigError: The data file is not in the schema, or has no answers in documents of several chunks.
        Cancelled: `cancel` was set; nothing is kept.
    """
    started, cancel = time.monotonic(), cancel or CancelToken()
    everything = read_reading_set(options.data)
    passages = sample_questions(
        joined(everything) if options.joined else everything,
        options.limit,
        options.seed,
        documents=options.documents,
        least=1,
    )
    reporter, cases, left_out = Reporter(progress, len(passages)), [], 0
    with tempfile.TemporaryDirectory(prefix="localhyper-eval-") as folder:
        searcher = _Searcher(engine, hypernetwork, library_in(Path(folder)), cancel, options.chunk_tokens)
        for number, passage in enumerate(passages):
            reporter.report(number, passage.title or f"document {number + 1}")
            found = list(searcher.cases(passage, f"{number}"))
            left_out += len(passage.questions) - sum(case.column == COLUMNS[0] for case in found)
            cases += found
    reporter.report(len(passages), "")
    if not cases:
        raise ConfigError(
            f"`{options.data}` has no question whose answer stands in a document of several chunks",
            "join short ones with --joined, or give longer documents",
        )
    return _summarise(options, run_info(engine, hypernetwork.info, started), tuple(cases), left_out)


def joined(passages: Sequence[Passage]) -> list[Passage]:
    """Contexts of one title, of two at least, as one document, in their order.

    Raises:
        ConfigError: No two contexts have a title in common.
    """
    titles: dict[str, list[Passage]] = {}
    for passage in passages:
        if passage.title:
            titles.setdefault(passage.title, []).append(passage)
    several = [parts for parts in titles.values() if len(parts) > 1]
    if not several:
        raise ConfigError("no two contexts have a title in common", "leave --joined out")
    return [
        replace(
            parts[0],
            text="\n\n".join(part.text for part in parts),
            questions=tuple(question for part in parts for question in part.questions),
        )
        for parts in several
    ]


class _Searcher:
    """Puts questions to one document after the other."""

    def __init__(
        self, engine: Engine, hypernetwork: Hypernetwork, library: Library, cancel: CancelToken, chunk_tokens: int
    ) -> None:
        self._engine, self._library, self._cancel = engine, library, cancel
        self._sizes = hypernetwork.info.cut_sizes(chunk_tokens)
        self._network, self._head = hypernetwork, hypernetwork.alone.search_head()
        self._general = packaged_lines("general.txt")

    def cases(self, passage: Passage, name: str) -> Iterator[ChunkCase]:
        """All questions in all columns; none where the document is a single chunk."""
        document = make_document(passage.title, passage.text)
        tokenize, detokenize = self._engine.tokenize, self._engine.detokenize
        chunks = cut_document(document, tokenize, detokenize, self._sizes, cancel=self._cancel).chunks
        if len(chunks) < 2:
            return
        stored = self._library.add(_row(self._library, name, len(chunks)), passages_of(chunks))
        keys = self._keys(document, chunks, self._head) if self._head is not None else None
        places = len(keys.starts) if keys is not None else len(chunks)
        texts = [chunk.text.casefold() for chunk in chunks]
        for question in passage.questions:
            self._cancel.check()
            holding = np.zeros(places, bool)
            holding[: len(texts)] = [any(answer.casefold() in text for answer in question.answers) for text in texts]
            if holding.any():
                columns, unrelated = self._ask(question.text, stored, places, keys)
                for column, scores in columns.items():
                    rank = -1 if scores is None else _best_rank(scores, holding)
                    astray = scores is not None and int(scores.argmax()) == len(chunks)
                    held = int(holding.sum())
                    yield ChunkCase(passage.id, question.text, column, rank, len(chunks), held, astray, unrelated)
        if keys is not None and places > len(chunks):
            last = np.arange(places) == len(chunks)
            for text in self._general:
                self._cancel.check()
                columns, unrelated = self._ask(text, stored, places, keys)
                scores = columns["both"]
                assert scores is not None
                yield ChunkCase(
                    passage.id, text, GENERAL, _best_rank(scores, last), len(chunks), 1, unrelated=unrelated
                )

    def _keys(self, document: Document, chunks: Sequence[Chunk], head: SearchHead) -> ChunkKeys:
        """Those of all chunks, and of the overview where the document has one."""
        info = self._network.info
        said = overview_chunk(document, len(chunks), self._engine.tokenize, info.chunk_tokens)
        parts = [*chunks, said] if said is not None else chunks
        ids = [part.token_ids for part in parts]
        made = [head.keys(read.hidden) for read in encode_chunks(self._engine, info, ids, self._cancel)]
        return in_memory(head.maps, info, made)

    def _ask(
        self, question: str, stored: AdapterInfo, places: int, keys: ChunkKeys | None
    ) -> tuple[dict[str, FloatArray | None], bool]:
        """Scores in all columns, and whether `ask` would take the question for one about something else."""
        words = np.zeros(places, np.float32)
        for (_, chunk), score in self._library.score_chunks(question, [stored.id]).items():
            words[chunk] = score
        found: dict[str, FloatArray | None] = {"any chunk": None, "words": words}
        if keys is None:
            return found, False
        hidden = read_question(question, self._engine, keys.capture, keys.prefix)
        match = keys.match(hidden)
        chunks = stored.chunks
        parts = keys.match_parts(hidden, match, chunks)
        both = keys.beside_words(match, words, chunks), keys.parts_beside_words(parts, words)
        found |= {"keys": decide(match.scores, parts.scores, chunks), "both": decide(*both, chunks)}
        return found, not keys.is_related(match, chunks)


def _best_rank(scores: FloatArray, holding: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> int:
    """Place of the best chunk that holds an answer; of equals, the first chunk comes first, as in `ask`."""
    order = np.argsort(-scores, kind="stable")
    return int(np.flatnonzero(holding[order])[0])


def _row(library: Library, name: str, chunks: int) -> AdapterInfo:
    """A row that only the search needs."""
    key = f"{int(name):064x}"
    return AdapterInfo(
        name=f"document-{name}", path=library.file_for(name, key), key=key, title=name, kind="text", origin="",
        document_sha256="", base_name="", base_fingerprint="", hypernet_name="", hypernet_sha256="", rank=1,
        energy_kept=1.0, tokens=0, chunks=chunks, size_bytes=0, made_at="",
    )  # fmt: skip


def _summarise(options: ChunkOptions, info: RunInfo, cases: tuple[ChunkCase, ...], left_out: int) -> ChunkResult:
    names = [name for name in COLUMNS if any(case.column == name for case in cases)]
    ours = [case for case in cases if case.column == names[0]]
    numbers: dict[str, int] = {}
    clusters = [numbers.setdefault(case.document, len(numbers)) for case in ours]
    bootstrap = ClusterBootstrap(clusters, options.seed)
    columns = []
    for name in names:
        own = [case for case in cases if case.column == name]
        shares = [[_found(case, most) for case in own] for most in (1, FIRST)]
        columns.append(ChunkScores(name, *(bootstrap.mean(share) for share in shares)))
    mean_chunks = sum(case.chunks for case in ours) / len(ours)
    general = [case for case in cases if case.column == GENERAL and case.document in numbers]
    asked = astray = unrelated = general_unrelated = None
    if general:
        of_documents = ClusterBootstrap([numbers[case.document] for case in general], options.seed)
        asked = of_documents.mean([float(case.rank == 0) for case in general])
        general_unrelated = of_documents.mean([float(case.unrelated) for case in general])
    both = [case for case in cases if case.column == COLUMNS[-1]]
    if both:
        astray = bootstrap.mean([float(case.astray) for case in both]) if general else None
        unrelated = bootstrap.mean([float(case.unrelated) for case in both])
    return ChunkResult(
        options,
        info,
        documents=len(numbers),
        questions=len(ours),
        left_out=left_out,
        mean_chunks=mean_chunks,
        columns=tuple(columns),
        general=asked,
        astray=astray,
        unrelated=unrelated,
        general_unrelated=general_unrelated,
        cases=cases,
    )


def _found(case: ChunkCase, most: int) -> float:
    """1 or 0; drawn blindly, how likely one of `most` chunks holds an answer."""
    if case.rank >= 0:
        return float(case.rank < most)
    missed = 1.0
    for drawn in range(min(most, case.chunks)):
        missed *= max(0, case.chunks - case.holding - drawn) / (case.chunks - drawn)
    return 1 - missed
