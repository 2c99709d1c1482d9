"""What all suites share: the five columns, their prompts, one question at a time, and the adapters they need.

    none       the question alone, no adapter
    context    the document before the question in the same message, no adapter
    adapter    the question alone, the document attached: of a long one, the chunk that the question is about answers
    whole      the question alone, the adapter of the whole document in force, however long it is
    shuffled   the question alone, another document attached: what one changes that knows nothing, so it is asked
               though `ask` would leave it out

Knows engines and adapter files, no scores; `frame` runs a whole suite with it.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from localhyper.bundle import BundleInfo
from localhyper.chunk_choice import Choose, whole
from localhyper.config import did_you_mean
from localhyper.engine import AdapterUse, ChatMessage, Engine, GenerationStats, Sampling
from localhyper.errors import ConfigError
from localhyper.evaluate.costs import AttachCost, cost_of
from localhyper.hypernet import Hypernetwork
from localhyper.progress import CancelToken, Progress, ProgressCallback
from localhyper.sources.document import Document

if TYPE_CHECKING:
    from localhyper.library import Library

COLUMNS = ("none", "context", "adapter", "whole", "shuffled")
LIBRARY_FILE = "library.sqlite3"
USUAL_COLUMNS = ("none", "context", "adapter", "shuffled")
_SPARE_TOKENS = 16  # a text cut by tokens may have a few more when tokenized again

MakeAdapter = Callable[[Document, Path], Path]
Item = TypeVar("Item", covariant=True)


class Items(Protocol[Item]):
    """The least of a sequence: items by number, made when asked for or lying ready."""

    def __len__(self) -> int:
        """Number of items."""
        ...

    def __getitem__(self, index: int, /) -> Item:
        """Item `index`, from 0."""
        ...


@dataclass(frozen=True)
class Skipped:
    """A column that cannot be measured, and why."""

    name: str
    reason: str


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


def parse_columns(text: str) -> tuple[str, ...]:
    """Names with commas between them, each once, in the order of `COLUMNS`.

    Raises:
        ConfigError: No name, or one that is no column.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    check_columns(names)
    return tuple(name for name in COLUMNS if name in names)


def check_columns(names: Sequence[str]) -> None:
    """Refuse an empty choice of columns and unknown ones.

    Raises:
        ConfigError: Says which, and what there is.
    """
    if not names:
        raise ConfigError("no column to measure is named", did_you_mean("", COLUMNS))
    for name in names:
        if name not in COLUMNS:
            raise ConfigError(f"there is no column `{name[:40]}`", did_you_mean(name, COLUMNS))


def make_document(title: str, text: str) -> Document:
    """A document that comes from no file."""
    return Document(title=title, text=text, kind="text", sha256=hashlib.sha256(text.encode()).hexdigest())


def library_in(folder: Path) -> Library:
    """The library of an evaluated attach: everything of it under one folder."""
    from localhyper.database import Database
    from localhyper.library import Library

    return Library(Database(folder / LIBRARY_FILE), folder / "adapters")


def attach_maker(
    engine: Engine,
    hypernetwork: Hypernetwork,
    rank: int,
    cancel: CancelToken,
    chunk_rank: int = 0,
    chunk_tokens: int = 0,
    *,
    whole: bool = False,
) -> MakeAdapter:
    """Makes adapters exactly as `localhyper attach` does, each in a library of its own under the folder it is given.

    `whole`: the document's own at once, even where its chunks answer.
    """
    from localhyper.pipeline import AttachOptions, attach_document

    def make(document: Document, folder: Path) -> Path:
        library = library_in(folder)
        options = AttachOptions(
            rank=rank, name="evaluated", chunk_rank=chunk_rank, chunk_tokens=chunk_tokens, whole=whole
        )
        return attach_document(document, engine, hypernetwork, library, options, cancel=cancel).adapter.path

    return make


