"""The library screen, driven by keys over a real library: sort, search, rename, delete with undo, details, export."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from textual.pilot import Pilot
from textual.widgets import Button, Checkbox, DataTable, Input, RadioSet, Static

from localhyper.base_header import read_base_info
from localhyper.gguf_adapter import AdapterMetadata, write_adapter
from localhyper.library import AdapterInfo, Passage
from localhyper.tui.export_dialog import ExportDialog
from localhyper.tui.facts import facts_text
from localhyper.tui.library_screen import LibraryScreen
from localhyper.tui.quotes_dialog import QuotesDialog
from localhyper.tui.store import Store
from localhyper.tui.text_dialog import TextDialog
from tests.tiny_gguf import tiny_lora, write_tiny_gguf
from tests.tui.fake_engine import INFO
from tests.tui.flows import Bench, answered, ask, ready, until

WIDE = (120, 40)


def put(store: Store, name: str, text: Sequence[str] = ("some words",), **changes: object) -> AdapterInfo:
    """Store an adapter with a small real file; `text` is its source, a passage each."""
    library = store.library
    key = (name.encode().hex() + "0" * 64)[:64]
    path = library.file_for(name, key)
    path.write_bytes(b"gguf" * 500)
    info = AdapterInfo(
        name, path, key, f"The {name} [b]title", "txt", f"/docs/{name}.txt", "d" * 64, INFO.name, INFO.fingerprint,
        "tiny", "e" * 64, 16, 0.987, 1234, 6, 2000, "2026-01-02T03:04:05+00:00", ("page 3 has no text",),
    )  # fmt: skip
    return library.add(replace(info, **changes), passages(text))  # type: ignore[arg-type]


def passages(text: Sequence[str]) -> list[Passage]:
    """One chunk each, one after the other."""
    starts = [sum(map(len, text[:number])) for number in range(len(text))]
    return [
        Passage(n, words, start, start + len(words)) for n, (words, start) in enumerate(zip(text, starts, strict=True))
    ]


def three(bench: Bench) -> None:
    put(bench.store, "lease", tokens=10, made_at="2026-01-01T00:00:00+00:00")
    put(bench.store, "notes", tokens=999, kind="folder", made_at="2026-03-01T00:00:00+00:00")
    put(bench.store, "old", tokens=500, base_fingerprint="cd" * 32, base_name="other-base")


def told_in(bench: Bench, words: str) -> Callable[[], bool]:
    return lambda: any(words in toast for toast in bench.toasts)


async def open_library(pilot: Pilot[None], bench: Bench) -> LibraryScreen:
    await ready(pilot, bench)
    await pilot.press("f3")
    await until(pilot, lambda: isinstance(bench.app.screen, LibraryScreen) and bench.app.screen._all)
    screen = bench.app.screen
    assert isinstance(screen, LibraryScreen)
    return screen


def names(screen: LibraryScreen) -> list[str]:
    """The first column, without marks."""
    table = screen.query_one(DataTable)
    return [str(table.get_row_at(row)[0])[2:] for row in range(table.row_count)]


async def test_columns_sort_by_key_and_by_click() -> None:
    bench = Bench(source=None)
    three(bench)
    async with bench.app.run_test(size=WIDE) as pilot:
        screen = await open_library(pilot, bench)
        assert names(screen) == ["notes", "old", "lease"], "the newest first"
        await pilot.press("s")
        assert names(screen) == ["lease", "notes", "old"]
        await pilot.press("s", "s")
        assert names(screen) == ["notes", "old", "lease"], "by tokens"
        await pilot.press("v")
        assert names(screen) == ["lease", "old", "notes"]
        await pilot.click(DataTable, offset=(3, 0))
        await until(pilot, lambda: names(screen) == ["lease", "notes", "old"])


async def test_search_filters_and_escape_takes_it_back() -> None:
    bench = Bench(source=None)
    three(bench)
    async with bench.app.run_test(size=WIDE) as pilot:
        screen = await open_library(pilot, bench)
        await pilot.press("slash", *"OTHER")
        await until(pilot, lambda: names(screen) == ["old"])
        await pilot.press(*"zz")
        await until(pilot, lambda: "No adapter has these letters" in str(screen.query_one("#none", Static).content))
        await pilot.press("escape")
        await until(pilot, lambda: len(names(screen)) == 3)
        await pilot.press("escape")
        await until(pilot, lambda: bench.app.current_mode == "chat")


async def test_details_tell_all_and_which_base_it_fits() -> None:
    bench = Bench(source=None)
    three(bench)
    async with bench.app.run_test(size=WIDE) as pilot:
        await open_library(pilot, bench)
        await pilot.press("c")
        await until(pilot, lambda: bench.copied)
        told = bench.copied[0]
        for words in ("The notes [b]title", "/docs/notes.txt", "d" * 64, "999 in 6 chunks", "16, 98.70% of the", "tiny",
                      "page 3 has no text", "● Scripted-135M"):  # fmt: skip
            assert words in told
        await pilot.press("down", "c")
        await until(pilot, lambda: len(bench.copied) == 2)
        assert "other-base (not here)" in bench.copied[1]


async def test_rename_takes_only_good_and_free_names_and_keeps_it_attached() -> None:
    bench = Bench(source=None)
    three(bench)
    async with bench.app.run_test(size=WIDE) as pilot:
        screen = await open_library(pilot, bench)
        await pilot.press("space")
        await until(pilot, lambda: [adapter.name for adapter in bench.app.chat.attached()] == ["notes"])
        for wrong, told in (("../evil", "cannot be an adapter's name"), ("lease", "already")):
            await pilot.press("r")
            await until(pilot, lambda: isinstance(bench.app.screen, TextDialog))
            bench.app.screen.query_one(Input).value = wrong
            await pilot.press("enter")
            await until(pilot, told_in(bench, told))
        await pilot.press("r")
        await until(pilot, lambda: isinstance(bench.app.screen, TextDialog))
        await pilot.press(*"2", "enter")
        await until(pilot, lambda: "2" in names(screen) or "notes2" in names(screen))
        await until(pilot, lambda: [adapter.name for adapter in bench.app.chat.attached()] in (["2"], ["notes2"]))


async def test_delete_is_undone_from_the_list_and_from_the_trash() -> None:
    bench = Bench(source=None)
    three(bench)
    async with bench.app.run_test(size=WIDE) as pilot:
        screen = await open_library(pilot, bench)
        await pilot.press("delete")
        await until(pilot, lambda: names(screen) == ["old", "lease"])
        assert any("u brings it back" in toast for toast in bench.toasts)
        await pilot.press("u")
        await until(pilot, lambda: len(names(screen)) == 3)
        await pilot.press("delete")
        await until(pilot, lambda: len(names(screen)) == 2)
        await pilot.press("t")
        await until(pilot, lambda: len(names(screen)) == 1 and "in the trash" in summary(screen))
        await pilot.press("u")
        await until(pilot, lambda: "The trash is empty" in str(screen.query_one("#none", Static).content))
        await pilot.press("u")
        await until(pilot, lambda: any("the trash is empty" in toast for toast in bench.toasts))
        await pilot.press("escape")
        await until(pilot, lambda: len(names(screen)) == 3)


def summary(screen: LibraryScreen) -> str:
    return str(screen.query_one("#summary", Static).content)


async def open_export(pilot: Pilot[None], bench: Bench) -> ExportDialog:
    await open_library(pilot, bench)
    await pilot.press("e")
    await until(pilot, lambda: isinstance(bench.app.screen, ExportDialog))
    dialog = bench.app.screen
    assert isinstance(dialog, ExportDialog)
    return dialog


def told_by(dialog: ExportDialog) -> str:
    return str(dialog.query_one("#result", Static).content)


async def test_export_gives_the_file_and_the_ready_command(tmp_path: Path) -> None:
    bench = Bench(source=None)
    three(bench)
    target = tmp_path / "new folder" / "notes.gguf"
    async with bench.app.run_test(size=WIDE) as pilot:
        dialog = await open_export(pilot, bench)

        dialog.query_one("#to", Input).value = str(target)
        dialog.query_one("#to").focus()
        await pilot.press("enter")
        await until(pilot, lambda: target.exists() and "llama-server" in told_by(dialog))
        assert target.read_bytes() == b"gguf" * 500
        await until(pilot, lambda: not dialog.query_one("#copy", Button).disabled)
        dialog.query_one("#copy", Button).press()
        await until(pilot, lambda: bench.copied)
        assert bench.copied == [f"llama-server -m {INFO.name}.gguf --lora '{target}'"]
        dialog.query_one("#export", Button).press()
        await until(pilot, lambda: "exists already" in told_by(dialog) and "tick the box" in told_by(dialog))
        dialog.query_one(Checkbox).value = True
        dialog.query_one("#export", Button).press()
        await until(pilot, lambda: "✓ Written" in told_by(dialog))


def put_real(store: Store, name: str, folder: Path) -> AdapterInfo:
    """Store an adapter whose file is one."""
    base = read_base_info(write_tiny_gguf(folder / "tiny.gguf"))
    write_adapter(folder / "made.gguf", tiny_lora(), base, AdapterMetadata(name=name))
    data = (folder / "made.gguf").read_bytes()
    info = put(store, name, size_bytes=len(data))
    info.path.write_bytes(data)
    return info


async def test_export_as_peft_is_chosen_by_keys_and_gives_the_lines_that_load_it(tmp_path: Path) -> None:
    bench = Bench(source=None)
    put_real(bench.store, "notes", tmp_path)
    folder = tmp_path / "notes-peft"
    bench.app.chat.services.remembered.update(export_folder=str(tmp_path))
    async with bench.app.run_test(size=(80, 24)) as pilot:
        dialog = await open_export(pilot, bench)

        assert dialog.query_one("#to", Input).value == str(tmp_path / "notes.gguf")
        await pilot.press("tab", "down", "enter")
        await until(pilot, lambda: dialog.query_one("#to", Input).value == str(folder))
        assert "PEFT loads it" in told_by(dialog)
        await pilot.press("shift+tab", "enter")
        await until(pilot, lambda: not dialog.query_one("#copy", Button).disabled)
        assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
        await pilot.press("enter")
        await until(pilot, lambda: bench.copied)
        assert bench.copied[0].endswith(
            f"base = AutoModelForCausalLM.from_pretrained('{INFO.name}')\n"
            f"model = PeftModel.from_pretrained(base, '{folder}')"
        )
        assert bench.copied[0] in told_by(dialog)
        bottom = dialog.query_one("#export").region.bottom
        assert bottom <= dialog.size.height, "all of it is on the smallest screen"
        dialog.query_one("#export", Button).press()
        await until(pilot, lambda: "exists already" in told_by(dialog) and "tick the box" in told_by(dialog))
        dialog.query_one(Checkbox).value = True
        dialog.query_one("#export", Button).press()
        await until(pilot, lambda: "✓ Written" in told_by(dialog))
        dialog.query_one("#to", Input).value = "elsewhere"
        dialog.query_one(RadioSet).focus()
        await pilot.press("up", "enter")
        await until(pilot, lambda: "any llama.cpp" in told_by(dialog))
        assert dialog.query_one("#copy", Button).disabled
        assert dialog.query_one("#to", Input).value == "elsewhere", "a typed place stays"


async def import_from(pilot: Pilot[None], bench: Bench, path: Path) -> None:
    await pilot.press("i")
    await until(pilot, lambda: isinstance(bench.app.screen, TextDialog))
    bench.app.screen.query_one(Input).value = f"'{path}'"
    await pilot.press("enter")
    await until(pilot, lambda: isinstance(bench.app.screen, LibraryScreen))


async def test_an_adapter_is_imported_by_its_path_and_has_no_text(tmp_path: Path) -> None:
    bench = Bench(source=None)
    three(bench)
    file = tmp_path / "old friend.gguf"
    base = write_tiny_gguf(bench.store.paths.create().models_dir / "tiny.gguf")
    info = read_base_info(base)
    write_adapter(file, tiny_lora(), info, AdapterMetadata(name="friend", base_fingerprint=info.fingerprint))
    async with bench.app.run_test(size=WIDE) as pilot:
        screen = await open_library(pilot, bench)
        await import_from(pilot, bench, tmp_path / "nothing.gguf")
        await until(pilot, told_in(bench, "does not exist"))
        await import_from(pilot, bench, file)
        await until(pilot, lambda: "friend" in names(screen))
        assert any("Imported friend" in toast for toast in bench.toasts)
        await import_from(pilot, bench, file)
        await until(pilot, told_in(bench, "friend is in the library already"))
        assert len(names(screen)) == 4
        row = names(screen).index("friend")
        screen.query_one(DataTable).move_cursor(row=row)
        assert str(screen.query_one(DataTable).get_row_at(row)[2]) == "-"
        await pilot.press("c")
        await until(pilot, lambda: bench.copied)
        assert "hypernetwork" not in bench.copied[0]
        assert "tiny-llama" in bench.copied[0]


async def test_quotes_say_that_an_imported_adapter_has_no_text() -> None:
    bench = Bench(source=None)
    put(bench.store, "friend", (), tokens=0, chunks=0, kind="peft")
    async with bench.app.run_test(size=WIDE) as pilot:
        await open_library(pilot, bench)
        await pilot.press("space", "escape")
        await until(pilot, lambda: [adapter.name for adapter in bench.app.chat.attached()] == ["friend"])
        await ask(pilot, "what is it")
        await answered(pilot, bench, 1)
        await pilot.press("f8")
        await until(pilot, lambda: isinstance(bench.app.screen, QuotesDialog))
        await until(pilot, lambda: "No text is stored" in str(bench.app.screen.query_one("#text", Static).content))


async def test_a_strange_adapter_is_one_line_in_the_dialog(tmp_path: Path) -> None:
    bench = Bench(source=None)
    three(bench)
    async with bench.app.run_test(size=(80, 24)) as pilot:
        await open_library(pilot, bench)
        await pilot.press("e", "tab", "down", "enter", "shift+tab")
        bench.app.screen.query_one("#to", Input).value = str(tmp_path / "out")
        await pilot.press("enter")
        result = bench.app.screen.query_one("#result", Static)
        await until(pilot, lambda: str(result.content).startswith("! adapter `notes-"))
        assert "unusable: " in str(result.content)
        assert not (tmp_path / "out").exists()


async def test_empty_and_damaged_libraries_say_what_to_do() -> None:
    bench = Bench(source=None)
    async with bench.app.run_test(size=(80, 24)) as pilot:
        await ready(pilot, bench)
        await pilot.press("f3")
        await until(pilot, lambda: "No adapters yet" in none_text(bench))
        bench.store.database.path.write_bytes(b"not a database" * 100)
        for side in ("-wal", "-shm"):
            bench.store.database.path.with_name(bench.store.database.path.name + side).unlink(missing_ok=True)
        bench.app.state.library_changed.publish("")
        await until(pilot, lambda: "is damaged" in none_text(bench) and "move" in none_text(bench))
        await pilot.press("escape")
        await until(pilot, lambda: bench.app.current_mode == "chat")


def none_text(bench: Bench) -> str:
    return str(bench.app.screen.query_one("#none", Static).content)


async def test_adapters_are_deleted_and_brought_back_beside_the_chat() -> None:
    bench = Bench(source=None)
    three(bench)
    async with bench.app.run_test(size=WIDE) as pilot:
        await ready(pilot, bench)
        await pilot.press("f6", "space", "delete")
        await until(pilot, lambda: len(bench.store.library.list()) == 2)
        await until(pilot, lambda: "Deleted old" in "".join(bench.toasts))
        await pilot.press("u")
        await until(pilot, lambda: len(bench.store.library.list()) == 3)


def test_facts_are_copied_as_lines() -> None:
    assert facts_text([("name", "x"), ("left out", "y")]) == "name         x\nleft out     y\n"
