"""The box that a task is described in: several lines, enter is done. It knows nothing of what happens then."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import TextArea

from .words import dropped_paths, visible


class TaskBox(TextArea):
    """A text area with the keys of the question box."""

    DEFAULT_CSS = """
    TaskBox { height: auto; min-height: 5; max-height: 8; padding: 0 1; border: round $foreground-muted;
              background: transparent; border-subtitle-color: $foreground-muted; }
    TaskBox:focus { border: round $border; background: transparent; }
    """
    BINDING_GROUP_TITLE = "Task"
    # Priority, because the text area itself would take enter as a new line before any binding is asked.
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "done", "Make", show=False, priority=True, id="task.done", tooltip="Make an adapter of it"),
        Binding(
            "shift+enter,ctrl+j",
            "newline",
            "New line",
            show=False,
            priority=True,
            id="task.newline",
            tooltip="Start a new line in the description",
        ),
    ]

    class Done(Message):
        """The description is complete."""

    @dataclass
    class Dropped(Message):
        """A file was pasted or dropped: the description stands in it."""

        path: Path

    def __init__(self, text: str) -> None:
        super().__init__(
            text,
            placeholder="What the model should do, in a sentence or two:\nSort the words of the input alphabetically.",
            highlight_cursor_line=False,
            id="task",
            tooltip="The task: enter makes an adapter of it, shift+enter or ctrl+j starts a new line",
        )
        self.border_subtitle = "enter make, shift+enter or ctrl+j new line"

    def action_done(self) -> None:
        """Queue up behind the letters that were typed before, as in the question box."""
        self.call_later(self.post_message, self.Done())

    def action_newline(self) -> None:
        """Insert a line break at the cursor."""
        self.call_later(self._break_line)

    def _break_line(self) -> None:
        self.insert("\n")
        self.scroll_cursor_visible()

    async def _on_paste(self, event: events.Paste) -> None:
        """A file dropped on the terminal arrives as a pasted path; a pasted text must not steer the terminal."""
        if paths := dropped_paths(event.text):
            event.stop()
            event.prevent_default()
            self.post_message(self.Dropped(paths[0]))
            return
        text = visible(event.text.replace("\r\n", "\n").replace("\r", "\n"))
        if text != event.text:
            event.stop()
            event.prevent_default()
            self.insert(text)
