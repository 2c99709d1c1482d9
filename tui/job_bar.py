"""The line above the footer while documents are being attached."""

from __future__ import annotations

from textual import events
from textual.content import Content
from textual.widgets import Static

from .app_state import AppState


class JobBar(Static):
    """One line on what is being attached; not there when nothing is. A click opens the jobs."""

    DEFAULT_CSS = """
    JobBar { height: 1; padding: 0 1; background: $surface; color: $text-accent; display: none;
             text-wrap: nowrap; text-overflow: ellipsis; }
    JobBar.-busy { display: block; }
    """

    def __init__(self, state: AppState) -> None:
        super().__init__("", markup=False)
        self._state = state

    def on_mount(self) -> None:
        """Follow the board."""
        self._state.jobs_changed.subscribe(self, lambda _: self._show())
        self._show()

    def on_resize(self) -> None:
        """As much as there is room for."""
        self._show()

    def _show(self) -> None:
        before = f"{self._state.key('app.jobs')}  "
        line = self._state.board.line(max(0, self.content_size.width - Content(before).cell_length))
        self.set_class(bool(line), "-busy")
        self.update(Content(f"{before}{line}" if line else ""))

    async def on_click(self, event: events.Click) -> None:
        """Open the jobs."""
        event.stop()
        await self.run_action("app.jobs")
