"""What the app needs to know of the adapters on disk; the library is one source of it, tests have another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class AdapterRow:
    """One adapter in the list.

    Attributes:
        name: Unique name in the library.
        path: The adapter's `.gguf` file.
        detail: A few words for people: where it comes from, how big.
        base_fingerprint: The base model it was made for; empty = unknown, the engine decides.
        problem: Why it cannot be used; empty = it can.
    """

    name: str
    path: Path
    detail: str = ""
    base_fingerprint: str = ""
    problem: str = ""


class AdapterSource(Protocol):
    """Lists adapters. Called in a worker thread, each time in any one: keep no connection open between calls."""

    def list(self) -> Sequence[AdapterRow]:
        """All adapters, in the order to show.

        Raises:
            LibraryError: The library is damaged or cannot be read.
        """
        ...
