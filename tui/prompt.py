"""The box the question is typed into. Enter sends; it knows nothing of what happens then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import TextArea


class Prompt(TextArea):
    """A text area that grows with its text and posts `Sent`."""

    DEFAULT_CSS = """
    Prompt {
        height: auto; min-height: 3; max-height: 10; padding: 0 1;
        border: round $foreground-muted; background: transparent;
        border-subtitle-color: $foreground-muted; border-title-color: $foreground-muted;
    }
    Prompt:focus { border: round $border; background: transparent; }
    """
    BINDING_GROUP_TITLE = "Question"
    # Priority, because the text area itself would take enter as a new line before any binding is asked.
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "send", "Send", show=False, priority=True, id="prompt.send", tooltip="Ask the question"),
        Binding(
            "shift+enter,ctrl+j",
            "newline",
            "New line",
            show=False,
            priority=True,
            id="prompt.newline",
            tooltip="Start a new line in the question",
        ),
    ]

    @dataclass
    class Sent(Message):
        """The user sends `text` (stripped, not empty); the box is empty again."""

        text: str

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(
            placeholder="Ask…",
            compact=False,
            highlight_cursor_line=False,
            id=id,
            tooltip="Your question: enter sends, shift+enter or ctrl+j starts a new line",
        )
        self.border_subtitle = "enter send, shift+enter or ctrl+j new line"

    def action_send(self) -> None:
        """Post the text and clear the box.

        Priority bindings run ahead of keys that wait in this widget's queue, so both actions queue up behind them:
        else fast typing loses its last letters, or the whole question, on a busy machine.
        """
        self.call_later(self._send)

    def action_newline(self) -> None:
        """Insert a line break at the cursor."""
        self.call_later(self._break_line)

    def put_back(self, text: str) -> None:
        """Show a question again that could not be asked, before what was typed since."""
        self.insert(text, (0, 0), maintain_selection_offset=True)

    def _send(self) -> None:
        if text := self.text.strip():
            self.clear()
            self.post_message(self.Sent(text))

    def _break_line(self) -> None:
        self.insert("\n")
        self.scroll_cursor_visible()
