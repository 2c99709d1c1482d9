"""The chat's business with adapters: the attach dialog, dropped files, finished jobs, deleted adapters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from textual import work

from localhyper.errors import LibraryError, LocalHyperError
from localhyper.library import AdapterInfo

from .adapter_panel import AdapterList, AdapterPanel
from .adapter_source import AdapterRow
from .attach_dialog import AttachDialog, Wanted
from .background import in_background
from .host_events import Failure
from .job_board import JobView
from .path_completion import PathCompletion
from .places import Place
from .prompt import Prompt
from .words import plain, visible


class ChatAttach(Place):
    """The part of the chat screen that makes, lists and deletes adapters."""

    def action_attach(self) -> None:
        """Ask for a document, a folder or a task."""
        self._ask_what()

    def action_attach_task(self) -> None:
        """Ask for the description of a task."""
        self._ask_what(kind="task")

    def on_prompt_dropped(self, message: Prompt.Dropped) -> None:
        """Files that were pasted, dropped or chosen after `@`; declined, a pasted path is text after all."""
        self._ask_what(message.paths, message.text)

    def on_path_completion_chosen(self, message: PathCompletion.Chosen) -> None:
        """An offer was clicked."""
        self.query_one(Prompt).take(message.candidate)

    @work(group="dialog", exit_on_error=False)
    async def _ask_what(self, paths: Sequence[Path] = (), text: str = "", kind: str = "document") -> None:
        wanted = await self.app.push_screen_wait(AttachDialog(self.services, self.state, paths, kind))
        if not wanted and text:
            self.query_one(Prompt).insert(visible(text))
        if wanted:
            in_background(self, lambda: self._submit(wanted), group="submit")

    def _submit(self, wanted: Sequence[Wanted]) -> None:
        """Queue them in their order, in one thread; one that is refused does not stop those after it."""
        refused: list[LocalHyperError] = []
        for one in wanted:
            try:
                self.services.host.submit(one.request, one.password)
            except LocalHyperError as error:
                refused.append(error)
        if refused:
            raise refused[0]

    def take_adapter(self, view: JobView) -> None:
        """Switch on what a job has made."""
        number = view.job.adapter_id

        def find() -> AdapterInfo | None:
            return next((info for info in self.services.store.library.list() if info.id == number), None)

        in_background(self, find, self._take, failed=lambda _: None, group="library")

    def _take(self, info: AdapterInfo | None) -> None:
        if info is not None:
            self.query_one(AdapterPanel).attach(info.name)
            self.notify(f"✓ {plain(info.name)} is made and answers from now on", markup=False)

    # The list of adapters

    def on_adapter_list_reload(self) -> None:
        """The list's own key for it."""
        self.action_reload_library()

    def action_reload_library(self) -> None:
        """Read the library, away from the screen's thread."""
        panel = self.query_one(AdapterPanel)

        def failed(failure: Failure) -> None:
            panel.show_problem(failure.message, failure.hint)

        in_background(self, self.services.adapters.list, self._show_rows, failed=failed, group="library")

    def _show_rows(self, rows: Sequence[AdapterRow]) -> None:
        self.query_one(AdapterPanel).show_rows(rows)

    def on_adapter_panel_removed(self, message: AdapterPanel.Removed) -> None:
        """Into the trash; one key brings it back."""
        name = message.name
        in_background(self, lambda: self.services.store.library.remove(name), self._removed)

    def _removed(self, info: AdapterInfo) -> None:
        self.query_one(AdapterPanel).detach(info.name)
        self.notify(f"Deleted {plain(info.name)}. u in the list brings it back.", markup=False)
        self.state.library_changed.publish("")

    def on_adapter_list_undo(self, message: AdapterList.Undo) -> None:
        """Bring back what was deleted last."""

        def restore() -> str:
            library = self.services.store.library
            removed = library.removed()
            if not removed:
                raise LibraryError("the trash is empty: no adapter to bring back")
            return library.restore(removed[0].name).name

        in_background(self, restore, self._restored)

    def _restored(self, name: str) -> None:
        self.notify(f"{plain(name)} is back", markup=False)
        self.state.library_changed.publish("")
