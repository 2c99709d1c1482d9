"""Models: which are here, which fit into memory, which hypernetworks there are for each; switch and fetch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult, SystemCommand
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.message import Message
from textual.widgets import DataTable, ProgressBar, Static

from localhyper.config import with_value
from localhyper.model_specs import FolderSpec, ModelSpec, PublishedSpec
from localhyper.progress import CancelToken, Progress
from localhyper.registry import ModelStatus

from . import host_events
from .background import in_background, notify_failure
from .facts import facts_table
from .host_events import Failure
from .places import SidePlace
from .store import ModelRow
from .words import home_text, plain, share_text, size_text


class ModelTable(DataTable[Text]):
    """The table; its keys act on the highlighted model."""

    BINDING_GROUP_TITLE = "Models"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select_cursor", "Use it", id="models.use", tooltip="Load this model in place of the other"),
    ]


class ModelsScreen(SidePlace):
    """Base models with their hypernetworks."""

    PLACE = "Models"
    AUTO_FOCUS = "ModelTable"
    BINDING_GROUP_TITLE = "Models"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "pull", "Fetch", id="models.pull", tooltip="Fetch what is missing; needs the network"),
        Binding("x", "stop", "Stop fetching", show=False, id="models.stop", tooltip="What has come is kept"),
        Binding("r", "reload", "Look again", show=False, id="models.reload", tooltip="Look for files anew"),
    ]
    DEFAULT_CSS = """
    ModelsScreen #columns { height: 1fr; }
    ModelsScreen #left { width: 1fr; }
    ModelsScreen ModelTable { height: 1fr; background: transparent; }
    ModelsScreen #details { width: 46; padding: 0 1; border-left: solid $foreground-muted; }
    ModelsScreen #fetching { height: auto; padding: 0 1; display: none; border-top: solid $foreground-muted; }
    ModelsScreen #fetching.-busy { display: block; }
    ModelsScreen ProgressBar { width: 100%; }
    ModelsScreen ProgressBar Bar { width: 1fr; }
    ModelsScreen #details:focus { background: $boost; }
    ModelsScreen.-narrow #columns, ModelsScreen.-wide #columns { layout: vertical; }
    ModelsScreen.-narrow #left, ModelsScreen.-wide #left { width: 100%; height: 1fr; }
    ModelsScreen.-narrow #details, ModelsScreen.-wide #details { width: 100%; height: 1fr; border-left: none;
                                    border-top: solid $foreground-muted; }
    """

    class Fetched(Message, bubble=False):
        """Carries how far a fetch is out of its thread."""

        def __init__(self, progress: Progress) -> None:
            super().__init__()
            self.progress = progress

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._rows: tuple[ModelRow, ...] = ()
        self._fetching: tuple[str, CancelToken] | None = None
        self._wanted = ""

    def compose_place(self) -> ComposeResult:
        """Table, details, what is being fetched."""
        with Horizontal(id="columns"):
            with Vertical(id="left"):
                yield ModelTable(cursor_type="row", zebra_stripes=True)
            with VerticalScroll(id="details"):
                yield Static("Looking for models…", id="facts", markup=False)
        with Vertical(id="fetching"):
            yield Static("", id="what", markup=False)
            yield ProgressBar(show_eta=True)

    def on_mount(self) -> None:
        """Follow the model in memory."""
        self.state.model_changed.subscribe(self, self._model_changed)
        self.action_reload()

    def on_unmount(self) -> None:
        """A fetch does not outlive the app; what has come is kept."""
        if self._fetching is not None:
            self._fetching[1].cancel()

    def action_reload(self) -> None:
        """Look for files anew."""
        config = self.state.config
        in_background(
            self,
            lambda: self.services.store.models(config),
            self._took,
            failed=self._failed,
            group="models",
            latest=True,
        )

    def _failed(self, failure: Failure) -> None:
        self.query_one("#facts", Static).update("\n\n".join(filter(None, [f"! {failure.message}", failure.hint])))

    def _took(self, rows: Sequence[ModelRow]) -> None:
        self._rows = tuple(sorted(rows, key=lambda row: row.status.path is None))
        self._draw()

    def _draw(self) -> None:
        table, current = self.query_one(ModelTable), self.current
        names = [row.status.name for row in self._rows]
        at = names.index(current.status.name) if current is not None and current.status.name in names else None
        table.clear(columns=True)
        for label in ("model", "size", "memory", "for documents"):
            table.add_column(Text(label))
        for row in self._rows:
            table.add_row(*(Text(cell) for cell in self._cells(row)), key=row.status.name)
        if at is None:
            at = next((i for i, name in enumerate(names) if name == self.state.base), 0)
        if names:
            table.move_cursor(row=at)
        self._show_details()

    def _cells(self, row: ModelRow) -> tuple[str, ...]:
        status = row.status
        mark = "●" if self._is_loaded(row) else "x" if row.problem else "○" if status.path else "↓"
        memory = size_text(row.needs) if row.needs else ""
        if isinstance(status.spec, FolderSpec):
            return f"{mark} {plain(status.name)}", size_text(status.size) if status.size else "?", "", status.kind
        if row.needs and row.free and row.needs > row.free and not self._is_loaded(row):
            memory += " too big"
        nets = [net for net in row.hypernetworks if net.kind == "document"]
        here = [net for net in nets if net.path is not None]
        importable = any(spec.method == "doc-to-lora" for spec in row.published)
        return (
            f"{mark} {plain(status.name)}",
            size_text(status.size) if status.size else "?",
            memory,
            "✓" if here else "↓ to fetch" if nets else "to import" if importable else "no hypernetwork",
        )

    def _is_loaded(self, row: ModelRow) -> bool:
        loaded = self.state.loaded
        return (
            loaded is not None
            and row.status.path is not None
            and loaded.config.base.name
            in (
                row.status.name,
                str(row.status.path),
            )
        )

    @property
    def current(self) -> ModelRow | None:
        """The highlighted model."""
        row = self.query_one(ModelTable).cursor_row
        return self._rows[row] if 0 <= row < len(self._rows) else None

    @on(DataTable.RowHighlighted)
    def row_highlighted(self) -> None:
        """Details follow the cursor."""
        self._show_details()

    def _show_details(self) -> None:
        row = self.current
        if row is not None:
            self.query_one("#facts", Static).update(facts_table(self._facts(row)))

    def _facts(self, row: ModelRow) -> Iterator[tuple[str, str]]:
        status, spec = row.status, row.status.spec
        yield "model", plain(status.name)
        if spec is not None:
            yield "what", plain(spec.description)
            yield "licence", plain(spec.licence)
        yield "file", plain(home_text(status.path)) if status.path else f"not here{_fetch_hint(status)}"
        if isinstance(spec, FolderSpec):
            yield "files", plain(", ".join(spec.files))
            yield "use", plain(_use(spec))
            return
        if row.problem:
            yield "problem", plain(row.problem)
        if row.facts:
            yield "header", plain(row.facts)
            free = f", {size_text(row.free)} free now" if row.free else ""
            yield "memory", f"{size_text(row.needs)} with its window{free}"
        for net in row.hypernetworks:
            place = "here" if net.path is not None else f"not here{_fetch_hint(net)}"
            yield net.kind, f"hypernetwork {plain(net.name)}, {place}"
        if not row.hypernetworks:
            yield "attach", "no hypernetwork for it: it can chat, documents cannot be attached"
        if row.published:
            names = plain(", ".join(spec.name for spec in row.published))
            yield "import", f"hypernetworks for it are published, see below: {names}"
        now = self.state.loaded
        if self._is_loaded(row):
            yield "now", "in memory" + (f", loaded in {now.seconds:.1f} s" if now is not None else "")
        elif status.path is not None and not row.problem:
            yield "now", "enter loads it"

    # Switching

    @on(DataTable.RowSelected)
    def row_selected(self) -> None:
        """Enter or a click on the highlighted row loads it, once memory has been checked."""
        row = self.current
        if row is None:
            return
        if row.status.path is None:
            self.notify(f"{plain(row.status.name)} is not here{_fetch_hint(row.status)}", markup=False)
        elif isinstance(row.status.spec, FolderSpec):
            self.notify(f"{plain(row.status.name)} is no model to chat with: {_use(row.status.spec)}", markup=False)
        elif row.problem:
            self.notify(row.problem, severity="error", markup=False)
        elif self._is_loaded(row):
            self.notify(f"{plain(row.status.name)} is in memory already", markup=False)
        else:
            self._wanted = row.status.name
            self.notify(f"Loading {plain(row.status.name)}…", markup=False)
            self.services.host.load(with_value(self.state.config, "base.name", self._wanted))

    def _model_changed(self, event: host_events.ModelEvent) -> None:
        match event:
            case host_events.Loaded() as loaded:
                if self._wanted and loaded.config.base.name == self._wanted:
                    self._wanted = ""
                    self.app.save_setting("base.name", loaded.config.base.name)  # type: ignore[attr-defined]
                self.action_reload()
            case host_events.LoadFailed():
                self._wanted = ""
                self.action_reload()
            case host_events.LoadStarted():
                self._draw()

    # Fetching

    def action_pull(self) -> None:
        """Fetch the model, or what is missing of its hypernetworks."""
        row = self.current
        if row is None:
            return
        if self._fetching is not None:
            self.notify(f"{self._fetching[0]} is being fetched; x stops that", severity="warning", markup=False)
            return
        wanted = next((each for each in (row.status, *row.hypernetworks) if _can_fetch(each)), None)
        if wanted is None or wanted.spec is None:
            self.notify("Nothing to fetch: it is here, or models.toml names no place", markup=False)
            return
        self._pull(wanted.spec)

    def _pull(self, spec: ModelSpec) -> None:
        token = CancelToken()
        self._fetching = (spec.name, token)
        self._show_fetch(Progress("download", 0, 0, spec.name))

        def pull() -> Path:
            from localhyper.download import pull as fetch

            def report(progress: Progress) -> None:
                self.post_message(self.Fetched(progress))

            return fetch(spec, report, token, paths=self.services.store.paths)

        in_background(self, pull, self._pulled, failed=self._pull_failed, group="pull")

    def action_stop(self) -> None:
        """Stop fetching; what has come is kept for the next time."""
        if self._fetching is not None:
            self._fetching[1].cancel()

    def on_models_screen_fetched(self, message: Fetched) -> None:
        """Show how far it is."""
        if self._fetching is not None:
            self._show_fetch(message.progress)

    def _show_fetch(self, progress: Progress) -> None:
        name = self._fetching[0] if self._fetching is not None else ""
        self.query_one("#fetching").set_class(self._fetching is not None, "-busy")
        amount = f", {size_text(progress.done)} of {size_text(progress.total)}" if progress.total else ""
        text = f"{progress.stage} {plain(name)}{share_text(progress)}{amount}   x stops"
        self.query_one("#what", Static).update(text)
        self.query_one(ProgressBar).update(total=progress.total or None, progress=progress.done)

    def _pulled(self, path: Path) -> None:
        self.notify(f"✓ Fetched and checked: {home_text(path)}", markup=False)
        self._end_fetch()
        if self.state.loaded is None and self.state.load_problem is not None:
            self.services.host.load(self.state.config)

    def _pull_failed(self, failure: Failure) -> None:
        stopped = self._fetching is not None and self._fetching[1].cancelled
        self._end_fetch()
        if stopped:
            self.notify("Stopped; fetching again goes on where the place it comes from allows that")
        else:
            notify_failure(self, failure)

    def _end_fetch(self) -> None:
        self._fetching = None
        self.query_one("#fetching").remove_class("-busy")
        self.action_reload()

    def commands(self) -> Iterator[SystemCommand]:
        """The palette's entries."""
        yield SystemCommand("Look for models again", "Files may have come (r)", self.action_reload)
        if self._fetching is not None:
            yield SystemCommand("Stop fetching", "What has come is kept (x)", self.action_stop)
        elif self.current is not None and self.current.status.path is None:
            yield SystemCommand("Fetch the model", "Needs the network (p)", self.action_pull)


def _use(spec: FolderSpec) -> str:
    """What a folder of files is for."""
    if isinstance(spec, PublishedSpec):
        return f"`localhyper hypernet import {spec.name} --base {spec.base}` makes a hypernetwork of it"
    return "task hypernetworks read descriptions with it"


def _can_fetch(status: ModelStatus) -> bool:
    return status.path is None and status.spec is not None and status.spec.fetchable


def _fetch_hint(status: ModelStatus) -> str:
    return ": p fetches it" if _can_fetch(status) else ", and models.toml names no place to fetch it from"
