"""A queue between the app and the engine thread, with a way to its front. Knows nothing of what it holds."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Inbox(Generic[T]):
    """First in, first out, but for `put_front`; safe to use from any thread."""

    def __init__(self) -> None:
        self._entries: deque[T] = deque()
        self._filled = threading.Condition()

    def put(self, entry: T) -> None:
        """Add an entry at the end."""
        with self._filled:
            self._entries.append(entry)
            self._filled.notify()

    def put_front(self, entry: T) -> None:
        """Add an entry that comes next."""
        with self._filled:
            self._entries.appendleft(entry)
            self._filled.notify()

    def get(self, timeout: float | None = None) -> T | None:
        """The next entry; None when none came within `timeout` seconds (None = wait for ever)."""
        with self._filled:
            self._filled.wait_for(lambda: self._entries, timeout)
            return self._entries.popleft() if self._entries else None

    @property
    def empty(self) -> bool:
        """Whether nothing waits now."""
        with self._filled:
            return not self._entries
