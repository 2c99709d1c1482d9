"""Settings, made from the one schema in `config`: changed here, checked there, written at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from textual import on, work
from textual.app import ComposeResult, SystemCommand
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.events import ScreenSuspend
from textual.widgets import Input, OptionList, Select, Static, Switch
from textual.widgets.option_list import Option

from localhyper.config import Config, with_value
from localhyper.config_edit import SettingInfo, parse_text, schema, value_of
from localhyper.errors import ConfigError

from .key_dialog import DEFAULT, KeyDialog
from .keys import KeyRow, key_rows
from .places import SidePlace
from .words import home_text

KEYS = "ui.keys"
THEME = "ui.theme"
_RELOADED = ("engine",)  # sections that a loaded model does not take up


class SettingRow(Horizontal):
    """One setting: its name, a widget for its type, what it means."""

    DEFAULT_CSS = """
    SettingRow { height: auto; margin-bottom: 1; }
    SettingRow .name { width: 25; }
    SettingRow .value { width: 25; height: auto; }
    SettingRow .value Input, SettingRow .value Select { background: $boost; }
    SettingRow .value Input:focus { background: $accent-muted; }
    SettingRow .value Switch { border: none; height: 1; padding: 0; background: transparent; }
    SettingRow .value Switch:focus { background: $accent-muted; }
    SettingRow .meaning { width: 1fr; height: auto; padding-left: 2; color: $text-muted; }
    SettingRow.-changed .name { text-style: bold; color: $text-accent; }
    SettingRow.-problem .meaning { color: $text-error; }
    """

    def __init__(self, info: SettingInfo, value: Any, themes: list[str]) -> None:
        super().__init__()
        self.info = info
        self._value = value
        self._themes = themes

    def compose(self) -> ComposeResult:
        """Name, value, meaning."""
        yield Static(self.info.key, classes="name", markup=False)
        with Vertical(classes="value"):
            yield self._editor()
        yield Static(self._meaning, classes="meaning", markup=False)

    def on_mount(self) -> None:
        """Mark what is not as out of the box."""
        self.mark()

    def _editor(self) -> Input | Switch | Select[str]:
        choices = self._themes if self.info.key == THEME else list(self.info.choices)
        if self.info.kind == "bool":
            return Switch(bool(self._value))
        if choices:
            known = self._value if self._value in choices else Select.NULL
            return Select(
                [(Content(choice), choice) for choice in choices], value=known, allow_blank=True, compact=True
            )
        return Input(shown(self._value), compact=True)

    @property
    def _meaning(self) -> str:
        default = shown(self.info.default) or "empty"
        return f"{self.info.meaning} (default {default})"

    def take(self, value: Any) -> None:
        """Show a value that came from elsewhere."""
        if value == self._value:
            return
        self._value = value
        with self.prevent(Input.Changed, Switch.Changed, Select.Changed):
            for switch in self.query(Switch):
                switch.value = bool(value)
            for select in self.query(Select):
                select.value = value
            for box in self.query(Input):
                box.value = shown(value)
        self.mark()

    def kept(self, value: Any) -> None:
        """The value in its own type, as it was typed here."""
        self._value = value
        self.mark()

    def mark(self, problem: str = "") -> None:
        """Say what is wrong with what is typed; empty = nothing."""
        self.set_class(bool(problem), "-problem")
        self.set_class(self._value != self.info.default, "-changed")
        self.query_one(".meaning", Static).update(problem or self._meaning)


class SettingsScreen(SidePlace):
    """A form of all settings, and the keys."""

    PLACE = "Settings"
    AUTO_FOCUS = "#find"
    BINDING_GROUP_TITLE = "Settings"
    DEFAULT_CSS = """
    SettingsScreen #find { border: round $foreground-muted; }
    SettingsScreen #find:focus { border: round $border; }
    SettingsScreen #form { height: 1fr; padding: 0 1; }
    SettingsScreen .section { text-style: bold; color: $text-accent; height: auto; margin-top: 1; }
    SettingsScreen #keys { height: auto; border: none; padding: 0; background: transparent; }
    SettingsScreen #keys:focus { border: none; }
    SettingsScreen #where { height: 1; padding: 0 1; color: $text-muted; text-wrap: nowrap;
                            text-overflow: ellipsis; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+r", "default", "Default", id="settings.default", tooltip="Out of the box again"),
    ]

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._at_load = self.state.config
        self._rows: list[KeyRow] = []

    def compose_place(self) -> ComposeResult:
        """Search box, a section for each part of config.toml, the keys."""
        yield Input(placeholder="find a setting", id="find")
        with VerticalScroll(id="form", can_focus=False):
            section = ""
            themes = sorted(self.app.available_themes)
            for info in schema():
                if info.key == KEYS:
                    continue
                if (name := info.key.partition(".")[0]) != section:
                    section = name
                    yield Static(_heading(name), classes="section", markup=False)
                yield SettingRow(info, value_of(self.state.config, info.key), themes)
            yield Static("keys: enter changes the highlighted one", classes="section", markup=False)
            yield OptionList(id="keys")
        yield Static("", id="where", markup=False)

    def on_mount(self) -> None:
        """Follow the settings, wherever they are changed."""
        self.state.config_changed.subscribe(self, self._config_changed)
        file = self.services.store.paths.config_file
        self.query_one("#where", Static).update(f"written to {home_text(file)} as you change them")
        self._draw_keys()

    def _config_changed(self, config: Config) -> None:
        for row in self.query(SettingRow):
            row.take(value_of(config, row.info.key))
        self._draw_keys()

    # One setting

    @on(Switch.Changed)
    def switch_changed(self, event: Switch.Changed) -> None:
        """A switch is written at once."""
        self._keep(_row_of(event.switch), event.value)

    @on(Select.Changed)
    def select_changed(self, event: Select.Changed) -> None:
        """So is a choice."""
        if event.value is not Select.NULL:
            self._keep(_row_of(event.select), event.value)

    @on(Input.Submitted, "SettingRow Input")
    @on(Input.Blurred, "SettingRow Input")
    def input_left(self, event: Input.Submitted | Input.Blurred) -> None:
        """A text is written when it is left, if it is right."""
        self._take_text(event.input)

    def _take_text(self, box: Input) -> None:
        row = _row_of(box)
        if row is None or box.value == shown(value_of(self.state.config, row.info.key)):
            if row is not None:
                row.mark()
            return
        try:
            value = parse_text(row.info, box.value)
        except ConfigError as error:
            row.mark(error.message)
            return
        self._keep(row, value)

    def _keep(self, row: SettingRow | None, value: Any) -> None:
        if row is None:
            return
        try:
            kept = value_of(with_value(self.state.config, row.info.key, value), row.info.key)
        except ConfigError as error:
            row.mark(error.message.removeprefix("command line: "))
            return
        if kept != value_of(self.state.config, row.info.key):
            row.kept(kept)
            self._save(row.info.key, None if kept == row.info.default else value)

    def _save(self, key: str, value: Any) -> None:
        self.app.save_setting(key, value)  # type: ignore[attr-defined]  # the one app there is

    def action_default(self) -> None:
        """The focused setting, or the highlighted key, as it is out of the box."""
        focused = self.focused
        if focused is not None and focused.id == "keys":
            row = self._key
            if row is not None:
                self._put_key(row, DEFAULT)
            return
        setting = _row_of(focused) if focused is not None else None
        if setting is not None:
            self._save(setting.info.key, None)

    @on(Input.Changed, "#find")
    def find_changed(self, event: Input.Changed) -> None:
        """Show only what has these letters."""
        words = event.value.casefold().split()
        for row in self.query(SettingRow):
            text = f"{row.info.key} {row.info.meaning}".casefold()
            row.display = all(word in text for word in words)
        for heading in self.query(".section"):
            heading.display = not words or "keys" in event.value
        self._draw_keys()

    @on(Input.Submitted, "#find")
    def find_submitted(self) -> None:
        """Enter goes to the first that is left."""
        for row in self.query(SettingRow):
            if row.display:
                row.query("Input, Switch, Select").first().focus()
                return
        self.query_one("#keys").focus()

    # Keys

    def _draw_keys(self) -> None:
        options = self.query_one("#keys", OptionList)
        words = self.query_one("#find", Input).value.casefold().split()
        at = options.highlighted
        rows = key_rows(self.state.config.ui.keys)
        self._rows = [row for row in rows if all(word in f"{row.id} {row.what} keys".casefold() for word in words)]
        options.set_options(Option(_key_line(row)) for row in self._rows)
        if self._rows:
            options.highlighted = min(at or 0, len(self._rows) - 1)
        options.display = bool(self._rows)

    @property
    def _key(self) -> KeyRow | None:
        index = self.query_one("#keys", OptionList).highlighted
        return self._rows[index] if index is not None and index < len(self._rows) else None

    @on(OptionList.OptionSelected, "#keys")
    def key_selected(self) -> None:
        """Ask for another key."""
        self._ask_key()

    @work(group="dialog", exit_on_error=False)
    async def _ask_key(self) -> None:
        row = self._key
        if row is None:
            return
        key = await self.app.push_screen_wait(KeyDialog(row, key_rows(self.state.config.ui.keys)))
        if key is not None:
            self._put_key(row, key)

    def _put_key(self, row: KeyRow, key: str) -> None:
        keys = dict(self.state.config.ui.keys)
        keys.pop(row.id, None)
        if key not in (DEFAULT, row.default):
            keys[row.id] = key
        self._save(KEYS, keys or None)

    # Leaving

    async def action_leave(self) -> None:
        """Take what is typed, then back to the conversation."""
        if isinstance(self.focused, Input):
            self._take_text(self.focused)
        await super().action_leave()

    @on(ScreenSuspend)
    def left(self) -> None:
        """A model in memory does not take up new threads or layers: load it again."""
        config = self.state.config
        if any(getattr(config, name) != getattr(self._at_load, name) for name in _RELOADED):
            self.notify("Loading the model again with the new settings")
            self.services.host.load(config)
        self._at_load = config

    def commands(self) -> Iterator[SystemCommand]:
        """The palette's entries."""
        yield SystemCommand("Default", "The focused setting as it is out of the box (ctrl+r)", self.action_default)


def shown(value: Any) -> str:
    """A value as text for a form, which `parse_text` reads back."""
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(value) if isinstance(value, tuple | list) else str(value)


def _heading(section: str) -> str:
    return f"[{section}]" + ("  the model is loaded again when you leave" if section in _RELOADED else "")


def _key_line(row: KeyRow) -> Content:
    changed = "" if row.key == row.default else f"  (default {row.default})"
    return Content.assemble(f"{row.key:<22}", row.what, (f"  {row.id}{changed}", "$text-muted"))


def _row_of(widget: Any) -> SettingRow | None:
    return next((node for node in widget.ancestors if isinstance(node, SettingRow)), None)
