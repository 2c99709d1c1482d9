"""A tree of files and folders to choose a document from; remembers where it was last."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from rich.text import Text, TextType
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import DirectoryTree, Static

from .words import home_text, plain


class VisibleTree(DirectoryTree):
    """Without hidden files; the folder above can be reached."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f", "take_folder", "Take folder", id="picker.folder", tooltip="Attach the highlighted folder"),
        Binding("backspace", "up", "Folder above", id="picker.up", tooltip="Go to the folder above"),
    ]

    def filter_paths(self, paths: Iterable[Path]) -> Iterable[Path]:
        """Leave hidden files out, as the reader does with folders."""
        return [path for path in paths if not path.name.startswith(".")]

    def process_label(self, label: TextType) -> Text:
        """A file's name, which is no markup and steers nothing."""
        return Text(plain(str(label)))

    def action_take_folder(self) -> None:
        """The highlighted folder, or the one the highlighted file lies in."""
        node = self.cursor_node
        path = node.data.path if node is not None and node.data is not None else Path(self.path)
        self.screen.dismiss(path if path.is_dir() else path.parent)

    def action_up(self) -> None:
        """Start one folder higher."""
        self.path = Path(self.path).resolve().parent
        self.screen.query_one("#where", Static).update(plain(home_text(Path(self.path))))


class PathPicker(ModalScreen[Path | None]):
    """Choose a file (enter) or a folder (f)."""

    DEFAULT_CSS = """
    PathPicker { align: center middle; }
    PathPicker > Vertical { width: 90%; max-width: 90; height: 90%; padding: 0 1; border: round $border;
                            background: $surface; }
    PathPicker #where { color: $text-muted; height: 1; }
    PathPicker DirectoryTree { height: 1fr; background: transparent; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "Cancel", id="picker.cancel", tooltip="Choose nothing"),
    ]

    def __init__(self, start: Path) -> None:
        super().__init__()
        self._start = start if start.is_dir() else Path.cwd()

    def compose(self) -> ComposeResult:
        """Where it begins, and the tree."""
        with Vertical() as box:
            box.border_title = "Choose a document or folder"
            box.border_subtitle = "enter file, f folder, backspace up, esc cancel"
            yield Static(plain(home_text(self._start)), id="where", markup=False)
            yield VisibleTree(self._start)

    def on_directory_tree_file_selected(self, event: DirectoryTree.FileSelected) -> None:
        """Enter or a click on a file takes it."""
        event.stop()
        self.dismiss(event.path)
