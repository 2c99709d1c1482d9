"""All documents that are, were or will be attached: how far, how long still, pause, stop, go on, what went wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import OptionList, ProgressBar, Static
from textual.widgets.option_list import Option

from .app_state import AppState
from .background import in_background
from .error_dialog import ErrorDialog
from .job_board import MARKS, JobView
from .services import Services
from .words import day_text, plain

_EMPTY = "No documents have been attached yet.\n\nctrl+o in the chat attaches one."


class JobsDialog(ModalScreen[None]):
    """The queue. Jobs run one at a time, in this order, and go on after a restart."""

    DEFAULT_CSS = """
    JobsDialog { align: center middle; }
    JobsDialog > Vertical { width: 94%; max-width: 110; height: 80%; padding: 0 1; border: round $border;
                            background: $surface; }
    JobsDialog #none { color: $text-muted; height: auto; padding: 1; }
    JobsDialog OptionList { height: 1fr; border: none; padding: 0; background: transparent; }
    JobsDialog OptionList:focus { border: none; }
    JobsDialog #now { height: auto; border-top: solid $foreground-muted; padding: 0 1; }
    JobsDialog #stage { height: auto; }
    JobsDialog ProgressBar { width: 100%; }
    JobsDialog ProgressBar Bar { width: 1fr; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "Close", id="jobs.close", tooltip="Leave; the jobs go on"),
        Binding("p", "pause", "Pause or go on", id="jobs.pause", tooltip="Finished chunks are kept"),
        Binding("x", "stop", "Stop", id="jobs.stop", tooltip="Stop it for good"),
        Binding("c", "clear", "Clear", id="jobs.clear", tooltip="Forget those that are over"),
    ]

    def __init__(self, services: Services, state: AppState) -> None:
        super().__init__()
        self._services, self._state = services, state
        self._shown: tuple[int, ...] = ()

    def compose(self) -> ComposeResult:
        """The list, and the running one in full."""
        with Vertical() as box:
            box.border_title = "Jobs"
            box.border_subtitle = "p pause or go on, x stop, enter details, c clear, esc close"
            yield Static(_EMPTY, id="none", markup=False)
            yield OptionList()
            with Vertical(id="now"):
                yield Static("", id="stage", markup=False)
                yield ProgressBar(show_eta=False, show_percentage=False)

    def on_mount(self) -> None:
        """Follow the board, which a look into the database brings up to date."""
        self._state.jobs_changed.subscribe(self, lambda _: self._show())
        self._show()
        self.query_one(OptionList).focus()
        in_background(self, lambda: self._services.store.jobs.list(), self._took)

    def _took(self, jobs: object) -> None:
        self._state.board.replace(jobs)  # type: ignore[arg-type]  # what the store's list gave
        self._state.jobs_changed.publish(self._state.board)
        self._show()

    def _show(self) -> None:
        views = self._state.board.views
        options = self.query_one(OptionList)
        numbers = tuple(view.job.id for view in views)
        if numbers == self._shown:
            for index, view in enumerate(views):
                options.replace_option_prompt_at_index(index, self._line(view))
        else:
            current = self.current
            options.set_options(Option(self._line(view)) for view in views)
            if views:
                kept = current is not None and current.job.id in numbers
                options.highlighted = numbers.index(current.job.id) if kept and current is not None else len(views) - 1
            self._shown = numbers
        options.display = bool(views)
        self.query_one("#none").display = not views
        self._show_running()

    def _show_running(self) -> None:
        view = self._state.board.running
        self.query_one("#now").display = view is not None
        if view is not None:
            item = plain(view.progress.item) if view.progress.item not in (view.name, "") else ""
            parts = [plain(view.name), view.stage, item, view.percent_text, view.left]
            self.query_one("#stage", Static).update("  ".join(filter(None, parts)))
            self.query_one(ProgressBar).update(total=view.progress.total or None, progress=view.progress.done)

    def _line(self, view: JobView) -> Content:
        job = view.job
        detail = plain(job.message) if job.state == "failed" else ""
        when = day_text(job.finished_at) if job.finished_at else ""
        other = job.request.base not in ("", self._state.base) and job.state == "queued"
        if other:
            detail = f"waits for the base model {plain(job.request.base)}: f5"
        parts = [f"{MARKS[job.state]} {plain(view.name)}", view.state, detail, when]
        return Content("  ".join(filter(None, parts)))

    @property
    def current(self) -> JobView | None:
        """The highlighted job."""
        index = self.query_one(OptionList).highlighted
        return self._state.board.get(self._shown[index]) if index is not None and index < len(self._shown) else None

    def _do(self, work: Callable[[int], object]) -> None:
        view = self.current
        if view is not None:
            number = view.job.id
            in_background(self, lambda: work(number))

    def action_pause(self) -> None:
        """Pause what is open, let go on what is not."""
        view = self.current
        if view is not None and view.job.state in ("queued", "running"):
            self._do(self._services.host.pause_job)
        elif view is not None and view.job.state != "done":
            self._do(self._services.host.resume_job)

    def action_stop(self) -> None:
        """Stop for good."""
        view = self.current
        if view is not None and view.job.state in ("queued", "running", "paused"):
            self._do(self._services.host.cancel_job)

    def action_clear(self) -> None:
        """Forget those that are over."""

        def clear() -> object:
            jobs = self._services.store.jobs
            jobs.clear_finished()
            return jobs.list()

        in_background(self, clear, self._took)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Enter shows what went wrong."""
        event.stop()
        view = self.current
        if view is None:
            return
        if view.job.state == "failed":
            self.app.push_screen(ErrorDialog.for_job(view, None, self._services.log_path))
        elif view.job.state == "done":
            self.notify("It is in the library (f3) and among the adapters of the chat")
