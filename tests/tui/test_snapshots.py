"""How the app looks, at both sizes, dark and in a light terminal's own colours. Textual is pinned for these.

After a change that was meant: `pytest tests/tui/test_snapshots.py --snapshot-update`, and look at the pictures.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

import pytest
from textual.pilot import Pilot
from textual.widgets import Button, DataTable, Input, OptionList, Static

from localhyper.adapter_export import PeftExport
from localhyper.errors import ModelError
from localhyper.jobs import JobRequest
from localhyper.progress import Progress
from localhyper.tui.app import LocalHyperApp
from localhyper.tui.error_dialog import ErrorDialog
from localhyper.tui.export_dialog import ExportDialog
from localhyper.tui.host_events import Failure
from localhyper.tui.settings_screen import SettingRow
from localhyper.tui.task_box import TaskBox
from tests.tui.fake_engine import INFO, Script
from tests.tui.flows import Bench, answered, ask, ready, until
from tests.tui.test_documents_flow import attach
from tests.tui.test_library_flow import open_library, put_real, three
from tests.tui.test_models_flow import highlight, model_file, open_models
from tests.tui.test_settings_flow import open_settings
from tests.tui.test_task_flow import open_task, reader

REPLY = """The notice period is **three months**:

- it starts on the first day of the month
- see `lease.pdf`

```python
months = 3
```
"""
SMALL, LARGE = (80, 24), (120, 40)


class SnapCompare(Protocol):
    """What pytest-textual-snapshot's fixture is called with."""

    def __call__(
        self,
        app: LocalHyperApp,
        *,
        terminal_size: tuple[int, int],
        run_before: Callable[[Pilot[None]], Awaitable[None]],
    ) -> bool: ...


def still(bench: Bench) -> None:
    """Nothing on the screen may depend on the moment of the picture."""
    bench.prompt.cursor_blink = False
    bench.app.screen.set_focus(bench.prompt)


