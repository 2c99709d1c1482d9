"""The side panel of earlier conversations: open, rename, delete with undo, export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from localhyper.atomic import write_text_atomic
from localhyper.errors import LibraryError
from localhyper.history import StoredChat, to_markdown
from localhyper.library import slug

from .app_state import AppState
from .background import in_background
from .services import Services
from .text_dialog import TextDialog
from .words import as_path, day_text, home_text, plain

_EMPTY = "No earlier conversations.\n\nEvery question you ask is kept here."


class ChatList(OptionList):
    """The list inside the panel; enter opens."""

    BINDING_GROUP_TITLE = "Conversations"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "rename", "Rename", show=False, id="chats.rename", tooltip="Give it another title"),
        Binding("delete", "remove", "Delete", show=False, id="chats.remove", tooltip="Delete it; u brings it back"),
        Binding("u", "undo", "Undo delete", show=False, id="chats.undo", tooltip="Bring the last deleted one back"),
        Binding("e", "export", "Export", show=False, id="chats.export", tooltip="Write it as Markdown"),
    ]

    def _panel(self) -> ChatsPanel:
        panel = self.parent
        assert isinstance(panel, ChatsPanel)
        return panel

    def action_rename(self) -> None:
        """Rename the highlighted conversation."""
        self._panel().rename()

    def action_remove(self) -> None:
        """Delete the highlighted conversation."""
        self._panel().delete()

    def action_undo(self) -> None:
        """Bring the last deleted one back."""
        self._panel().undo()

    def action_export(self) -> None:
        """Write the highlighted conversation as Markdown."""
        self._panel().export()


class ChatsPanel(Vertical):
    """Conversations, the last changed first; the open one has a mark."""

    DEFAULT_CSS = """
    ChatsPanel { border: round $foreground-muted; border-title-color: $foreground-muted;
                 border-subtitle-color: $foreground-muted; }
    ChatsPanel:focus-within { border: round $border; }
    ChatsPanel ChatList { height: 1fr; border: none; padding: 0; background: transparent; }
    ChatsPanel ChatList:focus { border: none; }
    ChatsPanel #no-chats { height: auto; padding: 0 1; color: $text-muted; }
    """

    @dataclass
    class Opened(Message):
        """The user wants to go on with a conversation."""

        chat: StoredChat

    @dataclass
    class Deleted(Message):
        """A conversation is in the trash."""

        number: int

    @dataclass
    class Renamed(Message):
        """A conversation has another title."""

        number: int
        title: str

    def __init__(self, services: Services, state: AppState) -> None:
        super().__init__()
        self._services, self._state = services, state
        self._chats: tuple[StoredChat, ...] = ()
        self._open = 0
        self.border_title = "Chats"
        self.border_subtitle = "enter open, delete, u undo"

    def compose(self) -> ComposeResult:
        """A list, and a note for when there is nothing to list."""
        yield Static(_EMPTY, id="no-chats", markup=False)
        yield ChatList()

    def on_mount(self) -> None:
        """Follow the history."""
        chats = self.query_one(ChatList)
        chats.display = False
        chats.tooltip = "Earlier conversations: enter opens, r renames, delete deletes, u undoes, e exports"
        self._state.history_changed.subscribe(self, lambda _: self.reload())
        self.reload()

    def reload(self) -> None:
        """Read the history again."""
        store = self._services.store
        in_background(self, lambda: store.history.list(), self.show, failed=lambda _: None, group="chats", latest=True)

    def show(self, chats: Sequence[StoredChat]) -> None:
        """List these conversations."""
        options, shown = self.query_one(ChatList), self.current
        self._chats = tuple(chats)
        options.set_options([Option(self._text(chat)) for chat in chats])
        numbers = [chat.id for chat in chats]
        if chats:
            options.highlighted = numbers.index(shown.id) if shown is not None and shown.id in numbers else 0
        options.display = bool(chats)
        self.query_one("#no-chats").display = not chats

    def mark_open(self, number: int) -> None:
        """Mark the conversation that is on the screen."""
        if number != self._open:
            self._open = number
            self.show(self._chats)

    def _text(self, chat: StoredChat) -> Content:
        mark = "▸" if chat.id == self._open else " "
        replies = f"{chat.turns} " + ("reply" if chat.turns == 1 else "replies")
        return Content(f"{mark} {plain(chat.title)}\n  {day_text(chat.changed_at)}, {replies}")

    @property
    def chats(self) -> tuple[StoredChat, ...]:
        """All that is listed."""
        return self._chats

    @property
    def current(self) -> StoredChat | None:
        """The highlighted conversation."""
        index = self.query_one(ChatList).highlighted
        return self._chats[index] if index is not None and index < len(self._chats) else None

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Enter and a click open."""
        event.stop()
        if event.option_index < len(self._chats):
            self.post_message(self.Opened(self._chats[event.option_index]))

    @work(group="dialog", exit_on_error=False)
    async def rename(self, chat: StoredChat | None = None) -> None:
        """Ask for a new title."""
        chat = chat or self.current
        if chat is None:
            return
        number = chat.id
        title = await self.app.push_screen_wait(TextDialog("Rename the conversation", chat.title, button="Rename"))
        if title is not None:
            in_background(
                self,
                lambda: self._services.store.history.rename(number, title),
                lambda kept: self._renamed(number, kept),
            )

    def _renamed(self, number: int, title: str) -> None:
        self.post_message(self.Renamed(number, title))
        self.reload()

    def delete(self) -> None:
        """Move the highlighted conversation to the trash."""
        chat = self.current
        if chat is not None:
            number, title = chat.id, plain(chat.title)
            in_background(
                self, lambda: self._services.store.history.remove(number), lambda _: self._deleted(number, title)
            )

    def _deleted(self, number: int, title: str) -> None:
        self.notify(f"Deleted “{title}”. u in the list brings it back.", markup=False)
        self.post_message(self.Deleted(number))
        self.reload()

    def undo(self) -> None:
        """Bring the last deleted conversation back."""

        def restore() -> str:
            history = self._services.store.history
            removed = history.removed()
            if not removed:
                raise LibraryError("no deleted conversation to bring back")
            history.restore(removed[0].id)
            return removed[0].title

        in_background(self, restore, self._restored)

    def _restored(self, title: str) -> None:
        self.notify(f"“{plain(title)}” is back", markup=False)
        self.reload()

    @work(group="dialog", exit_on_error=False)
    async def export(self, chat: StoredChat | None = None) -> None:
        """Ask for a place and write the conversation there as Markdown."""
        chat = chat or self.current
        if chat is None:
            return
        number, title = chat.id, chat.title
        folder = Path(self._services.remembered.memory.export_folder or Path.cwd())
        wanted = await self.app.push_screen_wait(
            TextDialog("Export as Markdown", home_text(folder / f"{slug(title)}.md"), button="Export")
        )
        if wanted is None:
            return
        target = as_path(wanted)
        in_background(self, lambda: self._write(number, title, target), self._exported)

    def _write(self, number: int, title: str, target: Path) -> Path:
        file = target / f"{slug(title)}.md" if target.is_dir() else target
        if file.exists():
            raise LibraryError(f"`{file}` exists already", "choose another name")
        try:
            write_text_atomic(file, to_markdown(title, self._services.store.history.turns(number)))
        except OSError as error:
            raise LibraryError(f"`{file}` cannot be written: {error.strerror or error}") from error
        return file

    def _exported(self, file: Path) -> None:
        self._services.remembered.update(export_folder=str(file.parent))
        self.notify(f"Written to {home_text(file)}", markup=False)
