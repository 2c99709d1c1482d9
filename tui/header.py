"""The line on top: program, model, quantization, size on the left; speed on the right."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.widgets import Static

from localhyper.engine import BaseModelInfo, GenerationStats
from localhyper.progress import Progress


def size_text(size_bytes: int) -> str:
    """A file size for people: `98 MB`, `1.4 GB`."""
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.0f} MB"


class HeaderBar(Horizontal):
    """Shows what is loaded and how fast it was last."""

    DEFAULT_CSS = """
    HeaderBar { height: 1; padding: 0 1; background: $panel; color: $foreground; }
    HeaderBar #model { width: 1fr; text-wrap: nowrap; text-overflow: ellipsis; }
    HeaderBar #speed { width: auto; text-align: right; padding-left: 2; }
    """

    def compose(self) -> ComposeResult:
        """Two cells of plain text."""
        yield Static("", id="model", markup=False)
        yield Static("", id="speed", markup=False)

    def on_mount(self) -> None:
        """There before any model is."""
        self.show_state("starting…")

    def show_state(self, state: str) -> None:
        """Say something in place of the model."""
        self.query_one("#model", Static).update(f"localhyper  {state}")
        self.query_one("#speed", Static).update("")

    def show_progress(self, progress: Progress) -> None:
        """Say how far a download or load is."""
        share = f" {100 * progress.done / progress.total:.1f}%" if progress.total else ""
        self.show_state(f"{progress.stage} {progress.item}".rstrip() + share)

    def show_model(self, name: str, info: BaseModelInfo, n_ctx: int) -> None:
        """Name the loaded model."""
        facts = f"{info.quantization}, {size_text(info.size_bytes)}, context {n_ctx:,}"
        self.query_one("#model", Static).update(f"localhyper  {name}  {facts}")

    def show_speed(self, stats: GenerationStats | None) -> None:
        """Show the decode speed of the last reply, if it was long enough to have one."""
        if stats is not None and stats.tokens_per_second > 0:
            self.query_one("#speed", Static).update(f"{stats.tokens_per_second:.1f} tok/s")
