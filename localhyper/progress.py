"""Progress and cancellation: values the pipeline reports with, knowing nothing of who watches."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from localhyper.errors import Cancelled


@dataclass(frozen=True)
class Progress:
    """One report.

    Attributes:
        stage: Pipeline stage: `read`, `chunk`, `encode`, `generate`, `merge`, `write`, or of a
            fetch `wait`, `download`, `check`, `copy`.
        done: Finished items of this stage.
        total: Items of this stage; 0 while unknown.
        item: What is being worked on, for people.
        eta_seconds: Estimated seconds left, from a moving window; None while unknown.
    """

    stage: str
    done: int
    total: int
    item: str = ""
    eta_seconds: float | None = None


ProgressCallback = Callable[[Progress], None]


def ignore_progress(progress: Progress) -> None:
    """A callback for callers that do not watch."""


class CancelToken:
    """Set from any thread; read between tokens and chunks by the thread that works."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """Ask the work to stop at the next safe point."""
        self._event.set()

    def wait(self, seconds: float) -> None:
        """Do nothing for a while.

        Raises:
            Cancelled: A stop was asked for, before or meanwhile.
        """
        self._event.wait(seconds)
        self.check()

    @property
    def cancelled(self) -> bool:
        """Whether a stop was asked for."""
        return self._event.is_set()

    def check(self) -> None:
        """Raise `Cancelled` if a stop was asked for."""
        if self.cancelled:
            raise Cancelled("stopped", "run the same command again to go on from the finished chunks")


def wait(seconds: float, cancel: CancelToken | None) -> None:
    """Do nothing for a while; raises `Cancelled` as soon as a stop is asked for."""
    (cancel or CancelToken()).wait(seconds)
