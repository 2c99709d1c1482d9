"""The app in a real terminal (a pty) with the real engine: frames go on being drawn, and it leaves cleanly."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("Windows has no pty", allow_module_level=True)

import fcntl
import pty
import struct
import termios

from localhyper.paths import get_paths
from localhyper.tui.store import Store
from tests.conftest import REPOSITORY

WAIT_SECONDS = 90.0
SAMPLE = REPOSITORY / "localhyper" / "samples" / "harbour-office.txt"
PROGRAM = (
    "import sys; from localhyper.config import Config; from localhyper.tui.app import run; sys.exit(run(Config()))"
)


class Terminal:
    """A child process on a pty of 100 x 30. `frames` counts Textual's synchronized updates, one per frame."""

    def __init__(self, home: Path) -> None:
        environment = dict(os.environ, LOCALHYPER_HOME=str(home), TERM="xterm-256color", COLUMNS="100", LINES="30")
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.execve(sys.executable, [sys.executable, "-c", PROGRAM], environment)
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        self.seen = b""

    def read(self, seconds: float) -> None:
        """Take what the app writes for that long, and answer its question whether frames may be synchronized."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if not select.select([self._fd], [], [], left)[0]:
                return
            try:
                data = os.read(self._fd, 65536)
            except OSError:  # the child has closed its side
                return
            if not data:
                return
            self.seen += data
            if b"\x1b[?2026$p" in data:
                self.send(b"\x1b[?2026;2$y")

    def send(self, keys: bytes) -> None:
        """Type."""
        os.write(self._fd, keys)

    def until(self, condition: Callable[[], object]) -> None:
        """Read until `condition` holds."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"never came; the last output was {self.seen[-2000:]!r}"
            self.read(0.1)

    @property
    def frames(self) -> int:
        """Frames drawn so far."""
        return self.seen.count(b"\x1b[?2026h")

    def exit_code(self) -> int:
        """Wait for the end of the process."""
        ended: list[int] = []

        def gone() -> bool:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                ended.append(os.waitstatus_to_exitcode(status))
            return bool(pid)

        self.until(gone)
        self.pid = 0
        return ended[0]

    def close(self) -> None:
        """End the child if a test failed before it did."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._fd)


@pytest.fixture
def terminal(home_with_model: Path) -> Iterator[Terminal]:
    child = Terminal(home_with_model)
    yield child
    child.close()


@pytest.mark.native
def test_real_model_loads_and_answers_while_frames_go_on(terminal: Terminal) -> None:
    terminal.until(lambda: b"Q4_1" in terminal.seen)
    before = terminal.frames
    terminal.send(b"Count from one to twenty in words.\r")
    terminal.until(lambda: b"first token" in terminal.seen)
    assert terminal.frames - before > 5, "a reply of many tokens came without frames in between"
    assert b"llama" not in terminal.seen, "native log lines were painted over the screen"
    terminal.send(b"\x11")
    assert terminal.exit_code() == 0
    assert b"\x1b[?1049l" in terminal.seen, "the terminal was not given back"


@pytest.mark.native
def test_quitting_in_the_middle_of_a_reply_is_clean(terminal: Terminal) -> None:
    terminal.until(lambda: b"Q4_1" in terminal.seen)
    terminal.send(b"Write a very long story about the sea.\r")
    terminal.until(lambda: b"writing" in terminal.seen)
    terminal.send(b"\x11")
    assert terminal.exit_code() == 0
    assert b"Traceback" not in terminal.seen


@pytest.mark.native
@pytest.mark.slow
def test_document_is_attached_and_asked_about_while_frames_go_on(terminal: Terminal, home_with_model: Path) -> None:
    terminal.until(lambda: b"Q4_1" in terminal.seen)
    terminal.send(b"\x0f")  # ctrl+o
    terminal.until(lambda: b"Make and attach" in terminal.seen)
    terminal.send(str(SAMPLE).encode())
    terminal.until(lambda: b"chunks of up to 64" in terminal.seen)
    before = terminal.frames
    terminal.send(b"\r")
    terminal.until(lambda: b"is made and answers" in terminal.seen)
    assert terminal.frames - before > 5, "the screen stood still while the document was attached"
    before = terminal.frames
    terminal.send(b"What is the code of the storage room?\r")
    terminal.until(lambda: b"first token" in terminal.seen)
    assert terminal.frames - before > 5, "the screen stood still while the question was answered"
    assert b"harbour-office @1.0" in terminal.seen
    assert b"llama_" not in terminal.seen and b"ggml" not in terminal.seen, "native lines were painted over the screen"
    terminal.send(b"\x11")
    assert terminal.exit_code() == 0
    store = Store(get_paths(home_with_model))
    assert [info.name for info in store.library.list()] == ["harbour-office"]
    assert [use.name for use in store.history.turns(1)[0].adapters] == ["harbour-office"]
    assert store.history.turns(1)[0].stats is not None


@pytest.mark.native
def test_a_closed_terminal_loses_no_question(terminal: Terminal, home_with_model: Path) -> None:
    terminal.until(lambda: b"Q4_1" in terminal.seen)
    terminal.send(b"Write a very long story about the sea.\r")
    terminal.until(lambda: b"writing" in terminal.seen)
    os.kill(terminal.pid, signal.SIGKILL)
    terminal.exit_code()
    assert Store(get_paths(home_with_model)).history.turns(1)[0].question == "Write a very long story about the sea."
