"""Chooses the hypernetwork that makes an adapter; not there where there is no choice."""

from __future__ import annotations

from collections.abc import Sequence

from textual.widgets import Select

from .words import plain


class MakerSelect(Select[str]):
    """The hypernetworks of one kind; the first is used where nothing is chosen."""

    def __init__(self) -> None:
        super().__init__([("", "")], allow_blank=False, id="by", tooltip="The hypernetwork that makes it")
        self._first = ""

    def show(self, names: Sequence[str], wanted: str) -> None:
        """Offer these; `wanted` is the set one, which may lie elsewhere."""
        self._first = wanted or next(iter(names), "")
        self.set_options((plain(name), name) for name in dict.fromkeys((self._first, *names)))
        self.display = len(names) > 1

    @property
    def chosen(self) -> str:
        """The chosen one; empty for the first: so a job goes on with what is set, or fits, then."""
        return self.value if isinstance(self.value, str) and self.value != self._first else ""
