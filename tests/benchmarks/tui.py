"""`python -m tests.benchmarks.tui`: how much the terminal UI costs at rest, and how soon a key is on the screen.

The real app with the real default model on a pty: at rest, while a reply streams, while a document is attached, and
both at once. Prints a table; asserts nothing, for times belong to the machine they are measured on.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

import psutil

from localhyper.paths import get_paths
from localhyper.registry import load_registry
from tests.conftest import DEFAULT_BASE
from tests.tui.test_terminal import SAMPLE, Terminal

KEYS = 40
REST_SECONDS = 10.0
LETTERS = "abcdefghijklmnopqrstuvwxyz"
CONFIG = "[sampling]\nmax_tokens = 4000\ntemperature = 1.0\nseed = 3\n"


def main() -> None:
    """Measure and print."""
    model = load_registry(get_paths()).find_base(DEFAULT_BASE)
    with tempfile.TemporaryDirectory() as folder:
        paths = get_paths(Path(folder)).create()
        (paths.models_dir / model.name).symlink_to(model)
        paths.config_file.write_text(CONFIG, encoding="utf-8")
        document = Path(folder) / "long.txt"
        text = SAMPLE.read_text(encoding="utf-8")
        document.write_text("\n\n".join(f"Part {part}. {text}" for part in range(60)), encoding="utf-8")
        began = time.monotonic()
        terminal = Terminal(Path(folder))
        try:
            measure(terminal, document, began)
        finally:
            terminal.close()


def measure(terminal: Terminal, document: Path, began: float) -> None:
    """Everything, in one run of the app."""
    terminal.until(lambda: terminal.frames > 0)
    print(f"first frame after {time.monotonic() - began:.2f} s")
    terminal.until(lambda: b"Q4_1" in terminal.seen)
    print(f"model in memory after {time.monotonic() - began:.2f} s")
    terminal.read(3.0)
    print(f"CPU at rest {cpu_share(terminal):.2f} % of one core over {REST_SECONDS:g} s, cursor blinking")
    report("at rest", terminal)
    ask(terminal)
    report("a reply streams", terminal)
    terminal.send(b"\x1b")
    terminal.until(lambda: b"stopped" in terminal.seen)
    attach(terminal, document)
    report("a document is attached", terminal)
    terminal.seen = b""
    ask(terminal)
    report("a reply streams and a document is attached", terminal)
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} logical cores")
    terminal.send(b"\x11")
    terminal.exit_code()


def cpu_share(terminal: Terminal) -> float:
    """Percent of one core that the app takes while nothing happens."""
    process = psutil.Process(terminal.pid)
    before, began = sum(process.cpu_times()[:2]), time.monotonic()
    while (left := REST_SECONDS - (time.monotonic() - began)) > 0:
        terminal.read(left)
    return float(100 * (sum(process.cpu_times()[:2]) - before) / (time.monotonic() - began))


def ask(terminal: Terminal) -> None:
    """Have a long reply written."""
    terminal.send(b"Write a very long story about the sea.\r")
    terminal.until(lambda: b"writing" in terminal.seen)


def attach(terminal: Terminal, document: Path) -> None:
    """Have a long document attached."""
    terminal.send(b"\x0f")
    terminal.until(lambda: b"Make and attach" in terminal.seen)
    terminal.send(str(document).encode())
    terminal.until(lambda: b"chunks of up to" in terminal.seen)
    terminal.send(b"\r")
    terminal.until(lambda: b"encode + generate" in terminal.seen)
    terminal.read(1.0)


def report(what: str, terminal: Terminal) -> None:
    """Type into the question box and print how soon the letters were there."""
    times = sorted(key_times(terminal))
    middle, late = statistics.median(times), times[int(0.95 * (len(times) - 1))]
    print(f"key to screen while {what}: median {middle:.0f} ms, 95 % within {late:.0f} ms, longest {times[-1]:.0f} ms")


def key_times(terminal: Terminal) -> list[float]:
    """Milliseconds from each key press to the frame that shows it; the box is empty before and after."""
    times, typed = [], b""
    for number in range(KEYS):
        letter = LETTERS[number % len(LETTERS)].encode()
        typed += letter
        terminal.seen = b""
        began = time.monotonic()
        terminal.send(letter)
        while typed[-8:] not in terminal.seen and time.monotonic() - began < 5:
            terminal.read(0.002)
        times.append(1000 * (time.monotonic() - began))
        terminal.read(0.05)
    terminal.send(b"\x7f" * KEYS)
    terminal.read(0.5)
    return times


if __name__ == "__main__":
    main()
