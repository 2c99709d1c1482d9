"""The dialog that attaches a document, a folder or a task: what it is, what it would take, what will be left out."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.timer import Timer
from textual.widgets import Button, Input, RadioButton, RadioSet, Static

from localhyper.errors import LibraryError
from localhyper.jobs import JobRequest
from localhyper.library import check_name
from localhyper.progress import CancelToken
from localhyper.sources.document import Document

from .app_state import AppState
from .attach_look import Look
from .attach_preview import summary
from .background import in_background
from .harmless import Harmless
from .host_events import Failure
from .maker_select import MakerSelect
from .marks import Choice
from .path_picker import PathPicker
from .services import Services
from .task_box import TaskBox
from .words import as_path, dropped_paths, home_text, visible

_DEBOUNCE = 0.4
_ASK = {
    "document": "Type or paste a path, drop a file here, or browse.",
    "task": "The adapter does what is described, with whatever it is asked. Browse takes the words from a file.",
}
_KINDS = {"document": "Document or folder", "task": "Task"}
_MANY = {"task": "tasks", "image": "images"}


@dataclass(frozen=True)
class Wanted:
    """One document or task to attach."""

    request: JobRequest
    password: str = ""


class AttachDialog(ModalScreen[tuple[Wanted, ...]]):
    """Asks what to attach; dismissed with what the user wants, or with nothing."""

    DEFAULT_CSS = """
    AttachDialog { align: center middle; }
    AttachDialog > Vertical { width: 94%; max-width: 96; height: auto; max-height: 96%; padding: 0 2;
                              border: round $border; background: $surface; }
    AttachDialog Horizontal { height: auto; }
    AttachDialog RadioSet { layout: horizontal; height: 1; }
    AttachDialog RadioSet > RadioButton { width: auto; margin-right: 2; }
    AttachDialog .label { width: 10; padding-top: 1; color: $text-muted; }
    AttachDialog #by-label { width: 5; margin-left: 2; }
    AttachDialog Input, AttachDialog Select { width: 1fr; }
    AttachDialog #browse { margin-left: 1; }
    AttachDialog #kinds { color: $text-muted; height: auto; }
    AttachDialog #preview { height: auto; min-height: 4; max-height: 11; margin: 1 0; }
    AttachDialog #preview:focus { background: $boost; }
    AttachDialog #preview.-problem { color: $text-error; }
    AttachDialog #buttons { align-horizontal: right; }
    AttachDialog #buttons Button { margin-left: 2; }
    AttachDialog #password-row, AttachDialog.-task #path-row, AttachDialog TaskBox { display: none; }
    AttachDialog.-task TaskBox { display: block; }
    AttachDialog.-password #password-row { display: block; }
    AttachDialog.-task #password-row { display: none; }
    AttachDialog.-narrow #preview { max-height: 7; }
    AttachDialog.-narrow.-password #preview { max-height: 5; margin: 0; }
    AttachDialog.-narrow.-task #preview { max-height: 5; margin: 0; }
    AttachDialog.-narrow TaskBox { max-height: 7; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(())", "Cancel", id="attach.cancel", tooltip="Attach nothing"),
        Binding("ctrl+o", "browse", "Browse", id="attach.browse", tooltip="Choose from the tree of files"),
        Binding("ctrl+t", "kind", "Document or task", id="attach.kind", tooltip="A document, or a task in words"),
    ]

    def __init__(self, services: Services, state: AppState, paths: Sequence[Path] = (), kind: str = "document") -> None:
        super().__init__()
        self._services, self._state, self._kind = services, state, kind
        self._given = " ".join(shlex.quote(str(path)) for path in paths) if len(paths) > 1 else "".join(map(str, paths))
        self._look = Look(self, services, state, self._show)
        self._makers: Mapping[str, tuple[str, ...]] | None = None
        self._make_when_known = False
        self._timer: Timer | None = None
        self._count_timer: Timer | None = None

    def compose(self) -> ComposeResult:
        """What it is, where or in what words, its name, its hypernetwork, what it takes, two buttons."""
        key = self._state.key("attach.kind")
        with Vertical() as box:
            box.border_title = "Attach"
            box.border_subtitle = f"{key} document or task"
            with RadioSet(compact=True, id="kind"):
                for kind, label in _KINDS.items():
                    yield Choice(label, kind == self._kind, name=kind)
            yield Static("", id="kinds", markup=False)
            with Horizontal(id="path-row"):
                yield Static("Path", classes="label", markup=False)
                yield Input(self._given, placeholder="file or folder", id="path", highlighter=Harmless())
                yield Button("Browse", id="browse", tooltip="Choose from the tree of files (ctrl+o)")
            yield TaskBox(self._state.task_draft)
            with Horizontal():
                yield Static("Name", classes="label", markup=False)
                yield Input(placeholder="from the title", id="name", tooltip="What the adapter will be called")
                yield Static("by", classes="label", id="by-label", markup=False)
                yield MakerSelect()
            with Horizontal(id="password-row"):
                yield Static("Password", classes="label", markup=False)
                yield Input(password=True, id="password", tooltip="Opens an encrypted PDF; kept in memory only")
            with VerticalScroll(id="preview"):
                yield Static("", id="facts", markup=False)
            with Horizontal(id="buttons"):
                yield Button("Cancel", id="cancel")
                yield Button("Make and attach", id="make", variant="primary", disabled=True)

    def on_mount(self) -> None:
        """Begin with what was given."""
        self._state.planned.subscribe(self, self._look.planned)
        self.query_one("#task", TaskBox).move_cursor(self.query_one("#task", TaskBox).document.end)
        self._show_kind()
        base = self._state.loaded.info.fingerprint if self._state.loaded is not None else self._state.base
        in_background(self, lambda: self._services.store.makers(base), self._took_makers, failed=lambda _: None)
        self._begin()

    def on_unmount(self) -> None:
        """Nothing goes on behind a closed dialog."""
        self._stop()

    # Document or task

    def action_kind(self) -> None:
        """The other of the two."""
        other = next(button for button in self.query(RadioButton) if button.name != self._kind)
        other.value = True

    @on(RadioSet.Changed)
    def kind_chosen(self, event: RadioSet.Changed) -> None:
        """Ask for a path, or for words."""
        self._kind = str(event.pressed.name)
        self._show_kind()
        self._begin()

    def _show_kind(self) -> None:
        is_task = self._kind == "task"
        self.set_class(is_task, "-task")
        self.query_one("#name", Input).placeholder = "from its first words" if is_task else "from the title"
        self.query_one("#task" if is_task else "#path").focus()
        self._show_makers()

    def _took_makers(self, makers: Mapping[str, tuple[str, ...]]) -> None:
        self._makers = makers
        self._show_makers()

    def _show_makers(self) -> None:
        """Which hypernetwork, where there is a choice; what there is none for."""
        if self._makers is None:
            return
        names = self._makers.get(self._kind, ())
        settings = self._state.config.hypernet
        by = self.query_one(MakerSelect)
        by.show(names, settings.task if self._kind == "task" else settings.name)
        self.query_one("#by-label").display = by.display
        is_task = self._kind == "task"
        missing = [
            word for kind, word in _MANY.items() if kind not in self._makers and not (is_task and kind != "task")
        ]
        text = "A task, described in words." if is_task else "A document, or a folder as one document."
        if missing:
            text += f" There is no hypernetwork for {' or '.join(missing)} on this machine."
        self.query_one("#kinds", Static).update(text)

    @on(MakerSelect.Changed)
    def maker_chosen(self) -> None:
        """Count again, as that one reads."""
        if self._look.previews and self._hypernet != self._look.previews[0].request.hypernet:
            self._count_again()

    @property
    def _hypernet(self) -> str:
        return self.query_one(MakerSelect).chosen

    # Looking at what is wanted

    @on(TaskBox.Changed)
    def task_changed(self, event: TaskBox.Changed) -> None:
        """A description that is not sent is there the next time."""
        self._state.task_draft = event.text_area.text
        self.source_changed()

    @on(Input.Changed, "#path")
    @on(Input.Changed, "#password")
    def source_changed(self) -> None:
        """Look again, once the typing pauses."""
        self._make_when_known = False
        if self._timer is not None:
            self._timer.stop()
        self._timer = self.set_timer(_DEBOUNCE, self._begin)

    @on(Input.Changed, "#name")
    def name_changed(self) -> None:
        """A name may be taken."""
        if self._count_timer is not None:
            self._count_timer.stop()
        self._count_timer = self.set_timer(_DEBOUNCE, self._count_again)

    def _count_again(self) -> None:
        if self._look.previews:
            self._look.count_again(self._hypernet, self._wanted_name if not _name_problem(self._wanted_name) else "")

    @property
    def _wanted_name(self) -> str:
        return self.query_one("#name", Input).value.strip()

    @on(Input.Submitted)
    def submitted(self) -> None:
        """Enter makes it, if it is known to be possible; else it looks at once."""
        if self._kind == "task":
            self.task_done()
        elif self._look.is_done:
            self._make()
        else:
            self._begin()

    @on(TaskBox.Done)
    def task_done(self) -> None:
        """Enter makes it, as soon as it is known to be possible."""
        if self._look.is_done and not self._is_behind:
            self._make()
            return
        self._make_when_known = True
        if self._is_behind or not self._look.good:
            self._begin()

    @property
    def _is_behind(self) -> bool:
        """Whether what was typed last has not been looked at."""
        looked = [preview.request.text for preview in self._look.previews]
        return self._kind == "task" and looked != [self._words] and bool(self._words)

    @property
    def _words(self) -> str:
        return visible(self.query_one("#task", TaskBox).text).strip()

    def _stop(self) -> None:
        self._look.stop()
        for timer in (self._timer, self._count_timer):
            if timer is not None:
                timer.stop()
        self._timer = self._count_timer = None

    def _begin(self) -> None:
        self._stop()
        name = "" if _name_problem(self._wanted_name) else self._wanted_name
        self._look.begin(self._requests, self.query_one("#password", Input).value, name)

    @property
    def _requests(self) -> list[JobRequest]:
        """What is asked for, without a name."""
        common = JobRequest(base=self._state.base, hypernet=self._hypernet, rank=-1, kind=self._kind)
        if self._kind == "task":
            return [replace(common, text=self._words)] if self._words else []
        text = self.query_one("#path", Input).value.strip()
        paths = (dropped_paths(text) or (as_path(text),)) if text else ()
        return [replace(common, source=os.path.abspath(path)) for path in paths]

    def _show(self) -> None:
        if not self.is_attached:
            return
        look, facts = self._look, self.query_one("#facts", Static)
        facts.update("\n".join(summary(look.previews, self._state.model_name)) if look.previews else _ASK[self._kind])
        self.query_one("#preview").set_class(bool(look.previews) and not look.good, "-problem")
        self.query_one("#make", Button).disabled = not look.good
        failures = [preview.failure for preview in look.previews if preview.failure is not None]
        if any("password" in failure.message + failure.hint for failure in failures):
            self.add_class("-password")
        if failures:
            self._make_when_known = False
        elif self._make_when_known and look.is_done and not self._is_behind:
            self._make()

    # Making

    @on(Button.Pressed, "#make")
    def make_pressed(self) -> None:
        """Make them."""
        if self._kind == "task":
            self.task_done()
        else:
            self._make()

    def _make(self) -> None:
        self._make_when_known = False
        if problem := _name_problem(self._wanted_name):
            self.notify(problem, severity="error", markup=False)
            self.query_one("#name").focus()
            return
        password, good = self.query_one("#password", Input).value, self._look.good
        if not good:
            return
        if self._kind == "task":
            self._state.task_draft = ""
        else:
            self._services.remembered.update(source_folder=str(good[0].path.absolute().parent))
        name = self._wanted_name if len(self._look.previews) == 1 else ""
        requests = [replace(preview.request, name=name, hypernet=self._hypernet) for preview in good]
        self.dismiss(tuple(Wanted(request, password) for request in requests))

    @on(Button.Pressed, "#cancel")
    def cancel_pressed(self) -> None:
        """Attach nothing."""
        self.dismiss(())

    # Files

    @on(Button.Pressed, "#browse")
    def browse_pressed(self) -> None:
        """Choose from the tree."""
        self.action_browse()

    @work(group="dialog", exit_on_error=False)
    async def action_browse(self) -> None:
        """Choose from the tree of files, where the last document was chosen."""
        start = Path(self._services.remembered.memory.source_folder or Path.cwd())
        path = await self.app.push_screen_wait(PathPicker(start))
        if path is not None and self._kind == "task":
            self._take_words(path)
        elif path is not None:
            self.query_one("#path", Input).value = home_text(path)
            self._begin()

    @on(TaskBox.Dropped)
    def task_dropped(self, event: TaskBox.Dropped) -> None:
        """The description stands in a file."""
        self._take_words(event.path)

    def _take_words(self, path: Path) -> None:
        request = JobRequest(source=os.path.abspath(path), kind="task")
        config, store = self._state.config, self._services.store
        in_background(
            self,
            lambda: store.read(request, config, "", lambda _: None, CancelToken()),
            self._took_words,
            failed=self._no_words,
            group="words",
            latest=True,
        )

    def _took_words(self, document: Document) -> None:
        self.query_one("#task", TaskBox).text = visible(document.text)

    def _no_words(self, failure: Failure) -> None:
        self.notify("\n".join(filter(None, [failure.message, failure.hint])), severity="error", markup=False)


def _name_problem(name: str) -> str:
    """Why an adapter cannot be called so; empty = it can, or the name is left open."""
    if not name:
        return ""
    try:
        check_name(name)
    except LibraryError as error:
        return f"{error.message}: {error.hint}"
    return ""
