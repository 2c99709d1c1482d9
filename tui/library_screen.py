"""All adapters: sorted, searched, renamed, deleted with undo, exported, merged, with all that is known of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult, SystemCommand
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.widgets import DataTable, Input, Static

from localhyper.errors import LibraryError
from localhyper.library import AdapterInfo

from .adapter_details import details
from .background import in_background
from .export_dialog import ExportDialog
from .facts import facts_table, facts_text
from .host_events import Failure
from .places import SidePlace
from .text_dialog import TextDialog
from .words import as_path, day_text, plain, size_text

if TYPE_CHECKING:
    from localhyper.adapter_import import Imported

_EMPTY = "No adapters yet.\n\nesc goes to the chat, ctrl+o there makes one of a document or folder."
_IMPORT = "A PEFT folder (adapter_config.json, adapter_model.safetensors) or a .gguf adapter."
_EMPTY_TRASH = "The trash is empty.\n\nt goes back to the adapters."
_NONE_FOUND = "No adapter has these letters in its name, title, source or base."
Sorter = Callable[[AdapterInfo], Any]
COLUMNS: tuple[tuple[str, Sorter], ...] = (
    ("name", lambda info: info.name.casefold()),
    ("from", lambda info: info.kind),
    ("tokens", lambda info: -info.tokens),
    ("rank", lambda info: -info.rank),
    ("size", lambda info: -info.all_bytes),
    ("fits", lambda info: info.base_name.casefold()),
    ("made", lambda info: info.made_at),
)


class AdapterTable(DataTable[Text]):
    """The table; the screen's keys act on the highlighted adapter, and work when there is none."""

    BINDING_GROUP_TITLE = "Adapters"


