"""Adapters of a long document's single chunks, made beside the adapter of the whole.

What all chunks of a long document write together disturbs what one of them knows. So each chunk also gets an adapter of
its own, and a question is answered by that of the chunk it is about (`chunk_chooser`), as Parametric RAG does with
adapters trained per passage (Su et al. 2025, arXiv 2501.15915). They are ordinary adapter files.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from localhyper.atomic import remove_stale
from localhyper.blas_threads import one_thread_a_product
from localhyper.chunk_keys import QUESTION_FILE, write_keys, write_question_maps
from localhyper.chunking import Chunk
from localhyper.document_sum import DocumentSum
from localhyper.engine import Activations, BaseModelInfo
from localhyper.errors import AdapterError
from localhyper.gguf_adapter import AdapterMetadata, write_adapter
from localhyper.gguf_writer import BLOCK, Dtype
from localhyper.hypernet import Hypernetwork
from localhyper.library import chunk_file, now
from localhyper.lora import LoraWeights, even_ranks
from localhyper.sources.document import Document

CHUNK_DTYPE: Dtype = "q5_0"  # docs/decisions/0025 has what it costs beside others


@dataclass(frozen=True)
class ChunkWriter:
    """Writes the adapters of chunks and their search keys into a folder, a file each a chunk, whole or not at all.

    Attributes:
        folder: Made with the first file.
        rank: Rank budget of one of them.
        first: Chunks before this one get keys alone: where there is one chunk, the document's adapter is its.
    """

    folder: Path
    rank: int
    document: Document
    base: BaseModelInfo
    hypernetwork: Hypernetwork
    first: int = 0

    def write(self, chunk: Chunk, weights: LoraWeights, activations: Activations, name: str = "") -> None:
        """Write a chunk's adapter.

        Args:
            chunk: The chunk.
            weights: What the hypernetwork made of it as a document of its own.
            activations: What it was made of.
            name: What to call it beside the document's title; empty = by its number.

        Raises:
            AdapterError: The weights cannot be stored.
        """
        self._write_keys(chunk, activations)
        if chunk.index < self.first:
            return
        alone = DocumentSum(self.hypernetwork, self.rank)
        alone.add(weights, activations)
        result = alone.finish()
        whole_blocks = even_ranks(result.weights, BLOCK)
        info = self.hypernetwork.info
        metadata = AdapterMetadata(
            name=f"{self.document.title} {name or f'chunk {chunk.index + 1}'}",
            source_title=self.document.title,
            source_kind=self.document.kind,
            source_sha256=self.document.sha256,
            source_tokens=len(chunk.token_ids),
            source_chunks=1,
            hypernetwork_name=info.name,
            hypernetwork_sha256=info.sha256,
            base_fingerprint=self.base.fingerprint,
            rank=whole_blocks.mean_rank,
            energy_kept=result.energy_kept,
            made_at=now(),
            values=info.values,
        )
        write_adapter(chunk_file(self.folder, chunk.index), whole_blocks, self.base, metadata, CHUNK_DTYPE)

    def _write_keys(self, chunk: Chunk, activations: Activations) -> None:
        """What a question finds the chunk by, where the hypernetwork has learnt it."""
        head = self.hypernetwork.search_head()
        if head is None:
            return
        if not (self.folder / QUESTION_FILE).is_file():
            write_question_maps(self.folder, head.maps, self.hypernetwork.info)
        with one_thread_a_product():
            keys = head.keys(activations.hidden)
        write_keys(self.folder, chunk.index, keys)

    def has(self, chunks: int) -> bool:
        """Whether the first `chunks` of them are there."""
        return self.count(chunks) == chunks

    def count(self, chunks: int) -> int:
        """How many of the first `chunks` are there, up to the first that is not."""
        missing = (chunk for chunk in range(self.first, chunks) if not chunk_file(self.folder, chunk).is_file())
        return next(missing, chunks)

    def move_to(self, folder: Path, chunks: int) -> int:
        """Give the folder, of so many files, its place beside the whole document's adapter; bytes of its files.

        Raises:
            AdapterError: It cannot be moved, or is not complete.
        """
        try:
            if not self.has(chunks):
                raise AdapterError(f"adapters of chunks have gone from `{self.folder}`", "attach the document again")
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(self.folder, folder)
            remove_stale(self.folder.parent.iterdir())
            return sum(file.stat().st_size for file in folder.iterdir())
        except OSError as error:
            raise AdapterError(f"adapters of chunks cannot be stored in `{folder}`: {error.strerror}") from error

    def take_back(self, folder: Path) -> None:
        """Undo `move_to`, so that a later attach finds the files."""
        if folder.is_dir() and not self.folder.exists():
            os.replace(folder, self.folder)

    def remove(self) -> None:
        """Delete what was written."""
        shutil.rmtree(self.folder, ignore_errors=True)
