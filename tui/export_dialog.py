"""Exports an adapter as GGUF or PEFT, and gives the command line or the lines of Python that load it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Checkbox, Input, RadioButton, RadioSet, Static

from localhyper.library import AdapterInfo

from .background import in_background
from .harmless import Harmless
from .host_events import Failure
from .services import Services
from .words import as_path, home_text, plain


@dataclass(frozen=True)
class Form:
    """A format to choose.

    Attributes:
        label: Beside its button.
        ending: What the name on disk gets after the adapter's.
        about: What is told before there is anything else to tell.
        copy: On the button that copies what loads it.
    """

    label: str
    ending: str
    about: str
    copy: str


FORMS: Mapping[str, Form] = {
    "GGUF": Form(
        "GGUF, for llama.cpp", ".gguf", "One file; any llama.cpp loads it beside its base model.", "Copy command"
    ),
    "PEFT": Form(
        "PEFT, for transformers and vLLM",
        "-peft",
        "A folder of two files; PEFT loads it beside the unquantized base model.",
        "Copy Python",
    ),
}


class ExportDialog(ModalScreen[None]):
    """Asks for format and place; stays open with what loads the export once it is there."""

    AUTO_FOCUS = "#to"
    DEFAULT_CSS = """
    ExportDialog { align: center middle; }
    ExportDialog > Vertical { width: 92%; max-width: 100; height: auto; padding: 0 2; border: round $border;
                              background: $surface; }
    ExportDialog Static { height: auto; }
    ExportDialog RadioSet { layout: horizontal; height: 1; margin: 0 1; }
    ExportDialog RadioSet > RadioButton { width: auto; margin-right: 2; }
    ExportDialog Checkbox { margin: 0 1; }
    ExportDialog #result { margin: 1 0; }
    ExportDialog #result.-problem { color: $text-error; }
    ExportDialog #buttons { height: auto; align-horizontal: right; }
    ExportDialog Button { margin-left: 2; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "Close", id="export.close", tooltip="Back to the library"),
    ]

    def __init__(self, services: Services, adapter: AdapterInfo) -> None:
        super().__init__()
        self._services, self._adapter = services, adapter
        self._form, self._loader = "GGUF", ""
        self._folder = Path(services.remembered.memory.export_folder or Path.cwd())

    def compose(self) -> ComposeResult:
        """Which format, where to, whether to replace, what came of it."""
        with Vertical() as box:
            box.border_title = self._title
            yield Input(self._place, id="to", highlighter=Harmless())
            with RadioSet(compact=True):
                for name, form in FORMS.items():
                    yield RadioButton(form.label, name == self._form, name=name)
            yield Checkbox("Replace an older export", id="overwrite", compact=True)
            yield Static(FORMS[self._form].about, id="result", markup=False)
            with Horizontal(id="buttons"):
                yield Button(FORMS[self._form].copy, id="copy", disabled=True)
                yield Button("Close", id="close")
                yield Button("Export", id="export", variant="primary")

    @property
    def _title(self) -> Content:
        return Content(f"Export {plain(self._adapter.name)} as {self._form}")

    @property
    def _place(self) -> str:
        """Where it goes unless something else is typed."""
        return home_text(self._folder / f"{self._adapter.name}{FORMS[self._form].ending}")

    @on(RadioSet.Changed)
    def choose(self, event: RadioSet.Changed) -> None:
        """Turn to the other format; a place that was typed stays."""
        box = self.query_one("#to", Input)
        untouched = box.value == self._place
        self._form, self._loader = str(event.pressed.name), ""
        if untouched:
            box.value = self._place
        self.query_one(Vertical).border_title = self._title
        copy = self.query_one("#copy", Button)
        copy.label, copy.disabled = FORMS[self._form].copy, True
        self._say(FORMS[self._form].about)

    @on(Input.Submitted)
    @on(Button.Pressed, "#export")
    def export(self) -> None:
        """Write it."""
        target = as_path(self.query_one("#to", Input).value)
        overwrite = self.query_one(Checkbox).value
        store, adapter, form = self._services.store, self._adapter, self._form

        def write() -> tuple[str, Path, str]:
            if form == "PEFT":
                made = store.export_peft(adapter, target, overwrite)
                return form, made.folder, made.python
            file = store.export(adapter.name, target, overwrite)
            return form, file, store.server_command(adapter, file)

        in_background(self, write, self._done, failed=self._failed)

    def _done(self, outcome: tuple[str, Path, str]) -> None:
        form, place, loader = outcome
        self._folder = place.absolute().parent
        self._services.remembered.update(export_folder=str(self._folder))
        if form != self._form:  # the other format was chosen meanwhile
            self.notify(f"Written to {home_text(place)}", markup=False)
            return
        self._loader = loader
        self._say(f"✓ Written to {home_text(place)}\n\n{loader}")
        self.query_one("#copy", Button).disabled = False
        self.query_one("#copy").focus()

    def _failed(self, failure: Failure) -> None:
        hint = failure.hint.replace("add --force to replace it", "tick the box to replace it")
        self._say("\n".join(filter(None, [f"! {failure.message}", hint])), problem=True)

    def _say(self, text: str, *, problem: bool = False) -> None:
        result = self.query_one("#result", Static)
        result.update(text)
        result.set_class(problem, "-problem")

    @on(Button.Pressed, "#copy")
    def copy(self) -> None:
        """Copy the command line, or the lines of Python."""
        self.app.copy_to_clipboard(self._loader)

    @on(Button.Pressed, "#close")
    def close_dialog(self) -> None:
        """Back to the library."""
        self.dismiss(None)
