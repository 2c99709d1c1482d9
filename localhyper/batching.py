"""Things that have tokens, several of them at once. Knows nothing of what they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def groups(
    items: Sequence[T], size: Callable[[T], int], tokens: int, count: int | None = None
) -> Iterator[Sequence[T]]:
    """Items in their order, as many together as have at most so many tokens, at least one and at most `count`."""
    start, held = 0, 0
    for end, item in enumerate(items):
        held += size(item)
        if end > start and (held > tokens or end - start == count):
            yield items[start:end]
            start, held = end, size(item)
    if start < len(items):
        yield items[start:]
