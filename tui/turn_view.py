"""One turn as widgets: the question, the streamed reply with its status line, and a second reply beside it."""

from __future__ import annotations

import time

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.widgets import Markdown, Static
from textual.widgets.markdown import MarkdownStream

from .conversation import Turn, adapters_text, status_of
from .host_events import Failure

STOPPING = "stopping…"
_TICK_SECONDS = 0.25
_DRAW_SECONDS = 0.12


class ReplyView(Vertical):
    """One reply in Markdown as it comes, and a status line that is never silent."""

    DEFAULT_CSS = """
    ReplyView { width: 1fr; height: auto; }
    ReplyView Markdown { width: 1fr; padding: 0; margin: 0; background: transparent; }
    ReplyView .caption { display: none; color: $text-accent; text-style: bold; }
    ReplyView .status { height: auto; min-height: 1; color: $text-muted; }
    ReplyView .error { height: auto; color: $text-error; }
    """

    def __init__(self, turn: Turn) -> None:
        super().__init__()
        self.turn = turn
        self._phase = ""
        self._began = time.monotonic()
        self._pieces = 0
        self._stream: MarkdownStream | None = None
        self._undrawn = ""

    def compose(self) -> ComposeResult:
        """Caption (shown beside another reply), reply, status; what the model writes opens no links by itself."""
        yield Static(adapters_text(self.turn), classes="caption", markup=False)
        yield Markdown(self.turn.reply if self.turn.ended else "", open_links=False)
        yield Static("", classes="status", markup=False)

    def on_mount(self) -> None:
        """A clock beside the phase tells a slow prefill from a hang."""
        self._clock = self.set_interval(_TICK_SECONDS, self._show_phase, pause=self.turn.ended)
        if self.turn.ended:
            self._show_end()
        else:
            self._show_phase()

    def enter_phase(self, phase: str) -> None:
        """Say what the engine is doing for this reply now; once it is stopping, nothing else until it has stopped."""
        if self._phase != STOPPING:
            self._phase = phase
            self._show_phase()

    async def write(self, text: str) -> None:
        """Append a piece of the reply. Several are drawn at once: a frame a token would leave keys waiting."""
        if self._stream is None:
            self._stream = Markdown.get_stream(self.query_one(Markdown))
            self.enter_phase("writing")
            await self._stream.write(text)
        else:
            if not self._undrawn:
                self.set_timer(_DRAW_SECONDS, self._draw)
            self._undrawn += text
        self._pieces += 1

    async def _draw(self) -> None:
        text, self._undrawn = self._undrawn, ""
        if self._stream is not None and text:
            await self._stream.write(text)

    async def finish(self) -> None:
        """Show the whole reply once more, parsed as one text, and what it cost or why it failed."""
        self._clock.stop()
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.stop()
        # Appending splits the text at any place, so code fences and lists can come out wrong: parse it once whole.
        await self.query_one(Markdown).update(self.turn.reply)
        self._show_end()

    async def fail(self, failure: Failure) -> None:
        """Put an error in the place of the status line."""
        self.turn.problem = "\n".join(filter(None, [failure.message, failure.hint]))
        await self.finish()

    async def on_unmount(self) -> None:
        """A stream left behind would write into a widget that is gone."""
        if self._stream is not None:
            stream, self._stream = self._stream, None
            await stream.stop()

    def _show_end(self) -> None:
        status = self.query_one(".status, .error", Static)
        status.set_classes("error" if self.turn.problem else "status")
        status.update(f"! {self.turn.problem}" if self.turn.problem else status_of(self.turn))

    def _show_phase(self) -> None:
        seconds = time.monotonic() - self._began
        count = f", {self._pieces} token" + ("s" if self._pieces != 1 else "") if self._pieces else ""
        stop = "" if self._phase == STOPPING else ", esc stops"
        if self.is_mounted and self._phase:
            # Without a new layout, which costs as much as drawing a piece of the reply.
            self.query_one(".status", Static).update(f"{self._phase}{count}, {seconds:.0f} s{stop}", layout=False)


class TurnView(Vertical):
    """The question, and one reply or two side by side."""

    DEFAULT_CSS = """
    TurnView { height: auto; margin-bottom: 1; }
    TurnView Horizontal { height: auto; }
    TurnView .who { width: 7; color: $text-muted; }
    TurnView .question { width: 1fr; height: auto; text-style: bold; }
    TurnView.-pair .reply-label { display: none; }
    TurnView.-pair ReplyView { padding: 0 1; border-left: tall $foreground-muted; }
    TurnView.-pair ReplyView .caption { display: block; }
    """

    def __init__(self, turn: Turn, *others: Turn) -> None:
        super().__init__()
        self.turn = turn
        self._others = others

    def compose(self) -> ComposeResult:
        """Question, then replies."""
        with Horizontal():
            yield Static("You", classes="who", markup=False)
            yield Static(self.turn.question, classes="question", markup=False)
        with Horizontal(classes="replies"):
            yield Static("Reply", classes="who reply-label", markup=False)
            for turn in (self.turn, *self._others):
                yield ReplyView(turn)

    def on_mount(self) -> None:
        """Two replies stand side by side."""
        self.set_class(bool(self._others), "-pair")

    def reply(self, turn: Turn) -> ReplyView | None:
        """The view of one of the replies."""
        return next((view for view in self.query(ReplyView) if view.turn is turn), None)

    async def add_reply(self, turn: Turn) -> ReplyView:
        """A reply beside the first."""
        view = ReplyView(turn)
        self.add_class("-pair")
        await self.query_one(".replies").mount(view)
        return view

    async def drop_reply(self, turn: Turn) -> None:
        """Take a reply away again."""
        view = self.reply(turn)
        if view is not None:
            await view.remove()
        self.set_class(len(self.query(ReplyView)) > 1, "-pair")
