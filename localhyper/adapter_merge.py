"""Several adapters as one: scaled, summed by putting their ranks side by side, cut back to a rank budget.

The result acts as the set of them does, up to what the budget takes away; `energy_kept` says how much is left. Where
it came from stands in its metadata, and in the library it brings the text of all its sources along, for quotes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from localhyper.blas_threads import one_thread_a_product
from localhyper.checksums import file_sha256
from localhyper.engine import BaseModelInfo
from localhyper.errors import AdapterError
from localhyper.gguf_adapter import (
    MAX_RANK,
    AdapterMetadata,
    check_adapter,
    read_adapter,
    read_architecture,
    read_metadata,
    write_weights,
)
from localhyper.gguf_writer import Dtype
from localhyper.library import AdapterInfo, Library, Passage, now
from localhyper.lora import LoraWeights, Metric, even_ranks, recompress, scale, validate
from localhyper.lora_union import combine

MERGE_VERSION = 2
MERGE = "merge"  # kind of an adapter that is a sum
MAX_SOURCES = 64


@dataclass(frozen=True)
class MergeSource:
    """One of the adapters to merge.

    Attributes:
        name: For people.
        path: Its file.
        scale: Its strength in the sum; negative takes it away.
        info: Its row in the library; None for a file from elsewhere.
    """

    name: str
    path: Path
    scale: float = 1.0
    info: AdapterInfo | None = None

    @property
    def fingerprint(self) -> str:
        """Of the base model it was made for or checked against; empty = not known."""
        return self.info.base_fingerprint if self.info else read_metadata(self.path).base_fingerprint


@dataclass(frozen=True)
class Merged:
    """The sum.

    Attributes:
        weights: One rank for all targets.
        architecture: GGUF architecture of the base.
        fingerprint: Of the base; empty where no source knows its own.
        energy_kept: Share of the sum's squared norm that the rank budget left, 1.0 = all.
        full_rank: Rank of the sum before.
        digests: sha256 of each source's file.
        values: What it writes (`AdapterMetadata.values`): what any of the sources does.
    """

    weights: LoraWeights
    architecture: str
    fingerprint: str
    energy_kept: float
    full_rank: int
    digests: tuple[str, ...]
    values: str


def common_fingerprint(sources: Sequence[MergeSource]) -> str:
    """The fingerprint of the one base model of all sources that know theirs; empty where none does.

    Raises:
        AdapterError: No sources, too many, one twice or without effect, or of several base models or architectures.
    """
    if not 1 <= len(sources) <= MAX_SOURCES:
        raise AdapterError(f"{len(sources)} adapters to merge, wanted 1 to {MAX_SOURCES}")
    for number, source in enumerate(sources):
        if source.path in [other.path for other in sources[:number]]:
            raise AdapterError(
                f"adapter `{source.name}` is given twice", "give it once, with the sum of the two scales"
            )
        if source.scale == 0.0:
            raise AdapterError(f"adapter `{source.name}` has scale 0, which adds nothing", "leave it out")
    _one("architecture", {source.name: read_architecture(source.path) for source in sources})
    return _one("base model", {source.name: source.fingerprint for source in sources})


def _one(what: str, found: Mapping[str, str]) -> str:
    """The one value that is not empty."""
    known = {name: value for name, value in found.items() if value}
    for name, value in known.items():
        first = next(iter(known))
        if value != known[first]:
            raise AdapterError(
                f"adapters `{first}` and `{name}` are for different {what}s", "merge adapters of one base model"
            )
    return next(iter(known.values()), "")


def merge_adapters(
    sources: Sequence[MergeSource],
    rank: int,
    *,
    base: BaseModelInfo | None = None,
    metrics: Mapping[str, Metric] | None = None,
) -> Merged:
    """Sum adapters of one base model.

    Args:
        sources: The adapters; their targets, blocks and ranks may differ.
        rank: Rank budget; 0 = keep the sum exactly.
        base: Their base model where its file is here: each source is checked against it.
        metrics: Second moments of the targets' inputs, in which the budget's loss is measured; else the plain norm.

    Raises:
        AdapterError: Sources of several base models, damaged ones, or a sum of too large a rank.
    """
    fingerprint = common_fingerprint(sources)
    if base is not None:
        for source in sources:
            check_adapter(source.path, base)
    parts = [_scaled(source) for source in sources]
    with one_thread_a_product():
        total = combine([weights for weights, _ in parts])
        if rank == 0 and total.rank > MAX_RANK:
            raise AdapterError(f"the sum has rank {total.rank}, a file takes {MAX_RANK}", "give a --rank")
        fitting = {name: metric for name, metric in (metrics or {}).items() if _fits(metric, total, name)}
        result = recompress(total, rank or MAX_RANK, fitting, shared=True)
    return Merged(
        validate(even_ranks(result.weights)),
        read_architecture(sources[0].path),
        fingerprint,
        result.energy_kept,
        total.mean_rank,
        tuple(_sha256(source.path) for source in sources),
        next((metadata.values for _, metadata in parts if metadata.values), ""),
    )


def _scaled(source: MergeSource) -> tuple[LoraWeights, AdapterMetadata]:
    weights, metadata = read_adapter(source.path)
    with np.errstate(over="ignore"):
        scaled = scale(weights, source.scale)
    try:
        return validate(scaled), metadata
    except AdapterError as error:
        raise AdapterError(f"adapter `{source.name}` at {source.scale:g}: {error.message}", error.hint) from error


def _fits(metric: Metric, weights: LoraWeights, name: str) -> bool:
    target = weights.targets.get(name)
    return target is not None and metric.basis.shape[:2] == (len(target.layers), target.a.shape[2])


def _sha256(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise AdapterError(f"adapter `{path}` cannot be read: {error.strerror}") from error


def merged_metadata(merged: Merged, sources: Sequence[MergeSource], name: str) -> AdapterMetadata:
    """What the file says of itself: its sources by name, strength and digest, and what they have in common."""
    origin = [
        {"name": source.name, "scale": source.scale, "sha256": digest}
        for source, digest in zip(sources, merged.digests, strict=True)
    ]
    rows = [source.info for source in sources if source.info]
    nets = {(row.hypernet_name, row.hypernet_sha256) for row in rows} if len(rows) == len(sources) else set()
    net = nets.pop() if len(nets) == 1 else ("", "")
    return AdapterMetadata(
        name=name,
        source_title=_title(sources),
        source_kind=MERGE,
        source_tokens=sum(row.tokens for row in rows),
        source_chunks=sum(row.chunks for row in rows),
        hypernetwork_name=net[0],
        hypernetwork_sha256=net[1],
        base_fingerprint=merged.fingerprint,
        rank=merged.weights.mean_rank,
        energy_kept=min(1.0, merged.energy_kept),
        made_at=now(),
        merged_from=json.dumps(origin, ensure_ascii=False),
        values=merged.values,
    )


def _title(sources: Sequence[MergeSource]) -> str:
    return " + ".join(source.info.title if source.info else source.name for source in sources)[:200]


def check_new(library: Library, name: str) -> None:
    """Refuse a sum's name before the sum is made; that of another sum passes, for it may be the very same.

    Raises:
        LibraryError: The name is impossible, or taken by an adapter that is no sum.
    """
    is_sum = library.free_name(name) != name and library.get(name).kind == MERGE
    if not is_sum:
        library.check_free(name)


def store_merged(
    library: Library, merged: Merged, sources: Sequence[MergeSource], name: str, dtype: Dtype = "f16"
) -> AdapterInfo:
    """Write the sum into the library, with the text of all its sources; the same sum twice is one row.

    Raises:
        AdapterError: The file cannot be written.
        LibraryError: The name is impossible or taken.
    """
    parts = sorted(zip(merged.digests, (source.scale for source in sources), strict=True))
    key = hashlib.sha256(json.dumps(["merge", MERGE_VERSION, parts, merged.weights.rank, dtype]).encode()).hexdigest()
    twin = library.find_by_key(key)
    if twin is not None:
        return twin
    library.check_free(name)
    passages = joined_passages(library, sources)
    text = "".join(passage.text for passage in passages)
    metadata = replace(
        merged_metadata(merged, sources, name),
        source_sha256=hashlib.sha256(text.encode("utf-8", "replace")).hexdigest() if text else "",
    )
    path = library.file_for(name, key)
    write_weights(path, merged.weights, merged.architecture, metadata, dtype)
    return library.add(_row(path, key, metadata, merged, sources), passages)


def _row(
    path: Path, key: str, metadata: AdapterMetadata, merged: Merged, sources: Sequence[MergeSource]
) -> AdapterInfo:
    rows = [source.info for source in sources if source.info]
    return AdapterInfo(
        name=metadata.name,
        path=path,
        key=key,
        title=metadata.source_title,
        kind=metadata.source_kind,
        origin="",
        document_sha256=metadata.source_sha256,
        base_name=rows[0].base_name if rows else merged.architecture,
        base_fingerprint=merged.fingerprint,
        hypernet_name=metadata.hypernetwork_name,
        hypernet_sha256=metadata.hypernetwork_sha256,
        rank=metadata.rank,
        energy_kept=metadata.energy_kept,
        tokens=metadata.source_tokens,
        chunks=metadata.source_chunks,
        size_bytes=path.stat().st_size,
        made_at=metadata.made_at,
        notes=tuple(
            f"merged from `{source.name}` at {source.scale:g}, sha256 {digest[:16]}…"
            for source, digest in zip(sources, merged.digests, strict=True)
        ),
    )


def joined_passages(library: Library, sources: Sequence[MergeSource]) -> list[Passage]:
    """The stored text of all sources, one document after the other; chunks and offsets go on."""
    joined: list[Passage] = []
    chunk = start = 0
    for source in sources:
        if source.info is None:
            continue
        passages = library.passages(source.info.id)
        joined += [
            Passage(piece.chunk + chunk, piece.text, piece.start + start, piece.end + start) for piece in passages
        ]
        chunk += source.info.chunks
        start += max((piece.end for piece in passages), default=0)
    return joined
