"""`python -m docs.make_pictures`: draw `docs/images/*.svg`, the terminal UI over the tests' scripted engine.

The pictures show the screens, not what a model can do: the replies are written below, and the adapters are made by the
real pipeline from a tiny bundle of random weights. Same Textual, same pictures.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from unittest import mock

from textual.pilot import Pilot
from textual.widgets import DataTable, Input, OptionList, Static

from localhyper.atomic import write_text_atomic
from localhyper.jobs import JobRequest
from localhyper.paths import HOME_VARIABLE
from localhyper.progress import Progress
from localhyper.tui.export_dialog import ExportDialog
from localhyper.tui.settings_screen import SettingRow
from localhyper.tui.task_box import TaskBox
from tests.tiny_gguf import write_tiny_gguf
from tests.tiny_onnx import TinyBundle, write
from tests.tui.fake_engine import Script
from tests.tui.flows import Bench, answered, ask, ready, until
from tests.tui.test_library_flow import open_library, put
from tests.tui.test_models_flow import highlight, open_models
from tests.tui.test_settings_flow import open_settings

IMAGES = Path(__file__).resolve().parent / "images"
SIZE = (100, 30)
QUESTION = "Who keeps the lighthouse?"
REPLY = "The keeper of the lighthouse is **Tomas Brekkeli**."
WITHOUT = "The lighthouse is kept by its keeper, who lives *on the island*."
CHUNKS = (
    "The harbour master is Ingrid Valdane. She is on the mainland until Friday, and her deputy has the keys. ",
    "The keeper of the lighthouse is Tomas Brekkeli. Call him when fog comes in from the west. ",
    "The archive holds 5280 maps, and all of them must stay dry, so please look at the cellar once. ",
)
SENTENCES = "".join(CHUNKS)
_TIMED = ("adapter_details", "chats_panel", "jobs_dialog", "library_screen", "palette")
Steps = Callable[[Bench, Pilot[None]], Awaitable[None]]


def with_adapters() -> Bench:
    """An app whose library has two adapters."""
    bench = Bench(Script(replies=(REPLY, WITHOUT)), source=None)
    common = {"title": "", "base_name": "smollm2-135m-instruct", "notes": ()}
    put(bench.store, "lease-2025", **{**common, "title": "Lease", "kind": "pdf", "tokens": 6120, "chunks": 26})
    office = {**common, "title": "Harbour office", "origin": "~/docs/harbour-office.txt", "tokens": 612, "chunks": 3}
    put(bench.store, "harbour-office", CHUNKS, **office)
    return bench


async def chat(bench: Bench, pilot: Pilot[None]) -> None:
    """A question answered under one adapter."""
    await pilot.press("f6", "space", "escape")
    await ask(pilot, QUESTION)
    await answered(pilot, bench, 1)


async def compare(bench: Bench, pilot: Pilot[None]) -> None:
    """The same question with and without."""
    await chat(bench, pilot)
    await pilot.press("f7")
    await answered(pilot, bench, 2)


async def attaching(bench: Bench, pilot: Pilot[None]) -> None:
    """The dialog, with a folder in it."""
    folder = Path("notes")
    folder.mkdir()
    (folder / "harbour.txt").write_text("\n\n".join([SENTENCES] * 6), encoding="utf-8")
    (folder / "pier.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(range(256)) * 8)
    await pilot.press("ctrl+o", *"notes")
    await until(pilot, lambda: "chunks of" in str(bench.app.screen.query_one("#facts", Static).content))
    await until(pilot, lambda: "tasks or images" in str(bench.app.screen.query_one("#kinds", Static).content))
    bench.app.screen.query_one("#make").focus()


def with_tasks() -> Bench:
    """An app with two hypernetworks for tasks."""
    bench = with_adapters()
    for name in ("smollm2-135m-task", "my-task"):
        tiny = TinyBundle(chunk_tokens=256, metadata={"kind": "task", "name": name})
        write(bench.paths.hypernetworks_dir / f"{name}.onnx", tiny)
    return bench


async def attaching_task(bench: Bench, pilot: Pilot[None]) -> None:
    """The dialog, with a task in it."""
    await pilot.press("ctrl+o", "ctrl+t")
    await until(pilot, lambda: bench.app.screen.query_one("#by").display)
    bench.app.screen.query_one(TaskBox).insert(
        "Answer in one short sentence.\nIf the answer is a name, say only the name."
    )
    await until(pilot, lambda: "read as one piece" in str(bench.app.screen.query_one("#facts", Static).content))
    bench.app.screen.query_one("#make").focus()


async def exporting(bench: Bench, pilot: Pilot[None]) -> None:
    """A document's adapter and a task's, about to become one."""
    common = {"base_name": "smollm2-135m-instruct", "notes": (), "origin": "", "tokens": 12, "chunks": 1}
    put(
        bench.store,
        "short",
        ("Answer in one short sentence.",),
        kind="task",
        title="Answer in one short sentence.",
        **common,
    )
    await open_library(pilot, bench)
    await until(pilot, lambda: bench.app.screen.query_one(DataTable).row_count == 3)
    await pilot.press("m", "m", "e")
    await until(pilot, lambda: isinstance(bench.app.screen, ExportDialog))
    bench.app.screen.query_one("#adapters", Input).value = "short@0.8 harbour-office"
    bench.app.screen.query_one("#export").focus()


async def jobs(bench: Bench, pilot: Pilot[None]) -> None:
    """One paused, one failed, one running, one waiting."""
    await until(pilot, lambda: bench.app.state.board.running and bench.app.state.board.running.percent is not None)
    await pilot.press("f4")
    await until(pilot, lambda: bench.app.screen.query_one(OptionList).option_count == 4)


def with_jobs() -> Bench:
    """An app whose queue is busy."""
    bench = Bench(Script(encode_gate=threading.Event()), source=None)
    note = Path("harbour.txt")
    note.write_text("\n\n".join([SENTENCES] * 6), encoding="utf-8")
    queue = bench.store.jobs
    paused = queue.submit(JobRequest(source="/docs/handbook.pdf"))
    queue.report(paused.id, Progress("encode", 17, 41, "handbook"))
    queue.finish(paused.id, "paused")
    broken = queue.submit(JobRequest(source="/docs/scan.pdf"))
    queue.finish(broken.id, "failed", message="scan.pdf: has no text in it", hint="run OCR first")
    for source, base in ((str(note.absolute()), "smollm2-135m-instruct"), ("/docs/rules.md", "qwen3-4b")):
        queue.submit(JobRequest(source=source, base=base, rank=-1))
    return bench


async def quotes(bench: Bench, pilot: Pilot[None]) -> None:
    """Passages for a reply."""
    await chat(bench, pilot)
    await pilot.press("f8")
    await until(pilot, lambda: "chunk " in str(bench.app.screen.query_one("#text", Static).content))


async def library(bench: Bench, pilot: Pilot[None]) -> None:
    """The library with one adapter on."""
    await open_library(pilot, bench)
    await pilot.press("space")
    await until(pilot, lambda: "● " in str(bench.app.screen.query_one(DataTable).get_row_at(0)[0]))


async def models(bench: Bench, pilot: Pilot[None]) -> None:
    """The base models."""
    write_tiny_gguf(bench.paths.models_dir / "my-own.gguf")
    await highlight(pilot, await open_models(pilot, bench), "smollm2-135m-instruct")


async def settings(bench: Bench, pilot: Pilot[None]) -> None:
    """The settings, searched."""
    screen = await open_settings(pilot, bench)
    await pilot.press(*"sampling")
    await until(pilot, lambda: sum(row.display for row in screen.query(SettingRow)) == 8)


async def palette(bench: Bench, pilot: Pilot[None]) -> None:
    """The palette, searched."""
    await chat(bench, pilot)
    await pilot.press("ctrl+p", *"adapter")
    await until(pilot, lambda: bench.app.screen.query_one(OptionList).option_count > 3)
    await pilot.pause(0.3)


PICTURES: dict[str, tuple[Callable[[], Bench], Steps]] = {
    "chat": (with_adapters, chat),
    "compare": (with_adapters, compare),
    "attach": (with_adapters, attaching),
    "attach-task": (with_tasks, attaching_task),
    "export": (with_adapters, exporting),
    "jobs": (with_jobs, jobs),
    "quotes": (with_adapters, quotes),
    "library": (with_adapters, library),
    "models": (lambda: Bench(source=None), models),
    "settings": (lambda: Bench(source=None), settings),
    "palette": (with_adapters, palette),
}


async def picture(make: Callable[[], Bench], steps: Steps) -> str:
    """One screen as SVG, with nothing on it that blinks."""
    bench = make()
    async with bench.app.run_test(size=SIZE) as pilot:
        await ready(pilot, bench)
        bench.prompt.cursor_blink = False
        await steps(bench, pilot)
        for box in bench.app.screen.query(Input):
            box.cursor_blink = False
        if bench.app.screen is bench.app.chat:
            bench.app.screen.set_focus(None)
        await pilot.pause()
        svg = bench.app.export_screenshot(title="localhyper")
    if bench.script.encode_gate is not None:
        bench.script.encode_gate.set()
    bench.app.host.close(10)
    return _plain(svg)


def _plain(svg: str) -> str:
    """Without fonts from the network, and with ids that are the same each time."""
    svg = re.sub(r"\s*@font-face\s*\{.*?\n    \}", "", svg, flags=re.S)
    unique = re.search(r"terminal-\d+", svg)
    return svg.replace(unique.group(), "terminal") if unique else svg


@contextlib.contextmanager
def _frozen() -> Iterator[None]:
    """A home of its own, one time of day, one amount of memory."""
    with tempfile.TemporaryDirectory() as home, contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, {"HOME": home, HOME_VARIABLE: home}))
        stack.enter_context(contextlib.chdir(home))
        stack.enter_context(mock.patch("localhyper.memory_check.available_memory", lambda: 5_000_000_000))
        for module in _TIMED:
            target = f"localhyper.tui.{module}.day_text"
            stack.enter_context(mock.patch(target, lambda iso: "12:34" if iso else ""))
        yield


def main() -> None:
    """Draw every picture."""
    for name, (make, steps) in PICTURES.items():
        with _frozen():
            svg = asyncio.run(picture(make, steps))
        write_text_atomic(IMAGES / f"{name}.svg", svg)


if __name__ == "__main__":
    main()
