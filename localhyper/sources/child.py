"""Runs the reader process: feeds it, waits within limits, kills it when they are passed. Knows no format."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from localhyper.errors import SourceError
from localhyper.progress import CancelToken
from localhyper.sources.frames import Answer, Request, pack_request, parse_answer

logger = logging.getLogger(__name__)

# The package's folder is appended, so an uninstalled checkout works too; `-I` keeps environment and working folder out.
_BOOTSTRAP = "import sys; sys.path.append(sys.argv[1]); from localhyper.sources.reader_process import main; main()"
_KEPT_VARIABLES = ("PATH", "SYSTEMROOT", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR", "TEMP", "LANG", "LC_ALL")
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


def run_reader(request: Request, data: bytes, cancel: CancelToken | None = None) -> Answer:
    """Have `data` read by a fresh reader process.

    Returns:
        The child's answer; its `message` is empty.

    Raises:
        SourceError: The file cannot be read, or passed a limit.
        Cancelled: `cancel` was set; the process is gone.
    """
    process = _start()
    output = _Drain(request.limits.text_chars * 6 + 65536)  # JSON escapes one UTF-16 unit as six bytes
    errors = _Drain(_STDERR_BYTES)
    threads = [
        threading.Thread(target=_feed, args=(process.stdin, pack_request(request), data), daemon=True),
        threading.Thread(target=output.run, args=(process.stdout,), daemon=True),
        threading.Thread(target=errors.run, args=(process.stderr,), daemon=True),
    ]
    for thread in threads:
        thread.start()
    try:
        _wait(process, request, output, cancel)
    finally:
        process.kill()
        process.wait()
        for thread in threads:
            thread.join()
    return _judge(process.returncode, request, output, bytes(errors.data))


def _start() -> subprocess.Popen[bytes]:
    """A reader process with its three pipes."""
    import localhyper

    root = Path(localhyper.__file__).resolve().parent.parent
    environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    return subprocess.Popen(
        [sys.executable, "-I", "-c", _BOOTSTRAP, str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        cwd=root.anchor,
        start_new_session=True,  # Ctrl+C in the terminal reaches us, and we end the child
    )


def _feed(pipe: IO[bytes], head: bytes, data: bytes) -> None:
    """Write the request and the file; a child that is gone is noticed by `_judge`."""
    try:
        with pipe:
            pipe.write(head)
            pipe.write(data)
    except OSError:
        logger.debug("the reader process closed its input early")


def _wait(process: subprocess.Popen[bytes], request: Request, output: _Drain, cancel: CancelToken | None) -> None:
    """Return when the child has ended; raise when a limit is passed."""
    deadline = time.monotonic() + request.limits.seconds
    while True:
        try:
            process.wait(_POLL_SECONDS)
            return
        except subprocess.TimeoutExpired:
            pass
        if cancel is not None:
            cancel.check()
        if output.overflow:
            return
        if time.monotonic() > deadline:
            raise SourceError(
                f"{request.name}: reading it takes more than {request.limits.seconds:g} seconds",
                "split the document into smaller files, or export it as plain text",
            )


def _judge(code: int, request: Request, output: _Drain, errors: bytes) -> Answer:
    """Turn what came back into an answer or an error."""
    if errors:
        logger.debug("reader process on %s: %s", request.name, errors.decode("utf-8", "replace"))
    if output.overflow:
        raise SourceError(f"{request.name}: gives more text than {request.limits.text_chars} characters")
    answer = parse_answer(bytes(output.data))
    if answer is None:
        raise _crash_error(code, request, errors)
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
