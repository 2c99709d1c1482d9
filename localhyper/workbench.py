"""One base model, its hypernetworks and the library, opened when first needed: what a command or a screen works on.

Knows settings and where things are, not how they are shown. Not thread-safe, like the engine it holds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, cast

from localhyper.attach_times import AttachTimes
from localhyper.bundle import BundleInfo
from localhyper.chosen_hypernets import ChosenHypernets
from localhyper.config import Config
from localhyper.engine import AdapterUse, BaseModelInfo, Engine, EngineConfig, Sampling
from localhyper.errors import AdapterError, ConfigError, LibraryError, LocalHyperError, ModelError, SourceError
from localhyper.library import AdapterInfo, Library
from localhyper.paths import Paths
from localhyper.pipeline import AttachOptions, AttachResult, attach_document, find_attached
from localhyper.progress import CancelToken, Progress, ProgressCallback, ignore_progress

if TYPE_CHECKING:
    from localhyper.adapter_import import Imported
    from localhyper.adapter_merge import Merged, MergeSource
    from localhyper.chunk_choice import Choice, Choose
    from localhyper.gguf_writer import Dtype
    from localhyper.hypernet import OnnxHypernetwork
    from localhyper.jobs import JobRequest
    from localhyper.lora import Metric
    from localhyper.registry import Registry
    from localhyper.sources import Document, ReadLimits

SCALE_LIMIT = 100.0
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Attached:
    """An attach as a command reports it.

    Attributes:
        result: What the pipeline made.
        seconds: All of it, loading the models included.
        load_seconds: Loading the base model and the hypernetwork; 0 when they were in memory or not needed.
        notes: What was left out of the document and why.
    """

    result: AttachResult
    seconds: float
    load_seconds: float = 0.0
    notes: tuple[str, ...] = ()


class Workbench:
    """Everything for one base model and its hypernetworks; close it, or use it as a context manager."""

    def __init__(
        self, paths: Paths, config: Config, *, base: str = "", hypernet: str = "", kind: str = "document"
    ) -> None:
        """Open nothing yet; `base` and `hypernet` go before the settings (names or paths, empty = as set).

        `kind` is what `hypernet`, `bundle` and `hypernetwork` are about; attaching finds those of either kind.
        """
        self.paths = paths
        self.config = config
        self._base = base or config.base.name
        self._kind = kind
        wanted = {"document": config.hypernet.name, "task": config.hypernet.task}
        if hypernet:
            wanted[kind] = hypernet
        self._hypernets = ChosenHypernets(lambda: self.registry, self._base, wanted, config.hypernet)
        self._engine: Engine | None = None
        self._library: Library | None = None
        self._registry: Registry | None = None
        self._base_info: BaseModelInfo | None = None

    def __enter__(self) -> Workbench:
        """The workbench itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Free the models. Calling it twice is harmless."""
        if self._engine is not None:
            self._engine.close()
        self._engine = None
        self._hypernets.close()

    @property
    def registry(self) -> Registry:
        """The known models."""
        if self._registry is None:
            from localhyper.registry import load_registry

            self._registry = load_registry(self.paths)
        return self._registry

    @property
    def library(self) -> Library:
        """The library on disk."""
        if self._library is None:
            from localhyper.database import Database

            self._library = Library(Database(self.paths.library_db), self.paths.adapters_dir)
        return self._library

    @property
    def base_info(self) -> BaseModelInfo:
        """The base model's header; nothing is loaded for it."""
        if self._base_info is None:
            from localhyper.base_header import read_base_info

            self._base_info = read_base_info(self.registry.find_base(self._base))
        return self._base_info

    @property
    def bundle(self) -> BundleInfo:
        """The hypernetwork's description; nothing is loaded for it."""
        return self.bundle_of(self._kind)

    def bundle_of(self, kind: str, hypernet: str = "") -> BundleInfo:
        """The description of the hypernetwork of this kind; `hypernet` (name or path) goes before the set one.

        Raises:
            HypernetworkError: There is none, it is damaged, or it is of another kind.
        """
        return self._hypernets.describe(kind, hypernet)

    def choose_hypernet(self, hypernet: str) -> None:
        """Use this hypernetwork (name or path) for what it was made for, before the set one.

        Raises:
            HypernetworkError: There is none, or it is damaged.
        """
        self._hypernets.choose(hypernet)

    def engine(self, progress: ProgressCallback = ignore_progress) -> Engine:
        """The base model in memory."""
        if self._engine is None:
            from localhyper.llama_engine import LlamaEngine

            info = self.base_info
            progress(Progress("load", 0, 0, info.name))
            self._engine = LlamaEngine.load(info.path, EngineConfig(**dataclasses.asdict(self.config.engine)))
        return self._engine

    def hypernetwork(self, progress: ProgressCallback = ignore_progress) -> OnnxHypernetwork:
        """The hypernetwork in memory, checked against the base model."""
        return self.load_hypernetwork(self.bundle, progress)

    def load_hypernetwork(self, bundle: BundleInfo, progress: ProgressCallback = ignore_progress) -> OnnxHypernetwork:
        """The hypernetwork of this description in memory, checked against the base model; one of each kind is kept."""
        return self._hypernets.load(bundle, self.base_info, progress)

    @property
    def sampling(self) -> Sampling:
        """How replies are made, as set."""
        return Sampling(**dataclasses.asdict(self.config.sampling))

    @property
    def choose(self) -> Choose:
        """Which adapters answer a question, as set; one that has not been made yet is made."""
        return self.choosing()

    def choosing(self, progress: ProgressCallback = ignore_progress, cancel: CancelToken | None = None) -> Choose:
        """`choose` that tells of what is made at every step, and that `cancel` stops between chunks."""
        from localhyper.chunk_choice import whole
        from localhyper.chunk_chooser import ChunkChooser
        from localhyper.own_system import has_own_system

        settings = self.config.adapter
        related, standalone = settings.only_related, settings.standalone
        chooser = ChunkChooser(lambda: self.library, only_related=related, standalone=standalone)
        choose = chooser if settings.choose_chunk else whole

        def chosen(questions: Sequence[str], uses: Sequence[AdapterUse], engine: Engine) -> Choice:
            choice = choose(questions, uses, engine)
            for use in choice.uses:
                info = None if use.path.exists() else self._row_of(use.path)
                if info is not None and not info.whole_made:
                    logger.info("a question waits for the adapter of all chunks of `%s`", info.name)
                    self.made_whole(info, engine=engine, progress=progress, cancel=cancel)
            bare = self._only_tasks(choice.uses) and has_own_system(engine)
            return dataclasses.replace(choice, bare=True) if bare else choice

        return chosen

    def made_whole(
        self,
        info: AdapterInfo,
        *,
        engine: Engine | None = None,
        progress: ProgressCallback = ignore_progress,
        cancel: CancelToken | None = None,
    ) -> AdapterInfo:
        """The library's row with its file there: made now where that was left for when it is wanted.

        Args:
            info: The row.
            engine: The base model that it fits, where that is loaded elsewhere.
            progress: Told at every step.
            cancel: Stops between chunks.

        Raises:
            LibraryError: The text is gone.
            ModelError: The base model is not on this machine.
            HypernetworkError: The hypernetwork that made it is not, or not as it was.
            Cancelled: `cancel` was set.
        """
        if info.whole_made:
            return info
        from localhyper.whole_document import make_whole

        with contextlib.ExitStack() as stack:
            engine = engine or self._engine_for(info, stack, progress)
            bundle = self._hypernets.made_by(info.hypernet_sha256, engine.info, info.hypernet_name)
            network = self._hypernets.load(bundle, engine.info, progress)
            folder = self.paths.chunk_cache_dir
            return make_whole(info, engine, network, self.library, folder, progress, cancel).adapter

    def _engine_for(self, info: AdapterInfo, stack: contextlib.ExitStack, progress: ProgressCallback) -> Engine:
        """The base model of an adapter: the one that is set, or another one for as long as it takes."""
        with contextlib.suppress(ModelError):  # the one that is set need not be here
            if info.base_fingerprint == self.base_info.fingerprint:
                return self.engine(progress)
        from localhyper.llama_engine import LlamaEngine
        from localhyper.present_bases import base_with

        base, _ = base_with(info.base_fingerprint, self.registry)
        if base is None:
            raise ModelError(
                f"the base model of `{info.name}`, `{info.base_name}`, is not on this machine",
                "`localhyper models list` shows what is known",
            )
        progress(Progress("load", 0, 0, base.name))
        return stack.enter_context(LlamaEngine.load(base.path, EngineConfig(**dataclasses.asdict(self.config.engine))))

    def options(self, name: str = "", rank: int | None = None) -> AttachOptions:
        """How adapters are made, as set; `rank` None = as set."""
        settings = self.config.adapter
        dtype = cast("Dtype", settings.dtype)
        wanted = settings.rank_budget if rank is None else rank
        return AttachOptions(
            wanted,
            name,
            dtype,
            self.paths.chunk_cache_dir,
            settings.chunk_rank,
            settings.chunk_tokens,
            whole=not settings.choose_chunk,
        )

    def read(
        self,
        request: JobRequest,
        *,
        password: str = "",
        progress: ProgressCallback = ignore_progress,
        cancel: CancelToken | None = None,
    ) -> Document:
        """The document of a request: its text, or its file or folder; of a task, its description from text or file.

        Raises:
            SourceError: Nothing readable there.
        """
        from localhyper.sources import read_any, read_text

        progress(Progress("read", 0, 0, request.source or "text"))
        is_task = request.kind == "task"
        if request.text or (is_task and not request.source):
            return (
                _task(request.text) if is_task else read_text(request.text, request.name or _first_words(request.text))
            )
        if is_task and os.path.isdir(request.source):
            raise SourceError(f"`{request.source}` is a folder, wanted the file of a description", "name a file in it")
        read = read_any(request.source, limits=self._read_limits(), password=password, progress=progress, cancel=cancel)
        return dataclasses.replace(_task(read.text), origin=read.origin, notes=read.notes) if is_task else read

    def _read_limits(self) -> ReadLimits:
        from localhyper.sources import ReadLimits

        return ReadLimits(**dataclasses.asdict(self.config.source))

    def find_request(
        self, request: JobRequest, document: Document, *, cancel: CancelToken | None = None
    ) -> AttachResult | None:
        """The adapter that was made of exactly this before; None where it has to be made, and can be.

        Raises:
            LocalHyperError: There is no hypernetwork for it, or the wanted name is impossible or taken.
        """
        options, bundle = self._options_of(request), self.bundle_of(request.kind, request.hypernet)
        if bundle.embedding is None:
            return find_attached(document, self.base_info, bundle, self.library, options)
        from localhyper.task_pipeline import find_task
        from localhyper.task_vector import find_source

        source = find_source(self.registry, bundle, None, cancel=cancel)
        return find_task(document, self.base_info, bundle, source.digest, self.library, options)

    def _options_of(self, request: JobRequest) -> AttachOptions:
        return self.options(request.name, None if request.rank < 0 else request.rank)

    def attach_request(
        self,
        request: JobRequest,
        document: Document,
        *,
        progress: ProgressCallback = ignore_progress,
        cancel: CancelToken | None = None,
    ) -> Attached:
        """Attach what `read` made of a request, as the request says.

        Raises:
            LocalHyperError: Whatever the pipeline, the models or the library raise.
        """
        options = self._options_of(request)
        how = self.attach_task if request.kind == "task" else self.attach
        return how(document, options, hypernet=request.hypernet, progress=progress, cancel=cancel)

    def attach(
        self,
        document: Document,
        options: AttachOptions,
        *,
        hypernet: str = "",
        progress: ProgressCallback = ignore_progress,
        cancel: CancelToken | None = None,
    ) -> Attached:
        """Attach a document; the models are loaded only when it has not been attached before.

        Raises:
            LocalHyperError: Whatever the pipeline, the models or the library raise.
        """
        return self._attach(self.bundle_of("document", hypernet), document, options, progress, cancel)

    def _attach(
        self,
        bundle: BundleInfo,
        document: Document,
        options: AttachOptions,
        progress: ProgressCallback,
        cancel: CancelToken | None,
    ) -> Attached:
        """With a hypernetwork that reads activations."""
        started = time.perf_counter()
        found = find_attached(document, self.base_info, bundle, self.library, options)
        if found is not None and (found.adapter.whole_made or not options.whole):
            return Attached(found, time.perf_counter() - started)
        loading = time.perf_counter()
        engine, hypernetwork = self.engine(progress), self.load_hypernetwork(bundle, progress)
        loaded = time.perf_counter() - loading
        if not self._is_found_again(engine.info, bundle):
            options = dataclasses.replace(options, whole=True)
        result = attach_document(document, engine, hypernetwork, self.library, options, progress, cancel)
        self._remember_time(result)
        return Attached(result, time.perf_counter() - started, loaded, notes=result.adapter.notes)

    def _is_found_again(self, base: BaseModelInfo, bundle: BundleInfo) -> bool:
        """Whether another run finds both models, to make a whole when it is wanted: not if only a path named them."""
        from localhyper.base_header import read_base_info
        from localhyper.present_bases import base_with

        here = base_with(base.fingerprint, self.registry)[0] is not None
        with contextlib.suppress(ModelError):  # the settings may name it by its path
            here = (
                here or read_base_info(self.registry.find_base(self.config.base.name)).fingerprint == base.fingerprint
            )
        return here and self._hypernets.is_here(bundle, base)

    def attach_task(
        self,
        document: Document,
        options: AttachOptions,
        embedding: Path | None = None,
        *,
        hypernet: str = "",
        progress: ProgressCallback = ignore_progress,
        cancel: CancelToken | None = None,
    ) -> Attached:
        """Attach a task description (`task_pipeline.task_document`); nothing is loaded where that was done before.

        Where the hypernetwork reads activations of the base model, it is attached like any document. Where it reads a
        vector of the description, that comes from the file `embedding`, else from the embedder that the bundle names.

        Raises:
            LocalHyperError: Whatever the pipeline, the models or the library raise.
        """
        from localhyper.task_pipeline import attach_vector, find_task
        from localhyper.task_vector import find_source, make_vector

        bundle = self.bundle_of("task", hypernet)
        if bundle.embedding is None and embedding is None:
            return self._attach(bundle, document, options, progress, cancel)
        started = time.perf_counter()
        source = find_source(self.registry, bundle, embedding, progress, cancel)
        found = find_task(document, self.base_info, bundle, source.digest, self.library, options)
        if found is not None:
            return Attached(found, time.perf_counter() - started)
        settings = self.config.hypernet
        vector = make_vector(
            source,
            document,
            bundle,
            threads=settings.threads,
            providers=settings.providers,
            progress=progress,
            cancel=cancel,
        )
        loading = time.perf_counter()
        hypernetwork = self.load_hypernetwork(bundle, progress)
        loaded = time.perf_counter() - loading
        if cancel is not None:
            cancel.check()
        result = attach_vector(document, vector, self.base_info, hypernetwork, self.library, options, progress)
        return Attached(result, time.perf_counter() - started, loaded, notes=result.adapter.notes)

    def _remember_time(self, result: AttachResult) -> None:
        """So that the next attach can be told beforehand how long it takes."""
        adapter = result.adapter
        chunks = result.read_chunks
        seconds = sum(spent for stage, spent in result.timings.items() if stage != "learn")
        times = AttachTimes(self.library.database)
        times.record(adapter.base_fingerprint, adapter.hypernet_sha256, chunks, seconds)

    def uses(
        self,
        wanted: Sequence[str],
        *,
        whole: bool = False,
        progress: ProgressCallback = ignore_progress,
        cancel: CancelToken | None = None,
    ) -> tuple[tuple[str, AdapterUse], ...]:
        """`NAME`, `NAME@SCALE` or a `.gguf` file each, as (name, use) in the same order; `whole` makes missing files.

        Raises:
            LibraryError: No such adapter, or its file is gone.
            ConfigError: A scale that is no number.
        """
        found = []
        for text in wanted:
            name, use, info = self._use(text)
            if whole and info is not None:
                self.made_whole(info, progress=progress, cancel=cancel)
            found.append((name, use))
        return tuple(found)

    def _use(self, text: str) -> tuple[str, AdapterUse, AdapterInfo | None]:
        name, scale = parse_use(text)
        path = Path(name).expanduser()
        if path.suffix == ".gguf":
            if not path.is_file():
                raise AdapterError(f"adapter file `{name}` does not exist", "`localhyper adapters list` shows names")
            return path.stem, AdapterUse(path.resolve(), scale), None
        info = self.library.get(name)
        self._check_usable(info)
        return info.name, AdapterUse(info.path, scale), info

    def merge(
        self,
        wanted: Sequence[str],
        rank: int | None = None,
        *,
        progress: ProgressCallback = ignore_progress,
        cancel: CancelToken | None = None,
    ) -> tuple[Merged, tuple[MergeSource, ...]]:
        """Sum adapters (`NAME`, `NAME@SCALE` or a `.gguf` file each) at a rank budget; None = as set, 0 = exactly.

        What the budget takes away is measured in the moments of the inputs where all were made by one hypernetwork
        that is here, and in the plain norm elsewhere.

        Raises:
            AdapterError: Adapters of several base models, or damaged ones.
            LibraryError: No such adapter, or its file is gone.
            ConfigError: A scale that is no number.
        """
        from localhyper.adapter_merge import MergeSource, common_fingerprint, merge_adapters
        from localhyper.present_bases import base_with

        sources = tuple(
            MergeSource(name, use.path, use.scale, self._row_of(use.path))
            for name, use in self.uses(wanted, whole=True, progress=progress, cancel=cancel)
        )
        fingerprint = common_fingerprint(sources)
        base, _ = base_with(fingerprint, self.registry)
        budget = self.config.adapter.rank_budget if rank is None else rank
        summed = sum(source.info.rank if source.info else budget + 1 for source in sources)
        metrics = self._metrics(sources) if 0 < budget < summed else {}
        return merge_adapters(sources, budget, base=base, metrics=metrics), sources

    def _only_tasks(self, uses: Sequence[AdapterUse]) -> bool:
        """Whether adapters made of task descriptions act, and no others."""
        acting = {use.path for use in uses if use.scale != 0}
        return bool(acting) and acting <= {info.path for info in self.library.list() if info.kind == "task"}

    def _row_of(self, path: Path) -> AdapterInfo | None:
        return next((info for info in self.library.list() if info.path == path), None)

    def _metrics(self, sources: Sequence[MergeSource]) -> Mapping[str, Metric]:
        """The moments of the one hypernetwork that made all of them, where its bundle is on this machine."""
        made = {source.info.hypernet_sha256 if source.info else "" for source in sources}
        try:
            if made != {self.bundle.sha256}:
                return {}
            from localhyper.hypernet import OnnxHypernetwork

            return OnnxHypernetwork.load(self.bundle.path).metrics()
        except LocalHyperError:
            return {}

    def import_adapter(self, path: Path, *, name: str = "", base: str = "") -> Imported:
        """Take a PEFT folder or a GGUF adapter into the library.

        Args:
            path: The folder or file.
            name: Wanted name; empty = its own.
            base: Base model to check against; empty = the one it names, else the one that is set.

        Raises:
            AdapterError: Damaged, of another kind, or for another base model.
            ModelError: The base model is not on this machine.
            LibraryError: The name is impossible or taken.
        """
        from localhyper.adapter_import import ImportOptions, import_adapter

        return import_adapter(path, self.library, self.registry, ImportOptions(base, self._base, name))

    def _check_usable(self, info: AdapterInfo) -> None:
        if not info.usable:
            raise LibraryError(
                f"the file of adapter `{info.name}` is missing or damaged: `{info.path}`", "attach or import it again"
            )


def parse_use(text: str) -> tuple[str, float]:
    """`NAME` or `NAME@SCALE` as (name, scale).

    Raises:
        ConfigError: No name, or a scale that is no number from -100 to 100.
    """
    name, mark, scale = text.rpartition("@")
    if not mark:
        return text, 1.0
    try:
        value = float(scale)
    except ValueError:
        value = float("nan")
    if not name or not abs(value) <= SCALE_LIMIT:
        raise ConfigError(
            f"`{text[:80]}` is not `NAME` or `NAME@SCALE`",
            f"a scale is a number from -{SCALE_LIMIT:g} to {SCALE_LIMIT:g}",
        )
    return name, value


def _task(text: str) -> Document:
    from localhyper.task_pipeline import task_document

    return task_document(text)


def _first_words(text: str) -> str:
    return " ".join(text.split()[:6])[:60] or "text"
