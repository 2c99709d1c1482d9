"""What the screens ask of the disk: library, history, jobs, known models. Opened when first needed, in a worker thread.

Each call is a transaction of its own, so any thread may call; every one of them may wait for another process.
"""

from __future__ import annotations

import shlex
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from localhyper.bundle import KINDS
from localhyper.config import Config
from localhyper.database import Database
from localhyper.errors import LocalHyperError
from localhyper.history import History
from localhyper.jobs import JobQueue, JobRequest
from localhyper.library import AdapterInfo, Library, Passage
from localhyper.model_specs import FolderSpec, PublishedSpec
from localhyper.paths import Paths
from localhyper.progress import CancelToken, ProgressCallback
from localhyper.registry import BaseModelSpec, HypernetworkSpec, ModelStatus, Registry, load_registry
from localhyper.sources.document import Document
from localhyper.workbench import Workbench

from .adapter_source import AdapterRow

if TYPE_CHECKING:
    from localhyper.adapter_import import Imported

QUOTES = 8


@dataclass(frozen=True)
class Quote:
    """A passage with the document it stands in."""

    adapter: AdapterInfo
    passage: Passage

    @property
    def place(self) -> str:
        """Where it stands, for people."""
        chunk = f"chunk {self.passage.chunk + 1} of {self.adapter.chunks}"
        return f"{chunk}, characters {self.passage.start:,} to {self.passage.end:,}"


@dataclass(frozen=True)
class ModelRow:
    """A base model, or a folder of files, as the Models screen lists it.

    Attributes:
        status: Where its file is.
        needs: Bytes of memory it takes with its window; 0 = not known before it is here.
        free: Bytes of memory there are; 0 = the system does not tell.
        facts: What its header says, for people.
        hypernetworks: Those for it, here or to fetch.
        published: Published checkpoints that a hypernetwork for it can be imported from.
        problem: Why its file cannot be used; empty = it can, or is not here.
    """

    status: ModelStatus
    needs: int = 0
    free: int = 0
    facts: str = ""
    fingerprint: str = ""
    hypernetworks: tuple[ModelStatus, ...] = ()
    published: tuple[PublishedSpec, ...] = ()
    problem: str = ""


class Store:
    """Everything on disk that the app shows or changes, under one set of paths."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self._lock = threading.Lock()
        self._database: Database | None = None

    @property
    def database(self) -> Database:
        """The library's database, opened (and brought up to date) at the first call.

        Raises:
            LibraryError: It is damaged or cannot be written.
        """
        with self._lock:
            if self._database is None or not self.paths.library_db.exists():
                self._database = Database(self.paths.library_db)
            return self._database

    @property
    def library(self) -> Library:
        """Adapters and the text they came from."""
        return Library(self.database, self.paths.adapters_dir)

    @property
    def history(self) -> History:
        """Conversations."""
        return History(self.database)

    @property
    def jobs(self) -> JobQueue:
        """Documents to attach."""
        return JobQueue(self.database)

    @property
    def registry(self) -> Registry:
        """Known models, looked up anew: a file may have come since."""
        return load_registry(self.paths)

    def list(self) -> Sequence[AdapterRow]:
        """The library's adapters as the panel shows them (see `AdapterSource`)."""
        return [
            AdapterRow(
                name=info.name,
                path=info.path,
                detail=_detail(info),
                base_fingerprint=info.base_fingerprint,
                problem="" if info.usable else "its file is missing or damaged",
            )
            for info in self.library.list()
        ]

    def read(
        self, request: JobRequest, config: Config, password: str, report: ProgressCallback, cancel: CancelToken
    ) -> Document:
        """The document of a request; in a child process, no model is touched."""
        return Workbench(self.paths, config).read(request, password=password, progress=report, cancel=cancel)

    def makers(self, base: str) -> dict[str, tuple[str, ...]]:
        """What can be made into adapters for this base model: kind → hypernetworks on this machine, the used one first.

        A kind that nothing here can make is left out.
        """
        registry = self.registry
        found = {kind: tuple(registry.hypernetworks_for(base, kind)) for kind in KINDS}
        return {kind: names for kind, names in found.items() if names}

    def quotes(self, text: str, names: Sequence[str], limit: int = QUOTES) -> tuple[Quote, ...]:
        """The passages of these adapters' documents that share most with a text, the best first.

        A task's description says what to do, and supports no reply.
        """
        library = self.library
        wanted = {name.casefold() for name in names}
        adapters = {info.id: info for info in library.list() if info.name.casefold() in wanted and info.kind != "task"}
        found = library.search_passages(text, tuple(adapters), limit)
        return tuple(Quote(adapters[passage.adapter_id], passage) for passage in found)

    def has_text(self, names: Sequence[str]) -> bool:
        """Whether any of these adapters has its document's text here; an imported one has not, a task has none."""
        library = self.library
        wanted = {name.casefold() for name in names}
        found = [info for info in library.list() if info.name.casefold() in wanted and info.kind != "task"]
        return any(library.has_text(info.id) for info in found)

    def text(self, adapter: AdapterInfo) -> str:
        """All the text that an adapter was made from; empty where none is stored."""
        return "".join(passage.text for passage in self.library.passages(adapter.id))

    def surroundings(self, quote: Quote) -> str:
        """The chunk that a quote stands in, as text."""
        passages = self.library.passages(quote.adapter.id)
        return "".join(passage.text for passage in passages if passage.chunk == quote.passage.chunk).strip()

    def import_adapter(self, path: Path, config: Config) -> Imported:
        """Take a PEFT folder or a GGUF adapter into the library, checked against its base model, else the set one."""
        return Workbench(self.paths, config).import_adapter(path)

    def server_command(self, fingerprint: str, base_name: str, exported: Path) -> str:
        """The ready command line for stock llama.cpp; where no file of the base model is here, a stand-in names it."""
        base = self.file_for(fingerprint)
        words = ["llama-server", "-m", str(base) if base else f"{base_name}.gguf", "--lora", str(exported)]
        return shlex.join(words)

    def file_for(self, fingerprint: str) -> Path | None:
        """A base model file on this machine with this fingerprint."""
        return next((row.status.path for row in self.models(Config()) if row.fingerprint == fingerprint), None)

    def models(self, config: Config) -> tuple[ModelRow, ...]:
        """Base models, each with its hypernetworks, then folders of files; headers are read, nothing is loaded."""
        statuses = self.registry.statuses()
        folders = [status for status in statuses if isinstance(status.spec, FolderSpec)]
        nets = [status for status in statuses if status.kind != "base" and status not in folders]
        bases = (_model_row(status, nets, config) for status in statuses if status.kind == "base")
        rows = (replace(row, published=_published_for(row.status.name, folders)) for row in bases)
        return (*rows, *(ModelRow(status) for status in folders))


