"""The models screen, driven by keys: what is here, switching with the memory checked first, fetching with progress."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from rich.table import Table
from textual.pilot import Pilot
from textual.widgets import DataTable, Static

from localhyper import download
from localhyper.config import Config, load_config
from localhyper.errors import DownloadError, ModelError
from localhyper.model_specs import BaseModelSpec, FolderSpec, ModelSpec
from localhyper.paths import Paths
from localhyper.progress import CancelToken, Progress, ProgressCallback
from localhyper.tui.model_room import WorkbenchRoom
from localhyper.tui.models_screen import ModelsScreen
from tests.tiny_gguf import write_tiny_gguf
from tests.tui.flows import Bench, answered, ask, ready, until

WIDE = (120, 40)


def model_file(bench: Bench, name: str) -> Path:
    """A small but complete model file in the models folder."""
    return write_tiny_gguf(bench.paths.models_dir / f"{name}.gguf")


async def open_models(pilot: Pilot[None], bench: Bench) -> ModelsScreen:
    await ready(pilot, bench)
    await pilot.press("f5")
    await until(pilot, lambda: isinstance(bench.app.screen, ModelsScreen) and bench.app.screen._rows)
    screen = bench.app.screen
    assert isinstance(screen, ModelsScreen)
    return screen


async def highlight(pilot: Pilot[None], screen: ModelsScreen, name: str) -> None:
    names = [row.status.name for row in screen._rows]
    screen.query_one(DataTable).move_cursor(row=names.index(name))
    # The cursor moves at once, what stands beside it follows with a message.
    await until(pilot, lambda: told(screen) == name and not pilot.app.workers._workers)


def told(screen: ModelsScreen) -> str:
    """The model that the details are about."""
    table = screen.query_one("#facts", Static).content
    assert isinstance(table, Table)
    return str(next(iter(table.columns[1].cells)))


def cells(screen: ModelsScreen) -> dict[str, list[str]]:
    """Rows by name: mark first."""
    table = screen.query_one(DataTable)
    rows = [[str(cell) for cell in table.get_row_at(row)] for row in range(table.row_count)]
    return {row[0][2:]: [row[0][0], *row[1:]] for row in rows}


async def test_list_marks_what_is_here_what_can_be_fetched_and_what_attaches() -> None:
    bench = Bench(source=None)
    model_file(bench, "own")
    (bench.paths.models_dir / "broken.gguf").write_bytes(b"GGUF but no more")
    async with bench.app.run_test(size=WIDE) as pilot:
        screen = await open_models(pilot, bench)
        rows = cells(screen)
        assert rows["qwen3-4b"][0] == "↓" and rows["qwen3-4b"][3] == "no hypernetwork"
        assert rows["smollm2-135m-instruct"][3] == "✓"
        assert rows["gemma-2-2b-it"][3] == "to import"
        assert rows["llama-3.1-8b-instruct"][3] == "no hypernetwork"  # a published one for tasks only
        assert rows["own"][0] == "○" and rows["own"][2].endswith("MB")
        assert rows["broken"][0] == "x"
        await highlight(pilot, screen, "broken")
        await pilot.press("enter")
        await until(pilot, lambda: any("broken.gguf" in toast for toast in bench.toasts))
        await highlight(pilot, screen, "qwen3-4b")
        await pilot.press("enter")
        await until(pilot, lambda: any("p fetches it" in toast for toast in bench.toasts))
        await highlight(pilot, screen, "gemma-2-2b-it")
        assert screen.current is not None
        assert "doc-to-lora-gemma-demo" in dict(screen._facts(screen.current))["import"]


async def test_folders_are_listed_told_and_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []

    def pull(
        spec: ModelSpec, progress: ProgressCallback, cancel: CancelToken, *, paths: Paths, force: bool = False
    ) -> Path:
        fetched.append(spec.name)
        assert isinstance(spec, FolderSpec)
        for file in spec.files:
            (paths.models_dir / spec.name / file).parent.mkdir(parents=True, exist_ok=True)
            (paths.models_dir / spec.name / file).write_bytes(b"x" * 1_000_000)
        return paths.models_dir / spec.name

    monkeypatch.setattr(download, "pull", pull)
    bench = Bench(source=None)
    name = "text-to-lora-gemma-2-2b"
    async with bench.app.run_test(size=WIDE) as pilot:
        screen = await open_models(pilot, bench)
        assert cells(screen)[name] == ["↓", "?", "", "published"]
        assert cells(screen)["gte-large-en-v1.5"][3] == "embedder"
        await highlight(pilot, screen, name)
        await pilot.press("enter")
        await until(pilot, lambda: any("p fetches it" in toast for toast in bench.toasts))
        await pilot.press("p")
        await until(pilot, lambda: cells(screen)[name][:2] == ["○", "3 MB"])
        await highlight(pilot, screen, name)
        await pilot.press("enter")
        await until(pilot, lambda: any("hypernet import text-to-lora-gemma-2-2b" in toast for toast in bench.toasts))
    assert fetched == [name]


async def test_switching_loads_the_other_model_and_is_kept_for_the_next_start() -> None:
    loaded: list[str] = []
    bench = Bench(source=None)
    hook = bench._load

    def load(config: Config, report: ProgressCallback):  # type: ignore[no-untyped-def]
        loaded.append(config.base.name)
        return hook(config, report)

    bench.room._load_hook = load
    model_file(bench, "own")
    async with bench.app.run_test(size=WIDE) as pilot:
        screen = await open_models(pilot, bench)
        await highlight(pilot, screen, "own")
        await pilot.press("enter")
        await until(pilot, lambda: "own" in bench.header and cells(screen)["own"][0] == "●")
        await until(pilot, lambda: load_config(bench.paths.config_file).base.name == "own")
        await pilot.press("escape")
        await ask(pilot, "q")
        await answered(pilot, bench, 1)
    assert loaded == ["smollm2-135m-instruct", "own"]
    assert bench.engine.closed == 1, "the one before it is freed"


async def test_a_model_that_does_not_fit_is_refused_and_the_one_in_use_stays() -> None:
    bench = Bench(source=None)
    model_file(bench, "own")
    async with bench.app.run_test(size=WIDE) as pilot:
        screen = await open_models(pilot, bench)
        bench.room.check_errors.append(ModelError("`own` needs 9,000 MB of memory, 10 MB are free", "smaller"))
        await highlight(pilot, screen, "own")
        await pilot.press("enter")
        await until(pilot, lambda: any("9,000 MB" in toast and "stays" in toast for toast in bench.toasts))
        await pilot.press("escape")
        await ask(pilot, "q")
        await answered(pilot, bench, 1)
        assert "smollm2-135m-instruct" in bench.header
    assert not bench.paths.config_file.exists()


def test_memory_is_checked_by_header_before_anything_is_loaded(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("llama_cpp")
    monkeypatch.setattr("localhyper.memory_check.available_memory", lambda: 1000)
    file = write_tiny_gguf(paths.create().models_dir / "own.gguf")
    config = Config(base=type(Config().base)(name=str(file)))
    with pytest.raises(ModelError, match=r"needs .* MB of memory, 0 MB are free"):
        WorkbenchRoom(paths).check(config)


async def test_fetching_shows_bytes_can_be_stopped_and_errors_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    going = threading.Event()
    outcomes: list[Exception] = [DownloadError("the hub is not reachable", "check the network")]

    def pull(
        spec: ModelSpec, progress: ProgressCallback, cancel: CancelToken, *, paths: Paths, force: bool = False
    ) -> Path:
        if outcomes:
            raise outcomes.pop()
        progress(Progress("download", 1_500_000, 3_000_000, spec.name))
        while not going.wait(0.01):
            cancel.check()
        assert isinstance(spec, BaseModelSpec)
        return write_tiny_gguf(paths.models_dir / spec.file)

    monkeypatch.setattr(download, "pull", pull)
    bench = Bench(source=None)
    async with bench.app.run_test(size=WIDE) as pilot:
        screen = await open_models(pilot, bench)
        await highlight(pilot, screen, "qwen3-4b")
        await pilot.press("p")
        await until(
            pilot, lambda: any("the hub is not reachable\ncheck the network" in toast for toast in bench.toasts)
        )

        def what() -> str:
            return str(screen.query_one("#what", Static).content)

        await pilot.press("p")
        await until(pilot, lambda: "download qwen3-4b 50.0%, 2 MB of 3 MB" in what())
        await pilot.press("x")
        await until(pilot, lambda: any("Stopped" in toast for toast in bench.toasts))
        await pilot.press("p")
        await until(pilot, lambda: screen._fetching is not None)
        going.set()
        await until(pilot, lambda: any("✓ Fetched and checked" in toast for toast in bench.toasts))
        await until(pilot, lambda: cells(screen)["qwen3-4b"][0] in "○x")


async def test_quitting_stops_a_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = threading.Event()

    def pull(spec: ModelSpec, progress: ProgressCallback, cancel: CancelToken, **_more: object) -> Path:
        while not cancel.cancelled:
            stopped.wait(0.01)
        stopped.set()
        cancel.check()
        raise AssertionError

    monkeypatch.setattr(download, "pull", pull)
    bench = Bench(source=None)
    async with bench.app.run_test(size=WIDE) as pilot:
        screen = await open_models(pilot, bench)
        await highlight(pilot, screen, "qwen3-4b")
        await pilot.press("p", "ctrl+q")
        await until(pilot, lambda: bench.app._exit)
    assert stopped.wait(10)
