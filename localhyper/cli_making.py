"""One source or one task attached, with progress and notes on stderr: for `attach`, `ask` and `chat`."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from localhyper.cli_output import ProgressView, chunks, note
from localhyper.engine import AdapterUse
from localhyper.errors import ConfigError, LibraryError, LocalHyperError
from localhyper.jobs import Job, JobQueue, JobRequest, JobRunner
from localhyper.progress import CancelToken, ProgressCallback
from localhyper.sources.document import Document
from localhyper.workbench import Attached, Workbench

STDIN = "-"


@dataclass(frozen=True)
class Report:
    """One attached source."""

    attached: Attached
    read_seconds: float


def source_request(source: str, **common: str) -> JobRequest:
    """A file, folder or stdin as a request that means the same in every folder."""
    return JobRequest(source=source if source == STDIN else _absolute(source), rank=-1, **common)


def task_request(task: str, **common: str) -> JobRequest:
    """A description as it is written on the command line: the text itself, a file behind an `@`, or stdin."""
    if task == STDIN:
        return JobRequest(source=STDIN, rank=-1, kind="task", **common)
    if task.startswith("@"):
        return JobRequest(source=_absolute(task[1:]), rank=-1, kind="task", **common)
    return JobRequest(text=task, rank=-1, kind="task", **common)


def _absolute(path: str) -> str:
    return os.path.abspath(Path(path).expanduser())


def attach_source(bench: Workbench, request: JobRequest, password: str, token: CancelToken) -> Report:
    """Read and attach one document as a job of the queue.

    Raises:
        LocalHyperError: Whatever reading or attaching raises.
    """
    with ProgressView() as view:
        started = time.perf_counter()
        document = bench.read(request, password=password, progress=view, cancel=token)
        read_seconds = time.perf_counter() - started
        for remark in document.notes:
            note(f"note: {remark}")
        if request.source == STDIN:
            request = dataclasses.replace(request, source="", text=document.text)
        return Report(_run_job(bench, request, document, view, token), read_seconds)


def _run_job(
    bench: Workbench, request: JobRequest, document: Document, view: ProgressView, token: CancelToken
) -> Attached:
    queue = JobQueue(bench.library.database)
    made: list[Attached] = []
    errors: list[LocalHyperError] = []

    def work(job: Job, report: ProgressCallback, cancel: CancelToken) -> int:
        try:
            made.append(bench.attach_request(request, document, progress=report, cancel=cancel))
        except LocalHyperError as error:
            errors.append(error)
            raise
        return made[0].result.adapter.id

    queue.recover()
    job = queue.submit(request)
    ended = JobRunner(queue, work, view).run(job.id, token)
    if errors:
        raise errors[0]
    if ended is None or not made:
        raise LibraryError(
            f"`{document.title}` is being attached by another localhyper (job {job.id})", "wait until it is done"
        )
    return made[0]


def attach_description(
    bench: Workbench,
    request: JobRequest | None,
    token: CancelToken,
    embedding: Path | None = None,
    *,
    examples: Path | None = None,
    name: str = "",
) -> Report:
    """Read and attach the description of a task, with examples from a file; it takes a moment and is no job.

    `request` is None where there are examples alone, which `name` is for.

    Raises:
        LocalHyperError: Whatever reading or attaching raises.
    """
    with ProgressView() as view:
        started = time.perf_counter()
        document = _read_task(bench, request, examples, view, token)
        read_seconds = time.perf_counter() - started
        given = embedding.expanduser() if embedding is not None else None
        hypernet = request.hypernet if request is not None else ""
        attached = bench.attach_task(
            document, bench.options(name), given, hypernet=hypernet, progress=view, cancel=token
        )
    for remark in attached.result.adapter.notes:
        note(f"note: {remark}")
    return Report(attached, read_seconds)


def _read_task(
    bench: Workbench, request: JobRequest | None, examples: Path | None, view: ProgressView, token: CancelToken
) -> Document:
    from localhyper.example_files import read_examples
    from localhyper.task_examples import described
    from localhyper.task_pipeline import task_document, with_examples

    found = read_examples(examples.expanduser()) if examples is not None else ()
    if request is None:
        return task_document(described("", found))
    document = bench.read(request, progress=view, cancel=token)
    return with_examples(document, found) if found else document


def attach_for_question(
    bench: Workbench,
    documents: Sequence[str],
    task: str | None,
    examples: Path | None,
    password: str,
    token: CancelToken,
) -> tuple[tuple[str, AdapterUse], ...]:
    """Attach what a question is asked about, and say so; the adapters to use, in the library as with `attach`.

    Raises:
        LocalHyperError: Whatever reading or attaching raises.
    """
    requests = [source_request(source) for source in documents]
    told = task_request(task) if task is not None else None
    if sum(request is not None and request.source == STDIN for request in (*requests, told)) > 1:
        raise ConfigError("only one of --document and --task can be `-`", "stdin can be read once")
    used: dict[Path, tuple[str, AdapterUse]] = {}

    def use(report: Report) -> None:
        adapter = report.attached.result.adapter
        note(f"{adapter.name}: {adapter.tokens:,} tokens, {chunks(adapter.chunks)}" + _again(report))
        used[adapter.path] = (adapter.name, AdapterUse(adapter.path))  # a document named twice is one adapter

    for request in requests:
        use(attach_source(bench, request, password, token))
    if told is not None or examples is not None:
        use(attach_description(bench, told, token, examples=examples))
    return tuple(used.values())


def _again(report: Report) -> str:
    return ", attached before" if report.attached.result.reused else ""
