"""Where the vector of a task description comes from: a file given by hand, or the embedder that a bundle names."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from localhyper.bundle import BundleInfo
from localhyper.errors import HypernetworkError, ModelError
from localhyper.lora import FloatArray
from localhyper.progress import CancelToken, Progress, ProgressCallback, ignore_progress
from localhyper.sources.document import Document
from localhyper.task_pipeline import TaskVector
from localhyper.text_embedding import Embedder, read_embedding

if TYPE_CHECKING:
    from localhyper.registry import Registry


@dataclass(frozen=True)
class VectorSource:
    """Where the vector comes from; one of the two is there.

    Attributes:
        digest: Hex digest of the vector, or of the embedder's files.
        vector: Given by hand, float32 [E].
        folder: Of the embedder.
    """

    digest: str
    vector: FloatArray | None = None
    folder: Path | None = None


def find_source(
    registry: Registry,
    bundle: BundleInfo,
    given: Path | None,
    progress: ProgressCallback = ignore_progress,
    cancel: CancelToken | None = None,
) -> VectorSource:
    """Look for the vector's source; no model is loaded. `given` is the file of a vector, None = the embedder makes it.

    Raises:
        ConfigError: The file holds no vector of the bundle's size.
        HypernetworkError: The bundle reads no vector, or one that localhyper cannot make, and none is given.
        ModelError: The embedder is not on this machine, not known, or damaged.
    """
    spec = bundle.embedding
    if spec is None:
        raise HypernetworkError(
            f"hypernetwork `{bundle.name}` reads activations, not a vector", "leave --embedding out"
        )
    if given is not None:
        vector = read_embedding(given, spec.size)
        return VectorSource(hashlib.sha256(vector.tobytes()).hexdigest(), vector=vector)
    by_hand = f"give the vector with --embedding FILE (.npy or .json, {spec.size} numbers)"
    what = f"hypernetwork `{bundle.name}` reads descriptions through"
    if not spec.model or not spec.pooling:
        model = f"`{spec.model}`" if spec.model else "its base model"
        raise HypernetworkError(f"{what} {model}, in a way that localhyper does not know", by_hand)
    embedder = registry.embedder_for(spec.model)
    if embedder is None:
        raise ModelError(f"{what} `{spec.model}`, which no [embedder] of models.toml describes", by_hand)
    folder = registry.locate(embedder)
    if folder is None:
        where = f"run `localhyper models pull {embedder.name}`" if embedder.fetchable else "put it there"
        raise ModelError(f"{what} `{spec.model}`, which is not on this machine", f"{where}, or {by_hand}")
    return VectorSource(registry.verify(embedder, progress=progress, cancel=cancel), folder=folder)


def make_vector(
    source: VectorSource,
    document: Document,
    bundle: BundleInfo,
    *,
    threads: int = 0,
    providers: Sequence[str] = (),
    progress: ProgressCallback = ignore_progress,
    cancel: CancelToken | None = None,
) -> TaskVector:
    """The vector of a description.

    Raises:
        ModelError: The embedder is damaged, does not fit in memory, or gives no vector for this bundle.
        Cancelled: `cancel` was set.
    """
    if source.vector is not None:
        return TaskVector(source.vector, source.digest)
    assert source.folder is not None and bundle.embedding is not None
    progress(Progress("embed", 0, 0, document.title))
    started = time.perf_counter()
    embedder = Embedder.open(source.folder, threads=threads, providers=providers)
    made = embedder.embed(document.text, bundle.embedding, bundle.chunk_tokens, cancel)
    cut = (f"only the first {made.tokens:,} tokens of the description were read",) if made.truncated else ()
    return TaskVector(made.vector, source.digest, made.tokens, cut, time.perf_counter() - started)