def _detail(info: AdapterInfo) -> str:
    """What an adapter is, in a few words."""
    what = f"rank {info.rank}" if info.whole_made else f"{info.chunks:,} chunks"
    return ", ".join(filter(None, (info.kind, f"{info.tokens:,} tokens" if info.tokens else "", what)))


def _published_for(base: str, folders: Sequence[ModelStatus]) -> tuple[PublishedSpec, ...]:
    specs = (status.spec for status in folders)
    return tuple(spec for spec in specs if isinstance(spec, PublishedSpec) and spec.base == base)


def _model_row(status: ModelStatus, nets: Sequence[ModelStatus], config: Config) -> ModelRow:
    from localhyper.memory_check import available_memory

    own = [net for net in nets if isinstance(net.spec, HypernetworkSpec) and net.spec.base == status.name]
    if status.path is None:
        return ModelRow(status, hypernetworks=tuple(own))
    try:
        from localhyper.base_header import read_base_header

        header = read_base_header(status.path)
        fitting = [net for net in nets if net not in own and _made_for(net, header.info.fingerprint)]
        window = min(config.engine.n_ctx or header.info.context_length, header.info.context_length)
        info = header.info
        return ModelRow(
            status,
            needs=_needed(status.path, window, config.engine.kv_type),
            free=available_memory() or 0,
            facts=f"{info.architecture}, {info.parameter_count / 1e6:,.0f} M parameters, {info.quantization}, "
            f"{info.block_count} blocks, window {info.context_length:,}",
            fingerprint=info.fingerprint,
            hypernetworks=(*own, *fitting),
        )
    except LocalHyperError as error:
        return ModelRow(status, hypernetworks=tuple(own), problem=error.message)


def _needed(path: Path, window: int, kv_type: str) -> int:
    from localhyper.base_header import read_base_header
    from localhyper.llama_engine import memory_needed

    return memory_needed(read_base_header(path), window, kv_type)


def _made_for(status: ModelStatus, fingerprint: str) -> bool:
    from localhyper.bundle import read_bundle

    try:
        return status.path is not None and read_bundle(status.path).base_fingerprint == fingerprint
    except LocalHyperError:
        return False


def fetchable(row: ModelRow) -> bool:
    """Whether `pull` can get this model."""
    return isinstance(row.status.spec, BaseModelSpec) and row.status.spec.fetchable
