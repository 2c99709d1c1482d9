"""Shows what is typed or pasted into a one-line box without letting it steer the terminal; its value stays as it is."""

from __future__ import annotations

from rich.highlighter import Highlighter
from rich.text import Text

from .words import visible


class Harmless(Highlighter):
    """For `Input(highlighter=…)`: a mark for each character that steers a terminal."""

    def __call__(self, text: str | Text) -> Text:
        """The same number of characters, so that the cursor stands right."""
        return Text(visible(str(text)), no_wrap=True, overflow="ignore", end="")

    def highlight(self, text: Text) -> None:
        """Nothing is coloured."""
