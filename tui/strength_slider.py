"""One number on a line, set by mouse or by whoever owns it: the strength of an adapter."""

from __future__ import annotations

from dataclasses import dataclass

from textual import events
from textual.content import Content
from textual.message import Message
from textual.widgets import Static

STEP = 0.1
LIMIT = 3.0


def limited(scale: float) -> float:
    """A strength on the slider's grid; -0.0 becomes 0.0."""
    return min(LIMIT, max(-LIMIT, round(scale, 1))) + 0.0


class StrengthSlider(Static):
    """A line from -3 to 3 with a knob; a click or a drag moves it."""

    DEFAULT_CSS = "StrengthSlider { height: 1; padding: 0 1; color: $text-accent; }"

    @dataclass
    class Moved(Message):
        """The user set a strength."""

        scale: float

    def __init__(self) -> None:
        super().__init__("", markup=False)
        self._scale = 1.0
        self._dragging = False
        self.tooltip = "Strength: 1 as made, 0 off, below 0 subtracted. Click or drag; left and right in the list"

    @property
    def _width(self) -> int:
        return max(9, self.content_size.width - 6)

    def show_scale(self, scale: float) -> None:
        """Put the knob to a strength."""
        self._scale = scale
        self._draw()

    def on_resize(self) -> None:
        """As wide as there is room."""
        self._draw()

    def _draw(self) -> None:
        width = self._width
        line = ["─"] * width
        for mark in (0.0, 1.0):
            line[self._cell(mark)] = "┼"
        line[self._cell(self._scale)] = "●"
        self.update(Content(f"{''.join(line)} {self._scale:+.1f}"))

    def _cell(self, scale: float) -> int:
        share = (min(LIMIT, max(-LIMIT, scale)) + LIMIT) / (2 * LIMIT)
        return round(share * (self._width - 1))

    def on_mouse_down(self, event: events.MouseDown) -> None:
        """Begin to drag."""
        self._dragging = True
        self.capture_mouse()
        self._move(event.get_content_offset_capture(self).x)

    def on_mouse_move(self, event: events.MouseMove) -> None:
        """Drag."""
        if self._dragging:
            self._move(event.get_content_offset_capture(self).x)

    def on_mouse_up(self) -> None:
        """Let go."""
        self._dragging = False
        self.release_mouse()

    def _move(self, x: int) -> None:
        scale = limited(-LIMIT + 2 * LIMIT * min(self._width - 1, max(0, x)) / (self._width - 1))
        if scale != self._scale:
            self.show_scale(scale)
            self.post_message(self.Moved(scale))
