"""The settings screen, driven by keys: one schema, checked values, keys, themes, help; and what all screens share."""

from __future__ import annotations

import pytest
from textual.pilot import Pilot
from textual.widgets import HelpPanel, Input, OptionList, Select, Static, Switch
from textual.widgets._footer import FooterKey

from localhyper.config import Config, load_config
from localhyper.config_edit import schema, value_of
from localhyper.tui.key_dialog import KeyDialog
from localhyper.tui.keys import all_bindings, clashes, key_rows
from localhyper.tui.settings_screen import SettingRow, SettingsScreen
from tests.tui.fake_engine import Script
from tests.tui.flows import Bench, answered, ask, ready, until

WIDE = (120, 40)


async def open_settings(pilot: Pilot[None], bench: Bench) -> SettingsScreen:
    await ready(pilot, bench)
    await pilot.press("f2")
    await until(pilot, lambda: isinstance(bench.app.screen, SettingsScreen) and bench.app.screen.query(SettingRow))
    screen = bench.app.screen
    assert isinstance(screen, SettingsScreen)
    return screen


def row(screen: SettingsScreen, key: str) -> SettingRow:
    return next(row for row in screen.query(SettingRow) if row.info.key == key)


async def put(pilot: Pilot[None], screen: SettingsScreen, key: str, value: str) -> None:
    """Type a value into a setting and leave it with enter."""
    box = row(screen, key).query_one(Input)
    box.focus()
    box.value = value
    await pilot.press("enter")


def meaning(screen: SettingsScreen, key: str) -> str:
    return str(row(screen, key).query_one(".meaning", Static).content)


def saved(bench: Bench) -> Config:
    return load_config(bench.paths.config_file)


async def test_every_setting_of_the_schema_has_a_row() -> None:
    bench = Bench()
    async with bench.app.run_test(size=WIDE) as pilot:
        screen = await open_settings(pilot, bench)
        assert [row.info.key for row in screen.query(SettingRow)] == [
            info.key for info in schema() if info.key != "ui.keys"
        ]


async def test_values_are_checked_written_at_once_and_used() -> None:
    bench = Bench()
    async with bench.app.run_test(size=WIDE) as pilot:
        screen = await open_settings(pilot, bench)
        await put(pilot, screen, "sampling.temperature", "9")
        await until(pilot, lambda: "must be from 0.0 to 5.0" in meaning(screen, "sampling.temperature"))
        await put(pilot, screen, "sampling.temperature", "warm")
        await until(pilot, lambda: "must be a number" in meaning(screen, "sampling.temperature"))
        assert not bench.paths.config_file.exists()
        await put(pilot, screen, "sampling.temperature", "0.5")
        await until(pilot, lambda: saved(bench).sampling.temperature == 0.5)
        await put(pilot, screen, "adapter.rank_budget", "64")
        await until(pilot, lambda: saved(bench).adapter.rank_budget == 64)
        row(screen, "sampling.temperature").query_one(Input).focus()
        await pilot.press("escape")
        await ask(pilot, "q")
        await answered(pilot, bench, 1)
    assert bench.engine.samplings[0].temperature == 0.5
    assert bench.engine.closed == 0, "sampling is no reason to load the model again"


async def test_many_changes_at_once_are_all_written() -> None:
    bench = Bench()
    async with bench.app.run_test(size=WIDE) as pilot:
        await open_settings(pilot, bench)
        wanted = {
            "sampling.top_k": 7,
            "sampling.seed": 8,
            "sampling.max_tokens": 9,
            "engine.threads": 2,
            "engine.n_ctx": 512,
        }
        for key, value in wanted.items():
            bench.app.save_setting(key, value)
        await until(pilot, lambda: all(value_of(saved(bench), key) == value for key, value in wanted.items()))


async def test_escape_takes_what_is_typed() -> None:
    bench = Bench()
    async with bench.app.run_test(size=WIDE) as pilot:
        screen = await open_settings(pilot, bench)
        box = row(screen, "sampling.seed").query_one(Input)
        box.focus()
        box.value = "42"
        await pilot.press("escape")
        await until(pilot, lambda: saved(bench).sampling.seed == 42 and bench.app.state.sampling.seed == 42)


async def test_default_takes_the_line_out_of_the_file() -> None:
    bench = Bench()
    async with bench.app.run_test(size=WIDE) as pilot:
        screen = await open_settings(pilot, bench)
        await put(pilot, screen, "sampling.top_k", "7")
        await until(pilot, lambda: saved(bench).sampling.top_k == 7)
        row(screen, "sampling.top_k").query_one(Input).focus()
        await pilot.press("ctrl+r")
        await until(pilot, lambda: "top_k" not in bench.paths.config_file.read_text(encoding="utf-8"))
        await until(pilot, lambda: row(screen, "sampling.top_k").query_one(Input).value == "40")


async def test_engine_settings_load_the_model_again_on_leaving() -> None:
    bench = Bench()
    async with bench.app.run_test(size=WIDE) as pilot:
        screen = await open_settings(pilot, bench)
        await put(pilot, screen, "engine.threads", "3")
        row(screen, "engine.flash_attention").query_one(Switch).toggle()
        await until(pilot, lambda: saved(bench).engine.threads == 3 and not saved(bench).engine.flash_attention)
        assert bench.engine.closed == 0
        await pilot.press("escape")
        await until(pilot, lambda: bench.engine.closed == 1 and bench.app.state.loaded is not None)
        loaded = bench.app.state.loaded
        assert loaded is not None and loaded.config.engine.threads == 3


