"""The dialog for an unexpected error: what, where the log is, and details that can be copied."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Static, TextArea

from .engine_host import Failure


class ErrorDialog(ModalScreen[None]):
    """Shows one unexpected failure; closing it goes on where the user was."""

    DEFAULT_CSS = """
    ErrorDialog { align: center middle; }
    ErrorDialog > Vertical {
        width: 90%; max-width: 100; height: 90%; max-height: 30; padding: 0 2;
        border: round $error; background: $surface;
    }
    ErrorDialog #message { color: $text-error; height: auto; max-height: 4; }
    ErrorDialog #log { color: $text-muted; height: auto; }
    ErrorDialog #details { height: 1fr; }
    ErrorDialog #buttons { height: auto; align-horizontal: right; }
    ErrorDialog Button { margin-left: 2; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "Close", id="error.close", tooltip="Close this message and go on"),
    ]

    def __init__(self, failure: Failure, log_path: Path | None) -> None:
        super().__init__()
        self._failure = failure
        self._log_path = log_path

    def compose(self) -> ComposeResult:
        """Message, log, traceback, two buttons."""
        log = f"The app goes on. The log is {self._log_path}" if self._log_path else "The app goes on."
        with Vertical() as box:
            box.border_title = "Something unexpected happened"
            yield Static(self._failure.message, id="message", markup=False)
            yield Static(log, id="log", markup=False)
            yield TextArea(self._failure.details, id="details", read_only=True)
            with Horizontal(id="buttons"):
                yield Button("Copy details", id="copy", tooltip="Copy the details, for a bug report")
                yield Button("Close", id="close", variant="primary", tooltip="Go on")

    def on_mount(self) -> None:
        """The harmless button has the focus; the end of a traceback says most."""
        self.query_one("#close").focus()
        details = self.query_one("#details", TextArea)
        details.move_cursor(details.document.end)

    @on(Button.Pressed, "#copy")
    def copy_details(self) -> None:
        """Copy everything a report needs."""
        self.app.copy_to_clipboard(f"{self._failure.message}\nlog: {self._log_path}\n\n{self._failure.details}")

    @on(Button.Pressed, "#close")
    def close_dialog(self) -> None:
        """Go on."""
        self.dismiss(None)
