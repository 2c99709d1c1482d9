"""What the command line prints and how it ends: data on stdout, everything else on stderr, errors once, exit codes.

Knows no command.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

from localhyper.errors import LocalHyperError
from localhyper.progress import CancelToken, Progress

if TYPE_CHECKING:
    from localhyper.library import AdapterInfo

EXIT_UNEXPECTED = 70
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
EXIT_CODES = """Exit codes: 0 done; 2 wrong command line or settings; 3 source unreadable; 4 base model; 5 hypernetwork;
6 adapter; 7 text too long for the window; 8 library; 9 download; 70 a bug; 130 stopped by Ctrl+C."""
PLAIN_SECONDS = 1.0  # between progress lines where stderr is no terminal

logger = logging.getLogger(__name__)


def put(text: str = "", end: str = "\n") -> None:
    """Data, to stdout, at once."""
    sys.stdout.write(text + end)
    sys.stdout.flush()


def put_json(value: object) -> None:
    """Data for scripts, to stdout."""
    put(json.dumps(value, ensure_ascii=False, indent=2, default=str, allow_nan=False))


def note(text: str = "") -> None:
    """A word to people, to stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def put_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns to stdout, as wide as their content: the same on a terminal and in a pipe."""
    widths = [max(len(row[column]) for row in (headings, *rows)) for column in range(len(headings))]
    for row in (headings, *rows):
        put("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def show_error(error: LocalHyperError) -> int:
    """Print an error once and return its exit code."""
    word = "stopped" if error.exit_code == EXIT_INTERRUPTED else f"error: {error.message}"
    note(f"{word}\n\nhint: {error.hint}" if error.hint else word)
    return error.exit_code


def show_unexpected(error: BaseException, log_file: Path) -> int:
    """One line for a bug; the traceback goes to the log."""
    logger.error("unexpected error", exc_info=error)
    for handler in logging.getLogger("localhyper").handlers:
        handler.flush()
    note(f"error: unexpected {type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}")
    note(f"\nhint: this is a bug; `{log_file}` has the details")
    return EXIT_UNEXPECTED


def drop_stdout() -> int:
    """After a broken pipe: nothing more can be said, and Python must not try at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_BROKEN_PIPE


@contextlib.contextmanager
def stop_on_signals(token: CancelToken) -> Iterator[None]:
    """Ctrl+C (or a SIGTERM) sets the token, so that work stops at a safe point; a second one stops at once."""

    def ask(number: int, frame: FrameType | None) -> None:
        if token.cancelled:
            raise KeyboardInterrupt
        token.cancel()

    wanted = [signal.SIGINT, signal.SIGTERM]
    before = {number: signal.signal(number, ask) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class ProgressView:
    """Shows progress on stderr: a bar on a terminal, lines elsewhere. A context manager."""

    def __init__(self, *, quiet: bool = False) -> None:
        """`quiet` shows nothing."""
        self._quiet = quiet
        self._live = sys.stderr.isatty() and not quiet
        self._bar: _Bar | None = None
        self._last = ("", 0.0)

    def __enter__(self) -> ProgressView:
        """The view itself."""
        if self._live:
            self._bar = _Bar()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        """Show one report."""
        if self._bar is not None:
            self._bar.show(progress)
        elif not self._quiet:
            self._line(progress)

    def _line(self, progress: Progress) -> None:
        stage, at = self._last
        same = progress.stage == stage or {progress.stage, stage} == {"encode", "generate"}
        if same and time.monotonic() - at < PLAIN_SECONDS:
            return
        self._last = (progress.stage, time.monotonic())
        note(describe(progress))


class _Bar:
    """A rich progress bar on stderr; what is on the screen when it stops is taken away."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress

        # Titles and descriptions are strangers' texts: `[/INST]` in one is no markup.
        what = TextColumn("{task.description}", markup=False)
        columns = (what, BarColumn(bar_width=24), TextColumn("{task.fields[count]}"))
        self._rich = RichProgress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._rich.add_task("", total=None, count="")
        self._rich.start()

    def show(self, progress: Progress) -> None:
        self._rich.update(
            self._task,
            description=f"{progress.stage} {_short(progress.item)}",
            total=progress.total or None,
            completed=progress.done,
            count=_count(progress),
        )

    def stop(self) -> None:
        self._rich.stop()


def describe(progress: Progress) -> str:
    """A report as one line."""
    return " ".join(part for part in (progress.stage, _short(progress.item), _count(progress)) if part)


def _count(progress: Progress) -> str:
    if progress.total < 2:
        return ""
    if progress.stage in ("download", "check", "copy"):
        return f"{progress.done / 1e6:.1f} of {progress.total / 1e6:.1f} MB"
    what = {"encode": "chunk ", "generate": "chunk ", "learn": "reading "}.get(progress.stage, "")
    number = min(progress.done + 1, progress.total) if what else progress.done
    left = f", {seconds(progress.eta_seconds)} left" if progress.eta_seconds is not None else ""
    return f"{what}{number} of {progress.total}{left}"


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:39] + "…"


def seconds(value: float) -> str:
    """A duration for people."""
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 60:
        return f"{value:.1f} s"
    return f"{int(value) // 60}:{int(value) % 60:02d} min"


def size(value: int) -> str:
    """A size in bytes for people."""
    return f"{value / 1e6:.1f} MB" if value >= 1e5 else f"{value / 1e3:.1f} kB"


def chunks(number: int) -> str:
    """A number of chunks for people."""
    return "1 chunk" if number == 1 else f"{number:,} chunks"


def examples(number: int) -> str:
    """A number of examples for people."""
    return "1 example" if number == 1 else f"{number:,} examples"


def own_adapter(info: AdapterInfo) -> str:
    """An adapter's own file, for people; empty where it is yet to be made."""
    if not info.whole_made:
        return ""
    return f"rank {info.rank}, {info.energy_kept:.1%} of the energy kept, {size(info.size_bytes)}"


def beside(info: AdapterInfo) -> str:
    """The adapters of a document's chunks, for people; empty where there are none."""
    if not info.chunk_files:
        return ""
    also = "and " if info.whole_made else ""
    if info.chunks == 1:
        return f"{also}one of its overview, {size(info.chunk_bytes)}"
    return f"{also}an adapter of each chunk, {size(info.chunk_bytes)} together"


def stage_times(timings: Mapping[str, float]) -> str:
    """Stages with their durations, in one line."""
    return ", ".join(f"{stage} {seconds(value)}" for stage, value in timings.items())
