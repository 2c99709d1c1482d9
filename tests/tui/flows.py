"""What the flow tests share: an app over a scripted engine, and waiting for a condition instead of a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from textual.pilot import Pilot
from textual.widgets import Static

from localhyper.progress import ProgressCallback
from localhyper.tui.adapter_source import AdapterRow
from localhyper.tui.app import LocalHyperApp
from localhyper.tui.prompt import Prompt
from localhyper.tui.transcript import TurnView
from tests.tui.fake_engine import INFO, FakeEngine, Script

WAIT_SECONDS = 30.0
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
    source: FakeSource = field(default_factory=FakeSource)
    load_errors: list[Exception] = field(default_factory=list)
    copied: list[str] = field(default_factory=list)
    copy_program: str | None = "scripted-copy"
    theme: str = ""
    keymap: dict[str, str] = field(default_factory=dict)
    before_load: Callable[[], object] = lambda: None

    def __post_init__(self) -> None:
        self.engine = FakeEngine(self.script)
        self.app = LocalHyperApp(
            self._load,
            lambda: self.source,
            theme=self.theme,
            keymap=self.keymap,
            log_path=Path("localhyper.log"),
            copy_program=self._copy,
        )

    def _load(self, report: ProgressCallback) -> FakeEngine:
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
        for view in self.app.screen_stack[0].query(TurnView):
            lines.append(str(view.query_one(".status, .error", Static).content))
        return lines

    @property
    def header(self) -> str:
        """Text of the line on top."""
        bar = self.app.screen_stack[0]
        return f"{bar.query_one('#model', Static).content} | {bar.query_one('#speed', Static).content}"

    @property
    def empty_text(self) -> str:
        """What stands in the middle while there is no turn."""
        return str(self.app.screen_stack[0].query_one("#empty", Static).content)

    @property
    def prompt(self) -> Prompt:
        """The question box."""
        return self.app.screen_stack[0].query_one(Prompt)

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
    await until(pilot, lambda: INFO.name in bench.header and bench.source.reads)
    await until(pilot, lambda: not bench.app.workers._workers)
    await pilot.pause()


async def ask(pilot: Pilot[None], question: str) -> None:
    """Type a question and send it."""
    await pilot.press(*("space" if letter == " " else letter for letter in question), "enter")


async def answered(pilot: Pilot[None], bench: Bench, count: int, ending: str = "complete") -> None:
    """Wait for the end of the reply to question number `count`, by the end of its status line."""
    await until(pilot, lambda: len(bench.engine.asked) == count and bench.statuses[-1].endswith(ending))
