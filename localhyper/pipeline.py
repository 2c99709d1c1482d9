"""From a document to an adapter in the library: chunk, encode, generate, merge, write.

Works on any `Engine` and `Hypernetwork`; reports progress, stops between chunks, goes on where it was stopped, and does
nothing at all for a document it has attached before. Knows neither files of documents nor the command line.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from localhyper.bundle import BundleInfo, check_base
from localhyper.checkpoint import Checkpoint, CheckpointFile
from localhyper.chunk_adapters import ChunkWriter
from localhyper.chunking import Chunk, Cut, cut_document, first_tokens
from localhyper.config import AdapterSettings
from localhyper.document_sum import DocumentSum
from localhyper.engine import Activations, BaseModelInfo, Engine, TokenArray
from localhyper.errors import ConfigError, LibraryError, LocalHyperError, SourceError
from localhyper.gguf_writer import Dtype
from localhyper.hypernet import Hypernetwork
from localhyper.library import AdapterInfo, Library, Passage, check_name, chunk_folder
from localhyper.lora import LoraWeights, Recompressed
from localhyper.new_adapter import Origin, new_adapter, store_adapter
from localhyper.overview import overview_chunk
from localhyper.progress import CancelToken, Progress, ProgressCallback, ignore_progress
from localhyper.sources.document import Document

DEFAULT_RANK = AdapterSettings().rank_budget
DEFAULT_CHUNK_RANK = AdapterSettings().chunk_rank
SMALLEST_CHUNK = 16  # tokens
UNLIMITED_RANK = 1 << 14  # most an adapter file may have
KEY_VERSION = 6  # raise it when the same inputs would give another adapter
CHECKPOINT_SECONDS = 2.0
ETA_WINDOW = 8
ETA_AFTER = 3
PASSAGE_CHARS = 400
_SENTENCE_END = re.compile(r"(?<=[.!?…\u3002\uff01\uff1f])\s+|\n\s*\n")


@dataclass(frozen=True)
class AttachOptions:
    """How to make an adapter.

    Attributes:
        rank: Rank budget of the adapter; 0 = no recompression.
        name: Wanted name; empty = from the document's title.
        dtype: Number format of the file.
        cache_dir: Where checkpoints go; None = a stopped run starts over.
        chunk_rank: Rank budget of the adapters of single chunks, where there are several; 0 = none are made.
        chunk_tokens: Most tokens of a chunk with an adapter of its own; 0 = as the hypernetwork says. The document's
            adapter is made of chunks as long as it takes, whatever this says.
    """

    rank: int = DEFAULT_RANK
    name: str = ""
    dtype: Dtype = "f16"
    cache_dir: Path | None = None
    chunk_rank: int = DEFAULT_CHUNK_RANK
    chunk_tokens: int = 0

    def __post_init__(self) -> None:
        """Chunks of a few tokens hold no sentence."""
        if 0 < self.chunk_tokens < SMALLEST_CHUNK:
            raise ConfigError(
                f"`adapter.chunk_tokens` is {self.chunk_tokens}, wanted 0 or at least {SMALLEST_CHUNK}",
                "0 = as the hypernetwork says",
            )

    def cut_sizes(self, bundle: BundleInfo) -> tuple[int, ...]:
        """`BundleInfo.cut_sizes` for these options: without adapters of chunks there is nothing to cut small for."""
        return bundle.cut_sizes(self.chunk_tokens) if self.chunk_rank else (bundle.chunk_tokens,)


@dataclass(frozen=True)
class AttachResult:
    """What an attach made.

    Attributes:
        adapter: The library's row; its `energy_kept` is what recompression left of the generated update.
        reused: Whether it had been made before, so that nothing was computed.
        resumed_chunks: Chunks that an earlier, stopped run had finished.
        timings: Seconds per stage: `chunk`, `encode`, `generate`, `merge`, `chunk_adapters`, `write`
            (of a task that is read as a vector: `embed`, `generate`, `write`); empty when reused.
        read_chunks: Chunks that this run read.
    """

    adapter: AdapterInfo
    reused: bool
    resumed_chunks: int = 0
    timings: dict[str, float] = field(default_factory=dict)
    read_chunks: int = 0


def adapter_key(document: Document, base: BaseModelInfo, bundle: BundleInfo, options: AttachOptions) -> str:
    """Hex digest over all that decides an adapter: text, base (any quantization), hypernetwork, ranks, format."""
    parts = [KEY_VERSION, document.sha256, base.fingerprint, bundle.sha256]
    parts += [options.rank, options.chunk_rank, options.dtype]
    if options.chunk_tokens:  # left out where it says nothing, so that adapters made before it was there are found
        parts.append(options.chunk_tokens)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def find_attached(
    document: Document, base: BaseModelInfo, bundle: BundleInfo, library: Library, options: AttachOptions
) -> AttachResult | None:
    """The adapter of an earlier attach of the same things; needs no model in memory. None where it has to be made.

    Raises:
        HypernetworkError: The hypernetwork is for another base model.
        LibraryError: The wanted name is impossible or taken by another document's adapter.
    """
    check_base(bundle, base)
    return find_made(adapter_key(document, base, bundle, options), library, options)


def find_made(key: str, library: Library, options: AttachOptions) -> AttachResult | None:
    """The adapter of this key. None where it has to be made.

    Raises:
        LibraryError: It has to be made, and the wanted name is impossible or taken.
    """
    found = library.find_by_key(key)
    if found is not None:
        return AttachResult(found, reused=True)
    if options.name and library.free_name(check_name(options.name)) != options.name:
        raise LibraryError(f"there is an adapter named `{options.name}` already", "choose another --name")
    return None


def attach_document(
    document: Document,
    engine: Engine,
    hypernetwork: Hypernetwork,
    library: Library,
    options: AttachOptions | None = None,
    progress: ProgressCallback = ignore_progress,
    cancel: CancelToken | None = None,
) -> AttachResult:
    """Make a document's adapter and store it; memory stays bounded however long the document is.

    Raises:
        SourceError: The document has no tokens.
        HypernetworkError: The hypernetwork is for another base model or made unusable weights.
        LibraryError: The wanted name is taken, or the library is damaged.
        Cancelled: `cancel` was set; finished chunks are kept in `options.cache_dir`.
    """
    options = options or AttachOptions()
    found = find_attached(document, engine.info, hypernetwork.info, library, options)
    if found is not None:
        return found
    run = _Attach(document, engine, hypernetwork, library, options, progress, cancel or CancelToken())
    cut = run.split()
    try:
        resumed = run.generate(cut)
        adapter = run.store(cut, run.merge())
    except BaseException:
        run.abandon()
        raise
    run.clean()
    read = sum(map(len, cut.answering[resumed:]))
    return AttachResult(adapter, False, resumed, run.told_timings, read_chunks=read)


class _Attach:
    """One attach under way."""

    def __init__(
        self,
        document: Document,
        engine: Engine,
        hypernetwork: Hypernetwork,
        library: Library,
        options: AttachOptions,
        progress: ProgressCallback,
        cancel: CancelToken,
    ) -> None:
        self._document, self._engine, self._hypernetwork, self._library = document, engine, hypernetwork, library
        self._options, self._progress, self._cancel = options, progress, cancel
        self._rank = options.rank or UNLIMITED_RANK
        self._makes = hypernetwork  # or its companion, once it is known that there is one chunk
        self._sum = DocumentSum(hypernetwork, self._rank)
        self._checkpoint: CheckpointFile | None = None
        self._beside: ChunkWriter | None = None
        self._beside_files = 0
        self._in_sum = 1
        self._answering: Sequence[Sequence[Chunk]] = ()
        self._said: Chunk | None = None
        self.timings = dict.fromkeys(("chunk", "encode", "generate", "merge", "chunk_adapters", "write"), 0.0)

    @property
    def told_timings(self) -> dict[str, float]:
        """Those of the stages there were."""
        return {stage: seconds for stage, seconds in self.timings.items() if seconds or stage != "chunk_adapters"}

    def split(self) -> Cut:
        """The document's chunks, at least one."""
        self._report("chunk", 0, 0)
        info = self._hypernetwork.info
        with self._timed("chunk"):
            tokenize, detokenize = self._engine.tokenize, self._engine.detokenize
            if info.kind == "task":
                chunk = self._beginning(info.chunk_tokens)
                cut = Cut((chunk,), ((chunk,),), info.chunk_tokens)
            else:
                sizes = self._options.cut_sizes(info)
                cut = cut_document(self._document, tokenize, detokenize, sizes, cancel=self._cancel)
        if not any(len(chunk.token_ids) for chunk in cut.summed):
            raise SourceError(f"`{self._document.title}` has no text to attach", "choose a document with text")
        self._report("chunk", len(cut.chunks), len(cut.chunks))
        return cut

    def _beginning(self, most: int) -> Chunk:
        """A task's description as one chunk, for tasks of its parts don't add up to it: first tokens, whole text."""
        text = self._document.text
        ids, cut = first_tokens(text, self._engine.tokenize, most)
        if cut:
            note = f"only the first {len(ids):,} tokens of the description were read"
            self._document = replace(self._document, notes=(*self._document.notes, note))
        return Chunk(0, ids, text, 0, len(text))

    def generate(self, cut: Cut) -> int:
        """Sum all chunks' adapters and write those beside; how many of the sum an earlier run had done."""
        chunks, self._answering, answering = cut.summed, cut.answering, len(cut.chunks)
        work, single = self._work_key(cut), len(chunks) == 1
        if single:
            self._makes = self._hypernetwork.alone
            self._sum = DocumentSum(self._makes, self._rank)
        rank = self._options.chunk_rank
        if rank or not single:
            self._said = self._overview(answering)
        parts = [*chunks, self._said] if self._said is not None else chunks
        # The sum of a single chunk is the chunk: it has all there is to know, and the overview lies beside it.
        self._in_sum = 1 if single else len(parts)
        files = answering + int(self._said is not None)
        if rank and files > 1:
            folder, alone = self._library.unfinished_folder(work), self._hypernetwork.alone
            self._beside = ChunkWriter(folder, rank, self._document, self._engine.info, alone, int(answering == 1))
            self._beside_files = files
        if self._options.cache_dir is not None:
            self._checkpoint = CheckpointFile(self._options.cache_dir, work)
        done = self._resumed(len(chunks))
        self._each_part(parts, done)
        return done

    def _overview(self, chunks: int) -> Chunk | None:
        """What the document says of itself, as a chunk after its last; None where nothing could choose it."""
        if self._hypernetwork.alone.search_head() is None:  # no words of it are searched
            return None
        return overview_chunk(self._document, chunks, self._engine.tokenize, self._hypernetwork.info.chunk_tokens)

    def _resumed(self, chunks: int) -> int:
        """Take up what an earlier run left, where all of it is there; the chunks it had done."""
        before = self._checkpoint.load() if self._checkpoint is not None else None
        if before is None or not 0 < before.done <= chunks:
            return 0
        if self._beside is not None and not self._beside.has(sum(map(len, self._answering[: before.done]))):
            return 0
        self._sum.restore(before.state, before.moments)
        return before.done

    def _each_part(self, parts: Sequence[Chunk], first: int) -> None:
        """Read and add all chunks, and the overview where there is one, from number `first` on."""
        eta = _MovingEta()
        saved, saved_at, total = first, time.monotonic(), len(parts)
        done = first
        try:
            for done in range(first, total):
                self._cancel.check()
                self._report("encode", done, total, eta.seconds(total - done))
                started = time.monotonic()
                activations = self._encode(parts[done])
                self._report("generate", done, total, eta.seconds(total - done))
                self._add(parts[done], activations)
                eta.add(time.monotonic() - started)
                if time.monotonic() - saved_at > CHECKPOINT_SECONDS and done + 1 < total:
                    self._save(done + 1)
                    saved, saved_at = done + 1, time.monotonic()
            done = total
        except LocalHyperError:
            # Raised before a chunk is added, so exactly `done` chunks are in the sum. Of nothing else is that sure.
            if done > saved:
                self._save(done)
            raise
        self._report("generate", total, total)

    def _encode(self, chunk: Chunk) -> Activations:
        with self._timed("encode"):
            return encode_chunk(self._engine, self._hypernetwork.info, chunk.token_ids, self._cancel)

    def _add(self, part: Chunk, activations: Activations) -> None:
        with self._timed("generate"):
            weights = self._makes.generate(activations, self._in_sum)
        if self._beside is not None:  # first: a chunk that is in the sum has its own adapter, too
            self._write_beside(self._beside, part, weights, activations)
        if self._in_sum > 1 or part is not self._said:
            with self._timed("merge"):
                self._sum.add(weights, activations)

    def _write_beside(self, beside: ChunkWriter, part: Chunk, weights: LoraWeights, activations: Activations) -> None:
        """The adapters of a chunk of the sum, or of the parts of it that answer; that of the overview."""
        said = part is self._said
        answering = (part,) if said else self._answering[part.index]
        for chunk in answering:
            read = activations if len(answering) == 1 else self._encode(chunk)
            with self._timed("chunk_adapters"):
                same = read is activations and beside.hypernetwork is self._makes and not self._makes.reads_count
                alone = weights if same else beside.hypernetwork.generate(read, 1)
                beside.write(chunk, alone, read, "overview" if said else "")

    def merge(self) -> Recompressed:
        """The bias appended once, recompressed to the budget."""
        self._cancel.check()
        self._report("merge", 0, 1)
        with self._timed("merge"):
            result = self._sum.finish()
        if result.weights.rank == 0:
            raise SourceError(f"`{self._document.title}` is too short to make an adapter of", "attach more text")
        self._report("merge", 1, 1)
        return result

    def store(self, cut: Cut, result: Recompressed) -> AdapterInfo:
        """Write the file, then the row."""
        self._report("write", 0, 1)
        document, base, bundle = self._document, self._engine.info, self._hypernetwork.info
        key = adapter_key(document, base, bundle, self._options)
        if self._beside is not None and not self._beside.has(self._beside_files):
            # Another process attached the same at the same time, was first, and took the files of both along.
            twin = self._library.find_by_key(key)
            if twin is not None:
                return twin
        origin = Origin(document, base, bundle, key)
        with self._timed("write"):
            info = new_adapter(
                self._library,
                origin,
                self._options.name,
                result,
                tokens=sum(len(chunk.token_ids) for chunk in cut.summed),
                chunks=len(cut.chunks),
            )
            if self._beside is not None:
                size = self._beside.move_to(chunk_folder(info.path), self._beside_files)
                info = replace(info, chunk_files=self._beside_files, chunk_bytes=size)
            stored = store_adapter(
                self._library,
                info,
                result.weights,
                origin,
                self._options.dtype,
                passages_of(cut.chunks),
                summed=len(cut.summed),
            )
            if stored.path != info.path:  # the other one was first after all
                shutil.rmtree(chunk_folder(info.path), ignore_errors=True)
        self._report("write", 1, 1)
        return stored

    def clean(self) -> None:
        """Drop the checkpoint: the adapter is stored."""
        if self._checkpoint is not None:
            self._checkpoint.remove()

    def abandon(self) -> None:
        """What nothing can go on from is deleted."""
        if self._checkpoint is None and self._beside is not None:
            self._beside.remove()

    def _work_key(self, cut: Cut) -> str:
        """Hex digest over all that decides what is computed."""
        info = self._hypernetwork.info
        how = [KEY_VERSION, info.sha256, info.base_fingerprint, self._rank, self._options.chunk_rank]
        digest = hashlib.sha256(json.dumps(how).encode())
        for chunk in (*cut.summed, *cut.chunks):
            digest.update(len(chunk.token_ids).to_bytes(8, "little"))
            digest.update(np.ascontiguousarray(chunk.token_ids, dtype="<i4").tobytes())
        return digest.hexdigest()

    def _save(self, done: int) -> None:
        state = self._sum.state
        if self._checkpoint is not None and state is not None:
            self._checkpoint.save(Checkpoint(done, state, self._sum.moments))

    def _report(self, stage: str, done: int, total: int, eta: float | None = None) -> None:
        self._progress(Progress(stage, done, total, self._document.title, eta))

    @contextlib.contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.timings[stage] += time.perf_counter() - started


