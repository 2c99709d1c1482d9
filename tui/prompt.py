"""The box the question is typed into. Enter sends; it knows nothing of what happens then."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message

from .path_completion import Candidate, PathCompletion
from .writing_box import WritingBox

_MENTION = re.compile(r"(?:^|(?<=\s))@(\S*)$")
_SUBTITLE = "enter send, shift+enter or ctrl+j new line, @ file"


class Prompt(WritingBox):
    """A text area that grows with its text and posts `Sent`, `Recall` and `Dropped`."""

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

    @dataclass
    class Recall(Message):
        """The user wants an earlier (-1) or later (+1) question back in the box, to change and ask it again."""

        direction: int

    @dataclass
    class Dropped(Message):
        """The user pasted or dropped files, or chose one after `@`; the text of it is not in the box."""

        paths: tuple[Path, ...]
        text: str = ""

    def __init__(self, completion: PathCompletion, start: Path, *, id: str | None = None) -> None:
        super().__init__(
            placeholder="Ask…",
            compact=False,
            highlight_cursor_line=False,
            id=id,
            tooltip="Your question: enter sends, shift+enter or ctrl+j starts a new line",
        )
        self._completion = completion
        self.start = start
        self._recalled = ""
        self._answers = Content("")
        self.border_subtitle = _SUBTITLE

    def action_send(self) -> None:
        """Post the text and clear the box."""
        self.call_later(self._send)

    def put_back(self, text: str) -> None:
        """Show a question again that could not be asked, before what was typed since."""
        self.insert(text, (0, 0), maintain_selection_offset=True)

    def recall(self, text: str, title: str) -> None:
        """Put an earlier question into the box."""
        self.text = self._recalled = text
        self.move_cursor(self.document.end)
        self.border_title = Content(title)
        self.border_subtitle = "enter ask again, ↑↓ other questions, esc leave it"

    def leave_recall(self) -> None:
        """The box is for new questions again."""
        self._recalled = ""
        self.border_subtitle = _SUBTITLE
        self.border_title = self._answers

    def show_answering(self, names: str) -> None:
        """Say which adapters will answer."""
        self._answers = Content(names)
        if not self._recalled:
            self.border_title = self._answers

    def _send(self) -> None:
        if self._completion.current is not None:
            self._take(self._completion.current, attach=True)
        elif text := self.text.strip():
            self.clear()
            self.post_message(self.Sent(text))

    # Earlier questions

    async def _on_key(self, event: events.Key) -> None:
        """Arrows go through the offers after `@`, or through earlier questions; the text area does everything else."""
        if self._completion.is_open and event.key in ("up", "down", "tab", "escape"):
            event.stop()
            event.prevent_default()
            self._complete(event.key)
        elif event.key in ("up", "down") and self._may_recall(event.key):
            event.stop()
            event.prevent_default()
            self.post_message(self.Recall(-1 if event.key == "up" else 1))

    def _may_recall(self, key: str) -> bool:
        """Only where nothing typed can be lost: an empty box, or a recalled question as it was."""
        if not self.text:
            return key == "up"
        row = self.cursor_location[0]
        at_edge = row == 0 if key == "up" else row == self.document.line_count - 1
        return bool(self._recalled) and self.text == self._recalled and at_edge

    # Files

    def on_text_area_changed(self) -> None:
        """Offer files while a path is being typed after `@`."""
        match = self._mention()
        if match is None:
            self._completion.close_list()
        else:
            self._completion.look(match[1], self.start)

    def _mention(self) -> re.Match[str] | None:
        row, column = self.cursor_location
        return _MENTION.search(self.document.get_line(row)[:column])

    def _complete(self, key: str) -> None:
        current = self._completion.current
        if key == "escape":
            self._completion.close_list()
        elif key == "tab" and current is not None:
            self._take(current, attach=not current.is_folder)
        elif key in ("up", "down"):
            self._completion.action_cursor_up() if key == "up" else self._completion.action_cursor_down()

    def take(self, candidate: Candidate) -> None:
        """Take an offer that was clicked."""
        self._take(candidate, attach=not candidate.is_folder)
        self.focus()

    def _take(self, candidate: Candidate, *, attach: bool) -> None:
        """Go on typing inside a folder, or attach and take the words out of the question."""
        match = self._mention()
        if match is None:
            return
        row, column = self.cursor_location
        begin = (row, match.start(1) - 1)
        self._completion.close_list()
        if attach:
            self.replace("", begin, (row, column))
            self.post_message(self.Dropped((candidate.path,)))
        else:
            self.replace(f"@{candidate.text}", begin, (row, column))

    def take_files(self, paths: tuple[Path, ...], text: str) -> None:
        """Attach them; the words are no question."""
        self.post_message(self.Dropped(paths, text))
