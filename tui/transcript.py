"""The conversation as widgets: questions, streamed replies with their status lines, errors, the empty state."""

from __future__ import annotations

import time

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.widgets import Markdown, Static
from textual.widgets.markdown import MarkdownStream

from .conversation import Turn, status_of
from .engine_host import Failure

STOPPING = "stopping…"
_MOST_TURNS_SHOWN = 50
_TICK_SECONDS = 0.25


class TurnView(Vertical):
    """One turn: the question, the reply in Markdown as it comes, and a status line that is never silent."""

    DEFAULT_CSS = """
    TurnView { height: auto; margin-bottom: 1; }
    TurnView Horizontal { height: auto; }
    TurnView .who { width: 7; color: $text-muted; }
    TurnView .question { width: 1fr; height: auto; text-style: bold; }
    TurnView Markdown { width: 1fr; padding: 0; margin: 0; background: transparent; }
    TurnView .status { height: auto; margin-left: 7; color: $text-muted; }
    TurnView .error { height: auto; margin-left: 7; color: $text-error; }
    """

    def __init__(self, turn: Turn) -> None:
        super().__init__()
        self.turn = turn
        self._phase = ""
        self._began = time.monotonic()
        self._pieces = 0
        self._stream: MarkdownStream | None = None

    def compose(self) -> ComposeResult:
        """Question, reply, status; what the model writes opens no links by itself."""
        with Horizontal():
            yield Static("You", classes="who", markup=False)
            yield Static(self.turn.question, classes="question", markup=False)
        with Horizontal():
            yield Static("Reply", classes="who", markup=False)
            yield Markdown("", open_links=False)
        yield Static("", classes="status", markup=False)

    def on_mount(self) -> None:
        """A clock beside the phase tells a slow prefill from a hang."""
        self._clock = self.set_interval(_TICK_SECONDS, self._show_phase)
        self._show_phase()

    def enter_phase(self, phase: str) -> None:
        """Say what the engine is doing for this reply now; once it is stopping, nothing else until it has stopped."""
        if self._phase != STOPPING:
            self._phase = phase
            self._show_phase()

    async def write(self, text: str) -> None:
        """Append a piece of the reply."""
        if self._stream is None:
            self._stream = Markdown.get_stream(self.query_one(Markdown))
            self.enter_phase("writing")
        self._pieces += 1
        await self._stream.write(text)

    async def finish(self) -> None:
        """Show the whole reply once more, parsed as one text, and what it cost."""
        await self._end_stream()
        self.query_one(".status", Static).update(status_of(self.turn))

    async def fail(self, failure: Failure) -> None:
        """Put an error in the place of the status line."""
        await self._end_stream()
        status = self.query_one(".status", Static)
        status.set_classes("error")
        status.update("\n".join(filter(None, [f"! {failure.message}", failure.hint])))

    async def on_unmount(self) -> None:
        """A stream left behind would write into a widget that is gone."""
        if self._stream is not None:
            stream, self._stream = self._stream, None
            await stream.stop()

    async def _end_stream(self) -> None:
        self._clock.stop()
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.stop()
        # Appending splits the text at any place, so code fences and lists can come out wrong: parse it once whole.
        await self.query_one(Markdown).update(self.turn.reply)

    def _show_phase(self) -> None:
        seconds = time.monotonic() - self._began
        count = f", {self._pieces} token" + ("s" if self._pieces != 1 else "") if self._pieces else ""
        stop = "" if self._phase == STOPPING else ", esc stops"
        if self.is_mounted and self._phase:
            self.query_one(".status", Static).update(f"{self._phase}{count}, {seconds:.0f} s{stop}")


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
        self.watch(self, "virtual_size", self._follow, init=False)

    def show_empty(self, text: str, *, problem: bool = False) -> None:
        """Set the text that stands here while there is no turn."""
        self.query_one("#empty", Static).update(text)
        self.set_class(problem, "-problem")

    async def add(self, view: TurnView) -> None:
        """Append a turn; the oldest views go when there are too many to draw quickly."""
        self.add_class("-filled")
        await self.mount(view)
        await self._prune()
        if self.is_anchored:
            self.anchor()  # a new question brings back a user who had scrolled up

    async def clear(self) -> None:
        """Back to the empty state."""
        await self.query(TurnView).remove()
        self._left_out = 0
        self.query_one("#left-out").display = False
        self.remove_class("-filled")

    async def drop_last(self) -> None:
        """Take the last turn away, to ask it again."""
        if views := list(self.query(TurnView)):
            await views[-1].remove()

    def on_resize(self) -> None:
        """More or fewer lines fit now."""
        self._follow()

    def _follow(self) -> None:
        """Anchor only a text longer than the view: textual 8.2.8 scrolls a shorter one to negative offsets."""
        too_long = self.virtual_size.height > self.container_size.height
        if too_long != self.is_anchored:
            self.anchor(too_long)
            if not too_long:
                self.scroll_y = self.scroll_target_y = 0

    async def _prune(self) -> None:
        surplus = list(self.query(TurnView))[:-_MOST_TURNS_SHOWN]
        if not surplus:
            return
        await self.remove_children(surplus)
        self._left_out += len(surplus)
        note = self.query_one("#left-out", Static)
        note.update(f"{self._left_out} earlier questions are not drawn; the model still reads them")
        note.display = True
