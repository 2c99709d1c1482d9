"""A dialog for one line of text: a new name, a place to export to."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Static

from .harmless import Harmless
from .words import plain


class TextDialog(ModalScreen[str | None]):
    """Asks for a text; dismissed with it, or with None."""

    DEFAULT_CSS = """
    TextDialog { align: center middle; }
    TextDialog > Vertical { width: 90%; max-width: 76; height: auto; padding: 0 2; border: round $border;
                            background: $surface; }
    TextDialog #help { color: $text-muted; height: auto; margin-bottom: 1; }
    TextDialog #buttons { height: auto; align-horizontal: right; }
    TextDialog Button { margin-left: 2; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "Cancel", id="text.cancel", tooltip="Leave everything as it is"),
    ]

    def __init__(self, title: str, value: str, *, help_text: str = "", button: str = "OK") -> None:
        super().__init__()
        self._title, self._value, self._help, self._button = title, plain(value), help_text, button

    def compose(self) -> ComposeResult:
        """The text, what it is for, two buttons."""
        with Vertical() as box:
            box.border_title = Content(self._title)
            yield Input(self._value, highlighter=Harmless())
            yield Static(self._help, id="help", markup=False)
            with Horizontal(id="buttons"):
                yield Button("Cancel", id="cancel")
                yield Button(self._button, id="ok", variant="primary")

    def on_mount(self) -> None:
        """Typing replaces what is there."""
        self.query_one("#help").display = bool(self._help)
        self.query_one(Input).focus()

    def on_input_submitted(self) -> None:
        """Enter says yes."""
        self._accept()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """So does the button."""
        if event.button.id == "ok":
            self._accept()
        else:
            self.dismiss(None)

    def _accept(self) -> None:
        if text := self.query_one(Input).value.strip():
            self.dismiss(text)
