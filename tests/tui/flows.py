"""What the flow tests share: an app over a scripted engine, and waiting for a condition instead of a time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from textual.pilot import Pilot
from textual.widgets import Static

from localhyper.config import Config, UiSettings, with_value
from localhyper.paths import get_paths
from localhyper.progress import ProgressCallback
from localhyper.tui.adapter_source import AdapterRow
from localhyper.tui.app import LocalHyperApp
from localhyper.tui.engine_host import ThreadEngineHost
from localhyper.tui.launch import STATE_FILE
from localhyper.tui.prompt import Prompt
from localhyper.tui.remembered import Remembered
from localhyper.tui.services import Services
from localhyper.tui.store import Store
from localhyper.tui.turn_view import ReplyView
from tests.tui.fake_engine import INFO, FakeEngine, Script
from tests.tui.scripted_room import ScriptedRoom

WAIT_SECONDS = float(os.environ.get("LOCALHYPER_TEST_WAIT", "30"))
ROWS = (
    AdapterRow("lease-2025", Path("lease-2025.gguf"), "pdf, 6 chunks, rank 16", INFO.fingerprint),
    AdapterRow("notes", Path("notes.gguf"), "folder, 41 chunks"),
    AdapterRow("[bold]old", Path("old.gguf"), "md", "another-base"),
)


@dataclass
class FakeSource:
    """Lists given rows, or raises."""

    rows: Sequence[AdapterRow] = ROWS
    error: Exception | None = None
    reads: int = 0

    def list(self) -> Sequence[AdapterRow]:
        self.reads += 1
        if self.error is not None:
            raise self.error
        return self.rows


@dataclass
class Bench:
    """An app with everything behind it at hand. `load_errors` are raised by the first loads, in order."""

    script: Script = field(default_factory=Script)
    source: FakeSource | None = field(default_factory=FakeSource)
    load_errors: list[Exception] = field(default_factory=list)
    copied: list[str] = field(default_factory=list)
    copy_program: str | None = "scripted-copy"
    theme: str = ""
    keymap: dict[str, str] = field(default_factory=dict)
    before_load: Callable[[], object] = lambda: None
    settings: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.engine = FakeEngine(self.script)
        self.paths = get_paths().create()
        config = Config(ui=UiSettings(theme=self.theme or "textual-dark", keys=self.keymap))
        for key, value in self.settings.items():
            config = with_value(config, key, value)
        self.store = Store(self.paths)
        self.room = ScriptedRoom(self.paths, self._load)
        host = ThreadEngineHost(self.room, lambda: self.store.jobs)
        remembered = Remembered(self.paths.state_dir / STATE_FILE)
        attached = dict(remembered.memory.attached)
        services = Services(
            host, self.store, self.source or self.store, remembered, config, attached, Path("localhyper.log")
        )
        self.app = LocalHyperApp(services, copy_program=self._copy)

    def _load(self, config: Config, report: ProgressCallback) -> FakeEngine:
        self.before_load()
        if self.load_errors:
            raise self.load_errors.pop(0)
        return self.engine

    def _copy(self, text: str) -> str | None:
        self.copied.append(text)
        return self.copy_program

    @property
    def statuses(self) -> list[str]:
        """The status or error line under each turn."""
        lines = []
        for view in self.app.chat.query(ReplyView):
            lines.append(str(view.query_one(".status, .error", Static).content))
        return lines

    @property
    def header(self) -> str:
        """Text of the line on top."""
        bar = self.app.chat
        return f"localhyper  {bar.query_one('#model', Static).content} | {bar.query_one('#speed', Static).content}"

    @property
    def empty_text(self) -> str:
        """What stands in the middle while there is no turn."""
        return str(self.app.chat.query_one("#empty", Static).content)

    @property
    def prompt(self) -> Prompt:
        """The question box."""
        return self.app.chat.query_one(Prompt)

    @property
    def toasts(self) -> list[str]:
        """Notifications so far."""
        return [notification.message for notification in self.app._notifications]


async def until(pilot: Pilot[None], condition: Callable[[], object]) -> None:
    """Let the app work until `condition` holds."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        await pilot.pause()
        try:
            if condition():
                return
        except Exception:  # the widgets it looks at may not be there yet
            if time.monotonic() > deadline:
                raise
        assert time.monotonic() < deadline, "the app never came to the expected state"
        await pilot.pause(0.01)


async def ready(pilot: Pilot[None], bench: Bench) -> None:
    """Wait for the loaded model and the listed adapters."""
    await until(pilot, lambda: INFO.quantization in bench.header)
    await until(pilot, lambda: not bench.app.workers._workers)
    await pilot.pause()


async def ask(pilot: Pilot[None], question: str) -> None:
    """Type a question and send it."""
    await pilot.press(*("space" if letter == " " else letter for letter in question), "enter")


async def answered(pilot: Pilot[None], bench: Bench, count: int, ending: str = "complete") -> None:
    """Wait for the end of the reply to question number `count`, by the end of its status line."""
    await until(pilot, lambda: len(bench.engine.asked) == count and bench.statuses[-1].endswith(ending))
