"""The box that a task is described in: several lines, enter is done. It knows nothing of what happens then."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message

from .writing_box import WritingBox


class TaskBox(WritingBox):
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
            placeholder="What to do, in a sentence or two: sort the words of the input.\n"
            "Input: pear fig      (then examples, blank lines between them)\nOutput: fig pear",
            highlight_cursor_line=False,
            id="task",
            tooltip="The task: enter makes an adapter of it, shift+enter or ctrl+j starts a new line",
        )
        self.border_subtitle = "enter make, shift+enter or ctrl+j new line"

    def action_done(self) -> None:
        """Say that the description is complete."""
        self.call_later(self.post_message, self.Done())

    def take_files(self, paths: tuple[Path, ...], text: str) -> None:
        """The description stands in the first of them."""
        self.post_message(self.Dropped(paths[0]))
