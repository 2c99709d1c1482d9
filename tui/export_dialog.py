"""Exports an adapter as GGUF and gives the command line that serves it with stock llama.cpp."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Checkbox, Input, Static

from localhyper.library import AdapterInfo

from .background import in_background
from .harmless import Harmless
from .host_events import Failure
from .services import Services
from .words import as_path, home_text, plain


class ExportDialog(ModalScreen[None]):
    """Asks where to; stays open with the command line once the file is there."""

    DEFAULT_CSS = """
    ExportDialog { align: center middle; }
    ExportDialog > Vertical { width: 92%; max-width: 100; height: auto; padding: 0 2; border: round $border;
                              background: $surface; }
    ExportDialog Static { height: auto; }
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
        self._command = ""

    def compose(self) -> ComposeResult:
        """Where to, whether to replace, what came of it."""
        folder = Path(self._services.remembered.memory.export_folder or Path.cwd())
        with Vertical() as box:
            box.border_title = Content(f"Export {plain(self._adapter.name)} as GGUF")
            yield Input(home_text(folder / f"{self._adapter.name}.gguf"), id="to", highlighter=Harmless())
            yield Checkbox("Replace a file that is there", id="overwrite")
            yield Static("Any llama.cpp loads the file beside its base model.", id="result", markup=False)
            with Horizontal(id="buttons"):
                yield Button("Copy command", id="copy", disabled=True)
                yield Button("Close", id="close")
                yield Button("Export", id="export", variant="primary")

    @on(Input.Submitted)
    @on(Button.Pressed, "#export")
    def export(self) -> None:
        """Write the file."""
        target = as_path(self.query_one("#to", Input).value)
        overwrite = self.query_one(Checkbox).value
        store, adapter = self._services.store, self._adapter

        def write() -> tuple[Path, str]:
            file = store.export(adapter.name, target, overwrite)
            return file, store.server_command(adapter, file)

        in_background(self, write, self._done, failed=self._failed)

    def _done(self, outcome: tuple[Path, str]) -> None:
        file, self._command = outcome
        self._services.remembered.update(export_folder=str(file.absolute().parent))
        self._say(f"✓ Written to {home_text(file)}\n\n{self._command}")
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
        """Copy the command line."""
        self.app.copy_to_clipboard(self._command)

    @on(Button.Pressed, "#close")
    def close_dialog(self) -> None:
        """Back to the library."""
        self.dismiss(None)
