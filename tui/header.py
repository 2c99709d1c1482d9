"""The line on top: program, place and model on the left; speed on the right."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.widgets import Static

from .app_state import AppState


class HeaderBar(Horizontal):
    """Shows what is loaded and how fast it was last."""

    DEFAULT_CSS = """
    HeaderBar { height: 1; padding: 0 1; background: $panel; color: $foreground; }
    HeaderBar #place { width: auto; text-style: bold; padding-right: 2; }
    HeaderBar #model { width: 1fr; text-wrap: nowrap; text-overflow: ellipsis; }
    HeaderBar #speed { width: auto; text-align: right; padding-left: 2; }
    """

    def __init__(self, state: AppState, place: str = "localhyper") -> None:
        super().__init__()
        self._state = state
        self._place = place

    def compose(self) -> ComposeResult:
        """Three cells of plain text."""
        yield Static(self._place, id="place", markup=False)
        yield Static("", id="model", markup=False)
        yield Static("", id="speed", markup=False)

    def on_mount(self) -> None:
        """There before any model is."""
        self._state.model_changed.subscribe(self, lambda _: self._show())
        self._show()

    def _show(self) -> None:
        self.query_one("#model", Static).update(self._state.model_line)
        self.query_one("#speed", Static).update(self._state.speed)
