"""The conversation as a list of turns that follows its end, and the empty state."""

from __future__ import annotations

from collections.abc import Sequence

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import Static

from .conversation import Turn
from .turn_view import ReplyView, TurnView

_MOST_TURNS_SHOWN = 50


class Transcript(VerticalScroll):
    """All turns, following the end until the user scrolls up."""

    DEFAULT_CSS = """
    Transcript { padding: 0 1; background: transparent; scrollbar-size-vertical: 1; }
    Transcript #empty { width: 100%; height: 100%; content-align: center middle; text-align: center;
                        color: $text-muted; }
    Transcript.-filled #empty { display: none; }
    Transcript.-problem #empty { color: $text-error; }
    Transcript #left-out { color: $text-muted; display: none; }
    """
    BINDING_GROUP_TITLE = "Conversation"

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._left_out = 0

    def compose(self) -> ComposeResult:
        """The empty state and the note on turns that are no longer drawn."""
        yield Static("", id="empty", markup=False)
        yield Static("", id="left-out", markup=False)

    def on_mount(self) -> None:
        """Follow the end as soon as there is one out of sight."""
        # Later, because the size of the view is set after the size of the text: in between, one is old and one new.
        self.watch(self, "virtual_size", self._follow_later, init=False)

    def show_empty(self, text: str, *, problem: bool = False) -> None:
        """Set the text that stands here while there is no turn."""
        self.query_one("#empty", Static).update(text)
        self.set_class(problem, "-problem")

    async def add(self, turn: Turn) -> ReplyView:
        """Append a turn, or a reply beside the one it repeats; the oldest go when there are too many to draw."""
        beside = self._view_of(turn.repeats) if turn.repeats is not None else None
        if beside is not None:
            view = await beside.add_reply(turn)
        else:
            self.add_class("-filled")
            whole = TurnView(turn)
            await self.mount(whole)
            await self._prune()
            view = whole.query_one(ReplyView)
        if self.is_anchored:
            self.anchor()  # a new question brings back a user who had scrolled up
        return view

    async def show(self, turns: Sequence[Turn]) -> None:
        """A whole conversation in place of this one."""
        await self.clear()
        views = [
            TurnView(turn, *(other for other in turns if other.repeats is turn))
            for turn in turns
            if turn.repeats is None
        ]
        if views:
            self.add_class("-filled")
            await self.mount_all(views[-_MOST_TURNS_SHOWN:])
            self._note_left_out(len(views[:-_MOST_TURNS_SHOWN]))

    async def clear(self) -> None:
        """Back to the empty state."""
        await self.query(TurnView).remove()
        self._left_out = 0
        self._note_left_out(0)
        self.remove_class("-filled")

    async def drop(self, turn: Turn) -> None:
        """Take a turn away, to ask it again."""
        beside = self._view_of(turn.repeats) if turn.repeats is not None else None
        if beside is not None:
            await beside.drop_reply(turn)
        elif (view := self._view_of(turn)) is not None:
            await view.remove()

    def _view_of(self, turn: Turn) -> TurnView | None:
        return next((view for view in reversed(self.query(TurnView)) if view.turn is turn), None)

    def on_resize(self) -> None:
        """More or fewer lines fit now."""
        self._follow()

    def _follow_later(self) -> None:
        self.call_later(self._follow)

    def _follow(self) -> None:
        """Anchor only a text longer than the view: textual 8.2.8 scrolls a shorter one to negative offsets."""
        too_long = self.virtual_size.height > self.container_size.height
        if too_long != self.is_anchored:
            self.anchor(too_long)
            if not too_long:
                self.scroll_y = self.scroll_target_y = 0

    async def _prune(self) -> None:
        surplus = list(self.query(TurnView))[:-_MOST_TURNS_SHOWN]
        if surplus:
            await self.remove_children(surplus)
            self._note_left_out(len(surplus))

    def _note_left_out(self, more: int) -> None:
        self._left_out += more
        note = self.query_one("#left-out", Static)
        note.update(f"{self._left_out} earlier questions are not drawn; the model still reads them")
        note.display = self._left_out > 0
