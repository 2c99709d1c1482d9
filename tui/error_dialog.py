"""The dialog for a defect or a failed job: what, where the log is, details that can be copied. Never a traceback."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Static, TextArea

from localhyper import __version__

from .host_events import Failure
from .job_board import JobView
from .words import plain, visible


class ErrorDialog(ModalScreen[None]):
    """Shows one failure; closing it goes on where the user was."""

    DEFAULT_CSS = """
    ErrorDialog { align: center middle; }
    ErrorDialog > Vertical {
        width: 90%; max-width: 100; height: auto; max-height: 90%; padding: 0 2;
        border: round $error; background: $surface;
    }
    ErrorDialog #message { color: $text-error; height: auto; max-height: 5; }
    ErrorDialog #hint { height: auto; max-height: 4; }
    ErrorDialog #log { color: $text-muted; height: auto; }
    ErrorDialog #details { height: auto; max-height: 14; margin: 1 0; }
    ErrorDialog #buttons { height: auto; align-horizontal: right; }
    ErrorDialog Button { margin-left: 2; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "Close", id="error.close", tooltip="Close this message and go on"),
    ]

    def __init__(
        self, failure: Failure, log_path: Path | None, *, title: str = "Something unexpected happened"
    ) -> None:
        super().__init__()
        self._failure = failure
        self._log_path = log_path
        self._title = title

    @classmethod
    def for_job(cls, view: JobView, failure: Failure | None, log_path: Path | None) -> ErrorDialog:
        """The dialog for a job that failed, of its own accord or by a defect."""
        job, request = view.job, view.job.request
        facts = [
            f"job       {job.id}, failed while it was at: {view.stage}",
            f"source    {plain(request.source) or 'a text'}",
            f"base      {plain(request.base) or 'as set'}",
            f"started   {job.started_at or '-'}",
            f"ended     {job.finished_at or '-'}",
            "finished chunks are kept: try again in Jobs (f4)",
        ]
        if failure is not None and failure.details:
            facts.append(failure.details)
        told = Failure(
            visible(job.message), visible(job.hint), "\n".join(facts), failure.traceback if failure is not None else ""
        )
        return cls(told, log_path, title=f"“{view.name}” could not be attached")

    def compose(self) -> ComposeResult:
        """Message, hint, log, details, two buttons."""
        log = f"The app goes on. The log is {self._log_path}" if self._log_path else "The app goes on."
        with Vertical() as box:
            box.border_title = Content(self._title)
            yield Static(self._failure.message, id="message", markup=False)
            yield Static(self._failure.hint, id="hint", markup=False)
            yield Static(log, id="log", markup=False)
            yield TextArea(self._details, id="details", read_only=True, show_cursor=False)
            with Horizontal(id="buttons"):
                yield Button("Copy details", id="copy", tooltip="Copy the details, for a bug report")
                yield Button("Close", id="close", variant="primary", tooltip="Go on")

    @property
    def _details(self) -> str:
        return f"localhyper {__version__}\n{self._failure.details}"

    def on_mount(self) -> None:
        """The harmless button has the focus."""
        self.query_one("#hint").display = bool(self._failure.hint)
        self.query_one("#close").focus()

    @on(Button.Pressed, "#copy")
    def copy_details(self) -> None:
        """Copy everything a report needs, where it came from included."""
        parts = [self._failure.message, self._failure.hint, f"log: {self._log_path}", self._details]
        self.app.copy_to_clipboard("\n".join([*filter(None, parts), self._failure.traceback]).rstrip() + "\n")

    @on(Button.Pressed, "#close")
    def close_dialog(self) -> None:
        """Go on."""
        self.dismiss(None)