def write_note(name: str = "lease.txt", words: int = 60) -> Path:
    """A document in the working folder."""
    file = Path(name)
    file.write_text("The notice period is three months. The landlord is Ines Falk.\n" * (words // 10), encoding="utf-8")
    return file


@pytest.fixture(autouse=True)
def frozen(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One time, one amount of memory, paths from `~`."""
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
    monkeypatch.setattr("localhyper.memory_check.available_memory", lambda: 5_000_000_000)
    for module in ("adapter_details", "chats_panel", "jobs_dialog", "library_screen", "palette"):
        monkeypatch.setattr(f"localhyper.tui.{module}.day_text", lambda iso: "12:34" if iso else "")


everywhere = pytest.mark.parametrize("theme", ["textual-dark", "ansi-light"])
sizes = pytest.mark.parametrize("size", [SMALL, LARGE], ids=["80x24", "120x40"])


@everywhere
@sizes
def test_conversation(snap_compare: SnapCompare, size: tuple[int, int], theme: str) -> None:
    bench = Bench(Script(replies=(REPLY,)), theme=theme)

    async def talk(pilot: Pilot[None]) -> None:
        await ready(pilot, bench)
        await pilot.press("f6", "space", "left", "escape")
        await ask(pilot, "When may I give notice?")
        await answered(pilot, bench, 1)
        still(bench)

    assert snap_compare(bench.app, terminal_size=size, run_before=talk)


def test_missing_model(snap_compare: SnapCompare) -> None:
    error = ModelError("base model `smollm2-135m-instruct` is not here", "run `localhyper models pull`")
    bench = Bench(load_errors=[error])

    async def wait(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: "no model" in bench.header)
        still(bench)

    assert snap_compare(bench.app, terminal_size=SMALL, run_before=wait)


def test_error_dialog(snap_compare: SnapCompare) -> None:
    bench = Bench()
    failure = Failure(
        "unexpected ZeroDivisionError: boom", details="error     builtins.ZeroDivisionError", traceback="x"
    )

    async def fail(pilot: Pilot[None]) -> None:
        await ready(pilot, bench)
        bench.prompt.cursor_blink = False
        bench.app.show_failure(failure)
        await until(pilot, lambda: isinstance(bench.app.screen, ErrorDialog) and bench.app.screen.focused)

    assert snap_compare(bench.app, terminal_size=SMALL, run_before=fail)


@everywhere
@sizes
def test_comparison(snap_compare: SnapCompare, size: tuple[int, int], theme: str) -> None:
    bench = Bench(Script(replies=(REPLY, "Leases differ: *look at yours*.")), theme=theme)

    async def compare(pilot: Pilot[None]) -> None:
        await ready(pilot, bench)
        await pilot.press("f6", "space", "escape", *"notice?", "f7")
        await until(pilot, lambda: len(bench.statuses) == 2 and bench.statuses[1].endswith("complete"))
        still(bench)

    assert snap_compare(bench.app, terminal_size=size, run_before=compare)


@everywhere
@sizes
def test_attach_dialog(snap_compare: SnapCompare, size: tuple[int, int], theme: str) -> None:
    bench = Bench(theme=theme)
    Path("notes").mkdir()
    write_note("notes/lease.txt")
    Path("notes/photo.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(range(256)) * 8)

    async def attach(pilot: Pilot[None]) -> None:
        await ready(pilot, bench)
        await pilot.press("ctrl+o", *"notes")
        await until(pilot, lambda: "chunks of" in str(bench.app.screen.query_one("#facts", Static).content))
        await until(pilot, lambda: "tasks or images" in str(bench.app.screen.query_one("#kinds", Static).content))
        bench.app.screen.query_one("#path", Input).cursor_blink = False
        bench.app.screen.query_one("#make").focus()

    assert snap_compare(bench.app, terminal_size=size, run_before=attach)


@everywhere
@sizes
def test_task_dialog(snap_compare: SnapCompare, size: tuple[int, int], theme: str) -> None:
    bench = Bench(theme=theme)
    reader(bench, "a-task", tokens=64)
    reader(bench, "b-task")

    async def describe(pilot: Pilot[None]) -> None:
        await ready(pilot, bench)
        dialog = await open_task(pilot, bench)
        await until(pilot, lambda: dialog.query_one("#by").display)
        box = dialog.query_one(TaskBox)
        box.insert("Answer in one short sentence.\nIf the answer is a name, say only the name.")
        await until(pilot, lambda: "the first 64 tokens" in str(dialog.query_one("#facts", Static).content))
        dialog.query_one("#make").focus()

    assert snap_compare(bench.app, terminal_size=size, run_before=describe)


@everywhere
@sizes
def test_sum_dialog(snap_compare: SnapCompare, size: tuple[int, int], theme: str) -> None:
    bench = Bench(theme=theme, source=None)
    three(bench)

    async def mark(pilot: Pilot[None]) -> None:
        await open_library(pilot, bench)
        await pilot.press("m", "m", "e")
        await until(pilot, lambda: isinstance(bench.app.screen, ExportDialog))
        bench.app.screen.query_one("#export").focus()

    assert snap_compare(bench.app, terminal_size=size, run_before=mark)


@everywhere
@sizes
def test_jobs_dialog(snap_compare: SnapCompare, size: tuple[int, int], theme: str) -> None:
    bench = Bench(Script(encode_gate=threading.Event()), theme=theme, source=None)
    paused = bench.store.jobs.submit(JobRequest(source="/docs/[b]old.pdf"))
    bench.store.jobs.report(paused.id, Progress("encode", 17, 41, "old"))
    bench.store.jobs.finish(paused.id, "paused")
    broken = bench.store.jobs.submit(JobRequest(source="/docs/scan.pdf"))
    bench.store.jobs.finish(broken.id, "failed", message="scan.pdf: has no text in it", hint="run OCR first")
    bench.store.jobs.submit(JobRequest(source=str(write_note().absolute()), base="smollm2-135m-instruct", rank=-1))
    bench.store.jobs.submit(JobRequest(source="/docs/other.txt", base="qwen3-4b", rank=-1))

    async def look(pilot: Pilot[None]) -> None:
        await ready(pilot, bench)
        await until(pilot, lambda: bench.app.state.board.running and bench.app.state.board.running.percent is not None)
        await pilot.press("f4")
        await until(pilot, lambda: bench.app.screen.query_one(OptionList).option_count == 4)
        still_prompt(bench)

    assert snap_compare(bench.app, terminal_size=size, run_before=look)
    assert bench.script.encode_gate is not None
    bench.script.encode_gate.set()


def still_prompt(bench: Bench) -> None:
    bench.prompt.cursor_blink = False


@everywhere
@sizes
def test_library(snap_compare: SnapCompare, size: tuple[int, int], theme: str) -> None:
    bench = Bench(theme=theme, source=None)
    three(bench)

    async def look(pilot: Pilot[None]) -> None:
        await open_library(pilot, bench)
        await pilot.press("space")
        await until(pilot, lambda: "● " in str(bench.app.screen.query_one(DataTable).get_row_at(0)[0]))

    assert snap_compare(bench.app, terminal_size=size, run_before=look)


@everywhere
@sizes
def test_export_dialog(
    snap_compare: SnapCompare, home: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], theme: str
) -> None:
    bench = Bench(theme=theme, source=None)
    put_real(bench.store, "notes", home)
    lines = PeftExport(Path("/docs/notes-peft"), INFO.name).python  # the real folder has another name in each run
    monkeypatch.setattr(PeftExport, "python", lines)

    async def export(pilot: Pilot[None]) -> None:
        await open_library(pilot, bench)
        await pilot.press("e", "tab", "down", "enter", "shift+tab", "enter")
        await until(pilot, lambda: not bench.app.screen.query_one("#copy", Button).disabled)
        bench.app.screen.query_one("#to", Input).cursor_blink = False

    assert snap_compare(bench.app, terminal_size=size, run_before=export)


@everywhere
@sizes
def test_models(snap_compare: SnapCompare, size: tuple[int, int], theme: str) -> None:
    bench = Bench(theme=theme, source=None)
    model_file(bench, "own")

    async def look(pilot: Pilot[None]) -> None:
        await highlight(pilot, await open_models(pilot, bench), "smollm2-135m-instruct")

    assert snap_compare(bench.app, terminal_size=size, run_before=look)


@everywhere
@sizes
def test_settings(snap_compare: SnapCompare, size: tuple[int, int], theme: str) -> None:
    bench = Bench(theme=theme, settings={"sampling.temperature": 0.7})

    async def look(pilot: Pilot[None]) -> None:
        screen = await open_settings(pilot, bench)
        screen.query_one("#find", Input).cursor_blink = False
        await pilot.press(*"sampling")
        await until(pilot, lambda: sum(row.display for row in screen.query(SettingRow)) == 8)

    assert snap_compare(bench.app, terminal_size=size, run_before=look)


@everywhere
@sizes
def test_quotes(snap_compare: SnapCompare, size: tuple[int, int], theme: str) -> None:
    bench = Bench(Script(replies=("Notice is **three months**.",)), theme=theme, source=None)

    async def look(pilot: Pilot[None]) -> None:
        await ready(pilot, bench)
        await attach(pilot, bench, write_note())
        await until(pilot, lambda: bench.app.chat.attached() and bench.toasts)
        bench.app.clear_notifications()
        await ask(pilot, "who is the landlord")
        await answered(pilot, bench, 1)
        bench.prompt.cursor_blink = False
        await pilot.press("f8")
        await until(pilot, lambda: "chunk 1 of" in str(bench.app.screen.query_one("#text", Static).content))

    assert snap_compare(bench.app, terminal_size=size, run_before=look)
