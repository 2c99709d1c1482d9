"""Jobs as the screens show them: the stored row with the progress of this moment, and words for both. No widget."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from textual.content import Content

from localhyper.jobs import OPEN, Job
from localhyper.progress import Progress

from .host_events import JobAdvanced, JobChanged, JobEvent
from .words import plain

MARKS = {"queued": "…", "running": "▸", "paused": "‖", "done": "✓", "failed": "!", "cancelled": "x"}
_PAIR = ("encode", "generate")  # these two take turns with every chunk
_UNITS = {"learn": " readings"}
_BAR = 10
_SHORTEST_NAME = 8


@dataclass(frozen=True)
class JobView:
    """One job now. `job.progress` is as old as the last write to the database, `progress` is not."""

    job: Job
    progress: Progress

    @property
    def name(self) -> str:
        """What people know it by: the wanted name, the file's name, or the first words of the text."""
        request = self.job.request
        words = request.name or Path(request.source).name or request.source or " ".join(request.text.split())[:30]
        return plain(words) or "text"

    @property
    def stage(self) -> str:
        """The pipeline's word for what goes on, with how far it is."""
        done, total = self.progress.done, self.progress.total
        stage = " + ".join(_PAIR) if self.progress.stage in _PAIR else self.progress.stage
        unit = " chunks" if self.progress.stage in _PAIR else _UNITS.get(self.progress.stage, "")
        return f"{stage} {done} of {total}{unit}" if total > 1 else stage or "waiting"

    @property
    def percent(self) -> float | None:
        """Share of this stage, from what is counted; None while nothing is."""
        if self.progress.total <= 0:
            return None
        return 100.0 * self.progress.done / self.progress.total

    @property
    def state(self) -> str:
        """The job's state in a few words."""
        return self.states[0]

    @property
    def states(self) -> tuple[str, ...]:
        """The same in ever fewer words: what says again how far it is goes first, how long it takes goes last."""
        if self.job.state == "paused" and self.progress.total > 1:
            return (f"paused at {self.stage}",)
        if self.job.state != "running":
            return ({"queued": "waiting"}.get(self.job.state, self.job.state),)
        parts: tuple[list[str], ...] = ([self.bar, self.percent_text], [self.percent_text], [])
        told = (" ".join(filter(None, [self.stage, *part, self.left])) for part in parts)
        return tuple(dict.fromkeys(told))

    @property
    def percent_text(self) -> str:
        """One decimal, so that a long document is seen to move."""
        return "" if self.percent is None else f"{self.percent:.1f} %"

    @property
    def bar(self) -> str:
        """A bar of text, for one line."""
        if self.percent is None:
            return ""
        full = round(self.percent / 100 * _BAR)
        return "█" * full + "░" * (_BAR - full)

    @property
    def left(self) -> str:
        """Time left, once the pipeline knows it."""
        eta = self.progress.eta_seconds
        return "" if eta is None else f"{clock(eta)} left"


class JobBoard:
    """All jobs, kept up to date by events."""

    def __init__(self) -> None:
        self._views: dict[int, JobView] = {}

    def replace(self, jobs: Iterable[Job]) -> None:
        """What the database says; progress that is newer stays."""
        old = self._views
        self._views = {job.id: JobView(job, self._newest(old.get(job.id), job)) for job in jobs}

    @staticmethod
    def _newest(old: JobView | None, job: Job) -> Progress:
        return old.progress if old is not None and old.job.state == job.state == "running" else job.progress

    def apply(self, event: JobEvent) -> None:
        """What the engine thread says."""
        match event:
            case JobChanged(job):
                self._views[job.id] = JobView(job, self._newest(self._views.get(job.id), job))
            case JobAdvanced(number, progress):
                if (view := self._views.get(number)) is not None:
                    self._views[number] = replace(view, progress=progress)

    @property
    def views(self) -> tuple[JobView, ...]:
        """In the order they run."""
        return tuple(self._views[number] for number in sorted(self._views))

    @property
    def open(self) -> tuple[JobView, ...]:
        """Those that are not over."""
        return tuple(view for view in self.views if view.job.state in OPEN)

    @property
    def running(self) -> JobView | None:
        """The one under way."""
        return next((view for view in self.views if view.job.state == "running"), None)

    def get(self, number: int) -> JobView | None:
        """One job."""
        return self._views.get(number)

    def line(self, width: int = 0) -> str:
        """One line on what goes on, in at most so many cells where that can be; empty when nothing does.

        Args:
            width: 0 = as long as it is.
        """
        views, running = self.open, self.running
        if running is not None:
            mark, more = MARKS["running"], f", {len(views) - 1} more" if len(views) > 1 else ""
            for state in running.states:
                line = f"{mark} {running.name}: {state}{more}"
                longer = Content(line).cell_length - width
                if not width or longer <= 0:
                    return line
            name = Content(running.name)
            short = name.truncate(max(_SHORTEST_NAME, name.cell_length - longer), ellipsis=True)
            return f"{mark} {short.plain}: {state}{more}"
        if not views:
            return ""
        waiting = sum(view.job.state == "queued" for view in views)
        parts = [
            f"{waiting} waiting" if waiting else "",
            f"{len(views) - waiting} paused" if len(views) > waiting else "",
        ]
        return f"jobs: {', '.join(filter(None, parts))}"


def clock(seconds: float) -> str:
    """A span of time for people: `0:07`, `2:10`, `1:02:03`."""
    whole = max(0, round(seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
