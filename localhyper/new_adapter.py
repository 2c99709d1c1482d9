"""An adapter that was just made: its file, then its row in the library. Knows neither models nor how it was made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import cast

from localhyper.bundle import BundleInfo
from localhyper.engine import BaseModelInfo
from localhyper.gguf_adapter import AdapterMetadata, write_adapter
from localhyper.gguf_writer import Dtype
from localhyper.library import AdapterInfo, Library, Passage, now, slug
from localhyper.lora import LoraWeights, Recompressed
from localhyper.sources.document import Document


@dataclass(frozen=True)
class Origin:
    """What an adapter is made from, and the key of all that."""

    document: Document
    base: BaseModelInfo
    bundle: BundleInfo
    key: str


def new_adapter(
    library: Library, origin: Origin, name: str, *, rank: int, dtype: Dtype, tokens: int, chunks: int
) -> AdapterInfo:
    """The row of an adapter whose file is yet to be written; `name` empty = a free one from the title."""
    document, base, bundle = origin.document, origin.base, origin.bundle
    name = name or library.free_name(slug(document.title))
    return AdapterInfo(
        name=name,
        path=library.file_for(name, origin.key),
        key=origin.key,
        title=document.title,
        kind=document.kind,
        origin=document.origin,
        document_sha256=document.sha256,
        base_name=base.name,
        base_fingerprint=base.fingerprint,
        hypernet_name=bundle.name,
        hypernet_sha256=bundle.sha256,
        rank=rank,
        energy_kept=1.0,
        tokens=tokens,
        chunks=chunks,
        size_bytes=0,
        made_at=now(),
        notes=document.notes,
        dtype=dtype,
    )


def store_adapter(
    library: Library,
    info: AdapterInfo,
    result: Recompressed,
    origin: Origin,
    passages: Iterable[Passage],
    *,
    summed: int = 1,
) -> AdapterInfo:
    """Write the file, a sum of chunks, then the row: a file without a row is harmless, a row without a file is not."""
    info = replace(info, rank=result.weights.mean_rank, energy_kept=result.energy_kept)
    return library.add(write_file(info, result.weights, origin.base, origin.bundle, summed=summed), passages)


def write_file(
    info: AdapterInfo, weights: LoraWeights, base: BaseModelInfo, bundle: BundleInfo, *, summed: int
) -> AdapterInfo:
    """Write an adapter's file, the sum of so many chunks, in its row's number format; the row with the file's size.

    Raises:
        AdapterError: The weights cannot be stored.
    """
    write_adapter(info.path, weights, base, _file_metadata(info, bundle, summed), cast("Dtype", info.dtype))
    return replace(info, size_bytes=info.path.stat().st_size)


def _file_metadata(info: AdapterInfo, bundle: BundleInfo, summed: int) -> AdapterMetadata:
    return AdapterMetadata(
        name=info.name,
        source_title=info.title,
        source_kind=info.kind,
        source_sha256=info.document_sha256,
        source_tokens=info.tokens,
        source_chunks=summed,
        hypernetwork_name=info.hypernet_name,
        hypernetwork_sha256=info.hypernet_sha256,
        base_fingerprint=info.base_fingerprint,
        rank=info.rank,
        energy_kept=info.energy_kept,
        made_at=info.made_at,
        values=bundle.values,
    )
