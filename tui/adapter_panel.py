"""The side panel: which adapters there are, which answer, and how strongly. It reads no file and no database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from localhyper.engine import AdapterUse

from .adapter_source import AdapterRow
from .conversation import AttachedAdapter

_STEP = 0.1
_LIMIT = 3.0


class AdapterList(OptionList):
    """The list inside the panel: its keys act on the highlighted adapter."""

    BINDING_GROUP_TITLE = "Adapters"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "switch", "On or off", show=False, id="adapters.switch", tooltip="Let this adapter answer"),
        Binding("right", "stronger(1)", "Stronger", show=False, id="adapters.stronger", tooltip="Raise its strength"),
        Binding("left", "stronger(-1)", "Weaker", show=False, id="adapters.weaker", tooltip="Lower its strength"),
        Binding("r", "reload", "Read the library again", show=False, id="adapters.reload", tooltip="List anew"),
    ]

    class Reload(Message):
        """The user wants the library read again."""

    def _panel(self) -> AdapterPanel:
        panel = self.parent
        assert isinstance(panel, AdapterPanel)
        return panel

    def action_switch(self) -> None:
        """Switch the highlighted adapter."""
        self._panel().switch(self.highlighted)

    def action_stronger(self, direction: int) -> None:
        """One step up or down."""
        self._panel().strengthen(self.highlighted, direction)

    def action_reload(self) -> None:
        """Ask for the library to be read again."""
        self.post_message(self.Reload())


class AdapterPanel(Vertical):
    """Adapters with a mark (`●` on, `○` off, `x` can't), their strength and where they come from."""

    DEFAULT_CSS = """
    AdapterPanel { width: 32; border: round $foreground-muted; border-title-color: $foreground-muted;
                   border-subtitle-color: $foreground-muted; }
    AdapterPanel:focus-within { border: round $border; }
    AdapterPanel AdapterList { height: 1fr; border: none; padding: 0; background: transparent; }
    AdapterPanel AdapterList:focus { border: none; }
    AdapterPanel #note { height: auto; max-height: 100%; padding: 0 1; color: $text-muted; }
    AdapterPanel #note.-problem { color: $text-error; }
    """

    class Changed(Message):
        """Which adapters answer, or how strongly, has changed."""

    def __init__(self, attached: Mapping[str, float], *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._scales: dict[str, float] = dict(attached)
        self._on: set[str] = set(attached)
        self._rows: tuple[AdapterRow, ...] = ()
        self._fingerprint = ""
        self.border_title = "Adapters"
        self.border_subtitle = "space on/off, ←→ strength"

    def compose(self) -> ComposeResult:
        """A list, and a note for when there is nothing to list."""
        yield Static("Reading the library…", id="note", markup=False)
        yield AdapterList()

    def on_mount(self) -> None:
        """Nothing to choose from yet."""
        adapters = self.query_one(AdapterList)
        adapters.tooltip = "Adapters: space switches, left and right set the strength"
        adapters.display = False

    @property
    def attached(self) -> tuple[AttachedAdapter, ...]:
        """The adapters that are on and usable, in list order."""
        return tuple(
            AttachedAdapter(row.name, AdapterUse(row.path, self._scales.get(row.name, 1.0)))
            for row in self._rows
            if row.name in self._on and not self._problem(row)
        )

    def show_rows(self, rows: Sequence[AdapterRow]) -> None:
        """List these adapters; what was on stays on."""
        self._rows = tuple(rows)
        self._draw()
        hint = "No adapters yet.\n\nMake one:\nlocalhyper attach FILE\n\nThen press r here."
        self._note("" if rows else hint)

    def show_problem(self, message: str, hint: str) -> None:
        """Say why the library cannot be listed."""
        self._rows = ()
        self._note("\n\n".join(filter(None, [f"! {message}", hint])), problem=True)

    def set_base(self, fingerprint: str) -> None:
        """Mark adapters of other base models."""
        self._fingerprint = fingerprint
        self._draw()
        self.post_message(self.Changed())

    def switch(self, index: int | None) -> None:
        """Turn an adapter on or off, unless it cannot be used."""
        row = self._row(index)
        if row is not None:
            self._on ^= {row.name}
            self._redraw(row)

    def strengthen(self, index: int | None, direction: int) -> None:
        """Change an adapter's strength by one step."""
        row = self._row(index)
        if row is not None:
            scale = round(self._scales.get(row.name, 1.0) + direction * _STEP, 1)
            self._scales[row.name] = min(_LIMIT, max(-_LIMIT, scale)) + 0.0  # + 0.0 turns -0.0 into 0.0
            self._redraw(row)

    def all_off(self) -> None:
        """Turn every adapter off."""
        self._on.clear()
        self._draw()
        self.post_message(self.Changed())

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Enter and a click switch, too."""
        event.stop()
        self.switch(event.option_index)

    def _row(self, index: int | None) -> AdapterRow | None:
        """The usable row at `index`; tells why if it cannot be used."""
        if index is None or index >= len(self._rows):
            return None
        row = self._rows[index]
        if problem := self._problem(row):
            self.notify(f"{row.name}: {problem}", severity="warning", markup=False)
            return None
        return row

    def _problem(self, row: AdapterRow) -> str:
        if row.problem:
            return row.problem
        other_base = self._fingerprint and row.base_fingerprint and row.base_fingerprint != self._fingerprint
        return "for another base model" if other_base else ""

    def _draw(self) -> None:
        options = self.query_one(AdapterList)
        highlighted = options.highlighted
        options.clear_options()
        options.add_options([Option(self._text(row)) for row in self._rows])
        if self._rows:
            options.highlighted = min(highlighted or 0, len(self._rows) - 1)

    def _redraw(self, row: AdapterRow) -> None:
        self.query_one(AdapterList).replace_option_prompt_at_index(self._rows.index(row), self._text(row))
        self.post_message(self.Changed())

    def _text(self, row: AdapterRow) -> Content:
        """Two lines, never markup: names come from files."""
        problem = self._problem(row)
        mark = "x" if problem else "●" if row.name in self._on else "○"
        scale = "" if problem else f" @{self._scales.get(row.name, 1.0):.1f}"
        return Content(f"{mark} {row.name}{scale}\n  {problem or row.detail}".rstrip())

    def _note(self, text: str, *, problem: bool = False) -> None:
        note = self.query_one("#note", Static)
        note.update(text)
        note.set_class(problem, "-problem")
        note.display = bool(text)
        self.query_one(AdapterList).display = not text
