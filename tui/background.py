"""Work for which a screen must not wait: disk and database, in a thread, with the outcome back in the app's thread."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TypeVar

from textual.widget import Widget

from .host_events import Failure

T = TypeVar("T")
_log = logging.getLogger(__name__)


def in_background(
    widget: Widget,
    work: Callable[[], T],
    done: Callable[[T], object] | None = None,
    *,
    failed: Callable[[Failure], object] | None = None,
    group: str = "disk",
    latest: bool = False,
) -> None:
    """Do `work` in a thread, then `done` or `failed` here, unless the widget has gone meanwhile.

    Args:
        widget: Whose business it is.
        work: Touches no widget.
        done: Gets the result.
        failed: Gets an error that the user can meet; by default it becomes a notification. A defect of the program
            opens the dialog.
        group: Names the kind of work.
        latest: Whether only the last outcome of the group counts.
    """

    async def run() -> None:
        try:
            result = await asyncio.to_thread(work)
        except Exception as error:  # shown one way or the other; the app goes on
            _failed(widget, Failure.of(error), error, failed)
            return
        if done is not None and widget.is_attached:
            outcome = done(result)
            if asyncio.iscoroutine(outcome):
                await outcome

    # A function and not yet a coroutine: it may be cancelled before it begins. The worker's type has no word for None.
    widget.run_worker(run, group=group, exclusive=latest, exit_on_error=False, description=group)  # type: ignore[arg-type]


def _failed(widget: Widget, failure: Failure, error: Exception, failed: Callable[[Failure], object] | None) -> None:
    if failure.unexpected:
        _log.error("background work failed", exc_info=error)
        from .app import show_failure

        show_failure(widget.app, failure)
    if not widget.is_attached:
        return
    if failed is not None:
        failed(failure)
    elif not failure.unexpected:
        notify_failure(widget, failure)


def notify_failure(widget: Widget, failure: Failure) -> None:
    """An error that the user can meet, as a notification: what, and what to do."""
    text = "\n".join(filter(None, [failure.message, failure.hint]))
    widget.notify(text, severity="error", markup=False, timeout=10)
