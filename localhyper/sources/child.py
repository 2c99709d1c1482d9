"""Runs a child process: feeds it, waits within limits, kills it when they are passed. Knows no format."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from localhyper.errors import SourceError
from localhyper.progress import CancelToken
from localhyper.sources.frames import Answer, Request, pack_request, parse_answer

logger = logging.getLogger(__name__)

# The package's folder is appended, so an uninstalled checkout works too; `-I` keeps environment and working folder out.
_BOOTSTRAP = (
    "import sys; from importlib import import_module; sys.path.append(sys.argv[1]); import_module(sys.argv[2]).main()"
)
_READER = "localhyper.sources.reader_process"
_TEMPORARY = ("TMPDIR", "TEMP")
_KEPT_VARIABLES = ("PATH", "SYSTEMROOT", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", *_TEMPORARY, "LANG", "LC_ALL")
_STDERR_BYTES = 4096
_POLL_SECONDS = 0.05


@dataclass
class _Drain:
    """A pipe emptied by a thread into at most `limit` bytes; the rest is dropped and `overflow` set."""

    limit: int
    data: bytearray = field(default_factory=bytearray)
    overflow: bool = False

    def run(self, pipe: IO[bytes]) -> None:
        """Read `pipe` to its end."""
        with pipe:
            while block := os.read(pipe.fileno(), 65536):
                room = self.limit - len(self.data)
                self.data += block[:room]
                self.overflow = self.overflow or len(block) > room


@dataclass(frozen=True)
class Ended:
    """What a child process left.

    Attributes:
        code: Its exit code.
        out: What it wrote to stdout, cut after the allowed bytes.
        errors: The beginning of what it wrote to stderr.
        overflow: It wrote more to stdout than allowed.
        late: It was ended after the allowed seconds.
    """

    code: int
    out: bytes
    errors: bytes
    overflow: bool
    late: bool


def run_process(
    module: str,
    head: bytes,
    data: bytes,
    *,
    out_bytes: int,
    seconds: float,
    cancel: CancelToken | None = None,
    launcher: Sequence[str] = (),
    folder: Path | None = None,
) -> Ended:
    """Call `main` of a module in a process of its own, with `head` and `data` on its stdin.

    Args:
        module: Its name.
        head: What it reads first.
        data: What it reads then.
        out_bytes: Most bytes it may write to stdout.
        seconds: Most wall-clock time it may take.
        cancel: Ends it.
        launcher: Words before the command, of a program that starts the rest of its line in a cage of its own.
        folder: Its working and temporary folder; None = the root of the file system.

    Raises:
        Cancelled: `cancel` was set; the process is gone.
    """
    if cancel is not None:
        cancel.check()  # what was stopped before is not begun: it might be done before anybody looks again
    process = _start(module, launcher, folder)
    output, errors = _Drain(out_bytes), _Drain(_STDERR_BYTES)
    threads = [
        threading.Thread(target=_feed, args=(process.stdin, head, data), daemon=True),
        threading.Thread(target=output.run, args=(process.stdout,), daemon=True),
        threading.Thread(target=errors.run, args=(process.stderr,), daemon=True),
    ]
    for thread in threads:
        thread.start()
    late = True
    try:
        late = _is_late(process, seconds, output, cancel)
    finally:
        _end(process)
        for thread in threads:
            thread.join()
    return Ended(process.returncode, bytes(output.data), bytes(errors.data), output.overflow, late)


def run_reader(request: Request, data: bytes, cancel: CancelToken | None = None) -> Answer:
    """Have `data` read by a fresh reader process.

    Returns:
        The child's answer; its `message` is empty.

    Raises:
        SourceError: The file cannot be read, or passed a limit.
        Cancelled: `cancel` was set; the process is gone.
    """
    limits = request.limits
    most = limits.text_chars * 6 + 65536  # JSON escapes one UTF-16 unit as six bytes
    head = pack_request(request)
    return _judge(run_process(_READER, head, data, out_bytes=most, seconds=limits.seconds, cancel=cancel), request)


def _start(module: str, launcher: Sequence[str], folder: Path | None) -> subprocess.Popen[bytes]:
    """A process of our own Python that calls `main` of a module, with its three pipes."""
    import localhyper

    root = Path(localhyper.__file__).resolve().parent.parent
    environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    if folder is not None:
        environment |= {name: str(folder) for name in _TEMPORARY}
    return subprocess.Popen(
        [*launcher, sys.executable, "-I", "-c", _BOOTSTRAP, str(root), module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        cwd=folder or root.anchor,
        start_new_session=True,  # Ctrl+C in the terminal reaches us, and we end the child
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it with all that it has started in its session."""
    if sys.platform == "win32":
        process.kill()
    elif process.poll() is None:  # not waited for yet, so the number is still its own
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _feed(pipe: IO[bytes], head: bytes, data: bytes) -> None:
    """Write the request and the file; a child that is gone is noticed by `_judge`."""
    try:
        with pipe:
            pipe.write(head)
            pipe.write(data)
    except OSError:
        logger.debug("the reader process closed its input early")


def _is_late(process: subprocess.Popen[bytes], seconds: float, output: _Drain, cancel: CancelToken | None) -> bool:
    """Return when the child has ended or passed a limit: whether that of time."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            process.wait(_POLL_SECONDS)
            return False
        except subprocess.TimeoutExpired:
            pass
        if cancel is not None:
            cancel.check()
        if output.overflow:
            return False
        if time.monotonic() > deadline:
            return True


def _judge(ended: Ended, request: Request) -> Answer:
    """Turn what came back into an answer or an error."""
    if ended.errors:
        logger.debug("reader process on %s: %s", request.name, ended.errors.decode("utf-8", "replace"))
    if ended.late:
        raise SourceError(
            f"{request.name}: reading it takes more than {request.limits.seconds:g} seconds",
            "split the document into smaller files, or export it as plain text",
        )
    if ended.overflow:
        raise SourceError(f"{request.name}: gives more text than {request.limits.text_chars} characters")
    answer = parse_answer(ended.out)
    if answer is None:
        raise _crash_error(ended.code, request, ended.errors)
    if answer.message:
        raise SourceError(answer.message, answer.hint)
    return answer


def _crash_error(code: int, request: Request, errors: bytes) -> SourceError:
    """The line for a child that ended without an answer."""
    if b"ModuleNotFoundError" in errors:
        lines = errors.decode("utf-8", "replace").strip().splitlines()
        return SourceError(f"the document reader could not start: {lines[-1]}", "install localhyper again")
    if b"MemoryError" in errors or b"bad_alloc" in errors:
        size = request.limits.memory_bytes // (1024 * 1024)
        return SourceError(
            f"{request.name}: reading it takes more than {size} MiB of memory", "split the document into smaller files"
        )
    return SourceError(
        f"{request.name}: the reader stopped on it (exit {code}): damaged, or too large for the memory allowed",
        "open it in its own program, save it again, or export it as plain text",
    )
