"""`localhyper attach`: documents into adapters, one job each in the queue, stopped and gone on with at will.

A task description (`--task`) takes a moment and is no job.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from localhyper.cli_making import Report, attach_description, attach_source, source_request, task_request
from localhyper.cli_options import (
    BaseOption,
    ExamplesOption,
    HypernetOption,
    JsonOption,
    PasswordOption,
    TaskOption,
    adapter_json,
    file_or_name,
    open_workbench,
)
from localhyper.cli_output import (
    beside,
    chunks,
    note,
    own_adapter,
    put,
    put_json,
    seconds,
    size,
    stage_times,
    stop_on_signals,
)
from localhyper.cli_output import examples as count_examples
from localhyper.errors import ConfigError, LocalHyperError, SourceError
from localhyper.jobs import JobRequest
from localhyper.progress import CancelToken


def attach(
    sources: Annotated[
        list[str] | None, typer.Argument(metavar="SOURCE...", help="Files, folders, or `-` for stdin.")
    ] = None,
    text: Annotated[str, typer.Option(help="Attach this text instead of a file.")] = "",
    task: TaskOption = None,
    examples: ExamplesOption = None,
    embedding: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --task: the description's vector, .npy or JSON.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the adapter; default: from the title.")] = "",
    rank: Annotated[
        int | None, typer.Option(min=0, max=4096, help="Rank budget; 0 = no recompression; default: as set.")
    ] = None,
    password: PasswordOption = "",
    base: BaseOption = "",
    hypernet: HypernetOption = "",
    as_json: JsonOption = False,
) -> None:
    """Turn each SOURCE into an adapter in the library.

    Ctrl+C stops at a safe point; the same command goes on from the finished chunks. A source that was attached before
    with the same base model, hypernetwork and rank costs nothing.

    With --task, the adapter is made from the description of a task, by a hypernetwork for tasks; with --examples it
    learns what they show, too, in seconds.
    """
    hypernet = file_or_name(hypernet)
    if task is not None or examples is not None:
        _check_task_options(bool(sources or text), rank)
        report = _attach_task(task, examples, embedding, name, base, hypernet)
        if as_json:
            put_json([_as_json(report)])
        else:
            _show(report)
        return
    if embedding is not None:
        raise ConfigError("--embedding goes with --task", '`localhyper attach --task "…" --embedding vector.npy`')
    requests = _requests(sources or [], text, name, base, hypernet, rank)
    token = CancelToken()
    reports: list[Report] = []
    failures: list[LocalHyperError] = []
    with open_workbench(base, hypernet) as bench, stop_on_signals(token):
        for request in requests:
            try:
                reports.append(attach_source(bench, request, password, token))
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
    if text:
        requests = [JobRequest(text=text)]
    else:
        requests = [source_request(source) for source in sources]
    number = -1 if rank is None else rank
    return [replace(request, name=name, base=base, hypernet=hypernet, rank=number) for request in requests]


def _check_task_options(document: bool, rank: int | None) -> None:
    if document:
        raise ConfigError("a task stands alone, without SOURCE and --text", "attach the document by itself")
    if rank is not None:
        raise ConfigError("--rank goes with documents: a task's adapter has its hypernetwork's rank", "leave it out")


def _attach_task(
    task: str | None, examples: Path | None, embedding: Path | None, name: str, base: str, hypernet: str
) -> Report:
    token, request = CancelToken(), task_request(task) if task is not None else None
    with open_workbench(base, hypernet, kind="task") as bench, stop_on_signals(token):
        return attach_description(bench, request, token, embedding, examples=examples, name=name)


def _show(report: Report) -> None:
    adapter, result = report.attached.result.adapter, report.attached.result
    if result.reused:
        put(f"{adapter.name}  attached before, nothing to do")
    elif adapter.kind == "task":
        learnt = f"{count_examples(result.examples)} learnt, " if result.examples else ""
        put(f"{adapter.name}  task, {learnt}rank {adapter.rank}, {size(adapter.size_bytes)}")
        note(f"made in {seconds(report.attached.seconds)}: {stage_times(_timings(report))}")
    else:
        made = own_adapter(adapter) or beside(adapter)
        put(f"{adapter.name}  {adapter.tokens:,} tokens, {chunks(adapter.chunks)}, {made}")
        if adapter.whole_made and adapter.chunk_files:
            note(beside(adapter))
        again = f", {chunks(result.resumed_chunks)} kept from before" if result.resumed_chunks else ""
        note(f"made in {seconds(report.attached.seconds)}{again}: {stage_times(_timings(report))}")
    put(str(adapter.place))


def _timings(report: Report) -> dict[str, float]:
    times = {"read": report.read_seconds, "load": report.attached.load_seconds}
    return {**times, **report.attached.result.timings}


def _as_json(report: Report) -> dict[str, object]:
    result = report.attached.result
    return {
        **adapter_json(result.adapter),
        "reused": result.reused,
        "resumed_chunks": result.resumed_chunks,
        "examples": result.examples,
        "seconds": round(report.attached.seconds + report.read_seconds, 4),
        "timings": {stage: round(value, 4) for stage, value in _timings(report).items()},
    }
