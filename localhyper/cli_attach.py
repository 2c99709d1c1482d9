"""`localhyper attach`: documents into adapters, one job each in the queue, stopped and gone on with at will.

A task description (`--task`) takes a moment and is no job.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from localhyper.cli_options import BaseOption, HypernetOption, JsonOption, adapter_json, open_workbench
from localhyper.cli_output import ProgressView, chunks, note, put, put_json, seconds, size, stage_times, stop_on_signals
from localhyper.errors import ConfigError, LibraryError, LocalHyperError, SourceError
from localhyper.jobs import Job, JobQueue, JobRequest, JobRunner
from localhyper.progress import CancelToken, ProgressCallback
from localhyper.sources.document import Document
from localhyper.task_pipeline import task_document
from localhyper.workbench import Attached, Workbench

STDIN = "-"


@dataclass(frozen=True)
class _Report:
    """One attached source."""

    attached: Attached
    read_seconds: float


def attach(
    sources: Annotated[
        list[str] | None, typer.Argument(metavar="SOURCE...", help="Files, folders, or `-` for stdin.")
    ] = None,
    text: Annotated[str, typer.Option(help="Attach this text instead of a file.")] = "",
    task: Annotated[
        str | None, typer.Option(metavar="TEXT|@FILE|-", help="Attach a task by its description instead of a document.")
    ] = None,
    embedding: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --task: the description's vector, .npy or JSON.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the adapter; default: from the title.")] = "",
    rank: Annotated[
        int | None, typer.Option(min=0, max=4096, help="Rank budget; 0 = no recompression; default: as set.")
    ] = None,
    password: Annotated[str, typer.Option(help="For encrypted PDFs; never stored.", envvar="LOCALHYPER_PASSWORD")] = "",
    base: BaseOption = "",
    hypernet: HypernetOption = "",
    as_json: JsonOption = False,
) -> None:
    """Turn each SOURCE into an adapter in the library.

    Ctrl+C stops at a safe point; the same command goes on from the finished chunks. A source that was attached before
    with the same base model, hypernetwork and rank costs nothing.

    With --task, the adapter is made from the description of a task, by a hypernetwork for tasks.
    """
    if task is not None:
        _check_task_options(bool(sources or text), rank)
        report = _attach_task(task, embedding, name, base, hypernet)
        if as_json:
            put_json([_as_json(report)])
        else:
            _show(report)
        return
    if embedding is not None:
        raise ConfigError("--embedding goes with --task", '`localhyper attach --task "…" --embedding vector.npy`')
    requests = _requests(sources or [], text, name, base, hypernet, rank)
    token = CancelToken()
    reports: list[_Report] = []
    failures: list[LocalHyperError] = []
    with open_workbench(base, hypernet) as bench, stop_on_signals(token):
        for request in requests:
            try:
                reports.append(_attach_one(bench, request, password, token))
            except SourceError as error:
                if len(requests) == 1:
                    raise
                failures.append(error)
                note(f"left out: {error.message}" + (f" ({error.hint})" if error.hint else ""))
            else:
                if not as_json:
                    _show(reports[-1])
    if as_json:
        put_json([_as_json(report) for report in reports])
    if failures:
        raise SourceError(f"{len(failures)} of {len(requests)} sources could not be attached", failures[-1].hint)


def _requests(sources: list[str], text: str, name: str, base: str, hypernet: str, rank: int | None) -> list[JobRequest]:
    if bool(sources) == bool(text):
        raise ConfigError("give either SOURCE or --text", "`localhyper attach lease.pdf`")
    if name and len(sources) > 1:
        raise ConfigError("--name goes with one SOURCE", "attach them one by one, or leave --name out")
    common = {"name": name, "base": base, "hypernet": hypernet}
    number = -1 if rank is None else rank
    if text:
        return [JobRequest(text=text, rank=number, **common)]
    return [
        JobRequest(
            source=source if source == STDIN else os.path.abspath(Path(source).expanduser()), rank=number, **common
        )
        for source in sources
    ]


def _check_task_options(document: bool, rank: int | None) -> None:
    if document:
        raise ConfigError("--task stands alone, without SOURCE and --text", "attach the document by itself")
    if rank is not None:
        raise ConfigError("--rank goes with documents: a task's adapter has its hypernetwork's rank", "leave it out")


def _attach_task(task: str, embedding: Path | None, name: str, base: str, hypernet: str) -> _Report:
    """Read and attach one task description."""
    token = CancelToken()
    with open_workbench(base, hypernet, kind="task") as bench, stop_on_signals(token), ProgressView() as view:
        started = time.perf_counter()
        document = _task_document(bench, task, view, token)
        read_seconds = time.perf_counter() - started
        given = embedding.expanduser() if embedding is not None else None
        attached = bench.attach_task(document, bench.options(name), given, progress=view, cancel=token)
    for remark in attached.result.adapter.notes:
        note(f"note: {remark}")
    return _Report(attached, read_seconds)


def _task_document(bench: Workbench, task: str, view: ProgressView, token: CancelToken) -> Document:
    """The description: the text itself, a file behind an `@`, or stdin."""
    if task != STDIN and not task.startswith("@"):
        return task_document(task)
    source = STDIN if task == STDIN else os.path.abspath(Path(task[1:]).expanduser())
    if source != STDIN and os.path.isdir(source):
        raise SourceError(f"`{task}` is a folder, wanted the file of a description", "write --task @FILE")
    request = JobRequest(source=source)
    document = bench.read(request, progress=view, cancel=token)
    return replace(task_document(document.text), origin=document.origin, notes=document.notes)


def _attach_one(bench: Workbench, request: JobRequest, password: str, token: CancelToken) -> _Report:
    """Read and attach one source as a job of the queue."""
    with ProgressView() as view:
        started = time.perf_counter()
        document = bench.read(request, password=password, progress=view, cancel=token)
        read_seconds = time.perf_counter() - started
        for remark in document.notes:
            note(f"note: {remark}")
        if request.source == STDIN:
            request = JobRequest(text=document.text, name=request.name, base=request.base, hypernet=request.hypernet,
                                 rank=request.rank)  # fmt: skip
        return _Report(_run_job(bench, request, document, view, token), read_seconds)


def _run_job(
    bench: Workbench, request: JobRequest, document: Document, view: ProgressView, token: CancelToken
) -> Attached:
    queue = JobQueue(bench.library.database)
    made: list[Attached] = []
    errors: list[LocalHyperError] = []

    def work(job: Job, report: ProgressCallback, cancel: CancelToken) -> int:
        options = bench.options(request.name, None if request.rank < 0 else request.rank)
        try:
            made.append(bench.attach(document, options, progress=report, cancel=cancel))
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


def _show(report: _Report) -> None:
    adapter, result = report.attached.result.adapter, report.attached.result
    if result.reused:
        put(f"{adapter.name}  attached before, nothing to do")
    elif adapter.kind == "task":
        put(f"{adapter.name}  task, rank {adapter.rank}, {size(adapter.size_bytes)}")
        note(f"made in {seconds(report.attached.seconds)}: {stage_times(_timings(report))}")
    else:
        put(
            f"{adapter.name}  {adapter.tokens:,} tokens, {chunks(adapter.chunks)}, rank {adapter.rank}, "
            f"{adapter.energy_kept:.1%} of the energy kept, {size(adapter.size_bytes)}"
        )
        again = f", {chunks(result.resumed_chunks)} kept from before" if result.resumed_chunks else ""
        note(f"made in {seconds(report.attached.seconds)}{again}: {stage_times(_timings(report))}")
    put(str(adapter.path))


def _timings(report: _Report) -> dict[str, float]:
    times = {"read": report.read_seconds, "load": report.attached.load_seconds}
    return {**times, **report.attached.result.timings}


def _as_json(report: _Report) -> dict[str, object]:
    result = report.attached.result
    return {
        **adapter_json(result.adapter),
        "reused": result.reused,
        "resumed_chunks": result.resumed_chunks,
        "seconds": round(report.attached.seconds + report.read_seconds, 4),
        "timings": {stage: round(value, 4) for stage, value in _timings(report).items()},
    }
