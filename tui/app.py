"""The app: what all screens share (theme, keymap, clipboard, palette, quitting) and the way in from the CLI."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import ClassVar

from textual import work
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.dom import DOMNode
from textual.screen import Screen
from textual.worker import Worker, WorkerState

from localhyper.config import Config
from localhyper.engine import Sampling
from localhyper.paths import Paths, get_paths, setup_logging

from . import launch
from .chat_screen import ChatScreen
from .clipboard import copy_with_program
from .engine_host import EngineFactory, EngineHost, Failure, ThreadEngineHost
from .error_dialog import ErrorDialog
from .services import LibraryFactory, Services

_CLOSE_SECONDS = 10.0
_log = logging.getLogger(__name__)


class LocalHyperApp(App[None]):
    """The terminal app over one engine.

    Args:
        engine_factory: Makes the engine, in the engine thread, after the first frame.
        library_factory: Makes the adapter source, in a worker thread; None = no adapter panel.
        attached: Adapters that are on at the start: name to strength.
        theme: A textual theme, e.g. `textual-light` or `ansi-dark` (the terminal's own colours).
        keymap: Binding ids to keys, e.g. `{"chat.new": "ctrl+t"}`.
        log_path: Where the log is, for people.
        model_name: What the user calls the model; empty = the name in its file.
        host: In place of the thread that would own the engine.
        copy_program: Tries the desktop's clipboard programs; returns the name of the one that took the text.
    """

    TITLE = "localhyper"
    BINDING_GROUP_TITLE = "localhyper"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f1", "toggle_help", "Keys", id="app.help", tooltip="Show or hide what the keys do here"),
        Binding("ctrl+q", "quit", "Quit", priority=True, id="app.quit", tooltip="Stop everything and leave"),
    ]

    def __init__(
        self,
        engine_factory: EngineFactory,
        library_factory: LibraryFactory | None = None,
        *,
        sampling: Sampling | None = None,
        attached: Mapping[str, float] | None = None,
        theme: str = "",
        keymap: Mapping[str, str] | None = None,
        log_path: Path | None = None,
        model_name: str = "",
        host: EngineHost | None = None,
        copy_program: Callable[[str], str | None] = copy_with_program,
    ) -> None:
        super().__init__()
        self.HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (90, "-wide")]
        self.host: EngineHost = host or ThreadEngineHost(engine_factory)
        self._services = Services(
            self.host, library_factory, sampling or Sampling(), attached or {}, log_path, model_name
        )
        self._copy_program = copy_program
        self._wanted_theme = theme
        self._quitting = False
        self._told_clashes: set[str] = set()
        if keymap:
            self.set_keymap(dict(keymap))
        self.add_mode("chat", self._make_chat)

    def _make_chat(self) -> ChatScreen:
        return ChatScreen(self._services)

    async def on_mount(self) -> None:
        """Go to the chat, in the wanted colours."""
        if self._wanted_theme in self.available_themes:
            self.theme = self._wanted_theme
        elif self._wanted_theme:
            names = ", ".join(sorted(self.available_themes))
            self.notify(f"no theme `{self._wanted_theme}`; there are {names}", severity="warning", markup=False)
        await self.switch_mode("chat")

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """The palette: what the screen can do now, then what the app can."""
        if isinstance(screen, ChatScreen):
            yield from screen.commands()
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
        """Stop the engine, then leave; a second time, leave at once."""
        if self._quitting:
            self.exit()
            return
        self._quitting = True
        self.notify("Stopping…")
        self._close_and_exit()

    @work(exit_on_error=False, description="quit")
    async def _close_and_exit(self) -> None:
        if not await asyncio.to_thread(self.host.close, _CLOSE_SECONDS):
            _log.warning("the engine thread was still at work after %.0f s", _CLOSE_SECONDS)
        self.exit()

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        """A defect in a background job opens the dialog; the app goes on."""
        error = event.worker.error
        if event.state is WorkerState.ERROR and isinstance(error, Exception):
            _log.error("background job `%s` failed", event.worker.description, exc_info=error)
            self.show_failure(Failure.of(error))

    def show_failure(self, failure: Failure) -> None:
        """Open the dialog for `failure`."""
        self.push_screen(ErrorDialog(failure, self._services.log_path))


def run_app(app: LocalHyperApp) -> int:
    """Run `app` in this terminal and free the engine whatever happens; returns the exit code."""
    try:
        app.run()
    finally:
        app.host.close(_CLOSE_SECONDS)
    return app.return_code or 0


def run(
    config: Config,
    paths: Paths | None = None,
    *,
    attached: Mapping[str, float] | None = None,
    keymap: Mapping[str, str] | None = None,
) -> int:
    """Open the terminal app over the real engine and library; what the CLI's `tui` calls.

    Args:
        config: The settings; `config.base.name` is the model, `config.ui.theme` the colours.
        paths: Where everything lies; None = the places in force.
        attached: Adapters that are on at the start: name to strength.
        keymap: Binding ids to keys.

    Returns:
        The process's exit code.
    """
    paths = paths or get_paths()
    app = LocalHyperApp(
        launch.engine_factory(config, paths),
        lambda: launch.LibraryAdapters(paths),
        sampling=launch.sampling_of(config),
        attached=attached,
        theme=config.ui.theme,
        keymap=keymap,
        log_path=setup_logging(paths),
        model_name=Path(config.base.name).stem if config.base.name.endswith(".gguf") else config.base.name,
    )
    return run_app(app)