def encode_chunk(engine: Engine, info: BundleInfo, ids: TokenArray, cancel: CancelToken) -> Activations:
    """Activations of a chunk's tokens; those of prefix and suffix round it are dropped unless they are read.

    Raises:
        ContextError: The chunk is longer than the model's window.
        Cancelled: `cancel` was set.
    """
    before = engine.tokenize(info.prefix, special=True) if info.prefix else np.empty(0, np.int32)
    after = engine.tokenize(info.suffix, special=True) if info.suffix else np.empty(0, np.int32)
    whole = engine.encode(np.concatenate([before, ids, after]).astype(np.int32), info.capture, cancel=cancel)
    if info.reads_prefix:
        return whole
    inside = slice(len(before), len(before) + len(ids))
    return Activations(np.ascontiguousarray(whole.hidden[:, inside]), np.ascontiguousarray(whole.ffn[:, inside]))


class _MovingEta:
    """Seconds left from the last few chunks; unknown until some are done."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=ETA_WINDOW)
        self._count = 0

    def add(self, seconds: float) -> None:
        self._seconds.append(seconds)
        self._count += 1

    def seconds(self, left: int) -> float | None:
        if self._count < ETA_AFTER:
            return None
        return left * sum(self._seconds) / len(self._seconds)


def passages_of(chunks: Sequence[Chunk]) -> Iterator[Passage]:
    """Each chunk's text in pieces short enough to quote, cut after sentences; joined they are the document's text."""
    for chunk in chunks:
        start = 0
        ends = [match.end() for match in _SENTENCE_END.finditer(chunk.text)] + [len(chunk.text)]
        for end, following in zip(ends, [*ends[1:], None], strict=True):
            if following is not None and following - start <= PASSAGE_CHARS:
                continue
            yield Passage(chunk.index, chunk.text[start:end], chunk.start + start, chunk.start + end)
            start = end
