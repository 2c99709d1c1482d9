"""The dialog that attaches a document or a folder: where it is, what it would take, what will be left out."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.timer import Timer
from textual.widgets import Button, Input, Static

from localhyper.errors import LibraryError
from localhyper.jobs import JobRequest
from localhyper.library import check_name
from localhyper.progress import CancelToken, Progress
from localhyper.sources.document import Document

from .app_state import AppState
from .attach_preview import Preview, summary
from .background import in_background
from .harmless import Harmless
from .host_events import Failure, Planned, PlanRequest
from .path_picker import PathPicker
from .services import Services
from .words import as_path, dropped_paths, home_text

_DEBOUNCE = 0.4
_ASK = "Type or paste a path, drop a file here, or browse."


@dataclass(frozen=True)
class Wanted:
    """One document to attach."""

    request: JobRequest
    password: str = ""


class AttachDialog(ModalScreen[tuple[Wanted, ...]]):
    """Asks what to attach; dismissed with what the user wants, or with nothing."""

    DEFAULT_CSS = """
    AttachDialog { align: center middle; }
    AttachDialog > Vertical { width: 94%; max-width: 96; height: auto; max-height: 96%; padding: 0 2;
                              border: round $border; background: $surface; }
    AttachDialog Horizontal { height: auto; }
    AttachDialog .label { width: 10; padding-top: 1; color: $text-muted; }
    AttachDialog Input { width: 1fr; }
    AttachDialog #browse { margin-left: 1; }
    AttachDialog #kinds { color: $text-muted; height: auto; }
    AttachDialog #preview { height: auto; min-height: 4; max-height: 11; margin: 1 0; }
    AttachDialog #preview:focus { background: $boost; }
    AttachDialog #preview.-problem { color: $text-error; }
    AttachDialog #buttons { align-horizontal: right; }
    AttachDialog #buttons Button { margin-left: 2; }
    AttachDialog #password-row { display: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(())", "Cancel", id="attach.cancel", tooltip="Attach nothing"),
        Binding("ctrl+o", "browse", "Browse", id="attach.browse", tooltip="Choose from the tree of files"),
    ]

    def __init__(self, services: Services, state: AppState, paths: Sequence[Path] = ()) -> None:
        super().__init__()
        self._services, self._state = services, state
        self._given = " ".join(shlex.quote(str(path)) for path in paths) if len(paths) > 1 else "".join(map(str, paths))
        self._previews: list[Preview] = []
        self._token = CancelToken()
        self._plan_id = 0
        self._timer: Timer | None = None

    def compose(self) -> ComposeResult:
        """Place, name, password where one is needed, what it takes, two buttons."""
        with Vertical() as box:
            box.border_title = "Attach"
            yield Static("", id="kinds", markup=False)
            with Horizontal():
                yield Static("Path", classes="label", markup=False)
                yield Input(self._given, placeholder="file or folder", id="path", highlighter=Harmless())
                yield Button("Browse", id="browse", tooltip="Choose from the tree of files (ctrl+o)")
            with Horizontal():
                yield Static("Name", classes="label", markup=False)
                yield Input(placeholder="from the title", id="name", tooltip="What the adapter will be called")
            with Horizontal(id="password-row"):
                yield Static("Password", classes="label", markup=False)
                yield Input(password=True, id="password", tooltip="Opens an encrypted PDF; kept in memory only")
            with VerticalScroll(id="preview"):
                yield Static(_ASK, id="facts", markup=False)
            with Horizontal(id="buttons"):
                yield Button("Cancel", id="cancel")
                yield Button("Make and attach", id="make", variant="primary", disabled=True)

    def on_mount(self) -> None:
        """Begin with what was given."""
        self._state.planned.subscribe(self, self._on_planned)
        self.query_one("#path", Input).focus()
        base = self._state.loaded.info.fingerprint if self._state.loaded is not None else self._state.base
        in_background(self, lambda: self._services.store.kinds(base), self._show_kinds, failed=lambda _: None)
        if self._given:
            self._look()

    def on_unmount(self) -> None:
        """Nothing goes on behind a closed dialog."""
        self._stop_looking()

    def _show_kinds(self, kinds: Mapping[str, str]) -> None:
        missing = [name for kind, name in (("task", "tasks"), ("image", "images")) if kind not in kinds]
        text = "A document, or a folder as one document."
        if missing:
            text += f" There is no hypernetwork for {' or '.join(missing)} on this machine."
        self.query_one("#kinds", Static).update(text)

    # Looking at what the path names

    @on(Input.Changed, "#path")
    @on(Input.Changed, "#password")
    def path_changed(self) -> None:
        """Look again, once the typing pauses."""
        if self._timer is not None:
            self._timer.stop()
        self._timer = self.set_timer(_DEBOUNCE, self._look)

    @on(Input.Submitted)
    def submitted(self) -> None:
        """Enter makes it, if it is known to be possible; else it looks at once."""
        make = self.query_one("#make", Button)
        if self._previews and all(preview.plan is not None for preview in self._previews) and not make.disabled:
            self._make()
        else:
            self._look()

    def _stop_looking(self) -> None:
        self._token.cancel()
        self._services.host.cancel(self._plan_id)
        self._plan_id = 0
        if self._timer is not None:
            self._timer.stop()
            self._timer = None

    def _look(self) -> None:
        self._stop_looking()
        text = self.query_one("#path", Input).value.strip()
        self._token = CancelToken()
        self._previews = [Preview(path) for path in dropped_paths(text) or (as_path(text),)] if text else []
        self._show()
        self._next()

    def _next(self) -> None:
        """Read the next source, or have the next text counted."""
        preview = next((each for each in self._previews if each.failure is None and each.plan is None), None)
        if preview is None:
            return
        if preview.document is not None:
            self._count(preview, preview.document)
            return
        token, request, password = self._token, self._request(preview.path), self.query_one("#password", Input).value

        def report(progress: Progress) -> None:
            preview.reading = f"{progress.item} {progress.done} of {progress.total}" if progress.total else ""
            self.app.call_later(self._show)

        config = self._state.config
        in_background(
            self,
            lambda: self._services.store.read(request, config, password, report, token),
            lambda document: self._was_read(token, preview, document),
            failed=lambda failure: self._failed(token, preview, failure),
            group="read",
        )

    def _was_read(self, token: CancelToken, preview: Preview, document: Document) -> None:
        if token is self._token:
            preview.document = document
            self._show()
            self._next()

    def _failed(self, token: CancelToken, preview: Preview, failure: Failure) -> None:
        if token is self._token and not token.cancelled:
            preview.failure = failure
            if "password" in failure.message or "password" in failure.hint:
                self.query_one("#password-row").display = True
            self._show()
            self._next()

    def _count(self, preview: Preview, document: Document) -> None:
        self._plan_id = self._state.next_request()
        name = self.query_one("#name", Input).value.strip() if len(self._previews) == 1 else ""
        self._services.host.plan(PlanRequest(self._plan_id, document, "" if _name_problem(name) else name))

    def _on_planned(self, planned: Planned) -> None:
        if planned.request_id != self._plan_id:
            return
        preview = next((each for each in self._previews if each.failure is None and each.plan is None), None)
        if preview is not None:
            preview.plan, preview.failure = planned.plan, planned.failure
            self._show()
            self._next()

    def _show(self) -> None:
        if not self.is_attached:
            return
        facts, preview = self.query_one("#facts", Static), self.query_one("#preview")
        facts.update("\n".join(summary(self._previews, self._state.model_name)) if self._previews else _ASK)
        good = [each for each in self._previews if each.failure is None]
        preview.set_class(bool(self._previews) and not good, "-problem")
        self.query_one("#make", Button).disabled = not good

    # Making

    def _request(self, path: Path) -> JobRequest:
        name = self.query_one("#name", Input).value.strip() if len(self._previews) == 1 else ""
        return JobRequest(source=os.path.abspath(path), name=name, base=self._state.base, rank=-1)

    @on(Button.Pressed, "#make")
    def make_pressed(self) -> None:
        """Make them."""
        self._make()

    def _make(self) -> None:
        if problem := _name_problem(self.query_one("#name", Input).value.strip()):
            self.notify(problem, severity="error", markup=False)
            self.query_one("#name").focus()
            return
        password = self.query_one("#password", Input).value
        good = [preview for preview in self._previews if preview.failure is None]
        if good:
            self._services.remembered.update(source_folder=str(good[0].path.absolute().parent))
            self.dismiss(tuple(Wanted(self._request(preview.path), password) for preview in good))

    @on(Button.Pressed, "#cancel")
    def cancel_pressed(self) -> None:
        """Attach nothing."""
        self.dismiss(())

    @on(Button.Pressed, "#browse")
    def browse_pressed(self) -> None:
        """Choose from the tree."""
        self.action_browse()

    @work(group="dialog", exit_on_error=False)
    async def action_browse(self) -> None:
        """Choose from the tree of files, where the last document was chosen."""
        start = Path(self._services.remembered.memory.source_folder or Path.cwd())
        path = await self.app.push_screen_wait(PathPicker(start))
        if path is not None:
            self.query_one("#path", Input).value = home_text(path)
            self._look()


def _name_problem(name: str) -> str:
    """Why an adapter cannot be called so; empty = it can, or the name is left open."""
    if not name:
        return ""
    try:
        check_name(name)
    except LibraryError as error:
        return f"{error.message}: {error.hint}"
    return ""