class AdapterRing:
    """Adapters of documents in a ring: each document's control is the adapter of the next one.

    So no document is its own control, and as the documents come in random order, the control is a random one. Only the
    adapters still needed lie on the disk, three at most.

    Attributes:
        costs: What each adapter made so far took, by the number of its document.
    """

    def __init__(self, documents: Items[Document], make: MakeAdapter, folder: Path) -> None:
        self._documents, self._make, self._folder = documents, make, folder
        self._paths: dict[int, Path] = {}
        self._choosers: dict[tuple[int, bool], Choose] = {}
        self.costs: dict[int, AttachCost] = {}

    def own(self, index: int) -> Path:
        """Adapter of document `index`."""
        if index not in self._paths:
            folder, document = self._folder / str(index), self._documents[index]
            folder.mkdir(parents=True)
            started = time.perf_counter()
            path = self._make(document, folder)
            self.costs[index] = cost_of(path, time.perf_counter() - started)
            self._paths[index] = path
            for always in (False, True):
                self._choosers[index, always] = chooser_in(folder, only_related=not always)
        return self._paths[index]

    def answering(self, index: int, question: str, engine: Engine, *, always: bool = False) -> tuple[AdapterUse, ...]:
        """What answers a question with document `index` attached, `always` even if that has nothing to do with it."""
        uses = [AdapterUse(self.own(index))]
        return self._choosers[index, always]([question], uses, engine).uses

    def attached(self, column: str, index: int) -> int | None:
        """Number of the document that is attached in a column of document `index`; None = none is."""
        return {"adapter": index, "whole": index, "shuffled": self.next_to(index)}.get(column)

    def cost(self, index: int) -> AttachCost:
        """What making the adapter of document `index` took."""
        self.own(index)
        return self.costs[index]

    def next_to(self, index: int) -> int:
        """Number of the document whose adapter is the control of document `index`."""
        return (index + 1) % len(self._documents)

    def finish(self, index: int) -> None:
        """Delete what document `index` alone needed; the first one's adapter is still the last one's control."""
        if index > 0 and self._paths.pop(index, None) is not None:
            del self._choosers[index, False], self._choosers[index, True]
            shutil.rmtree(self._folder / str(index), ignore_errors=True)


def chooser_in(folder: Path, *, only_related: bool = True) -> Choose:
    """How the library that an attach left in `folder` chooses; without one, there are whole adapters only."""
    from localhyper.chunk_chooser import ChunkChooser

    if not (folder / LIBRARY_FILE).exists():
        return whole
    library = library_in(folder)
    return ChunkChooser(lambda: library, only_related=only_related)


def adapters_for(column: str, ring: AdapterRing, index: int, question: str, engine: Engine) -> tuple[AdapterUse, ...]:
    """What `column` has in force for a question on document `index`; makes what is not there yet."""
    document = ring.attached(column, index)
    if document is None:
        return ()
    if column == "whole":
        return (AdapterUse(ring.own(document)),)
    return ring.answering(document, question, engine, always=column == "shuffled")


def message_for(column: str, question: str, shown: str) -> str:
    """The user's message of a column; `shown` is the document as the context column sees it."""
    return f"{shown}\n\n{question}" if column == "context" else question


@dataclass(frozen=True)
class Shown:
    """A document as the context column sees it.

    Attributes:
        text: What stands in the prompt.
        tokens: Tokens of that text.
        whole_tokens: Tokens of the whole document; more than `tokens` where its end was cut off.
    """

    text: str
    tokens: int
    whole_tokens: int


def document_room(engine: Engine, questions: Sequence[str], reply_tokens: int) -> int:
    """Tokens a document may have beside the longest question and its reply in the window; below 1 = none."""
    prompts = [engine.render([ChatMessage("user", f"\n\n{question}")]) for question in questions]
    longest = max(len(engine.tokenize(prompt, special=True)) for prompt in prompts)
    return engine.n_ctx - longest - reply_tokens - _SPARE_TOKENS


def show_document(engine: Engine, text: str, questions: Sequence[str], reply_tokens: int, most: int = 0) -> Shown:
    """`text`, cut at its end to `most` tokens (0 = no limit) and to what fits into the window beside a question."""
    room = max(1, document_room(engine, questions, reply_tokens))
    room = min(room, most) if most else room
    ids = engine.tokenize(text)
    if len(ids) <= room:
        return Shown(text, len(ids), len(ids))
    return Shown(engine.detokenize(ids[:room]).rstrip("\ufffd"), room, len(ids))


def ask(engine: Engine, message: str, max_tokens: int, cancel: CancelToken) -> str:
    """The greedy reply to one message.

    Raises:
        Cancelled: `cancel` was set.
    """
    return converse(engine, [ChatMessage("user", message)], max_tokens, cancel)[0]


def converse(
    engine: Engine, messages: Sequence[ChatMessage], max_tokens: int, cancel: CancelToken
) -> tuple[str, GenerationStats]:
    """The greedy reply to a conversation, and what it cost.

    Raises:
        Cancelled: `cancel` was set.
    """
    pieces = list(engine.generate(messages, Sampling(temperature=0.0, max_tokens=max_tokens), cancel=cancel))
    cancel.check()
    stats = pieces[-1].stats
    assert stats is not None, "the last piece of a reply carries its stats"
    return "".join(piece.text for piece in pieces).strip(), stats


class Reporter:
    """Progress of an evaluation with an estimate of the time left."""

    def __init__(self, progress: ProgressCallback, total: int) -> None:
        self._progress, self._total, self._started = progress, total, time.monotonic()

    def report(self, done: int, item: str) -> None:
        """`done` documents are finished, `item` is next."""
        elapsed = time.monotonic() - self._started
        eta = elapsed / done * (self._total - done) if done else None
        self._progress(Progress("evaluate", done, self._total, item, eta))
