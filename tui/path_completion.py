"""Files and folders that go on from what stands after `@` in the question. Looks at one folder at a time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from textual.content import Content
from textual.fuzzy import FuzzySearch
from textual.message import Message
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from .background import in_background
from .words import plain

MOST_SHOWN = 8
_MOST_SCANNED = 5000


@dataclass(frozen=True)
class Candidate:
    """A file or folder to choose. `text` is what would stand after `@`."""

    path: Path
    text: str
    is_folder: bool


def candidates(typed: str, start: Path) -> tuple[Candidate, ...]:
    """What a half-typed path can go on with, the best first: names that begin so, then fuzzy ones.

    Args:
        typed: What stands after `@`: relative to `start`, absolute, or from `~`.
        start: The folder that a relative path begins in.
    """
    head, slash, tail = typed.rpartition("/")
    folder = Path(head + slash).expanduser() if head + slash else start
    if not folder.is_absolute():
        folder = start / folder
    fuzzy = FuzzySearch()
    found: list[tuple[float, str, Candidate]] = []
    try:
        with os.scandir(folder) as entries:
            for number, entry in enumerate(entries):
                if number >= _MOST_SCANNED:
                    break
                score = _score(fuzzy, tail, entry.name)
                if score > 0:
                    is_folder = entry.is_dir()
                    text = head + slash + entry.name + ("/" if is_folder else "")
                    found.append((-score, entry.name.casefold(), Candidate(Path(entry.path), text, is_folder)))
    except OSError:
        return ()
    return tuple(candidate for _, _, candidate in sorted(found, key=lambda each: each[:2])[:MOST_SHOWN])


def _score(fuzzy: FuzzySearch, typed: str, name: str) -> float:
    if name.startswith(".") and not typed.startswith("."):
        return 0.0
    if not typed:
        return 1.0
    if name.casefold().startswith(typed.casefold()):
        return 1000.0
    return fuzzy.match(typed, name)[0]


class PathCompletion(OptionList):
    """The list above the question box; the box keeps the focus and drives it."""

    DEFAULT_CSS = """
    PathCompletion { height: auto; max-height: 10; display: none; border: round $foreground-muted; padding: 0 1;
                     background: $surface; }
    PathCompletion.-open { display: block; }
    """
    can_focus = False

    @dataclass
    class Chosen(Message):
        """The user took a file or folder."""

        candidate: Candidate

    def __init__(self) -> None:
        super().__init__()
        self._found: tuple[Candidate, ...] = ()
        self.border_title = "@ attach a file or folder"
        self.border_subtitle = "tab go on, enter attach, esc close"

    @property
    def is_open(self) -> bool:
        """Whether there is anything to choose now."""
        return self.has_class("-open")

    def look(self, typed: str, start: Path) -> None:
        """Offer what goes on from `typed`."""
        in_background(self, lambda: candidates(typed, start), self._show, group="completion", latest=True)

    def _show(self, found: Sequence[Candidate]) -> None:
        self._found = tuple(found)
        self.set_options(Option(Content(_label(candidate))) for candidate in found)
        self.highlighted = 0 if found else None
        self.set_class(bool(found), "-open")

    def close_list(self) -> None:
        """Offer nothing."""
        self.workers.cancel_group(self, "completion")
        self._found = ()
        self.remove_class("-open")

    @property
    def current(self) -> Candidate | None:
        """What is highlighted."""
        index = self.highlighted
        return self._found[index] if self.is_open and index is not None and index < len(self._found) else None

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """A click takes it."""
        event.stop()
        if event.option_index < len(self._found):
            self.post_message(self.Chosen(self._found[event.option_index]))


def _label(candidate: Candidate) -> str:
    return plain(candidate.path.name) + ("/" if candidate.is_folder else "")
