"""From token bytes to text that may be shown: whole UTF-8 characters, no control characters, no stop string.

Pure text: knows no tokens and no model.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

_CONTROL = dict.fromkeys(code for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n")


class TextStream:
    """Feed bytes, get text that is safe to show; `stopped` is set once a stop string has come.

    Text that could still become a stop string, and the first bytes of a character, are held back until more is known.
    A single space before everything else is left out: a document's adapter says words as they are in the text, after a
    space.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        # A document or a model must not be able to drive the terminal: no escape sequences, only tabs and line ends.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = tuple(text for text in stop if text)
        self._held = ""
        self._start: str | None = ""  # what has come of a start that may be a single space; None = it is past
        self.stopped = False

    def feed(self, data: bytes) -> str:
        """Text that can be shown now."""
        return "" if self.stopped else self._shown(self._release(self._decoder.decode(data)))

    def finish(self) -> str:
        """What was held back, at the end; half a character becomes U+FFFD."""
        if self.stopped:
            return ""
        shown = self._release(self._decoder.decode(b"", True))
        held, self._held = self._held, ""
        return self._shown(shown + ("" if self.stopped else held))

    def _shown(self, text: str) -> str:
        text = text.translate(_CONTROL)
        if self._start is None:
            return text
        self._start += text
        if self._start in ("", " "):
            return ""
        begun, self._start = self._start, None
        return begun[1:] if begun[0] == " " and not begun[1].isspace() else begun

    def _release(self, text: str) -> str:
        self._held += text
        found = [(at + len(stop), at) for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if found:  # the one that is complete first, as if the text came letter by letter
            shown, self._held, self.stopped = self._held[: min(found)[1]], "", True
            return shown
        keep = max((_overlap(self._held, stop) for stop in self._stop), default=0)
        shown, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return shown


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a true beginning of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
