"""Entry of the process that runs a model's program: limits and a request on stdin, one JSON object on stdout.

Started by `code_runner` with `python -I`. The kernel bounds memory, processor time and processes and lets no byte be
written to a file; an audit hook, which cannot be taken off again, shuts the doors to the network, to other programs and
to all files but Python's own. That holds against what a language model writes; it is no wall against an attacker with
native code.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from localhyper.sources.confinement import FORBIDDEN, limit_resources, opens_for_writing
from localhyper.sources.frames import unpack
from localhyper.sources.limits import ReadLimits
from localhyper.sources.reader_process import hide_standard_output

_NATIVE_DOORS = ("_ctypes", "_posixsubprocess", "_winapi", "_sqlite3", "_gdbm", "_dbm")  # these open things unheard
_REFUSED = (
    *FORBIDDEN,
    "ctypes.",
    "fcntl.",
    "glob.",
    "mmap.",
    "pty.",
    "resource.",
    "signal.pthread_kill",
    "sqlite3.",
    "syslog.",
)
_PATHS = ("os.listdir", "os.scandir", "os.chdir", "os.walk")
_REASON_CHARACTERS = 160


def main() -> None:
    """One program, one answer, and the end without any clean-up."""
    answer_fd, write, dumps = hide_standard_output(), os.write, json.dumps  # as they are before the program runs
    os.dup2(1, 2)
    request = unpack(sys.stdin.buffer)
    program = sys.stdin.buffer.read().decode("utf-8")
    lock(ReadLimits(seconds=request["seconds"], memory_bytes=request["memory_bytes"]))
    reason = run(program)
    answer = {"token": request["token"], "passed": not reason, "reason": reason or "passed"}
    write(answer_fd, dumps(answer).encode("ascii"))
    os._exit(0)


def lock(limits: ReadLimits) -> None:
    """Put on every lock there is."""
    allowed = tuple(os.path.realpath(root) for root in (sys.prefix, sys.base_prefix, os.__file__ + "/..") if root)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("subprocess", "ctypes", *_NATIVE_DOORS)]:
        del sys.modules[name]
    limit_resources(limits, processes=0)

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        """Audit hook: raise on whatever is more than computing."""
        if event == "import":
            if str(arguments[0]).partition(".")[0] in _NATIVE_DOORS:
                raise ImportError(f"a tested program may not import {arguments[0]}")
        elif event == "open" or event in _PATHS:
            if opens_for_writing(arguments) or not _is_below(arguments[0], allowed):
                raise PermissionError("a tested program opens no files")
        elif event.startswith(_REFUSED):
            raise PermissionError(f"a tested program may not do this: {event}")

    sys.addaudithook(refuse)


def _is_below(path: object, roots: tuple[str, ...]) -> bool:
    """Whether a path lies in one of the folders; what is open already, and the null device, may be used."""
    if isinstance(path, int) or path == os.devnull:
        return True
    real = os.path.realpath(os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else "/")
    return any(real == root or real.startswith(root + os.sep) for root in roots)


def run(program: str) -> str:
    """Run a program; empty when it ends well, else why not."""
    try:
        exec(compile(program, "<program>", "exec"), {"__name__": "program"})
    except MemoryError:
        return "MemoryError"
    except BaseException as error:  # SystemExit and KeyboardInterrupt are no way to pass
        try:
            said = " ".join(str(error).split())
        except BaseException:
            said = ""
        shown = f"{type(error).__name__}: {said}"[:_REASON_CHARACTERS].rstrip(": ")
        return shown.encode("utf-8", "replace").decode("utf-8")  # half characters fit into no file
    return ""


if __name__ == "__main__":
    main()
