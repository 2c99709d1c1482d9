"""What attaching some files or folders would take, found out step by step: read, then count. Knows no widget."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from localhyper.sources.document import Document

from .host_events import AttachPlan, Failure
from .job_board import clock
from .words import plain

_NOTES_SHOWN = 6


@dataclass
class Preview:
    """One source: as far as it is known.

    Attributes:
        reading: What is being read now.
    """

    path: Path
    reading: str = ""
    document: Document | None = None
    plan: AttachPlan | None = None
    failure: Failure | None = None

    @property
    def lines(self) -> list[str]:
        """What is known, for people."""
        name = plain(self.path.name or str(self.path))
        if self.failure is not None:
            return [
                f"! {plain(self.failure.message)}",
                *([f"  {plain(self.failure.hint)}"] if self.failure.hint else []),
            ]
        if self.document is None:
            return [f"{name}: reading {plain(self.reading)}".rstrip() + "…"]
        lines = [f"{name}: {self._size(self.document)}"]
        if self.plan is not None and self.plan.reused:
            lines.append(f"attached before as “{plain(self.plan.reused)}”: costs nothing")
        notes = self.document.notes
        lines += [f"left out: {plain(note)}" for note in notes[:_NOTES_SHOWN]]
        if len(notes) > _NOTES_SHOWN:
            lines.append(f"and {len(notes) - _NOTES_SHOWN} more notes; the library shows them all")
        return lines

    def _size(self, document: Document) -> str:
        pages = f"{document.pages} page{'s' if document.pages != 1 else ''}, " if document.pages else ""
        if self.plan is None:
            return f"{document.kind}, {pages}{len(document.text):,} characters; counting tokens…"
        chunks = f"{self.plan.chunks:,} chunk{'s' if self.plan.chunks != 1 else ''}"
        return (
            f"{document.kind}, {pages}{self.plan.tokens:,} tokens → {chunks} of up to {self.plan.chunk_tokens} tokens"
        )


def summary(previews: list[Preview], base: str) -> list[str]:
    """All sources, then the time they take together; `base` is what the user calls the base model."""
    lines = [line for preview in previews for line in preview.lines]
    plans = [preview.plan for preview in previews if preview.plan is not None and not preview.plan.reused]
    if not plans:
        return lines
    known = [plan.seconds for plan in plans if plan.seconds is not None]
    if len(known) == len(plans):
        lines.append(f"takes about {clock(sum(known))} on this machine, by earlier attaches")
    else:
        lines.append("time: not known before the first attach on this machine; the job shows it after 3 chunks")
    lines.append(f"base {plain(base)}, hypernetwork {plain(plans[0].hypernetwork)}")
    return lines
