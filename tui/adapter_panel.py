"""The side panel: which adapters there are, which answer, and how strongly. It reads no file and no database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from .job_board import JobBoard
from .strength_slider import STEP, StrengthSlider, limited
from .words import plain

_EMPTY = "No adapters yet.\n\nctrl+o makes one of a document or folder."


class AdapterList(OptionList):
    """The list inside the panel: its keys act on the highlighted adapter."""

    BINDING_GROUP_TITLE = "Adapters"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "switch", "On or off", show=False, id="adapters.switch", tooltip="Let this adapter answer"),
        Binding("right", "stronger(1)", "Stronger", show=False, id="adapters.stronger", tooltip="Raise its strength"),
        Binding("left", "stronger(-1)", "Weaker", show=False, id="adapters.weaker", tooltip="Lower its strength"),
        Binding("delete", "remove", "Delete", show=False, id="adapters.remove", tooltip="Move it to the trash"),
        Binding("u", "undo", "Undo delete", show=False, id="adapters.undo", tooltip="Bring the last deleted one back"),
        Binding("r", "reload", "Read the library again", show=False, id="adapters.reload", tooltip="List anew"),
    ]

    class Reload(Message):
        """The user wants the library read again."""

    class Undo(Message):
        """The user wants the last deleted adapter back."""

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

    def action_remove(self) -> None:
        """Delete the highlighted adapter."""
        self._panel().remove_row(self.highlighted)

    def action_undo(self) -> None:
        """Bring back what was deleted."""
        self.post_message(self.Undo())

    def action_reload(self) -> None:
        """Ask for the library to be read again."""
        self.post_message(self.Reload())


class AdapterPanel(Vertical):
    """Adapters with a mark (`●` on, `○` off, `x` can't), their strength and where they come from."""

    DEFAULT_CSS = """
    AdapterPanel { border: round $foreground-muted; border-title-color: $foreground-muted;
                   border-subtitle-color: $foreground-muted; }
    AdapterPanel:focus-within { border: round $border; }
    AdapterPanel AdapterList { height: 1fr; border: none; padding: 0; background: transparent; }
    AdapterPanel AdapterList:focus { border: none; }
    AdapterPanel #note { height: auto; max-height: 100%; padding: 0 1; color: $text-muted; }
    AdapterPanel #note.-problem { color: $text-error; }
    AdapterPanel #making { height: auto; max-height: 4; padding: 0 1; color: $text-accent; display: none; }
    AdapterPanel StrengthSlider { display: none; }
    """

    class Changed(Message):
        """Which adapters answer, or how strongly, has changed."""

    @dataclass
    class Removed(Message):
        """The user wants an adapter out of the library."""

        name: str

    def __init__(self, attached: Mapping[str, float], *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._scales: dict[str, float] = dict(attached)
        self._on: set[str] = set(attached)
        self._rows: tuple[AdapterRow, ...] = ()
        self._fingerprint = ""
        self.border_title = "Adapters"
        self.border_subtitle = "space on/off, ←→ strength"

    def compose(self) -> ComposeResult:
        """A list, its slider, what is in the making, and a note for when there is nothing to list."""
        yield Static("Reading the library…", id="note", markup=False)
        yield AdapterList()
        yield StrengthSlider()
        yield Static("", id="making", markup=False)

    def on_mount(self) -> None:
        """Nothing to choose from yet."""
        adapters = self.query_one(AdapterList)
        adapters.tooltip = "Adapters: space switches, left and right set the strength, delete removes"
        adapters.display = False

    @property
    def attached(self) -> tuple[AttachedAdapter, ...]:
        """The adapters that are on and usable, in list order."""
        return tuple(
            AttachedAdapter(row.name, AdapterUse(row.path, self._scales.get(row.name, 1.0)))
            for row in self._rows
            if row.name in self._on and not self._problem(row)
        )

    @property
    def rows(self) -> tuple[AdapterRow, ...]:
        """All that is listed."""
        return self._rows

    def scale_of(self, name: str) -> float:
        """The strength that is set for an adapter."""
        return self._scales.get(name, 1.0)

    def is_on(self, name: str) -> bool:
        """Whether an adapter answers."""
        return name in self._on

    def show_rows(self, rows: Sequence[AdapterRow]) -> None:
        """List these adapters; what was on stays on."""
        self._rows = tuple(rows)
        self._draw()
        self._note("" if rows else _EMPTY)
        self.post_message(self.Changed())

    def show_problem(self, message: str, hint: str) -> None:
        """Say why the library cannot be listed."""
        self._rows = ()
        self._note("\n\n".join(filter(None, [f"! {message}", hint])), problem=True)

    def show_jobs(self, board: JobBoard) -> None:
        """Adapters in the making."""
        lines = []
        for view in board.open:
            share = view.percent_text if view.job.state == "running" and view.percent is not None else ""
            lines.append(f"% {plain(view.name)} {share or {'queued': 'waits'}.get(view.job.state, view.job.state)}")
        making = self.query_one("#making", Static)
        making.display = bool(lines)
        making.update("\n".join(lines[:4]))

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

    def attach(self, name: str, scale: float | None = None) -> None:
        """Turn an adapter on, which need not be listed yet."""
        self._on.add(name)
        if scale is not None:
            self._scales[name] = limited(scale)
        self._draw()
        self.post_message(self.Changed())

    def detach(self, name: str) -> None:
        """Turn an adapter off."""
        self._on.discard(name)
        self._draw()
        self.post_message(self.Changed())

    def renamed(self, old: str, new: str) -> None:
        """An adapter has another name: it stays as it was."""
        if old in self._scales:
            self._scales[new] = self._scales.pop(old)
        if old in self._on:
            self._on = (self._on - {old}) | {new}

    def strengthen(self, index: int | None, direction: int) -> None:
        """Change an adapter's strength by one step."""
        row = self._row(index)
        if row is not None:
            self._set_scale(row, self._scales.get(row.name, 1.0) + direction * STEP)

    def on_strength_slider_moved(self, event: StrengthSlider.Moved) -> None:
        """The mouse sets the strength of the highlighted adapter."""
        event.stop()
        row = self._row(self.query_one(AdapterList).highlighted)
        if row is not None:
            self._set_scale(row, event.scale)

    def _set_scale(self, row: AdapterRow, scale: float) -> None:
        self._scales[row.name] = limited(scale)
        self._redraw(row)

    def remove_row(self, index: int | None) -> None:
        """Ask for an adapter to be deleted."""
        if index is not None and index < len(self._rows):
            self.post_message(self.Removed(self._rows[index].name))

    def all_off(self) -> None:
        """Turn every adapter off."""
        self._on.clear()
        self._draw()
        self.post_message(self.Changed())

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Enter and a click switch, too."""
        event.stop()
        self.switch(event.option_index)

    def on_option_list_option_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        """The slider follows the highlight."""
        event.stop()
        self._show_slider()

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
        options.set_options([Option(self._text(row)) for row in self._rows])
        if self._rows:
            options.highlighted = min(highlighted or 0, len(self._rows) - 1)
        self._show_slider()

    def _redraw(self, row: AdapterRow) -> None:
        self.query_one(AdapterList).replace_option_prompt_at_index(self._rows.index(row), self._text(row))
        self._show_slider()
        self.post_message(self.Changed())

    def _show_slider(self) -> None:
        index = self.query_one(AdapterList).highlighted
        row = self._rows[index] if index is not None and index < len(self._rows) else None
        slider = self.query_one(StrengthSlider)
        slider.display = row is not None and not self._problem(row)
        if row is not None:
            slider.show_scale(self._scales.get(row.name, 1.0))

    def _text(self, row: AdapterRow) -> Content:
        """Two lines, never markup: names come from files."""
        problem = self._problem(row)
        mark = "x" if problem else "●" if row.name in self._on else "○"
        scale = "" if problem else f" @{self._scales.get(row.name, 1.0):.1f}"
        return Content(f"{mark} {plain(row.name)}{scale}\n  {problem or plain(row.detail)}".rstrip())

    def _note(self, text: str, *, problem: bool = False) -> None:
        note = self.query_one("#note", Static)
        note.update(text)
        note.set_class(problem, "-problem")
        note.display = bool(text)
        self.query_one(AdapterList).display = not text