async def test_search_leaves_what_fits_and_enter_goes_there() -> None:
    bench = Bench()
    async with bench.app.run_test(size=(80, 24)) as pilot:
        screen = await open_settings(pilot, bench)
        await pilot.press(*"gpu", "enter")
        assert [row.info.key for row in screen.query(SettingRow) if row.display] == ["engine.gpu_layers"]
        assert screen.focused is row(screen, "engine.gpu_layers").query_one(Input)


async def test_theme_is_used_at_once_and_one_from_the_palette_is_kept() -> None:
    bench = Bench()
    async with bench.app.run_test(size=WIDE) as pilot:
        screen = await open_settings(pilot, bench)
        row(screen, "ui.theme").query_one(Select).value = "ansi-light"
        await until(pilot, lambda: bench.app.theme == "ansi-light" and saved(bench).ui.theme == "ansi-light")
        bench.app.theme = "nord"
        await until(pilot, lambda: saved(bench).ui.theme == "nord")
        await until(pilot, lambda: row(screen, "ui.theme").query_one(Select).value == "nord")


async def test_key_is_asked_for_clashes_are_told_and_it_works_at_once() -> None:
    bench = Bench(Script(replies=("one",)))
    async with bench.app.run_test(size=WIDE) as pilot:
        screen = await open_settings(pilot, bench)
        await pilot.press(*"chat.new", "enter")
        keys = screen.query_one("#keys", OptionList)
        await until(pilot, lambda: keys.has_focus and keys.option_count == 1)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(bench.app.screen, KeyDialog))
        await pilot.press("ctrl+o")
        told = bench.app.screen.query_one("#say", Static)
        await until(pilot, lambda: "ctrl+o is chat.attach already" in str(told.content))
        await pilot.press("ctrl+g")
        await until(pilot, lambda: saved(bench).ui.keys == {"chat.new": "ctrl+g"})
        await until(pilot, lambda: not isinstance(bench.app.screen, KeyDialog))
        await pilot.press("escape")
        await until(pilot, lambda: bench.app.current_mode == "chat")
        await ask(pilot, "q")
        await answered(pilot, bench, 1)
        await pilot.press("ctrl+g")
        await until(pilot, lambda: not bench.statuses)
        await pilot.press("f2")
        await until(pilot, lambda: bench.app.screen is screen)
        keys.focus()
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(bench.app.screen, KeyDialog))
        await pilot.press("backspace")
        await until(pilot, lambda: saved(bench).ui.keys == {})


async def test_a_file_that_became_wrong_is_told_and_left_alone() -> None:
    bench = Bench()
    async with bench.app.run_test(size=WIDE) as pilot:
        screen = await open_settings(pilot, bench)
        bench.paths.config_file.write_text("[engine\n", encoding="utf-8")
        await put(pilot, screen, "sampling.top_k", "7")
        await until(pilot, lambda: any("is not valid TOML" in toast for toast in bench.toasts))
        assert bench.paths.config_file.read_text(encoding="utf-8") == "[engine\n"


@pytest.mark.parametrize("key", ["f2", "f3", "f5"])
async def test_every_place_has_help_of_its_own_a_short_footer_and_a_way_back(key: str) -> None:
    bench = Bench(source=None)
    async with bench.app.run_test(size=(80, 24)) as pilot:
        await ready(pilot, bench)
        await pilot.press(key)
        await until(pilot, lambda: bench.app.current_mode != "chat")
        await until(pilot, lambda: 2 <= len(bench.app.screen.query(FooterKey)) <= 6)
        await pilot.press("f1")
        await until(pilot, lambda: bench.app.screen.query(HelpPanel))
        await pilot.press("f1")
        await until(pilot, lambda: not bench.app.screen.query(HelpPanel))
        await pilot.press("escape")
        await until(pilot, lambda: bench.app.current_mode == "chat" and bench.prompt.has_focus)


async def test_places_stay_closed_while_a_dialog_is_open() -> None:
    bench = Bench(source=None)
    async with bench.app.run_test(size=WIDE) as pilot:
        await ready(pilot, bench)
        await pilot.press("f4")
        await until(pilot, lambda: len(bench.app.screen_stack) == 2)
        await pilot.press("f3")
        await pilot.pause()
        assert bench.app.current_mode == "chat"
        await pilot.press("f4")
        assert len(bench.app.screen_stack) == 2, "the jobs open once"


def test_every_binding_has_an_id_of_its_own_and_a_tooltip() -> None:
    bindings = all_bindings()
    assert len(bindings) > 50
    assert all(binding.id and binding.tooltip for binding in bindings)
    assert len({binding.id for binding in bindings}) == len(bindings)


def test_no_two_things_of_one_screen_have_one_key_out_of_the_box() -> None:
    rows = key_rows({})
    twice = {(row.id, other) for row in rows for key in row.key.split(",") for other in clashes(rows, row.id, key)}
    assert twice == {("chat.stop", "chat.back"), ("chat.back", "chat.stop")}, "these two are never there together"
