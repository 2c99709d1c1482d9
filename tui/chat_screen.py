"""The chat: header, adapters, transcript, prompt. It asks the engine host and shows what the host reports."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from textual import work
from textual.actions import SkipAction
from textual.app import ComposeResult, SystemCommand
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Footer

from localhyper.engine import Sampling

from . import engine_host as host_events
from .adapter_panel import AdapterList, AdapterPanel
from .adapter_source import AdapterRow
from .conversation import AttachedAdapter, Conversation, Turn
from .engine_host import AskRequest, Failure, HostEvent
from .error_dialog import ErrorDialog
from .header import HeaderBar
from .prompt import Prompt
from .services import Services
from .transcript import STOPPING, Transcript, TurnView

_AGAIN_TEMPERATURE = 0.7
_LOADING = "Loading the model…\n\nYou can type already: a question waits for the model."
_READY = "Ask anything: enter sends\n\nctrl+o adapters   ctrl+p commands   f1 keys"
_AFTER_REPAIR = "Then press enter on a question, or ctrl+p and “Load the model again”"


@dataclass
class ActiveReply:
    """The reply that is being made."""

    request_id: int
    turn: Turn
    view: TurnView


class ChatScreen(Screen[None]):
    """One conversation with one model."""

    DEFAULT_CSS = """
    ChatScreen #columns { height: 1fr; }
    ChatScreen #chat { width: 1fr; }
    ChatScreen Transcript { height: 1fr; }
    ChatScreen.-narrow AdapterPanel { display: none; }
    ChatScreen.-narrow.-panel AdapterPanel { display: block; }
    """
    AUTO_FOCUS = "Prompt"
    BINDING_GROUP_TITLE = "Chat"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop", "Stop", id="chat.stop", tooltip="Stop the reply that is being written"),
        Binding("escape", "back", "Back", show=False, id="chat.back", tooltip="Go back to the question"),
        Binding("ctrl+n", "new_chat", "New chat", id="chat.new", tooltip="Forget this conversation, start anew"),
        Binding("ctrl+o", "adapters", "Adapters", id="chat.adapters", tooltip="Choose the adapters that answer"),
        Binding(
            "ctrl+r", "regenerate", "Answer again", show=False, id="chat.again", tooltip="Make the last reply anew"
        ),
    ]

    class HostReported(Message, bubble=False):
        """Carries an event out of the engine thread."""

        def __init__(self, event: HostEvent) -> None:
            super().__init__()
            self.event = event

    class LibraryRead(Message, bubble=False):
        """Carries the adapters, or why there are none, out of the worker thread."""

        def __init__(self, rows: Sequence[AdapterRow], failure: Failure | None = None) -> None:
            super().__init__()
            self.rows = rows
            self.failure = failure

    def __init__(self, services: Services) -> None:
        super().__init__()
        self._services = services
        self._conversation = Conversation()
        self._active: ActiveReply | None = None
        self._request_ids = itertools.count(1)

    def compose(self) -> ComposeResult:
        """All there is, before any model."""
        yield HeaderBar()
        with Horizontal(id="columns"):
            if self._services.library_factory is not None:
                yield AdapterPanel(self._services.attached)
            with Vertical(id="chat"):
                yield Transcript()
                yield Prompt()
        yield Footer()

    def on_mount(self) -> None:
        """Start the engine thread once the first frame is on the screen: its imports take seconds."""
        self.query_one(Transcript).show_empty(_LOADING)
        self.call_after_refresh(self._start)

    def _start(self) -> None:
        self._services.host.start(lambda event: self.post_message(self.HostReported(event)))
        self.action_reload_library()

    # What the host reports

    async def on_chat_screen_host_reported(self, message: HostReported) -> None:
        """Show an event of the engine thread."""
        match message.event:
            case host_events.LoadStarted():
                self.query_one(HeaderBar).show_state("loading the model…")
                self.query_one(Transcript).show_empty(_LOADING)
            case host_events.LoadProgress(progress):
                self.query_one(HeaderBar).show_progress(progress)
            case host_events.Loaded() as loaded:
                self._show_loaded(loaded)
            case host_events.LoadFailed(failure):
                self._show_load_failure(failure)
            case _ as reply_event:
                await self._show_reply_event(reply_event)

    def _show_loaded(self, loaded: host_events.Loaded) -> None:
        self.query_one(HeaderBar).show_model(self._services.model_name or loaded.info.name, loaded.info, loaded.n_ctx)
        self.query_one(Transcript).show_empty(_READY)
        for panel in self.query(AdapterPanel):
            panel.set_base(loaded.info.fingerprint)

    def _show_load_failure(self, failure: Failure) -> None:
        self.query_one(HeaderBar).show_state("no model")
        text = "\n\n".join(filter(None, [f"! {failure.message}", failure.hint, _AFTER_REPAIR]))
        self.query_one(Transcript).show_empty(text, problem=True)
        self.show_unexpected(failure)

    async def _show_reply_event(self, event: HostEvent) -> None:
        """Show an event of the reply being made; those of replies given up earlier are of no interest."""
        active = self._active
        if active is None or getattr(event, "request_id", None) != active.request_id:
            return
        match event:
            case host_events.ReplyStarted():
                active.view.enter_phase("reading the question")
            case host_events.ReplyPiece(_, text):
                active.turn.reply += text
                await active.view.write(text)
            case host_events.ReplyDone(_, stats, forgotten):
                active.turn.stats, active.turn.forgotten = stats, forgotten
                self._set_active(None)
                await active.view.finish()
                self.query_one(HeaderBar).show_speed(stats)
            case host_events.ReplyFailed(_, failure):
                active.turn.failed = True
                self._set_active(None)
                await active.view.fail(failure)
                self.show_unexpected(failure)

    def show_unexpected(self, failure: Failure) -> None:
        """Open the dialog for a defect; errors the user can meet stand inline."""
        if failure.unexpected:
            self.app.push_screen(ErrorDialog(failure, self._services.log_path))

    # Asking and stopping

    async def on_prompt_sent(self, message: Prompt.Sent) -> None:
        """Ask, unless a reply is being made: then the text goes back to where it was."""
        if self._active is not None:
            self.query_one(Prompt).put_back(message.text)
            self.notify("A reply is being written: esc stops it", severity="warning")
            return
        await self._ask(Turn(message.text, self._attached()), self._services.sampling)

    async def _ask(self, turn: Turn, sampling: Sampling) -> None:
        self._conversation.add(turn)
        request_id = next(self._request_ids)
        self._set_active(ActiveReply(request_id, turn, TurnView(turn)))
        assert self._active is not None
        await self.query_one(Transcript).add(self._active.view)
        self._active.view.enter_phase("waiting for the model")
        messages = self._conversation.messages_before(turn)
        adapters = tuple(adapter.use for adapter in turn.adapters)
        self._services.host.ask(AskRequest(request_id, messages, sampling, adapters))

    def action_stop(self) -> None:
        """Ask the engine thread to stop; it says when it has."""
        if self._active is not None:
            self._active.view.enter_phase(STOPPING)
            self._services.host.cancel(self._active.request_id)

    async def action_new_chat(self) -> None:
        """Drop the conversation; a reply that is being made is stopped."""
        if self._active is not None:
            self._services.host.cancel(self._active.request_id)
            self._set_active(None)
        self._conversation = Conversation()
        await self.query_one(Transcript).clear()
        self.query_one(Prompt).focus()

    async def action_regenerate(self) -> None:
        """Make the last reply anew: with the adapters of now, or else by sampling, so that it can differ."""
        old = self._conversation.drop_last()
        if old is None:
            return
        await self.query_one(Transcript).drop_last()
        adapters = old.adapters if old.repeats else self._attached()
        turn = Turn(old.question, adapters, repeats=old.repeats)
        sampling = self._services.sampling
        if old.stats is not None and adapters == old.adapters:
            temperature = max(sampling.temperature, _AGAIN_TEMPERATURE)
            sampling = replace(sampling, temperature=temperature, seed=random.getrandbits(31))
            turn.note = f"sampled at {temperature:.1f}, seed {sampling.seed}"
        await self._ask(turn, sampling)

    async def action_compare(self) -> None:
        """Ask the last question once more without adapters, beside the reply there is."""
        asked = self._conversation.turns[-1]
        await self._ask(Turn(asked.question, repeats=asked.repeats or asked), self._services.sampling)

    def action_reload_model(self) -> None:
        """Load the model again, after it was fetched or replaced."""
        self._services.host.reload()

    # Adapters

    def _attached(self) -> tuple[AttachedAdapter, ...]:
        """The adapters that are on now."""
        return next((panel.attached for panel in self.query(AdapterPanel)), ())

    def action_adapters(self) -> None:
        """Go to the adapters, or back from them; on a narrow screen they come and go with that."""
        panel = self.query_one(AdapterPanel)
        if panel.has_focus_within:
            self.action_back()
            return
        self.add_class("-panel")
        target = panel.query_one(AdapterList)
        (target if target.display else panel.query_one("#note")).focus()

    def action_back(self) -> None:
        """Back to the question."""
        self.remove_class("-panel")
        self.query_one(Prompt).focus()

    def action_all_adapters_off(self) -> None:
        """Let the bare model answer."""
        self.query_one(AdapterPanel).all_off()

    def on_adapter_list_reload(self) -> None:
        """The list's own key for it."""
        self.action_reload_library()

    def on_adapter_panel_changed(self) -> None:
        """Say under the prompt what will answer the next question."""
        names = ", ".join(f"{adapter.name} @{adapter.use.scale:.1f}" for adapter in self._attached())
        self.query_one(Prompt).border_title = Content(names)

    @work(thread=True, group="library", exit_on_error=False, description="list adapters")
    def action_reload_library(self) -> None:
        """Read the library, away from the screen's thread."""
        factory = self._services.library_factory
        if factory is None:
            return
        try:
            message = self.LibraryRead(factory().list())
        except Exception as error:  # shown in the panel, or in the dialog if unexpected
            message = self.LibraryRead((), Failure.of(error))
        self.post_message(message)

    def on_chat_screen_library_read(self, message: LibraryRead) -> None:
        """List the adapters."""
        panel = self.query_one(AdapterPanel)
        if message.failure is None:
            panel.show_rows(message.rows)
            return
        panel.show_problem(message.failure.message, message.failure.hint)
        self.show_unexpected(message.failure)

    # Copying

    def action_copy_text(self) -> None:
        """Copy what is selected, or else the last reply."""
        try:
            super().action_copy_text()
        except SkipAction:
            if not self._conversation.last_reply:
                raise
            self.action_copy_reply()

    def action_copy_reply(self) -> None:
        """Copy the last reply."""
        self.app.copy_to_clipboard(self._conversation.last_reply)

    # What can be done now

    def _set_active(self, active: ActiveReply | None) -> None:
        self._active = active
        self.refresh_bindings()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer only what makes sense now."""
        idle, turns = self._active is None, self._conversation.turns
        conditions = {
            "stop": not idle,
            "back": idle,
            "regenerate": idle and bool(turns),
            "compare": idle and bool(turns) and bool(turns[-1].adapters) and not turns[-1].failed,
            "copy_reply": bool(self._conversation.last_reply),
            "adapters": self._services.library_factory is not None,
            "reload_library": self._services.library_factory is not None,
            "all_adapters_off": bool(self._attached()) if self.is_mounted else False,
            "reload_model": idle,
        }
        return conditions.get(action, True)

    def commands(self) -> Iterator[SystemCommand]:
        """The palette's entries: those that can be done now."""
        entries: list[tuple[str, str, str, Callable[[], Any]]] = [
            ("stop", "Stop", "Stop the reply that is being written", self.action_stop),
            ("new_chat", "New chat", "Forget this conversation and start anew", self.action_new_chat),
            ("regenerate", "Answer again", "Make the last reply anew (ctrl+r)", self.action_regenerate),
            ("compare", "Same question without adapters", "See what the adapters changed", self.action_compare),
            ("copy_reply", "Copy the last reply", "Copy it as Markdown (ctrl+c)", self.action_copy_reply),
            ("adapters", "Adapters", "Choose the adapters that answer", self.action_adapters),
            ("all_adapters_off", "All adapters off", "Let the bare model answer", self.action_all_adapters_off),
            ("reload_library", "List adapters again", "Read the library anew", self.action_reload_library),
            ("reload_model", "Load the model again", "After fetching or replacing it", self.action_reload_model),
        ]
        for action, title, text, callback in entries:
            if self.check_action(action, ()):
                yield SystemCommand(title, text, callback)
