"""What all suites share: the four columns, their prompts, one question at a time, and the adapters they need.

    none       the question alone, no adapter
    context    the document before the question in the same message, no adapter
    adapter    the question alone, the document's adapter attached
    shuffled   the question alone, another document's adapter attached: what an adapter changes without knowing anything

Knows engines and adapter files, no scores.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from localhyper.bundle import BundleInfo
from localhyper.engine import AdapterUse, ChatMessage, Engine, Sampling
from localhyper.hypernet import Hypernetwork
from localhyper.progress import CancelToken, Progress, ProgressCallback
from localhyper.sources.document import Document

COLUMNS = ("none", "context", "adapter", "shuffled")
_SPARE_TOKENS = 16  # a text cut by tokens may have a few more when tokenized again

MakeAdapter = Callable[[Document, Path], Path]


@dataclass(frozen=True)
class RunInfo:
    """What a run was made with. `seconds` is wall-clock time; everything else repeats with the same seed."""

    base_name: str
    base_quantization: str
    base_fingerprint: str
    hypernetwork_name: str
    hypernetwork_sha256: str
    seconds: float


def run_info(engine: Engine, bundle: BundleInfo, started: float) -> RunInfo:
    """Describe a run that began at `time.monotonic()` = `started`."""
    base, seconds = engine.info, time.monotonic() - started
    return RunInfo(base.name, base.quantization, base.fingerprint, bundle.name, bundle.sha256, round(seconds, 3))


def make_document(title: str, text: str) -> Document:
    """A document that comes from no file."""
    return Document(title=title, text=text, kind="text", sha256=hashlib.sha256(text.encode()).hexdigest())


def attach_maker(engine: Engine, hypernetwork: Hypernetwork, rank: int, cancel: CancelToken) -> MakeAdapter:
    """Makes adapters exactly as `localhyper attach` does, each in a library of its own under the folder it is given."""
    from localhyper.database import Database
    from localhyper.library import Library
    from localhyper.pipeline import AttachOptions, attach_document

    def make(document: Document, folder: Path) -> Path:
        library = Library(Database(folder / "library.sqlite3"), folder / "adapters")
        options = AttachOptions(rank=rank, name="evaluated")
        return attach_document(document, engine, hypernetwork, library, options, cancel=cancel).adapter.path

    return make


class AdapterRing:
    """Adapters of documents in a ring: each document's control is the adapter of the next one.

    So no document is its own control, and as the documents come in random order, the control is a random one. Only the
    adapters still needed lie on the disk, three at most.
    """

    def __init__(self, documents: Sequence[Document], make: MakeAdapter, folder: Path) -> None:
        self._documents, self._make, self._folder = documents, make, folder
        self._paths: dict[int, Path] = {}

    def own(self, index: int) -> Path:
        """Adapter of document `index`."""
        if index not in self._paths:
            folder = self._folder / str(index)
            folder.mkdir(parents=True)
            self._paths[index] = self._make(self._documents[index], folder)
        return self._paths[index]

    def other(self, index: int) -> Path:
        """Adapter of the next document."""
        return self.own((index + 1) % len(self._documents))

    def finish(self, index: int) -> None:
        """Delete what document `index` alone needed; the first one's adapter is still the last one's control."""
        if index > 0 and self._paths.pop(index, None) is not None:
            shutil.rmtree(self._folder / str(index), ignore_errors=True)


def use_column(engine: Engine, column: str, ring: AdapterRing, index: int) -> None:
    """Attach what `column` of document `index` needs."""
    if column == "adapter":
        engine.set_adapters([AdapterUse(ring.own(index))])
    elif column == "shuffled":
        engine.set_adapters([AdapterUse(ring.other(index))])
    else:
        engine.set_adapters([])


def message_for(column: str, question: str, shown: str) -> str:
    """The user's message of a column; `shown` is the document as the context column sees it."""
    return f"{shown}\n\n{question}" if column == "context" else question


def fit_document(engine: Engine, text: str, questions: Sequence[str], reply_tokens: int) -> str:
    """`text`, cut at its end where it would not fit into the window with the longest question and its reply."""
    prompts = [engine.render([ChatMessage("user", f"\n\n{question}")]) for question in questions]
    longest = max(len(engine.tokenize(prompt, special=True)) for prompt in prompts)
    room = max(1, engine.n_ctx - longest - reply_tokens - _SPARE_TOKENS)
    ids = engine.tokenize(text)
    return text if len(ids) <= room else engine.detokenize(ids[:room]).rstrip("\ufffd")


def ask(engine: Engine, message: str, max_tokens: int, cancel: CancelToken) -> str:
    """The greedy reply to one message.

    Raises:
        Cancelled: `cancel` was set.
    """
    sampling = Sampling(temperature=0.0, max_tokens=max_tokens)
    pieces = [piece.text for piece in engine.generate([ChatMessage("user", message)], sampling, cancel=cancel)]
    cancel.check()
    return "".join(pieces).strip()


class Reporter:
    """Progress of an evaluation with an estimate of the time left."""

    def __init__(self, progress: ProgressCallback, total: int) -> None:
        self._progress, self._total, self._started = progress, total, time.monotonic()

    def report(self, done: int, item: str) -> None:
        """`done` documents are finished, `item` is next."""
        elapsed = time.monotonic() - self._started
        eta = elapsed / done * (self._total - done) if done else None
        self._progress(Progress("evaluate", done, self._total, item, eta))
