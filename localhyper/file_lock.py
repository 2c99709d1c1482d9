"""One process at a time: a lock that ends with the process that holds it, however that ends."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from localhyper.progress import CancelToken

POLL_SECONDS = 0.1


@contextlib.contextmanager
def locked(path: Path, cancel: CancelToken | None, waiting: Callable[[], None]) -> Iterator[bool]:
    """Hold the lock of this file; wait while another process holds it.

    Where the system has no such locks, nobody waits.

    Args:
        path: A file to lock, made and removed here; its folder must be there.
        cancel: Ends the waiting.
        waiting: Called again and again while another process holds it.

    Yields:
        Whether another process had it meanwhile.

    Raises:
        OSError: The file cannot be made.
        Cancelled: `cancel` was set while waiting.
    """
    waited = False
    while (handle := _take(path)) is None:
        waited = True
        waiting()
        if cancel is not None:
            cancel.check()
        time.sleep(POLL_SECONDS)
    try:
        yield waited
    finally:
        path.unlink(missing_ok=True)  # while it is held, so that nobody's new file goes
        os.close(handle)


def _take(path: Path) -> int | None:
    """An open file that is locked and still the one of this name; None when another process has it."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
            return handle
    except BlockingIOError:
        pass
    except (ImportError, OSError):  # Windows, or a network disk without locks
        return handle
    os.close(handle)
    return None
