"""The chat: adapters, earlier conversations, transcript, prompt. It asks the engine host and shows what it reports.

What is said is written down as it happens by the `Recorder`; attaching is in `chat_attach`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from textual.actions import SkipAction
from textual.app import ComposeResult, SystemCommand
from textual.binding import Binding, BindingType
from textual.command import Provider
from textual.containers import Horizontal, Vertical
from textual.message import Message

from localhyper.engine import Sampling
from localhyper.library import now

from . import host_events
from .adapter_panel import AdapterList, AdapterPanel
from .background import in_background, notify_failure
from .chat_attach import ChatAttach
from .chat_history import ChatHistory
from .chats_panel import ChatList, ChatsPanel
from .conversation import AttachedAdapter, Conversation, Turn, to_stored
from .host_events import AskRequest, Failure, ReplyEvent
from .job_board import JobView
from .palette import AdapterCommands, ChatCommands
from .path_completion import PathCompletion
from .prompt import Prompt
from .quotes_dialog import QuotesDialog
from .recorder import Recorder
from .services import Services
from .transcript import Transcript
from .turn_view import STOPPING, ReplyView
from .words import plain, share_text, visible

_AGAIN_TEMPERATURE = 0.7
_KEEP_SECONDS = 2.0
_LOADING = "Loading the model…\n\nYou can type already: a question waits for the model."
_READY = (
    "Ask anything: enter sends\n\n{chat.attach} attach a document or task   {chat.panel} adapters and chats\n"
    "{app.library} library   {app.models} models   {app.settings} settings   {app.help} keys   ctrl+p everything"
)
_AFTER_REPAIR = (
    "{app.models} shows the models there are.\nThen press enter on a question, or ctrl+p and “Load the model again”"
)


@dataclass
class ActiveReply:
    """The reply that is being made."""

    request_id: int
    turn: Turn
    view: ReplyView


class ChatScreen(ChatAttach, ChatHistory):
    """One conversation with one model, with its adapters and the earlier conversations beside it."""

    DEFAULT_CSS = """
    ChatScreen #columns { height: 1fr; }
    ChatScreen #side { width: 32; }
    ChatScreen AdapterPanel { height: 3fr; }
    ChatScreen ChatsPanel { height: 2fr; }
    ChatScreen #chat { width: 1fr; }
    ChatScreen Transcript { height: 1fr; }
    ChatScreen.-narrow #side { display: none; }
    ChatScreen.-narrow.-panel #side { display: block; }
    """
    AUTO_FOCUS = "Prompt"
    BINDING_GROUP_TITLE = "Chat"
    COMMANDS: ClassVar[set[type[Provider] | Callable[[], type[Provider]]]] = {AdapterCommands, ChatCommands}
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop", "Stop", id="chat.stop", tooltip="Stop the reply that is being written"),
        Binding("escape", "back", "Back", show=False, id="chat.back", tooltip="Go back to the question"),
        Binding("ctrl+n", "new_chat", "New chat", id="chat.new", tooltip="Start anew; this one is kept in the list"),
        Binding("ctrl+o", "attach", "Attach", id="chat.attach", tooltip="Make an adapter of a document or task"),
        # Priority, because the text area has bindings of its own on these two.
        Binding("f6", "panel", "Panel", priority=True, id="chat.panel", tooltip="Adapters, then chats, then back"),
        Binding(
            "f7",
            "compare",
            "Compare",
            show=False,
            priority=True,
            id="chat.compare",
            tooltip="The same question with and without adapters",
        ),
        Binding("f8", "quotes", "Quotes", show=False, id="chat.quotes", tooltip="What the documents say to the reply"),
        Binding(
            "ctrl+r", "regenerate", "Answer again", show=False, id="chat.again", tooltip="Make the last reply anew"
        ),
    ]

    class Replied(Message, bubble=False):
        """Carries what the engine thread says of a reply."""

        def __init__(self, event: ReplyEvent) -> None:
            super().__init__()
            self.event = event

    class Recorded(Message, bubble=False):
        """Something was written into the history, or could not be."""

        def __init__(self, failure: Failure | None) -> None:
            super().__init__()
            self.failure = failure

    def __init__(self, services: Services, state: Any) -> None:
        super().__init__(services, state)
        self.conversation = Conversation()
        self.recorder = Recorder(
            lambda: services.store.history, lambda failure: self.post_message(self.Recorded(failure))
        )
        self._active: ActiveReply | None = None
        self._editing: Turn | None = None
        self._compare_after: Turn | None = None

    def compose_place(self) -> ComposeResult:
        """All there is, before any model."""
        completion = PathCompletion()
        with Horizontal(id="columns"):
            with Vertical(id="side"):
                yield AdapterPanel(self.services.attached)
                yield ChatsPanel(self.services, self.state)
            with Vertical(id="chat"):
                yield Transcript()
                yield completion
                yield Prompt(completion, Path.cwd())

    def on_mount(self) -> None:
        """Follow the model and the library; take up the question that was not sent last time."""
        self.query_one(Transcript).show_empty(_LOADING)
        self.state.model_changed.subscribe(self, self._model_changed)
        self.state.jobs_changed.subscribe(self, self.query_one(AdapterPanel).show_jobs)
        self.state.library_changed.subscribe(self, lambda _: self.action_reload_library())
        self.query_one(Prompt).text = self.services.remembered.memory.draft
        self.query_one(Prompt).move_cursor(self.query_one(Prompt).document.end)
        self.set_interval(_KEEP_SECONDS, self._keep_active)
        self.action_reload_library()
        in_background(self, lambda: self.services.store.history.purge(), failed=lambda _: None)

    # What the engine thread reports

    def _model_changed(self, event: host_events.ModelEvent) -> None:
        transcript = self.query_one(Transcript)
        match event:
            case host_events.LoadStarted():
                transcript.show_empty(_LOADING)
            case host_events.Loaded(info):
                transcript.show_empty(self._with_keys(_READY))
                self.query_one(AdapterPanel).set_base(info.fingerprint)
            case host_events.LoadFailed(failure, kept) if not kept:
                text = "\n\n".join(filter(None, [f"! {failure.message}", failure.hint, self._with_keys(_AFTER_REPAIR)]))
                transcript.show_empty(text, problem=True)

    def _with_keys(self, text: str) -> str:
        """A text with the keys of now in the place of their ids."""
        return re.sub(r"\{([a-z.]+)\}", lambda match: self.state.key(match[1]), text)

    async def on_chat_screen_replied(self, message: Replied) -> None:
        """Show an event of the reply being made; those of replies given up earlier are of no interest."""
        event, active = message.event, self._active
        if active is None or event.request_id != active.request_id:
            return
        match event:
            case host_events.ReplyStarted():
                active.turn.model = self.state.model_name
                active.view.enter_phase("reading the question")
            case host_events.ReplyPreparing(_, progress):
                active.view.enter_phase("making the adapter of all chunks" + share_text(progress))
            case host_events.ReplyPiece(_, text):
                shown = visible(text)
                active.turn.reply += shown
                await active.view.write(shown)
            case host_events.ReplyDone(_, stats, forgotten, chosen):
                active.turn.stats, active.turn.forgotten = stats, forgotten
                active.turn.note = ", ".join(filter(None, [plain(chosen), active.turn.note]))
                await self._end(active)
                self.state.replied(stats)
            case host_events.ReplyFailed(_, failure):
                active.turn.failed = True
                active.turn.problem = "\n".join(filter(None, [failure.message, failure.hint]))
                await self._end(active)
                if failure.unexpected:
                    self._dialog(failure)

    async def _end(self, active: ActiveReply) -> None:
        active.turn.ended = True
        self._set_active(None)
        await active.view.finish()
        self._store(active.turn)
        wanted, self._compare_after = self._compare_after, None
        stopped = active.turn.stats is None or active.turn.stats.finish_reason == "cancelled"
        if wanted is active.turn and not active.turn.failed and not stopped:
            await self._ask(Turn(active.turn.question, repeats=active.turn), self.state.sampling)

    def _dialog(self, failure: Failure) -> None:
        from .app import show_failure

        show_failure(self.app, failure)

    # Asking and stopping

    async def on_prompt_sent(self, message: Prompt.Sent) -> None:
        """Ask, unless a reply is being made: then the text goes back to where it was."""
        prompt, editing = self.query_one(Prompt), self._editing
        if self._active is not None:
            prompt.put_back(message.text)
            self.notify("A reply is being written: esc stops it", severity="warning")
            return
        self._leave_editing()
        if editing is not None and editing in self.conversation.turns:
            await self._go_back_before(editing)
        await self._ask(Turn(visible(message.text), self.attached()), self.state.sampling)

    async def _ask(self, turn: Turn, sampling: Sampling) -> None:
        turn.sampling, turn.asked_at = sampling, now()
        self.conversation.add(turn)
        view = await self.query_one(Transcript).add(turn)
        request_id = self.state.next_request()
        self._set_active(ActiveReply(request_id, turn, view))
        view.enter_phase("waiting for the model")
        self._store(turn)
        messages = self.conversation.messages_before(turn)
        adapters = tuple(adapter.use for adapter in turn.adapters)
        self.services.host.ask(AskRequest(request_id, messages, sampling, adapters))

    def action_stop(self) -> None:
        """Ask the engine thread to stop; it says when it has."""
        if self._active is not None:
            self._active.view.enter_phase(STOPPING)
            self.services.host.cancel(self._active.request_id)

    async def action_new_chat(self) -> None:
        """Begin another conversation; a reply that is being made is stopped, this one stays in the list."""
        await self.show_conversation(Conversation())

    async def show_conversation(self, conversation: Conversation) -> None:
        """Put a conversation in the place of the one on the screen; a reply that is being made is stopped and kept."""
        if self._active is not None:
            self.services.host.cancel(self._active.request_id)
            self._store(self._active.turn)
            self._set_active(None)
        self._leave_editing()
        self.conversation = conversation
        await self.query_one(Transcript).show(conversation.turns)
        self.query_one(ChatsPanel).mark_open(conversation.number)
        self.refresh_bindings()
        self.query_one(Prompt).focus()

    async def action_regenerate(self) -> None:
        """Make the last reply anew: with the adapters of now, or else by sampling, so that it can differ."""
        old = self.conversation.drop_last()
        if old is None:
            return
        await self.query_one(Transcript).drop(old)
        adapters = old.adapters if old.repeats else self.attached()
        turn = Turn(old.question, adapters, repeats=old.repeats)
        sampling = self.state.sampling
        if old.stats is not None and adapters == old.adapters:
            temperature = max(sampling.temperature, _AGAIN_TEMPERATURE)
            sampling = replace(sampling, temperature=temperature, seed=random.getrandbits(31))
            turn.note = f"sampled at {temperature:.1f}, seed {sampling.seed}"
        await self._ask(turn, sampling)

    async def action_compare(self) -> None:
        """The same question with and without adapters, side by side.

        What is typed is asked both ways; else the last question is asked the other way. Once both are there, the
        second is made anew.
        """
        prompt = self.query_one(Prompt)
        if text := prompt.text.strip():
            if not self.attached():
                self.notify(self._with_keys("No adapter is on: {chat.panel}, then space"), severity="warning")
                return
            prompt.clear()
            await self.on_prompt_sent(Prompt.Sent(text))
            self._compare_after = self.conversation.turns[-1]
            return
        last = self.conversation.turns[-1]
        if last.repeats is not None:
            self.conversation.drop_last()
            await self.query_one(Transcript).drop(last)
            last = last.repeats
        adapters = () if last.adapters else self.attached()
        if not last.adapters and not adapters:
            self.notify(
                self._with_keys("The last reply had no adapter, and none is on: {chat.panel}, then space"),
                severity="warning",
            )
            return
        await self._ask(Turn(last.question, adapters, repeats=last), self.state.sampling)

    # Earlier questions, changed and asked again

    def on_prompt_recall(self, message: Prompt.Recall) -> None:
        """Put the question before or after into the box."""
        questions, prompt = self.conversation.questions, self.query_one(Prompt)
        if not questions or self._active is not None:
            return
        now_at = questions.index(self._editing) if self._editing in questions else len(questions)
        index = now_at + message.direction
        if index >= len(questions):
            self._leave_editing()
            prompt.clear()
        elif index >= 0:
            self._editing = questions[index]
            later = len(questions) - 1 - index
            title = "the last question" if not later else f"question {index + 1} of {len(questions)}, in a new chat"
            prompt.recall(self._editing.question, f"change {title}")

    def _leave_editing(self) -> None:
        self._editing = None
        self.query_one(Prompt).leave_recall()

    async def _go_back_before(self, turn: Turn) -> None:
        """Make room for a changed question: the last one is replaced; before that, a new conversation branches off."""
        conversation, kept = self.conversation, self.conversation.before(turn)
        if turn is conversation.questions[-1]:
            conversation.turns = kept
            self.recorder.cut(conversation, len(kept))
            await self.query_one(Transcript).show(kept)
            return
        title = conversation.title or (conversation.turns[0].question if kept else "")
        branch = Conversation(list(kept), title=f"{title} (changed)" if title else "")
        self.recorder.put_all(branch)
        await self.show_conversation(branch)

    # Keeping what is said

    def _store(self, turn: Turn, *, quiet: bool = False) -> None:
        turns = self.conversation.turns
        position = next((i for i, other in enumerate(turns) if other is turn), -1)
        if position >= 0:
            self.recorder.put(self.conversation, position, to_stored(turn, turns), quiet=quiet)

    def _keep_active(self) -> None:
        """Now and then, so that even a killed process loses no more than a few words."""
        if self._active is not None and self._active.turn.reply:
            self._store(self._active.turn, quiet=True)
        self._keep_draft()

    def _keep_draft(self) -> None:
        if self.is_attached and self._editing is None:
            attached = {adapter.name: adapter.use.scale for adapter in self.attached()}
            listed = bool(self.query_one(AdapterPanel).rows)
            kept = attached if listed else self.services.remembered.memory.attached
            self.services.remembered.update(draft=self.query_one(Prompt).text, attached=kept)

    def keep_unfinished(self) -> None:
        """Store the reply as far as it has come and the question as far as it is typed: the app is leaving."""
        if self._active is not None:
            self._store(self._active.turn)
        self._keep_draft()

    def on_chat_screen_recorded(self, message: Recorded) -> None:
        """The list of conversations follows; an error is told once."""
        if message.failure is not None:
            notify_failure(self, message.failure)
            return
        self.query_one(ChatsPanel).mark_open(self.conversation.number)
        self.state.history_changed.publish(self.conversation.number)

    # Adapters, quotes, going about

    def attached(self) -> tuple[AttachedAdapter, ...]:
        """The adapters that are on now."""
        return self.query_one(AdapterPanel).attached if self.is_mounted else ()

    def action_panel(self) -> None:
        """To the adapters, then the conversations, then back; on a narrow screen the panel comes and goes with that."""
        adapters, chats = self.query_one(AdapterPanel), self.query_one(ChatsPanel)
        if chats.has_focus_within:
            self.action_back()
            return
        self.add_class("-panel")
        if adapters.has_focus_within or not adapters.query_one(AdapterList).display:
            target = chats.query_one(ChatList)
            target.focus() if target.display else self.query_one(Prompt).focus()
        else:
            adapters.query_one(AdapterList).focus()

    def action_back(self) -> None:
        """Back to the question; a question that was to be changed is left alone."""
        prompt = self.query_one(Prompt)
        if self._editing is not None and prompt.has_focus:
            self._leave_editing()
            prompt.clear()
        self.remove_class("-panel")
        prompt.focus()

    def action_all_adapters_off(self) -> None:
        """Let the bare model answer."""
        self.query_one(AdapterPanel).all_off()

    def action_quotes(self) -> None:
        """Show what the attached documents say to the last reply."""
        turn = self.conversation.last_answered
        if turn is not None:
            self.app.push_screen(QuotesDialog(self.services.store, turn))

    def action_reload_model(self) -> None:
        """Load the model again, after it was fetched or replaced."""
        self.services.host.load(self.state.config)

    def on_adapter_panel_changed(self) -> None:
        """Say on the prompt what will answer the next question."""
        names = ", ".join(f"{plain(adapter.name)} @{adapter.use.scale:.1f}" for adapter in self.attached())
        self.query_one(Prompt).show_answering(names)
        self.refresh_bindings()

    # Copying

    def action_copy_text(self) -> None:
        """Copy what is selected, or else the last reply."""
        try:
            super().action_copy_text()
        except SkipAction:
            if self.conversation.last_reply:
                self.action_copy_reply()

    def action_copy_reply(self) -> None:
        """Copy the last reply."""
        self.app.copy_to_clipboard(self.conversation.last_reply)

    # What can be done now

    def _set_active(self, active: ActiveReply | None) -> None:
        self._active = active
        self.refresh_bindings()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer only what makes sense now."""
        idle, turns = self._active is None, self.conversation.turns
        conditions = {
            "stop": not idle,
            "back": idle,
            "regenerate": idle and bool(turns),
            "compare": idle and ((bool(turns) and not turns[-1].failed) or bool(self.attached())),
            "quotes": self.conversation.last_answered is not None,
            "copy_reply": bool(self.conversation.last_reply),
            "all_adapters_off": bool(self.attached()),
            "export_chat": bool(self.conversation.number),
            "reload_model": idle,
        }
        return conditions.get(action, True)

    def commands(self) -> Iterator[SystemCommand]:
        """The palette's entries: those that can be done now."""
        entries: list[tuple[str, str, str, Callable[[], Any]]] = [
            ("stop", "Stop", "Stop the reply that is being written", self.action_stop),
            ("new_chat", "New chat", "Start anew; this one is kept (ctrl+n)", self.action_new_chat),
            ("attach", "Attach a document", "Make an adapter of a document or folder (ctrl+o)", self.action_attach),
            ("attach_task", "Attach a task", "Make an adapter of a task's description", self.action_attach_task),
            ("regenerate", "Answer again", "Make the last reply anew (ctrl+r)", self.action_regenerate),
            ("compare", "Compare", "The same question with and without adapters (f7)", self.action_compare),
            ("quotes", "Quotes", "What the attached documents say to the last reply (f8)", self.action_quotes),
            ("copy_reply", "Copy the last reply", "Copy it as Markdown (ctrl+c)", self.action_copy_reply),
            ("export_chat", "Export the conversation", "Write it as Markdown", self.action_export_chat),
            ("panel", "Adapters and chats", "Go to the panel beside the chat (f6)", self.action_panel),
            ("all_adapters_off", "All adapters off", "Let the bare model answer", self.action_all_adapters_off),
            ("reload_library", "List adapters again", "Read the library anew", self.action_reload_library),
            ("reload_model", "Load the model again", "After fetching or replacing it", self.action_reload_model),
        ]
        for action, title, text, callback in entries:
            if self.check_action(action, ()):
                yield SystemCommand(title, text, callback)

    def job_done(self, view: JobView) -> None:
        """A document is attached: its adapter answers from now on."""
        self.take_adapter(view)
