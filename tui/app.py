"""The app: what all screens share (state, theme, keymap, clipboard, palette, quitting) and the way in from the CLI."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from textual import work
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.dom import DOMNode
from textual.message import Message
from textual.screen import Screen
from textual.worker import Worker, WorkerState

from localhyper.config import Config
from localhyper.config_edit import save_setting
from localhyper.paths import Paths, get_paths, setup_logging

from . import host_events, launch
from .app_state import AppState
from .background import in_background
from .chat_screen import ChatScreen
from .clipboard import copy_with_program
from .error_dialog import ErrorDialog
from .host_events import Failure, HostEvent
from .jobs_dialog import JobsDialog
from .library_screen import LibraryScreen
from .models_screen import ModelsScreen
from .places import Place
from .services import Services
from .settings_screen import SettingsScreen

_CLOSE_SECONDS = 10.0
_log = logging.getLogger(__name__)


class LocalHyperApp(App[None]):
    """The terminal app over one engine thread and one store.

    Args:
        services: What the screens work with.
        copy_program: Tries the desktop's clipboard programs; returns the name of the one that took the text.
    """

    TITLE = "localhyper"
    BINDING_GROUP_TITLE = "localhyper"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f1", "toggle_help", "Keys", id="app.help", tooltip="Show or hide what the keys do here"),
        Binding("f2", "place('settings')", "Settings", show=False, id="app.settings", tooltip="Change settings"),
        Binding("f3", "place('library')", "Library", show=False, id="app.library", tooltip="All adapters there are"),
        Binding("f4", "jobs", "Jobs", show=False, id="app.jobs", tooltip="Documents that are being attached"),
        Binding("f5", "place('models')", "Models", show=False, id="app.models", tooltip="Base models"),
        Binding(
            "ctrl+q", "quit", "Quit", show=False, priority=True, id="app.quit", tooltip="Stop everything and leave"
        ),
    ]

    class HostReported(Message, bubble=False):
        """Carries an event out of the engine thread."""

        def __init__(self, event: HostEvent) -> None:
            super().__init__()
            self.event = event

    def __init__(self, services: Services, *, copy_program: Callable[[str], str | None] = copy_with_program) -> None:
        super().__init__()
        self.HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (90, "-wide"), (115, "-broad")]
        self.services = services
        self.host = services.host
        self.state = AppState(self, services.config)
        self._copy_program = copy_program
        self._quitting = False
        self._one_writer = threading.Lock()
        self._told_clashes: set[str] = set()
        self._told_jobs: set[int] = set()
        self.set_keymap(dict(services.config.ui.keys))
        self.chat = ChatScreen(services, self.state)
        self.add_mode("chat", lambda: self.chat)
        self.add_mode("library", lambda: LibraryScreen(services, self.state))
        self.add_mode("models", lambda: ModelsScreen(services, self.state))
        self.add_mode("settings", lambda: SettingsScreen(services, self.state))

    async def on_mount(self) -> None:
        """Go to the chat, in the wanted colours; start the engine thread once the first frame is there."""
        wanted = self.services.config.ui.theme
        if wanted in self.available_themes:
            self.theme = wanted
        else:
            names = ", ".join(sorted(self.available_themes))
            self.notify(f"no theme `{wanted}`; there are {names}", severity="warning", markup=False)
        self.theme_changed_signal.subscribe(self, lambda theme: self._keep_theme(theme.name))
        await self.switch_mode("chat")
        self.call_after_refresh(self._start)

    def _start(self) -> None:
        """Heavy imports take seconds, so the thread starts after the first frame."""
        self.host.start(lambda event: self.post_message(self.HostReported(event)), self.state.config)
        in_background(self.chat, lambda: self.services.store.jobs.list(), self._show_jobs, failed=lambda _: None)

    def _show_jobs(self, jobs: Any) -> None:
        self.state.board.replace(jobs)
        self._told_jobs |= {job.id for job in jobs if job.state in ("done", "failed", "cancelled")}
        self.state.jobs_changed.publish(self.state.board)

    # What the engine thread reports

    def on_local_hyper_app_host_reported(self, message: HostReported) -> None:
        """Pass an event of the engine thread to whom it concerns."""
        match message.event:
            case host_events.JobChanged(job, failure) as event:
                self.state.board.apply(event)
                self.state.jobs_changed.publish(self.state.board)
                self._tell_end(job.id, failure)
            case host_events.JobAdvanced() as event:
                self.state.board.apply(event)
                self.state.jobs_changed.publish(self.state.board)
            case host_events.Planned() as planned:
                self.state.planned.publish(planned)
            case (
                host_events.LoadStarted()
                | host_events.LoadProgress()
                | host_events.Loaded()
                | host_events.LoadFailed() as event
            ):
                self.state.model_event(event)
                if isinstance(event, host_events.LoadFailed):
                    self._tell_load_failure(event)
            case _ as reply_event:
                self.chat.post_message(ChatScreen.Replied(reply_event))

    def _tell_load_failure(self, event: host_events.LoadFailed) -> None:
        if event.failure.unexpected:
            self.show_failure(event.failure)
        elif event.kept:
            text = "\n".join(filter(None, [event.failure.message, event.failure.hint]))
            self.notify(f"{text}\nThe model in use stays.", severity="error", markup=False, timeout=15)

    def _tell_end(self, number: int, failure: Failure | None) -> None:
        """A job's end: a mark in the list and a word; a failure is a dialog."""
        view = self.state.board.get(number)
        if view is None or view.job.state in ("queued", "running", "paused"):
            self._told_jobs.discard(number)
            return
        if number in self._told_jobs:
            return
        self._told_jobs.add(number)
        if view.job.state == "done":
            self.state.library_changed.publish("")
            self.chat.job_done(view)
        elif view.job.state == "failed":
            self.push_screen(ErrorDialog.for_job(view, failure, self.services.log_path))

    # Going about

    async def action_place(self, name: str) -> None:
        """Go to a top-level screen, from wherever no dialog is open."""
        if len(self.screen_stack) == 1:
            await self.switch_mode(name)

    def action_jobs(self) -> None:
        """Open the jobs."""
        if not isinstance(self.screen, JobsDialog):
            self.push_screen(JobsDialog(self.services, self.state))

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """The palette: what the screen can do now, then what the app can."""
        if isinstance(screen, Place):
            yield from screen.commands()
        for name, title, text in (
            ("chat", "Chat", "The conversation"),
            ("library", "Library", "All adapters: search, rename, delete, export (f3)"),
            ("models", "Models", "Base models: switch, fetch (f5)"),
            ("settings", "Settings", "Threads, sampling, theme, keys (f2)"),
        ):
            if self.current_mode != name:
                yield SystemCommand(title, text, lambda name=name: self.action_place(name))
        yield SystemCommand("Jobs", "Documents that are being attached (f4)", self.action_jobs)
        yield from super().get_system_commands(screen)

    def action_toggle_help(self) -> None:
        """Show or hide the keys of what has the focus."""
        if self.screen.query("HelpPanel"):
            self.action_hide_help_panel()
        else:
            self.action_show_help_panel()

    def handle_bindings_clash(self, clashed_bindings: set[Binding], node: DOMNode) -> None:
        """Tell once which keys of the configured keymap do two things."""
        for clash in clashed_bindings:
            if clash.id and clash.id not in self._told_clashes:
                self._told_clashes.add(clash.id)
                self.notify(f"keymap: another key hides `{clash.id}`", severity="warning", markup=False)

    # Settings

    def save_setting(self, key: str, value: Any) -> None:
        """Write one setting (None = its default) and use it; a wrong value is told and changes nothing."""
        file = self.services.store.paths.config_file

        def write() -> Config:
            with self._one_writer:  # each reads the file and writes it whole: two at once would lose one
                return save_setting(file, key, value)

        in_background(self.screen, write, lambda _: self._use_setting(key, value), group="config")

    def _use_setting(self, key: str, value: Any) -> None:
        if key == "ui.keys":
            self._told_clashes.clear()
            self.set_keymap(dict(value or {}))
        self.state.use_setting(key, value)
        if key == "ui.theme" and self.state.config.ui.theme in self.available_themes:
            self.theme = self.state.config.ui.theme

    def _keep_theme(self, name: str) -> None:
        """A theme chosen in the palette is kept like one chosen in the settings."""
        if name != self.state.config.ui.theme and self.is_running:
            self.save_setting("ui.theme", name)

    # Copying

    def copy_to_clipboard(self, text: str) -> None:
        """Copy by the desktop's program, or else by the terminal, and say which: terminals may ignore it."""
        self._clipboard = text  # what ctrl+v pastes inside the app, as in the method this replaces
        self._copy(text)

    @work(thread=True, group="clipboard", exit_on_error=False, description="copy")
    def _copy(self, text: str) -> None:
        program = self._copy_program(text)
        if program is not None:
            self.call_from_thread(self.notify, f"Copied with {program}")
            return
        self.call_from_thread(super().copy_to_clipboard, text)
        self.call_from_thread(self.notify, "Sent to the terminal to copy (OSC 52); some terminals ignore that")

    # Leaving, and what nobody expected

    async def action_quit(self) -> None:
        """Stop the engine, keep what is unfinished, then leave; a second time, leave at once."""
        if self._quitting:
            self.exit()
            return
        self._quitting = True
        self.notify("Stopping…")
        self._close_and_exit()

    @work(exit_on_error=False, description="quit")
    async def _close_and_exit(self) -> None:
        self.chat.keep_unfinished()
        if not await asyncio.to_thread(self.host.close, _CLOSE_SECONDS):
            _log.warning("the engine thread was still at work after %.0f s", _CLOSE_SECONDS)
        await asyncio.to_thread(self.close_files)
        self.exit()

    def close_files(self) -> None:
        """Wait until everything that is kept is written."""
        self.chat.recorder.close()
        self.services.remembered.close()

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        """A defect in a background job opens the dialog; the app goes on."""
        error = event.worker.error
        if event.state is WorkerState.ERROR and isinstance(error, Exception):
            _log.error("background job `%s` failed", event.worker.description, exc_info=error)
            self.show_failure(Failure.of(error))

    def show_failure(self, failure: Failure) -> None:
        """Open the dialog for `failure`."""
        self.push_screen(ErrorDialog(failure, self.services.log_path))


def show_failure(app: App[Any], failure: Failure) -> None:
    """Open the dialog for a defect, in whichever app this is."""
    if isinstance(app, LocalHyperApp):
        app.show_failure(failure)


def run_app(app: LocalHyperApp) -> int:
    """Run `app` in this terminal and free the engine whatever happens; returns the exit code."""
    try:
        app.run()
    finally:
        app.chat.keep_unfinished()
        app.host.close(_CLOSE_SECONDS)
        app.close_files()
    return app.return_code or 0


def run(config: Config, paths: Paths | None = None, *, attached: Mapping[str, float] | None = None) -> int:
    """Open the terminal app over the real engine and library; what the CLI's `tui` calls.

    Args:
        config: The settings; `config.base.name` is the model, `config.ui` colours and keys.
        paths: Where everything lies; None = the places in force.
        attached: Adapters that are on at the start: name to strength; None or empty = those of the last run.

    Returns:
        The process's exit code.
    """
    paths = paths or get_paths()
    return run_app(LocalHyperApp(launch.services(config, paths, attached or {}, setup_logging(paths))))
