"""What boxes that a text is typed into have in common: new lines, and pastes that are files or steer the terminal."""

from __future__ import annotations

from pathlib import Path

from textual import events
from textual.widgets import TextArea

from .words import dropped_paths, visible


class WritingBox(TextArea):
    """A text area whose enter key is somebody else's.

    Priority bindings run ahead of keys that wait in this widget's queue, so actions of subclasses queue up behind them
    with `call_later`: else fast typing loses its last letters, or the whole text, on a busy machine.
    """

    def action_newline(self) -> None:
        """Insert a line break at the cursor."""
        self.call_later(self._break_line)

    def _break_line(self) -> None:
        self.insert("\n")
        self.scroll_cursor_visible()

    def take_files(self, paths: tuple[Path, ...], text: str) -> None:
        """Files were dropped: `text`, which is not in the box, is their paths."""
        raise NotImplementedError

    async def _on_paste(self, event: events.Paste) -> None:
        """Files dropped on the terminal arrive as a pasted path; a pasted text must not steer the terminal."""
        if paths := dropped_paths(event.text):
            event.stop()
            event.prevent_default()
            self.take_files(paths, event.text)
        elif (text := visible(event.text.replace("\r\n", "\n").replace("\r", "\n"))) != event.text:
            event.stop()
            event.prevent_default()
            self.insert(text)
