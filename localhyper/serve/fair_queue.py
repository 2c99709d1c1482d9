"""A bounded queue that takes turns between clients: round-robin over clients, first in first out within one.

Thread-safe; knows nothing of what it holds.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from typing import Generic, TypeVar

T = TypeVar("T")


class QueueFull(Exception):
    """There is no place left."""


class FairQueue(Generic[T]):
    """Items of many clients for one worker.

    A client that has nothing waiting gets a place as long as there are fewer than twice `places` items: who fills the
    queue takes places from himself, not from those who come later.

    Args:
        places: Most items that wait, but for those first ones.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._lines: OrderedDict[str, deque[T]] = OrderedDict()
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        with self._changed:
            return self._count()

    def _count(self) -> int:
        return sum(len(line) for line in self._lines.values())

    def put(self, item: T, client: str) -> None:
        """Append to the client's own line.

        Raises:
            QueueFull: No place for this client, or the queue is closed.
        """
        with self._changed:
            most = self._places if client in self._lines else 2 * self._places
            if self._closed or self._count() >= most:
                raise QueueFull
            self._lines.setdefault(client, deque()).append(item)
            self._changed.notify()

    def get(self) -> T | None:
        """Wait for the next item; None once the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or bool(self._lines))
            if self._closed:
                return None
            client, line = self._lines.popitem(last=False)
            item = line.popleft()
            if line:
                self._lines[client] = line  # at the end: the others have their turns first
            return item

    def remove(self, item: T) -> bool:
        """Take an item out before its turn; False if it is not waiting any more."""
        with self._changed:
            for client, line in self._lines.items():
                if item in line:
                    line.remove(item)
                    if not line:
                        del self._lines[client]
                    return True
        return False

    def order(self) -> list[T]:
        """What waits, in the order in which it will be given out if nothing else comes."""
        with self._changed:
            lines = [list(line) for line in self._lines.values()]
        deepest = max((len(line) for line in lines), default=0)
        return [line[turn] for turn in range(deepest) for line in lines if turn < len(line)]

    def close(self) -> list[T]:
        """Let nothing in or out any more; returns what was waiting."""
        waiting = self.order()
        with self._changed:
            self._closed = True
            self._lines.clear()
            self._changed.notify_all()
        return waiting
