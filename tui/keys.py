"""Every key of the app by its id: what it does, what it is by default, what it is now. For the settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from textual.binding import Binding


@dataclass(frozen=True)
class KeyRow:
    """One thing a key does.

    Attributes:
        id: Name in `[ui.keys]`.
        what: What it does.
        default: Its key out of the box; several are separated by commas.
        key: Its key now.
    """

    id: str
    what: str
    default: str
    key: str


def all_bindings() -> list[Binding]:
    """The app's own bindings, screen by screen."""
    from .adapter_panel import AdapterList
    from .app import LocalHyperApp
    from .attach_dialog import AttachDialog
    from .chat_screen import ChatScreen
    from .chats_panel import ChatList
    from .error_dialog import ErrorDialog
    from .export_dialog import ExportDialog
    from .jobs_dialog import JobsDialog
    from .library_screen import LibraryScreen
    from .models_screen import ModelsScreen, ModelTable
    from .path_picker import PathPicker, VisibleTree
    from .places import SidePlace
    from .prompt import Prompt
    from .quotes_dialog import QuotesDialog
    from .settings_screen import SettingsScreen
    from .task_box import TaskBox
    from .text_dialog import TextDialog

    owners = (
        LocalHyperApp, ChatScreen, Prompt, AdapterList, ChatList, AttachDialog, TaskBox, PathPicker, VisibleTree,
        JobsDialog, QuotesDialog, SidePlace, LibraryScreen, ExportDialog, ModelsScreen, ModelTable, SettingsScreen,
        TextDialog, ErrorDialog,
    )  # fmt: skip
    return [
        binding for owner in owners for binding in owner.__dict__.get("BINDINGS", ()) if isinstance(binding, Binding)
    ]


def key_rows(keymap: Mapping[str, str]) -> list[KeyRow]:
    """Every key as it is now."""
    return [
        KeyRow(binding.id, binding.tooltip or binding.description, binding.key, keymap.get(binding.id, binding.key))
        for binding in all_bindings()
        if binding.id
    ]


def clashes(rows: Iterable[KeyRow], changed: str, key: str) -> list[str]:
    """What else of the same screen, or of the whole app, this key does already."""
    room = changed.partition(".")[0]
    return [
        row.id
        for row in rows
        if row.id != changed and key in row.key.split(",") and row.id.partition(".")[0] in (room, "app")
    ]
