"""The native side as the engine thread knows it: a model to load, documents and tasks to plan and to attach.

`WorkbenchRoom` is the real one, over `localhyper.workbench`; heavy imports happen in its methods, so in that thread.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Protocol

from localhyper.attach_times import AttachTimes
from localhyper.bundle import BundleInfo
from localhyper.chunk_choice import Choose
from localhyper.config import Config
from localhyper.engine import Engine
from localhyper.errors import ModelError
from localhyper.jobs import JobRequest
from localhyper.paths import Paths
from localhyper.progress import CancelToken, ProgressCallback
from localhyper.sources.document import Document
from localhyper.workbench import Workbench

from .host_events import AttachPlan

_log = logging.getLogger(__name__)


class ModelRoom(Protocol):
    """One base model with what belongs to it. One thread owns it; only `read` may run in another."""

    def check(self, config: Config) -> None:
        """Whether the model that the settings name can be loaded, before the one in memory is given up.

        Raises:
            ModelError: It is not on this machine, is damaged, or too big for the memory there is.
        """
        ...

    def load(self, config: Config, report: ProgressCallback) -> Engine:
        """Load the model that the settings name."""
        ...

    def choosing(self, report: ProgressCallback, cancel: CancelToken) -> Choose:
        """Which of the adapters in force answer a question, as the settings say; one not made yet is made."""
        ...

    def free(self) -> None:
        """Free the models. Calling it twice is harmless."""
        ...

    def read(self, request: JobRequest, password: str, report: ProgressCallback, cancel: CancelToken) -> Document:
        """The document of a request; touches no model."""
        ...

    def plan(self, request: JobRequest, document: Document, cancel: CancelToken) -> AttachPlan:
        """What attaching what was read of a request takes; the model is loaded."""
        ...

    def attach(self, request: JobRequest, document: Document, report: ProgressCallback, cancel: CancelToken) -> int:
        """Attach what was read and return the adapter's number in the library; the model is loaded."""
        ...


class WorkbenchRoom:
    """`ModelRoom` over one `Workbench` at a time."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._bench: Workbench | None = None

    def check(self, config: Config) -> None:
        """See `ModelRoom.check`: the memory that the model in use will give back counts as free."""
        from localhyper.base_header import read_base_header
        from localhyper.memory_check import available_memory

        bench = self._make(config)
        header = read_base_header(bench.registry.find_base(config.base.name))
        available = available_memory()
        if available is None:
            return
        needed = _needed(config, bench)
        held = self._held()
        if needed > available + held:
            raise ModelError(
                f"base model `{header.info.name}` needs {needed >> 20:,} MB of memory, "
                f"{(available + held) >> 20:,} MB are free or will be",
                "lower `engine.n_ctx`, choose a smaller model, or close other programs",
            )

    def _held(self) -> int:
        """Bytes that giving up the model in memory frees; its weights are file pages, which count as free already."""
        if self._bench is None:
            return 0
        return max(0, _needed(self._bench.config, self._bench) - self._bench.base_info.size_bytes)

    def load(self, config: Config, report: ProgressCallback) -> Engine:
        """See `ModelRoom.load`; looks for the file anew, so one fetched since is found."""
        self.free()
        bench = self._make(config)
        engine = bench.engine(report)
        self._bench = bench
        return engine

    def _make(self, config: Config) -> Workbench:
        return Workbench(self._paths, config)

    def choosing(self, report: ProgressCallback, cancel: CancelToken) -> Choose:
        """See `ModelRoom.choosing`."""
        return self._loaded().choosing(report, cancel)

    def free(self) -> None:
        """See `ModelRoom.free`."""
        bench, self._bench = self._bench, None
        if bench is not None:
            bench.close()

    def _loaded(self) -> Workbench:
        if self._bench is None:
            raise ModelError("the model is not loaded", "open Models and choose one")
        return self._bench

    def read(self, request: JobRequest, password: str, report: ProgressCallback, cancel: CancelToken) -> Document:
        """See `ModelRoom.read`."""
        return self._loaded().read(request, password=password, progress=report, cancel=cancel)

    def plan(self, request: JobRequest, document: Document, cancel: CancelToken) -> AttachPlan:
        """See `ModelRoom.plan`."""
        bench = self._loaded()
        found = bench.find_request(request, document, cancel=cancel)
        is_task = request.kind == "task"
        plan = _plan_task(bench, request, document) if is_task else _plan_document(bench, request, document, cancel)
        return replace(plan, reused=found.adapter.name if found is not None else "")

    def attach(self, request: JobRequest, document: Document, report: ProgressCallback, cancel: CancelToken) -> int:
        """See `ModelRoom.attach`."""
        attached = self._loaded().attach_request(request, document, progress=report, cancel=cancel)
        _log.info("attached `%s` in %.1f s", attached.result.adapter.name, attached.seconds)
        return attached.result.adapter.id


def _plan_document(bench: Workbench, request: JobRequest, document: Document, cancel: CancelToken) -> AttachPlan:
    from localhyper.chunking import cut_document

    engine, bundle = bench.engine(), bench.bundle_of("document", request.hypernet)
    sizes = bench.options().cut_sizes(bundle)
    cut = cut_document(document, engine.tokenize, engine.detokenize, sizes, cancel=cancel)
    chunks, tokens = len(cut.chunks), sum(len(chunk.token_ids) for chunk in cut.summed)
    return AttachPlan(tokens, chunks, cut.size, _seconds(bench, bundle, chunks), bundle.name)


def _plan_task(bench: Workbench, request: JobRequest, document: Document) -> AttachPlan:
    """Of a description as much is read as goes into one chunk; examples come on top."""
    from localhyper.chunking import first_tokens
    from localhyper.task_examples import UNDESCRIBED, read_task_text

    bundle = bench.bundle_of("task", request.hypernet)
    if bundle.embedding is not None:
        return AttachPlan(0, 1, bundle.chunk_tokens, None, bundle.name)
    task = read_task_text(document.text)
    told = document.text if bundle.reads_examples else task.description or UNDESCRIBED
    ids, cut = first_tokens(told, bench.engine().tokenize, bundle.chunk_tokens)
    spent = None if task.examples else _seconds(bench, bundle, 1)
    return AttachPlan(len(ids), 1, bundle.chunk_tokens, spent, bundle.name, cut=cut, examples=len(task.examples))


def _seconds(bench: Workbench, bundle: BundleInfo, chunks: int) -> float | None:
    """What so many chunks take, by earlier attaches."""
    times = AttachTimes(bench.library.database)
    return times.expect(bench.base_info.fingerprint, bundle.sha256, chunks)


def _needed(config: Config, bench: Workbench) -> int:
    from localhyper.base_header import read_base_header
    from localhyper.llama_engine import memory_needed

    header = read_base_header(bench.registry.find_base(config.base.name))
    most = header.info.context_length
    window = min(config.engine.n_ctx or most, most)
    return memory_needed(header, window, config.engine.kv_type)