class LibraryScreen(SidePlace):
    """The library, or its trash."""

    PLACE = "Library"
    AUTO_FOCUS = "AdapterTable"
    BINDING_GROUP_TITLE = "Library"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "switch", "On/off in chat", show=False, id="library.switch", tooltip="Let it answer"),
        Binding("slash", "search", "Search", id="library.search", tooltip="Search names, titles and sources"),
        Binding("s", "sort", "Sort", id="library.sort", tooltip="By the next column; so does a click on it"),
        Binding("v", "reverse", "Reverse", show=False, id="library.reverse", tooltip="Sort the other way"),
        Binding("r", "rename", "Rename", show=False, id="library.rename", tooltip="Give it another name"),
        Binding("e", "export", "Export", id="library.export", tooltip="As GGUF or PEFT, with what loads it"),
        Binding("m", "mark", "Mark", show=False, id="library.mark", tooltip="Mark it, to merge it with others"),
        Binding("i", "import_adapter", "Import", show=False, id="library.import", tooltip="A PEFT folder or GGUF file"),
        Binding("delete", "remove", "Delete", show=False, id="library.remove", tooltip="Into the trash"),
        Binding("u", "undo", "Undo", show=False, id="library.undo", tooltip="Bring the last deleted one back"),
        Binding("t", "trash", "Trash", show=False, id="library.trash", tooltip="Show what was deleted"),
        Binding("c", "copy", "Copy", show=False, id="library.copy", tooltip="Copy the details"),
    ]
    DEFAULT_CSS = """
    LibraryScreen #search { border: round $foreground-muted; height: 3; display: none; }
    LibraryScreen #search.-open { display: block; }
    LibraryScreen #search:focus { border: round $border; }
    LibraryScreen #columns { height: 1fr; }
    LibraryScreen #left { width: 1fr; }
    LibraryScreen AdapterTable { height: 1fr; background: transparent; }
    LibraryScreen #none { display: none; width: 100%; height: 1fr; content-align: center middle; text-align: center;
                          color: $text-muted; }
    LibraryScreen #summary { height: 1; padding: 0 1; color: $text-muted; }
    LibraryScreen #details { width: 40; padding: 0 1; border-left: solid $foreground-muted; }
    LibraryScreen #details:focus { background: $boost; }
    LibraryScreen.-narrow #columns, LibraryScreen.-wide #columns { layout: vertical; }
    LibraryScreen.-narrow #left, LibraryScreen.-wide #left { width: 100%; height: 3fr; }
    LibraryScreen.-narrow #details, LibraryScreen.-wide #details { width: 100%; height: 2fr; border-left: none;
                                     border-top: solid $foreground-muted; }
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._all: tuple[AdapterInfo, ...] = ()
        self._bases: Mapping[str, str] = {}
        self._shown: list[AdapterInfo] = []
        self._sort, self._backwards = len(COLUMNS) - 1, True
        self._trash = False
        self._marked: frozenset[int] = frozenset()
        self._tasks: dict[int, str] = {}

    def compose_place(self) -> ComposeResult:
        """Search box, table, details."""
        yield Input(placeholder="search", id="search")
        with Horizontal(id="columns"):
            with Vertical(id="left"):
                yield AdapterTable(cursor_type="row", zebra_stripes=True)
                yield Static("", id="none", markup=False)
                yield Static("", id="summary", markup=False)
            with VerticalScroll(id="details"):
                yield Static("", id="facts", markup=False)

    def on_mount(self) -> None:
        """Follow the library and the model."""
        self.state.library_changed.subscribe(self, lambda _: self.reload())
        self.state.model_changed.subscribe(self, lambda _: self._draw())
        self.reload()

    def reload(self) -> None:
        """Read the library, and which base models its adapters fit."""
        trash, store, config = self._trash, self.services.store, self.state.config

        def read() -> tuple[Sequence[AdapterInfo], dict[str, str]]:
            library = store.library
            bases = {row.fingerprint: row.status.name for row in store.models(config) if row.fingerprint}
            return (library.removed() if trash else library.list()), bases

        in_background(self, read, self._took, failed=self._failed, group="library", latest=True)

    def _took(self, read: tuple[Sequence[AdapterInfo], dict[str, str]]) -> None:
        self._all, self._bases = tuple(read[0]), read[1]
        self._draw()

    def _failed(self, failure: Failure) -> None:
        self._all = ()
        self._draw()
        self._say("\n\n".join(filter(None, [f"! {failure.message}", failure.hint])))

    # What is shown

    def _draw(self) -> None:
        table, current = self.query_one(AdapterTable), self.current
        words = self.query_one("#search", Input).value.casefold().split()
        found = [info for info in self._all if all(word in _searched(info) for word in words)]
        self._shown = sorted(found, key=COLUMNS[self._sort][1], reverse=self._backwards)
        table.clear(columns=True)
        for index, (label, _) in enumerate(COLUMNS):
            arrow = "" if index != self._sort else " ↓" if self._backwards else " ↑"
            table.add_column(Text(label + arrow), key=str(index))
        for info in self._shown:
            table.add_row(*self._cells(info), key=str(info.id))
        numbers = [info.id for info in self._shown]
        if current is not None and current.id in numbers:
            table.move_cursor(row=numbers.index(current.id))
        self._say("" if self._shown else _NONE_FOUND if self._all else _EMPTY_TRASH if self._trash else _EMPTY)
        size = size_text(sum(info.all_bytes for info in self._shown))
        what = "in the trash" if self._trash else "adapters" if len(self._shown) != 1 else "adapter"
        told = f"{len(self._shown)} {what}, {size}" if self._shown else ""
        self.query_one("#summary", Static).update(told + self._told_of_marks)
        self._show_details()

    @property
    def _told_of_marks(self) -> str:
        marked = len(self._marks)
        return f"   {marked} marked (+): e exports or merges {'them' if marked > 1 else 'it'}" if marked else ""

    @property
    def _marks(self) -> list[AdapterInfo]:
        """The marked adapters, in list order; in the trash none."""
        return [] if self._trash else [info for info in self._all if info.id in self._marked]

    def _cells(self, info: AdapterInfo) -> list[Text]:
        mark = "x" if not info.usable and not self._trash else "●" if self._is_on(info) else " "
        values = [
            (f"{mark}{'+' if info in self._marks else ' '}{plain(info.name)}", "left"),
            (plain(info.kind), "left"),
            (f"{info.tokens:,}" if info.tokens else "-", "right"),
            (str(info.rank) if info.whole_made else "-", "right"),
            (size_text(info.all_bytes), "right"),
            (self._fits(info), "left"),
            (day_text(info.made_at), "left"),
        ]
        return [Text(value, justify=justify) for value, justify in values]  # type: ignore[arg-type]  # rich's literals

    def _fits(self, info: AdapterInfo) -> str:
        """Which base model it is for: the one in memory, another one here, or one that is not."""
        loaded = self.state.loaded
        name = plain(self._bases.get(info.base_fingerprint, info.base_name))
        if loaded is not None and loaded.info.fingerprint == info.base_fingerprint:
            return f"● {name}"
        return name if info.base_fingerprint in self._bases else f"{name} (not here)"

    def _is_on(self, info: AdapterInfo) -> bool:
        return any(adapter.name == info.name for adapter in self._chat().attached())

    def _chat(self) -> Any:
        return self.app.chat  # type: ignore[attr-defined]  # the one app there is; importing it would be a circle

    def _say(self, text: str) -> None:
        none = self.query_one("#none", Static)
        none.update(text)
        none.display = bool(text)
        self.query_one(AdapterTable).display = not text

    def _show_details(self) -> None:
        info = self.current
        facts = self.query_one("#facts", Static)
        facts.update(facts_table(self._details(info)) if info is not None else "")
        if info is not None and info.kind == "task" and info.id not in self._tasks:
            number, store = info.id, self.services.store
            in_background(self, lambda: store.text(info), lambda text: self._took_task(number, text), group="task")

    def _took_task(self, number: int, text: str) -> None:
        self._tasks[number] = text
        if self.current is not None and self.current.id == number:
            self._show_details()

    def _details(self, info: AdapterInfo) -> list[tuple[str, str]]:
        return details(info, self._fits(info), self._tasks.get(info.id, ""))

    @property
    def current(self) -> AdapterInfo | None:
        """The highlighted adapter."""
        row = self.query_one(AdapterTable).cursor_row
        return self._shown[row] if 0 <= row < len(self._shown) else None

    @on(DataTable.RowHighlighted)
    def row_highlighted(self) -> None:
        """Details follow the cursor."""
        self._show_details()

    @on(DataTable.HeaderSelected)
    def header_selected(self, event: DataTable.HeaderSelected) -> None:
        """A click sorts by that column, a second one the other way."""
        column = event.column_index
        self._backwards = not self._backwards if column == self._sort else False
        self._sort = column
        self._draw()

    @on(DataTable.RowSelected)
    def row_selected(self) -> None:
        """Enter switches it on or off in the chat."""
        self.action_switch()

    # Keys

    def action_switch(self) -> None:
        """Let the adapter answer in the chat, or not any more."""
        info = self.current
        if info is None or self._trash:
            return
        from .adapter_panel import AdapterPanel

        panel = self._chat().query_one(AdapterPanel)
        if panel.is_on(info.name):
            panel.detach(info.name)
        elif not info.usable:
            self.notify(f"{info.name}: its file is missing or damaged", severity="warning", markup=False)
        else:
            panel.attach(info.name)
        self._draw()

    def action_search(self) -> None:
        """Go to the search box."""
        box = self.query_one("#search", Input)
        box.add_class("-open")
        box.focus()

    @on(Input.Changed, "#search")
    def search_changed(self) -> None:
        """Filter while typing."""
        self._draw()

    @on(Input.Submitted, "#search")
    def search_submitted(self) -> None:
        """Enter goes to what was found."""
        self._leave_search(keep=True)

    def _leave_search(self, *, keep: bool) -> None:
        box = self.query_one("#search", Input)
        if not keep:
            box.value = ""
        box.set_class(bool(box.value), "-open")
        self.query_one(AdapterTable).focus()

    async def action_leave(self) -> None:
        """Out of the search, out of the trash, out of the library."""
        box = self.query_one("#search", Input)
        if box.has_focus or box.value:
            self._leave_search(keep=False)
        elif self._marks:
            self._marked = frozenset()
            self._draw()
        elif self._trash:
            self.action_trash()
        else:
            await self.run_action("app.place('chat')")

    def action_sort(self) -> None:
        """Sort by the next column."""
        self._sort = (self._sort + 1) % len(COLUMNS)
        self._backwards = False
        self._draw()

    def action_reverse(self) -> None:
        """Sort the other way round."""
        self._backwards = not self._backwards
        self._draw()

    @work(group="dialog", exit_on_error=False)
    async def action_rename(self) -> None:
        """Ask for another name."""
        info = self.current
        if info is None or self._trash:
            return
        old = info.name
        name = await self.app.push_screen_wait(TextDialog("Rename the adapter", old, button="Rename"))
        if name is not None and name != old:
            in_background(
                self,
                lambda: self.services.store.library.rename(old, name),
                lambda _: self._renamed(old, name),
            )

    def _renamed(self, old: str, new: str) -> None:
        from .adapter_panel import AdapterPanel

        self._chat().query_one(AdapterPanel).renamed(old, new)
        self.state.library_changed.publish("")

    def action_remove(self) -> None:
        """Into the trash; a notification says how to bring it back."""
        info = self.current
        if info is not None and not self._trash:
            name = info.name
            in_background(self, lambda: self.services.store.library.remove(name), lambda _: self._removed(name))

    def _removed(self, name: str) -> None:
        self.notify(f"Deleted {plain(name)}. u brings it back, t shows the trash.", markup=False)
        self.state.library_changed.publish("")

    def action_undo(self) -> None:
        """Bring back the highlighted one of the trash, or else the one deleted last."""
        wanted = self.current.name if self._trash and self.current is not None else ""

        def restore() -> str:
            library = self.services.store.library
            names = [info.name for info in library.removed()]
            if not names:
                raise LibraryError("the trash is empty: no adapter to bring back")
            return library.restore(wanted or names[0]).name

        in_background(self, restore, self._restored)

    def _restored(self, name: str) -> None:
        self.notify(f"{plain(name)} is back", markup=False)
        self.state.library_changed.publish("")

    def action_trash(self) -> None:
        """Show the trash, or the adapters again."""
        self._trash = not self._trash
        self.reload()

    def action_mark(self) -> None:
        """Mark the highlighted adapter, or take its mark away, and go to the next."""
        info = self.current
        if info is not None and not self._trash:
            self._marked ^= {info.id}
            self._draw()
            self.query_one(AdapterTable).action_cursor_down()

    @work(group="dialog", exit_on_error=False)
    async def action_export(self) -> None:
        """Write it for llama.cpp or for transformers; the marked ones as one, at their strengths in the chat."""
        chosen = self._marks or ([] if self.current is None or self._trash else [self.current])
        if not chosen:
            return
        words = [info.name if len(chosen) == 1 else self._at_strength(info.name) for info in chosen]
        if await self.app.push_screen_wait(ExportDialog(self.services, self.state.config, words)):
            self._marked = frozenset()
        self.state.library_changed.publish("")  # an export may have made an adapter of a whole document

    def _at_strength(self, name: str) -> str:
        from .adapter_panel import AdapterPanel

        scale = self._chat().query_one(AdapterPanel).scale_of(name)
        return name if scale == 1 else f"{name}@{scale:.3g}"

    @work(group="dialog", exit_on_error=False)
    async def action_import_adapter(self) -> None:
        """Ask for a PEFT folder or a GGUF adapter, and take it in."""
        text = await self.app.push_screen_wait(TextDialog("Import an adapter", "", help_text=_IMPORT, button="Import"))
        if text is None:
            return
        path, config = as_path(text), self.state.config
        in_background(self, lambda: self.services.store.import_adapter(path, config), self._imported)

    def _imported(self, done: Imported) -> None:
        name = plain(done.adapter.name)
        told = [f"{name} is in the library already" if done.reused else f"Imported {name}"]
        self.notify("\n".join([*told, *map(plain, () if done.reused else done.adapter.notes[1:])]), markup=False)
        self.state.library_changed.publish("")

    def action_copy(self) -> None:
        """Copy the details."""
        info = self.current
        if info is not None:
            self.app.copy_to_clipboard(facts_text(self._details(info)))

    def commands(self) -> Iterator[SystemCommand]:
        """The palette's entries."""
        yield SystemCommand("Search the library", "Names, titles, sources (/)", self.action_search)
        yield SystemCommand("Sort by the next column", "s; v reverses", self.action_sort)
        yield SystemCommand("Trash", "Show or leave what was deleted (t)", self.action_trash)
        yield SystemCommand("Import an adapter", "A PEFT folder or GGUF file (i)", self.action_import_adapter)
        if self.current is not None and not self._trash:
            yield SystemCommand("Rename the adapter", "Give it another name (r)", self.action_rename)
            yield SystemCommand("Mark the adapter", "To merge it with others (m)", self.action_mark)
            what = "Export or merge the marked adapters" if self._marks else "Export the adapter"
            yield SystemCommand(what, "As GGUF for llama-server, or PEFT (e)", self.action_export)
            yield SystemCommand("Delete the adapter", "Into the trash (delete)", self.action_remove)


def _searched(info: AdapterInfo) -> str:
    return f"{info.name} {info.title} {info.origin} {info.kind} {info.base_name}".casefold()
