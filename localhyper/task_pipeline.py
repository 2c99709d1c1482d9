"""From a task description to an adapter in the library, where the hypernetwork reads one vector of the description.

Task hypernetworks that read the base model's activations go through `pipeline`, with the same kind of document.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from localhyper.bundle import BundleInfo, check_base
from localhyper.engine import BaseModelInfo
from localhyper.errors import SourceError
from localhyper.library import Library, Passage
from localhyper.lora import FloatArray, LoraWeights, Recompressed, even_ranks
from localhyper.new_adapter import Origin, new_adapter, store_adapter
from localhyper.pipeline import KEY_VERSION, AttachOptions, AttachResult, find_made
from localhyper.progress import Progress, ProgressCallback, ignore_progress
from localhyper.sources.document import Document
from localhyper.task_examples import TaskExample, described, read_task_text

KIND = "task"
MAX_CHARS = 200_000  # some 30,000 words: what is longer is no description


class TaskHypernetwork(Protocol):
    """A loaded hypernetwork that reads a vector of a description."""

    @property
    def info(self) -> BundleInfo:
        """What the bundle says of itself."""
        ...

    def from_embedding(self, vector: FloatArray) -> LoraWeights:
        """The vector, float32 [E], to LoRA matrices, scaling folded in."""
        ...


@dataclass(frozen=True)
class TaskVector:
    """What the hypernetwork reads of a description.

    Attributes:
        vector: float32 [E].
        digest: Of what it comes from, for the key: the embedder's files, or the vector itself where it is given.
        tokens: Tokens of the description; 0 where the vector is given.
        notes: What was left out and why.
        seconds: What making it took.
    """

    vector: FloatArray
    digest: str
    tokens: int = 0
    notes: tuple[str, ...] = ()
    seconds: float = 0.0


def task_document(text: str) -> Document:
    """A description, with examples or without, as a document of kind `task`.

    Its title is the description itself in one line, or where there is none, the first example.

    Raises:
        SourceError: Nothing in it, far more than a description, or half an example.
    """
    from localhyper.sources import read_text
    from localhyper.sources.cleaning import one_line, shortened

    if len(text) > MAX_CHARS:
        raise SourceError(
            f"the task description has {len(text):,} characters, at most {MAX_CHARS:,} are read",
            "describe the task in a sentence or two; `localhyper attach FILE` attaches documents",
        )
    if not any(letter.isalnum() for letter in text):
        raise SourceError("the task description has no words", 'describe the task: --task "Sort the words."')
    document = read_text(text.strip(), "task")
    task = read_task_text(document.text)
    line = one_line(task.description) or " → ".join(map(one_line, task.examples[0].pair))
    return replace(document, kind=KIND, title=shortened(line, 160))


def with_examples(document: Document, examples: Sequence[TaskExample]) -> Document:
    """The same task with examples after those that it has.

    Raises:
        SourceError: More than can be read.
    """
    made = task_document(described(document.text, examples))
    return replace(made, origin=document.origin, notes=document.notes)


def task_key(document: Document, base: BaseModelInfo, bundle: BundleInfo, digest: str, options: AttachOptions) -> str:
    """Hex digest over all that decides a task's adapter: description, base, hypernetwork, embedding, number format."""
    parts = [KEY_VERSION, KIND, document.sha256, base.fingerprint, bundle.sha256, digest, options.dtype]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def find_task(
    document: Document, base: BaseModelInfo, bundle: BundleInfo, digest: str, library: Library, options: AttachOptions
) -> AttachResult | None:
    """The adapter that was made of the same things; needs no model in memory. None where it has to be made.

    Raises:
        HypernetworkError: The hypernetwork is for another base model.
        LibraryError: The wanted name is impossible or taken by another adapter.
    """
    check_base(bundle, base)
    if read_task_text(document.text).examples:
        raise SourceError(
            f"hypernetwork `{bundle.name}` reads a vector, and tasks with examples need one that reads activations",
            "leave the examples out, or choose another with --hypernet",
        )
    return find_made(task_key(document, base, bundle, digest, options), library, options)


def attach_vector(
    document: Document,
    given: TaskVector,
    base: BaseModelInfo,
    hypernetwork: TaskHypernetwork,
    library: Library,
    options: AttachOptions,
    progress: ProgressCallback = ignore_progress,
) -> AttachResult:
    """Make the adapter of a description from its vector and store it; its rank is the hypernetwork's.

    Raises:
        HypernetworkError: The hypernetwork is for another base model, the vector is none for it, or the weights made
            are unusable.
        LibraryError: The wanted name is taken, or the library is damaged.
    """
    bundle, started = hypernetwork.info, time.perf_counter()
    found = find_task(document, base, bundle, given.digest, library, options)
    if found is not None:
        return found
    progress(Progress("generate", 0, 1, document.title))
    result = Recompressed(even_ranks(hypernetwork.from_embedding(given.vector)), 1.0)
    generated = time.perf_counter()
    progress(Progress("write", 0, 1, document.title))
    document = replace(document, notes=(*document.notes, *given.notes))
    origin = Origin(document, base, bundle, task_key(document, base, bundle, given.digest, options))
    rank = result.weights.rank
    info = new_adapter(library, origin, options.name, rank=rank, dtype=options.dtype, tokens=given.tokens, chunks=1)
    passage = Passage(0, document.text, 0, len(document.text))
    stored = store_adapter(library, info, result, origin, [passage])
    progress(Progress("write", 1, 1, document.title))
    timings = {"embed": given.seconds, "generate": generated - started, "write": time.perf_counter() - generated}
    return AttachResult(stored, reused=False, timings=timings)
