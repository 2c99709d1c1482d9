"""Blocking work that can be stopped at once: it runs in a thread of its own, which is left behind when nobody waits.

A read from a socket cannot be interrupted, and Ctrl+C only sets a token; whoever waits here sees the token in time.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import TypeVar

from localhyper.progress import CancelToken

POLL_SECONDS = 0.05
AHEAD = 16  # items that may wait to be taken
T = TypeVar("T")


@dataclass(frozen=True)
class _End:
    """Comes after the last item."""

    error: BaseException | None


def watched(produce: Callable[[], Iterable[T]], cancel: CancelToken | None, timeout: float) -> Generator[T, None, None]:
    """The items of `produce()`, which is run in a thread.

    Args:
        produce: Blocks between items; what it raises is raised here. Its iterable is closed after the last item, or
            when it next gives one after this generator was closed.
        cancel: Seen within 50 ms, also while an item is waited for.
        timeout: Longest wait for one item, seconds.

    Raises:
        TimeoutError: No item came in time.
        Cancelled: `cancel` was set.
    """
    items: queue.Queue[T | _End] = queue.Queue(AHEAD)
    gone = threading.Event()
    threading.Thread(target=_run, args=(produce, items, gone), daemon=True).start()
    try:
        while not isinstance(item := _next(items, cancel, timeout), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        gone.set()


def call(work: Callable[[], T], cancel: CancelToken | None, timeout: float) -> T:
    """What `work()` returns, waited for as above."""
    items = watched(lambda: iter([work()]), cancel, timeout)
    try:
        return next(items)
    finally:
        items.close()


def _run(produce: Callable[[], Iterable[T]], items: queue.Queue[T | _End], gone: threading.Event) -> None:
    end = _End(None)
    try:
        for item in produce():
            if not _put(items, item, gone):
                return
    except BaseException as error:
        end = _End(error)
    _put(items, end, gone)


def _put(items: queue.Queue[T], item: T, gone: threading.Event) -> bool:
    """Whether somebody still takes it."""
    while not gone.is_set():
        try:
            items.put(item, timeout=POLL_SECONDS)
            return True
        except queue.Full:
            continue
    return False


def _next(items: queue.Queue[T], cancel: CancelToken | None, timeout: float) -> T:
    end = time.monotonic() + timeout
    while True:
        if cancel is not None:
            cancel.check()
        try:
            return items.get(timeout=POLL_SECONDS)
        except queue.Empty:
            if time.monotonic() > end:
                raise TimeoutError(f"nothing came for {timeout:.0f} s") from None
