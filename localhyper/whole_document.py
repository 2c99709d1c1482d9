"""A document's own adapter: the sum of its chunks and of what it says of itself, cut to a rank budget.

Made with the document where its chunks answer as they are. Where smaller ones do (docs/decisions/0025), no question
needs it, and it would have everything read once more: it is made when it is first wanted, by an export, a merge or
`--whole`, from the text in the library.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from localhyper.attach_steps import AttachSteps
from localhyper.bundle import check_base
from localhyper.checkpoint import Checkpoint, CheckpointFile
from localhyper.chunking import Chunk, split_document, with_tokens
from localhyper.document_sum import DocumentSum
from localhyper.engine import Activations, Engine
from localhyper.errors import HypernetworkError, LibraryError, LocalHyperError, SourceError
from localhyper.hypernet import Hypernetwork
from localhyper.library import AdapterInfo, Library
from localhyper.lora import LoraWeights, Recompressed
from localhyper.new_adapter import write_file
from localhyper.overview import overview_chunk
from localhyper.progress import CancelToken, ProgressCallback, ignore_progress
from localhyper.sources.document import Document

UNLIMITED_RANK = 1 << 14  # most an adapter file may have
WORK_VERSION = 2
CHECKPOINT_SECONDS = 5.0

Beside = Callable[[Chunk, LoraWeights, Activations], None]
"""Does more with a chunk that is about to be in the sum, its weights, and the activations they were made of."""


class ChunkSum:
    """The sum of a document's chunks under way.

    Attributes:
        makes: The hypernetwork of its weights: the companion for single chunks where there is one.
        parts: What is read: the chunks, then the overview.
    """

    def __init__(
        self,
        engine: Engine,
        hypernetwork: Hypernetwork,
        chunks: Sequence[Chunk],
        said: Chunk | None,
        rank: int,
        steps: AttachSteps,
        checkpoint: CheckpointFile | None = None,
    ) -> None:
        """Begin.

        Args:
            engine: Reads the chunks.
            hypernetwork: Makes weights of them.
            chunks: All of them, at least one.
            said: The document's overview; it is in the sum of several chunks, for a single one is the document.
            rank: Rank budget; 0 = no recompression.
            steps: Progress and stops.
            checkpoint: Where a stopped run leaves off.
        """
        self._engine, self._steps, self._checkpoint, self._said = engine, steps, checkpoint, said
        single = len(chunks) == 1
        self.makes = hypernetwork.alone if single else hypernetwork
        self.parts = [*chunks, said] if said is not None else list(chunks)
        self._in_sum = 1 if single else len(self.parts)
        self._sum = DocumentSum(self.makes, rank or UNLIMITED_RANK)

    def resume(self, has: Callable[[int], bool] | None = None) -> int:
        """Take up what an earlier run left, unless `has` says no to that many parts; the parts it had done."""
        before = self._checkpoint.load() if self._checkpoint is not None else None
        if before is None or not 0 < before.done <= len(self.parts):
            return 0
        if has is not None and not has(before.done):
            return 0
        self._sum.restore(before.state, before.moments)
        return before.done

    def run(self, first: int, beside: Beside | None = None) -> None:
        """Read and add all parts from place `first` on.

        Raises:
            Cancelled: It was stopped; finished parts are in the checkpoint.
        """
        steps, total = self._steps, len(self.parts)
        added = saved = first
        saved_at = time.monotonic()
        try:
            for place, part, activations in steps.read(self._engine, self.makes.info, self.parts, first):
                self._add(part, activations, beside)
                added = place + 1
                if time.monotonic() - saved_at > CHECKPOINT_SECONDS and added < total:
                    self._save(added)
                    saved, saved_at = added, time.monotonic()
        except LocalHyperError:
            # Raised before a part is added, so exactly those are in the sum. Of nothing else is that sure.
            if added > saved:
                self._save(added)
            raise

    def _add(self, part: Chunk, activations: Activations, beside: Beside | None) -> None:
        with self._steps.timed("generate"):
            weights = self.makes.generate(activations, self._in_sum)
        if beside is not None:  # first: a chunk that is in the sum has its own adapter, too
            beside(part, weights, activations)
        if self._in_sum > 1 or part is not self._said:
            with self._steps.timed("merge"):
                self._sum.add(weights, activations)

    def _save(self, done: int) -> None:
        state = self._sum.state
        if self._checkpoint is not None and state is not None:
            self._checkpoint.save(Checkpoint(done, state, self._sum.moments))

    def finish(self) -> Recompressed:
        """The bias appended once, recompressed to the budget; the checkpoint stays.

        Raises:
            Cancelled: It was stopped.
            SourceError: Nothing came of the document.
        """
        self._steps.cancel.check()
        self._steps.report("merge", 0, 1)
        with self._steps.timed("merge"):
            result = self._sum.finish()
        if result.weights.rank == 0:
            raise SourceError(f"`{self._steps.title}` is too short to make an adapter of", "attach more text")
        self._steps.report("merge", 1, 1)
        return result


@dataclass(frozen=True)
class MadeWhole:
    """A document's own adapter that was just made.

    Attributes:
        adapter: The library's row.
        timings: Seconds per stage: `chunk`, `encode`, `generate`, `merge`, `write`.
    """

    adapter: AdapterInfo
    timings: dict[str, float]


def make_whole(
    info: AdapterInfo,
    engine: Engine,
    hypernetwork: Hypernetwork,
    library: Library,
    cache_dir: Path | None = None,
    progress: ProgressCallback = ignore_progress,
    cancel: CancelToken | None = None,
) -> MadeWhole:
    """Make the own adapter of a document in the library that has none yet, as an attach would have made it.

    Args:
        info: The library's row.
        engine: The base model it was attached with, in any quantization.
        hypernetwork: The one it was attached with.
        library: Where its text is.
        cache_dir: Where a stopped run leaves off; None = it starts over.
        progress: Told at every step.
        cancel: Stops between chunks.

    Raises:
        HypernetworkError: Another hypernetwork, or one for another base model.
        LibraryError: The text is gone, or the adapter was removed meanwhile.
        Cancelled: `cancel` was set.
    """
    bundle = hypernetwork.info
    check_base(bundle, engine.info)
    if bundle.sha256 != info.hypernet_sha256:
        raise HypernetworkError(
            f"`{info.name}` was made by hypernetwork {info.hypernet_sha256[:12]}, not by {bundle.sha256[:12]}"
        )
    steps = AttachSteps(info.title, progress, cancel or CancelToken())
    with steps.timed("chunk"):
        document = document_of(info, library)
        chunks = with_tokens(
            split_document(document, engine.tokenize, engine.detokenize, bundle.chunk_tokens, cancel=steps.cancel)
        )
        said = overview_of(document, len(chunks), engine, hypernetwork) if len(chunks) > 1 else None
    key = work_key(("whole", WORK_VERSION, bundle.sha256, bundle.base_fingerprint, info.rank), chunks)
    checkpoint = CheckpointFile(cache_dir, key) if cache_dir is not None else None
    work = ChunkSum(engine, hypernetwork, chunks, said, info.rank, steps, checkpoint)
    work.run(work.resume())
    result = work.finish()
    steps.report("write", 0, 1)
    with steps.timed("write"):
        made = replace(info, rank=result.weights.mean_rank, energy_kept=result.energy_kept)
        made = write_file(made, result.weights, engine.info, bundle, summed=len(chunks))
        library.set_whole(made)
    if checkpoint is not None:
        checkpoint.remove()
    steps.report("write", 1, 1)
    return MadeWhole(made, steps.timings)


def overview_of(document: Document, chunks: int, engine: Engine, hypernetwork: Hypernetwork) -> Chunk | None:
    """What a document says of itself, as a chunk after its last; None where no words of it are searched."""
    if hypernetwork.alone.search_head() is None:  # nothing could choose it
        return None
    return overview_chunk(document, chunks, engine.tokenize, hypernetwork.info.chunk_tokens)


def document_of(info: AdapterInfo, library: Library) -> Document:
    """The document that an adapter was made of, as far as the library has it.

    Raises:
        LibraryError: No text is stored with it.
    """
    text = "".join(passage.text for passage in library.passages(info.id))
    if not text:
        raise LibraryError(f"no text is stored with `{info.name}`", "attach the document again")
    return Document(info.title, text, info.kind, info.document_sha256, info.origin)


def work_key(how: Sequence[object], chunks: Iterable[Chunk]) -> str:
    """Hex digest over all that decides what is computed: how, and the tokens of what."""
    digest = hashlib.sha256(json.dumps(how).encode())
    for chunk in chunks:
        digest.update(len(chunk.token_ids).to_bytes(8, "little"))
        digest.update(np.ascontiguousarray(chunk.token_ids, dtype="<i4").tobytes())
    return digest.hexdigest()
