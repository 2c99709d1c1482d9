"""Locks that the reader process puts on itself before it looks at a stranger's bytes. Used in child processes only.

Limits are kept by the kernel where it has them (POSIX); Python-level doors to the network, to other programs and to
writing files are shut by an audit hook, which cannot be taken off again. Native code is not bound by the hook, but the
libraries used parse memory and open nothing.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

from localhyper.sources.limits import ReadLimits

FORBIDDEN = (
    "socket.",
    "subprocess.",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.startfile",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.mkdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
    "os.chown",
    "os.kill",
    "shutil.",
    "ftplib.",
    "urllib.Request",
    "webbrowser.",
)


def confine(limits: ReadLimits) -> None:
    """Apply every lock this system offers."""
    limit_resources(limits)
    sys.addaudithook(_refuse)


def limit_resources(limits: ReadLimits, *, processes: int | None = None) -> None:
    """Bound memory, processor time, written files and core dumps (POSIX; nothing elsewhere).

    `processes` bounds those of this user, threads among them; None leaves them as they are.
    """
    try:
        import resource
    except ImportError:
        return
    cpu_seconds = int(limits.seconds) + 1
    # A smaller bound set from outside stays in force; one the kernel refuses (RLIMIT_AS on macOS) is left to the clock.
    for name, value in (
        ("RLIMIT_AS", limits.memory_bytes),
        ("RLIMIT_CPU", cpu_seconds),
        ("RLIMIT_FSIZE", 0),
        ("RLIMIT_CORE", 0),
        ("RLIMIT_NPROC", processes),
    ):
        kind = getattr(resource, name, None)
        if kind is None or value is None:
            continue
        hard = resource.getrlimit(kind)[1]
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (bound, bound))


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """Audit hook: raise on anything a document reader has no business with."""
    if event == "open":
        if opens_for_writing(arguments):
            raise PermissionError("a document reader writes no files")
    elif event.startswith(FORBIDDEN):
        raise PermissionError(f"a document reader may not do this: {event}")


def opens_for_writing(arguments: tuple[Any, ...]) -> bool:
    """Whether an `open` event (path, mode, flags) asks for write access to a path."""
    path, mode, flags = (*arguments, None, None, None)[:3]
    if isinstance(path, int) or path == os.devnull:
        return False
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
