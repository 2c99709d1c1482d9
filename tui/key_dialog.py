"""Asks for one key press, to put it to something."""

from __future__ import annotations

from collections.abc import Sequence

from textual import events
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from .keys import KeyRow, clashes

DEFAULT = ""  # what the dialog is dismissed with to have the key of out of the box


class KeyDialog(ModalScreen[str | None]):
    """Dismissed with a key, with `DEFAULT`, or with None."""

    DEFAULT_CSS = """
    KeyDialog { align: center middle; }
    KeyDialog > Vertical { width: 90%; max-width: 64; height: auto; padding: 1 2; border: round $border;
                           background: $surface; }
    KeyDialog Static { height: auto; }
    """

    def __init__(self, row: KeyRow, rows: Sequence[KeyRow]) -> None:
        super().__init__()
        self._row, self._rows = row, rows
        self._chosen = ""

    def compose(self) -> ComposeResult:
        """What the key does, what it is, how to go on."""
        with Vertical() as box:
            box.border_title = Content(self._row.id)
            yield Static(self._row.what, markup=False)
            yield Static(f"now {self._row.key}, by default {self._row.default}\n", markup=False)
            yield Static("Press the new key. esc cancels, backspace gives the default back.", id="say", markup=False)

    def on_key(self, event: events.Key) -> None:
        """The first press chooses; where that key does something else already, a second one confirms."""
        event.stop()
        event.prevent_default()
        if event.key == "escape":
            self.dismiss(None)
        elif event.key == "backspace":
            self.dismiss(DEFAULT)
        elif (taken := clashes(self._rows, self._row.id, event.key)) and event.key != self._chosen:
            self._chosen = event.key
            self.query_one("#say", Static).update(
                f"{event.key} is {', '.join(taken)} already. Press it again to take it all the same, or another key."
            )
        else:
            self.dismiss(event.key)
