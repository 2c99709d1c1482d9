"""Exports an adapter, or the sum of several, as GGUF or PEFT or into the library, and gives what loads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Checkbox, Input, RadioSet, Static

from localhyper.config import Config
from localhyper.gguf_writer import DTYPES
from localhyper.progress import CancelToken, Progress, ProgressCallback

from .background import in_background
from .exporting import GGUF, LIBRARY, PEFT, Exported, ExportWish, export
from .harmless import Harmless
from .host_events import Failure
from .marks import Choice, Tick
from .services import Services
from .words import home_text, plain, visible


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
    GGUF: Form("GGUF, llama.cpp", ".gguf", "One file; any llama.cpp loads it beside its base model.", "Copy command"),
    PEFT: Form(
        "PEFT, transformers, vLLM",
        "-peft",
        "A folder of two files; PEFT loads it beside the unquantized base model.",
        "Copy Python",
    ),
    LIBRARY: Form("library", "", "A new adapter that acts as all of them; quotes find the text of all.", "Copy"),
}


class ExportDialog(ModalScreen[bool]):
    """Asks for format and place; stays open with what loads the export once it is there.

    Dismissed with whether the library has changed.

    Args:
        services: What the screens work with.
        config: The settings in force.
        words: The adapters, `NAME` or `NAME@SCALE`; several are summed.
    """

    AUTO_FOCUS = "#to"
    DEFAULT_CSS = """
    ExportDialog { align: center middle; }
    ExportDialog > Vertical { width: 92%; max-width: 100; height: auto; max-height: 100%; padding: 0 2;
                              border: round $border; background: $surface; }
    ExportDialog Static { height: auto; }
    ExportDialog RadioSet { layout: horizontal; height: 1; margin: 0 1; }
    ExportDialog RadioSet > RadioButton { width: auto; margin-right: 2; }
    ExportDialog .line { height: 1; }
    ExportDialog .line Static { width: auto; margin: 0 1; color: $text-muted; }
    ExportDialog Checkbox { margin: 0 1; }
    ExportDialog #rank { width: 22; }
    ExportDialog #told { height: auto; max-height: 11; margin: 1 0; }
    ExportDialog.-narrow.-sum #told { max-height: 9; margin: 0; }
    ExportDialog #result.-problem { color: $text-error; }
    ExportDialog #buttons { height: auto; align-horizontal: right; }
    ExportDialog Button { margin-left: 2; }
    ExportDialog .sum { display: none; }
    ExportDialog.-sum .sum { display: block; }
    ExportDialog.-peft #numbers, ExportDialog.-library #overwrite { display: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Close", id="export.close", tooltip="Back to the library"),
    ]

    def __init__(self, services: Services, config: Config, words: Sequence[str]) -> None:
        super().__init__()
        self._services, self._config, self._given = services, config, tuple(words)
        self._is_sum = len(words) > 1
        self._form, self._loader, self._changed = GGUF, "", False
        self._stop = CancelToken()
        self._folder = Path(services.remembered.memory.export_folder or Path.cwd())
        self.set_class(self._is_sum, "-sum")

    def compose(self) -> ComposeResult:
        """Which adapters, where to, in which format, whether to replace, what came of it."""
        as_it_is = f"as set ({self._config.adapter.dtype})" if self._is_sum else "as it is"
        with Vertical() as box:
            box.border_title = self._heading
            yield Input(" ".join(self._given), id="adapters", classes="sum", highlighter=Harmless())
            yield Input(self._place, id="to", highlighter=Harmless())
            with RadioSet(compact=True, id="form"):
                for name, form in FORMS.items():
                    yield Choice(form.label, name == self._form, name=name, classes="sum" * (name == LIBRARY))
            with Horizontal(classes="line", id="numbers"):
                yield Static("numbers", markup=False)
                with RadioSet(compact=True, id="dtype"):
                    for name in ("", *DTYPES):
                        yield Choice(name or as_it_is, not name, name=name)
            with Horizontal(classes="line"):
                yield Tick("Replace an older export", id="overwrite", compact=True)
                yield Static("rank", classes="sum", markup=False)
                yield Input(
                    placeholder=f"{self._config.adapter.rank_budget} as set, 0 = all", compact=True, id="rank",
                    classes="sum", tooltip="What the ranks of all together are cut back to",
                )  # fmt: skip
            with VerticalScroll(id="told"):
                yield Static(FORMS[self._form].about, id="result", markup=False)
            with Horizontal(id="buttons"):
                yield Button(FORMS[self._form].copy, id="copy", disabled=True)
                yield Button("Close", id="close")
                yield Button("Export", id="export", variant="primary")

    @property
    def _heading(self) -> Content:
        what = "the sum" if self._is_sum else plain(self._given[0])
        return Content("Merge into a new adapter" if self._form == LIBRARY else f"Export {what} as {self._form}")

    @property
    def _stem(self) -> str:
        names = [word.rpartition("@")[0] or word for word in self._given]
        return "-".join(names)[:40].rstrip("-_.") if self._is_sum else names[0]

    @property
    def _place(self) -> str:
        """Where it goes, or how it is called, unless something else is typed."""
        if self._form == LIBRARY:
            return self._stem
        return home_text(self._folder / f"{self._stem}{FORMS[self._form].ending}")

    @on(RadioSet.Changed, "#form")
    def choose(self, event: RadioSet.Changed) -> None:
        """Turn to another format; a place that was typed stays."""
        box = self.query_one("#to", Input)
        untouched = box.value == self._place
        was, self._form, self._loader = self._form, str(event.pressed.name), ""
        if untouched or LIBRARY in (was, self._form):
            box.value = self._place
        self.set_class(self._form == PEFT, "-peft")
        self.set_class(self._form == LIBRARY, "-library")
        self.query_one(Vertical).border_title = self._heading
        self.query_one("#export", Button).label = "Merge" if self._form == LIBRARY else "Export"
        copy = self.query_one("#copy", Button)
        copy.label, copy.disabled = FORMS[self._form].copy, True
        copy.display = self._form != LIBRARY
        self._say(FORMS[self._form].about)

    @property
    def _wish(self) -> ExportWish | str:
        """What is wanted, or why it cannot be."""
        dtype = self.query_one("#dtype", RadioSet).pressed_button
        rank = self.query_one("#rank", Input).value.strip()
        words = tuple(self.query_one("#adapters", Input).value.split()) if self._is_sum else self._given
        if rank and not rank.isdecimal():
            return f"rank is `{visible(rank[:20])}`, wanted a whole number: 0 keeps all"
        if not words:
            return "no adapters are named: NAME or NAME@SCALE, with blanks between them"
        if not self.query_one("#to", Input).value.strip():
            return "no name is given" if self._form == LIBRARY else "no place is given"
        name = (dtype.name or "") if dtype is not None and self._form != PEFT else ""
        return ExportWish(
            words, self._form, self.query_one("#to", Input).value, name if name in DTYPES else None,
            int(rank) if rank else None, self.query_one(Checkbox).value, self._is_sum,
        )  # fmt: skip

    @on(Input.Submitted)
    @on(Button.Pressed, "#export")
    def export(self) -> None:
        """Write it."""
        wish, store, config = self._wish, self._services.store, self._config
        if isinstance(wish, str):
            self._say(f"! {wish}", problem=True)
            return
        if wish.is_sum:
            self._say("Summing…")
        tell, token = self._teller(), self._stop
        in_background(self, lambda: (wish, export(store, config, wish, tell, token)), self._done, failed=self._failed)

    def _teller(self) -> ProgressCallback:
        """Shows from another thread what is done while a document is read once more."""
        app = self.app

        def tell(progress: Progress) -> None:
            if progress.stage == "encode":
                what = f"{progress.item}: chunk {progress.done + 1} of {progress.total}"
                app.call_from_thread(self._say, f"Making one adapter of all of {what}")

        return tell

    def on_unmount(self) -> None:
        """Stop reading; it goes on there the next time."""
        self._stop.cancel()

    def _done(self, outcome: tuple[ExportWish, Exported]) -> None:
        wish, made = outcome
        self._changed = self._changed or wish.form == LIBRARY
        if made.folder is not None:
            self._folder = made.folder
            self._services.remembered.update(export_folder=str(self._folder))
        if wish.form != self._form:  # another format was chosen meanwhile
            self.notify(made.told, markup=False)
            return
        self._loader = made.loader
        self._say("\n\n".join(filter(None, [made.told, made.loader])))
        self.query_one("#copy", Button).disabled = not made.loader
        self.query_one("#copy" if made.loader else "#close").focus()

    def _failed(self, failure: Failure) -> None:
        hint = failure.hint.replace("add --force to replace it", "tick the box to replace it")
        hint = hint.replace("another --name", "another name")
        self._say("\n".join(filter(None, [f"! {failure.message}", hint])), problem=True)

    def _say(self, text: str, *, problem: bool = False) -> None:
        if not self.is_attached:  # closed while another thread had something to say
            return
        result = self.query_one("#result", Static)
        result.update(visible(text))
        result.set_class(problem, "-problem")

    @on(Button.Pressed, "#copy")
    def copy(self) -> None:
        """Copy the command line, or the lines of Python."""
        self.app.copy_to_clipboard(self._loader)

    @on(Button.Pressed, "#close")
    def action_leave(self) -> None:
        """Back to the library."""
        self.dismiss(self._changed)
