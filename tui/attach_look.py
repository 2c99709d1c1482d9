"""Reads what may be attached and has it counted, one source after the other, while the dialog stays usable.

Belongs to a widget and shows nothing itself. What was begun and is not wanted any more has no effect.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from textual.widget import Widget

from localhyper.jobs import JobRequest
from localhyper.progress import CancelToken, Progress
from localhyper.sources.document import Document

from .app_state import AppState
from .attach_preview import Preview
from .background import in_background
from .host_events import Failure, Planned, PlanRequest
from .services import Services


class Look:
    """One look at a time; `changed` is called whenever more is known.

    Args:
        widget: Whose business it is.
        services: Reads in threads, counts in the engine's thread.
        state: The settings in force.
        changed: Shows the previews.
    """

    def __init__(self, widget: Widget, services: Services, state: AppState, changed: Callable[[], None]) -> None:
        self._widget, self._services, self._state, self._changed = widget, services, state, changed
        self.previews: list[Preview] = []
        self._token = CancelToken()
        self._plan_id = 0
        self._password = self._name = ""

    @property
    def good(self) -> list[Preview]:
        """Those that nothing is known to be wrong with."""
        return [preview for preview in self.previews if preview.failure is None]

    @property
    def is_done(self) -> bool:
        """Whether all are known to be possible."""
        return bool(self.previews) and all(preview.plan is not None for preview in self.previews)

    def begin(self, requests: Sequence[JobRequest], password: str, name: str) -> None:
        """Look at these; `name` is the wanted one, checked where there is one source."""
        self.stop()
        self._token, self._password, self._name = CancelToken(), password, name
        self.previews = [Preview(request) for request in requests]
        self._changed()
        self._next()

    def count_again(self, hypernet: str, name: str) -> None:
        """Have what was read counted anew: another hypernetwork, or another name, is wanted."""
        self._services.host.cancel(self._plan_id)
        self._plan_id, self._name = 0, name
        for preview in self.previews:
            preview.request = replace(preview.request, hypernet=hypernet)
            if preview.document is not None:
                preview.plan = preview.failure = None
        self._changed()
        self._next()

    def stop(self) -> None:
        """Nothing goes on behind a closed dialog."""
        self._token.cancel()
        self._services.host.cancel(self._plan_id)
        self._plan_id = 0

    def _next(self) -> None:
        """Read the next source, or have the next text counted."""
        preview = self._waiting
        if preview is None:
            return
        if preview.document is not None:
            self._count(preview, preview.document)
        else:
            self._read(preview)

    @property
    def _waiting(self) -> Preview | None:
        return next((each for each in self.good if each.plan is None), None)

    def _read(self, preview: Preview) -> None:
        token, request, password = self._token, preview.request, self._password

        def report(progress: Progress) -> None:
            preview.reading = f"{progress.item} {progress.done} of {progress.total}" if progress.total else ""
            self._widget.app.call_later(self._changed)

        config = self._state.config
        in_background(
            self._widget,
            lambda: self._services.store.read(request, config, password, report, token),
            lambda document: self._was_read(token, preview, document),
            failed=lambda failure: self._failed(token, preview, failure),
            group="read",
        )

    def _was_read(self, token: CancelToken, preview: Preview, document: Document) -> None:
        if token is self._token and not token.cancelled:
            preview.document = document
            self._changed()
            self._next()

    def _failed(self, token: CancelToken, preview: Preview, failure: Failure) -> None:
        if token is self._token and not token.cancelled:
            preview.failure = failure
            self._changed()
            self._next()

    def _count(self, preview: Preview, document: Document) -> None:
        self._plan_id = self._state.next_request()
        wanted = replace(preview.request, name=self._name if len(self.previews) == 1 else "")
        self._services.host.plan(PlanRequest(self._plan_id, document, wanted))

    def planned(self, event: Planned) -> None:
        """The engine thread has counted."""
        preview = self._waiting
        if event.request_id != self._plan_id or preview is None:
            return
        preview.plan, preview.failure = event.plan, event.failure
        self._changed()
        self._next()
