"""From a document to its adapters in the library: chunk, encode, generate, merge, write.

Where smaller chunks answer than the document's own adapter is the sum of, theirs alone are made (`whole_document`).
Works on any `Engine` and `Hypernetwork`; reports progress, stops between chunks, goes on where it was stopped, and does
nothing at all for a document it has attached before. Knows neither files of documents nor the command line.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from localhyper.attach_steps import AttachSteps
from localhyper.bundle import BundleInfo, check_base
from localhyper.checkpoint import CheckpointFile
from localhyper.chunk_adapters import ChunkWriter
from localhyper.chunking import Chunk, Cut, cut_document, first_tokens
from localhyper.config import AdapterSettings
from localhyper.engine import Activations, BaseModelInfo, Engine
from localhyper.errors import ConfigError, SourceError
from localhyper.example_lesson import learn_examples
from localhyper.gguf_writer import Dtype
from localhyper.hypernet import Hypernetwork
from localhyper.library import AdapterInfo, Library, Passage, chunk_folder
from localhyper.lora import LoraWeights, Recompressed
from localhyper.new_adapter import Origin, new_adapter, store_adapter
from localhyper.progress import CancelToken, ProgressCallback, ignore_progress
from localhyper.sources.document import Document
from localhyper.task_examples import UNDESCRIBED, TaskExample, read_task_text
from localhyper.whole_document import ChunkSum, make_whole, overview_of, work_key

DEFAULT_RANK = AdapterSettings().rank_budget
DEFAULT_CHUNK_RANK = AdapterSettings().chunk_rank
SMALLEST_CHUNK = 16  # tokens
KEY_VERSION = 7  # raise it when the same inputs would give another adapter
LEARN_VERSION = 2  # likewise, of tasks with examples alone
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
        whole: Make the document's own adapter at once even where other chunks answer; it is the same made later.
    """

    rank: int = DEFAULT_RANK
    name: str = ""
    dtype: Dtype = "f16"
    cache_dir: Path | None = None
    chunk_rank: int = DEFAULT_CHUNK_RANK
    chunk_tokens: int = 0
    whole: bool = False

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
        timings: Seconds per stage that there was: `chunk`, `encode`, `generate`, `merge`, `learn`,
            `chunk_adapters`, `write` (of a task that is read as a vector: `embed`, `generate`, `write`); empty when
            reused.
        read_chunks: Chunks that this run read.
        examples: Examples of a task that this run learnt.
    """

    adapter: AdapterInfo
    reused: bool
    resumed_chunks: int = 0
    timings: dict[str, float] = field(default_factory=dict)
    read_chunks: int = 0
    examples: int = 0


def adapter_key(document: Document, base: BaseModelInfo, bundle: BundleInfo, options: AttachOptions) -> str:
    """Hex digest over all that decides an adapter: text, base (any quantization), hypernetwork, ranks, format."""
    parts = [KEY_VERSION, document.sha256, base.fingerprint, bundle.sha256]
    parts += [options.rank, options.chunk_rank, options.dtype]
    if options.chunk_tokens:  # left out where it says nothing, so that adapters made before it was there are found
        parts.append(options.chunk_tokens)
    if document.kind == "task" and read_task_text(document.text).examples:
        parts.append(f"learnt {LEARN_VERSION}")
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
    if options.name:
        library.check_free(options.name)
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
    """Make a document's adapters and store them; memory stays bounded however long the document is.

    Raises:
        SourceError: The document has no tokens.
        HypernetworkError: The hypernetwork is for another base model or made unusable weights.
        LibraryError: The wanted name is taken, or the library is damaged.
        Cancelled: `cancel` was set; finished chunks are kept in `options.cache_dir`.
    """
    options, cancel = options or AttachOptions(), cancel or CancelToken()
    result = find_attached(document, engine.info, hypernetwork.info, library, options)
    if result is None:
        steps = AttachSteps(document.title, progress, cancel)
        result = _Attach(document, engine, hypernetwork, library, options, steps).run()
    # Without keys to find a chunk by, the whole may have to answer.
    wanted = options.whole or hypernetwork.alone.search_head() is None
    if result.adapter.whole_made or not wanted:
        return result
    made = make_whole(result.adapter, engine, hypernetwork, library, options.cache_dir, progress, cancel)
    return replace(result, adapter=made.adapter, reused=False, timings=_added(result.timings, made.timings))


def _added(*timings: dict[str, float]) -> dict[str, float]:
    """Seconds of all of them together, in the order of the stages."""
    order = ("chunk", "encode", "generate", "merge", "learn", "chunk_adapters", "write")
    there = [stage for stage in order if any(stage in one for one in timings)]
    return {stage: sum(one.get(stage, 0.0) for one in timings) for stage in there}


class _Attach:
    """One attach under way."""

    def __init__(
        self,
        document: Document,
        engine: Engine,
        hypernetwork: Hypernetwork,
        library: Library,
        options: AttachOptions,
        steps: AttachSteps,
    ) -> None:
        self._document, self._engine, self._hypernetwork, self._library = document, engine, hypernetwork, library
        self._options, self._steps = options, steps
        self._checkpoint: CheckpointFile | None = None
        self._examples: tuple[TaskExample, ...] = ()
        self._taught = 0
        self._beside: ChunkWriter | None = None
        self._beside_files = 0

    def run(self) -> AttachResult:
        """All of it."""
        cut = self._split()
        try:
            done, own = (self._parts(cut), None) if cut.has_parts else self._sum(cut)
            adapter = self._store(cut, own)
        except BaseException:
            self._abandon()
            raise
        if self._checkpoint is not None:
            self._checkpoint.remove()
        done = min(done, len(cut.chunks))  # the overview may be done, too
        read = len(cut.chunks) - done
        return AttachResult(adapter, False, done, _added(self._steps.timings), read, self._taught)

    def _split(self) -> Cut:
        """The document's chunks, at least one."""
        self._steps.report("chunk", 0, 0)
        info = self._hypernetwork.info
        with self._steps.timed("chunk"):
            tokenize, detokenize = self._engine.tokenize, self._engine.detokenize
            if info.kind == "task":
                chunk = self._beginning(info.chunk_tokens)
                cut = Cut((chunk,), ((chunk,),), info.chunk_tokens)
            else:
                sizes = self._options.cut_sizes(info)
                cut = cut_document(self._document, tokenize, detokenize, sizes, cancel=self._steps.cancel)
        if not any(len(chunk.token_ids) for chunk in cut.summed):
            raise SourceError(f"`{self._document.title}` has no text to attach", "choose a document with text")
        self._steps.report("chunk", len(cut.chunks), len(cut.chunks))
        return cut

    def _beginning(self, most: int) -> Chunk:
        """A task's description as one chunk, for tasks of its parts don't add up to it: first tokens, whole text."""
        text, task = self._document.text, read_task_text(self._document.text)
        self._examples = task.examples
        told = text if self._hypernetwork.info.reads_examples else task.description or UNDESCRIBED
        ids, cut = first_tokens(told, self._engine.tokenize, most)
        if cut:
            self._note(f"only the first {len(ids):,} tokens of the description were read")
        return Chunk(0, ids, text, 0, len(text))

    def _parts(self, cut: Cut) -> int:
        """Read and write the chunks that answer, each for itself; how many an earlier run had done."""
        chunks, alone, steps = cut.chunks, self._hypernetwork.alone, self._steps
        said = overview_of(self._document, len(chunks), self._engine, self._hypernetwork)
        parts = [*chunks, said] if said is not None else chunks
        beside = self._open_beside(self._work_key("parts", cut), len(parts))
        done = beside.count(len(parts)) if self._options.cache_dir is not None else 0
        for _, part, activations in steps.read(self._engine, self._hypernetwork.info, parts, done):
            with steps.timed("generate"):
                weights = alone.generate(activations, 1)
            with steps.timed("chunk_adapters"):
                beside.write(part, weights, activations, "overview" if part is said else "")
        return done

    def _sum(self, cut: Cut) -> tuple[int, Recompressed]:
        """Sum the chunks and write the adapter that each has alone; how many an earlier run had done, and the sum."""
        chunks, rank = cut.chunks, self._options.chunk_rank
        work = self._work_key("sum", cut)
        wanted = rank or len(chunks) > 1
        said = overview_of(self._document, len(chunks), self._engine, self._hypernetwork) if wanted else None
        files = len(chunks) + int(said is not None)
        if rank and files > 1:
            self._open_beside(work, files, int(len(chunks) == 1))
        if self._options.cache_dir is not None:
            self._checkpoint = CheckpointFile(self._options.cache_dir, work)
        run = ChunkSum(
            self._engine, self._hypernetwork, chunks, said, self._options.rank, self._steps, self._checkpoint
        )
        same = run.makes is self._hypernetwork.alone and not run.makes.reads_count

        def write(part: Chunk, weights: LoraWeights, activations: Activations) -> None:
            if self._beside is None:
                return
            with self._steps.timed("chunk_adapters"):
                alone = weights if same else self._beside.hypernetwork.generate(activations, 1)
                self._beside.write(part, alone, activations, "overview" if part is said else "")

        done = run.resume(self._beside.has if self._beside is not None else None)
        run.run(done, write)
        made = run.finish()
        return done, self._learnt(made) if self._examples else made

    def _learnt(self, made: Recompressed) -> Recompressed:
        """A task's adapter, with what its examples teach."""
        initial = self._hypernetwork.initial()
        learnt = learn_examples(self._engine, made.weights, self._examples, self._steps, initial=initial)
        self._taught = learnt.examples
        if learnt.left_out:
            self._note(
                f"{learnt.left_out:,} of {len(self._examples):,} examples: too long, or more than are learnt at once"
            )
        if learnt.no_gradients:
            self._note(f"examples were learnt in closed form, which teaches less: {learnt.no_gradients}")
        return Recompressed(learnt.weights, made.energy_kept)

    def _note(self, text: str) -> None:
        """Say so of the adapter."""
        self._document = replace(self._document, notes=(*self._document.notes, text))

    def _open_beside(self, work: str, files: int, first: int = 0) -> ChunkWriter:
        """The folder of the chunks' adapters, `files` of them, from chunk `first` on."""
        folder, alone = self._library.unfinished_folder(work), self._hypernetwork.alone
        self._beside_files = files
        self._beside = ChunkWriter(folder, self._options.chunk_rank, self._document, self._engine.info, alone, first)
        return self._beside

    def _store(self, cut: Cut, own: Recompressed | None) -> AdapterInfo:
        """Write the document's own adapter where there is one yet, then the row."""
        self._steps.report("write", 0, 1)
        document, base, bundle = self._document, self._engine.info, self._hypernetwork.info
        key = adapter_key(document, base, bundle, self._options)
        if self._beside is not None and not self._beside.has(self._beside_files):
            # Another process attached the same at the same time, was first, and took the files of both along.
            twin = self._library.find_by_key(key)
            if twin is not None:
                return twin
        with self._steps.timed("write"):
            stored = self._stored(cut, own, Origin(document, base, bundle, key))
        self._steps.report("write", 1, 1)
        return stored

    def _stored(self, cut: Cut, own: Recompressed | None, origin: Origin) -> AdapterInfo:
        options, tokens = self._options, sum(len(chunk.token_ids) for chunk in cut.summed)
        info = new_adapter(
            self._library,
            origin,
            options.name,
            rank=options.rank,
            dtype=options.dtype,
            tokens=tokens,
            chunks=len(cut.chunks),
        )
        if self._beside is not None:
            size = self._beside.move_to(chunk_folder(info.path), self._beside_files)
            info = replace(info, chunk_files=self._beside_files, chunk_bytes=size)
        passages = passages_of(cut.chunks)
        try:
            if own is None:
                stored = self._library.add(info, passages)
            else:
                stored = store_adapter(self._library, info, own, origin, passages, summed=len(cut.summed))
        except BaseException:  # the name was taken meanwhile, say: a later attach goes on from here
            if self._beside is not None:
                self._beside.take_back(chunk_folder(info.path))
            raise
        if stored.path != info.path:  # the other one was first after all
            shutil.rmtree(chunk_folder(info.path), ignore_errors=True)
        return stored

    def _abandon(self) -> None:
        """What nothing can go on from is deleted."""
        if self._options.cache_dir is None and self._beside is not None:
            self._beside.remove()

    def _work_key(self, what: str, cut: Cut) -> str:
        """Hex digest over all that decides what is computed."""
        info, options = self._hypernetwork.info, self._options
        how = (what, KEY_VERSION, info.sha256, info.base_fingerprint, options.rank, options.chunk_rank)
        return work_key(how, cut.chunks)


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
