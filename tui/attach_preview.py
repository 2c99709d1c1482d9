"""What attaching documents or a task would take, found out step by step: read, then count. Knows no widget."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from localhyper.jobs import JobRequest
from localhyper.sources.document import Document

from .host_events import AttachPlan, Failure
from .job_board import clock
from .words import plain

_NOTES_SHOWN = 6


@dataclass
class Preview:
    """One source: as far as it is known.

    Attributes:
        request: What it is, without the name it will get.
        reading: What is being read now.
    """

    request: JobRequest
    reading: str = ""
    document: Document | None = None
    plan: AttachPlan | None = None
    failure: Failure | None = None

    @property
    def is_task(self) -> bool:
        """Whether this is the description of a task."""
        return self.request.kind == "task"

    @property
    def path(self) -> Path:
        """Where the document lies."""
        return Path(self.request.source)

    @property
    def name(self) -> str:
        """What people know it by."""
        return "task" if self.is_task else plain(self.path.name or str(self.path))

    @property
    def lines(self) -> list[str]:
        """What is known, for people."""
        if self.failure is not None:
            hint = plain(self.failure.hint).replace("another --name", "another name")
            return [f"! {plain(self.failure.message)}", *([f"  {hint}"] if hint else [])]
        if self.document is None:
            return [f"{self.name}: reading {plain(self.reading)}".rstrip() + "…"]
        lines = [f"{self.name}: {self._size(self.document)}"]
        if self.plan is not None and self.plan.cut:
            lines.append("! what comes after them will not be read: say it in fewer words")
        if self.plan is not None and self.plan.reused:
            lines.append(f"attached before as “{plain(self.plan.reused)}”: costs nothing")
        notes = self.document.notes
        lines += [f"left out: {plain(note)}" for note in notes[:_NOTES_SHOWN]]
        if len(notes) > _NOTES_SHOWN:
            lines.append(f"and {len(notes) - _NOTES_SHOWN} more notes; the library shows them all")
        return lines

    def _size(self, document: Document) -> str:
        kind = "" if self.is_task else f"{document.kind}, "
        pages = f"{document.pages} page{'s' if document.pages != 1 else ''}, " if document.pages else ""
        if self.plan is None:
            return f"{kind}{pages}{len(document.text):,} characters; counting tokens…"
        if self.is_task:
            return _read_of_task(document, self.plan)
        chunks = f"{self.plan.chunks:,} chunk{'s' if self.plan.chunks != 1 else ''}"
        return f"{kind}{pages}{self.plan.tokens:,} tokens → {chunks} of up to {self.plan.chunk_tokens} tokens"


def _read_of_task(document: Document, plan: AttachPlan) -> str:
    if not plan.tokens:
        return f"{len(document.text):,} characters, read by an embedding model"
    read = f"the first {plan.tokens:,} tokens are read" if plan.cut else f"{plan.tokens:,} tokens, read as one piece"
    if not plan.examples:
        return read
    return f"{read}; {plan.examples:,} example{'s' if plan.examples != 1 else ''} to learn"


def summary(previews: list[Preview], base: str) -> list[str]:
    """All sources, then the time they take together; `base` is what the user calls the base model."""
    lines = [line for preview in previews for line in preview.lines]
    plans = [preview.plan for preview in previews if preview.plan is not None and not preview.plan.reused]
    if not plans:
        return lines
    known = [plan.seconds for plan in plans if plan.seconds is not None]
    if len(known) == len(plans):
        span = f"about {clock(sum(known))}" if sum(known) >= 1 else "less than a second"
        lines.append(f"takes {span} on this machine, by earlier attaches")
    elif not any(preview.is_task for preview in previews):
        lines.append("time: not known before the first attach on this machine; the job shows it after 3 chunks")
    lines.append(f"base {plain(base)}, hypernetwork {plain(plans[0].hypernetwork)}")
    return lines
