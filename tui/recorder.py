"""Writes a conversation into the history while it is had, in the order things happened, without making anyone wait.

One thread of its own does the writing; what it is given are frozen values, so the app may go on meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from localhyper.errors import LocalHyperError
from localhyper.history import History, StoredTurn, title_of

from .conversation import Conversation
from .host_events import Failure

_log = logging.getLogger(__name__)

Told = Callable[[Failure | None], object]
"""Hears, in the recorder's thread, that something was written, or why it could not be."""


class Recorder:
    """The writing side of the history. Errors are told once until a write succeeds again."""

    def __init__(self, history: Callable[[], History], told: Told) -> None:
        self._history = history
        self._told = told
        self._failing = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="localhyper-history")

    def put(self, conversation: Conversation, position: int, turn: StoredTurn, *, quiet: bool = False) -> None:
        """Store a turn; the conversation gets its number with the first. `quiet`: no list has to follow."""
        title = conversation.title or title_of(turn.question)

        def write() -> None:
            history = self._history()
            if not conversation.number:
                conversation.number = history.create(title)
            history.put(conversation.number, position, turn)

        self._submit(write, quiet)

    def put_all(self, conversation: Conversation) -> None:
        """Store every turn, as those of a conversation that goes another way from here."""
        for position, turn in enumerate(conversation.stored()):
            self.put(conversation, position, turn)

    def cut(self, conversation: Conversation, position: int) -> None:
        """Drop the turns from this position on."""

        def write() -> None:
            if conversation.number:
                self._history().cut(conversation.number, position)

        self._submit(write)

    def _submit(self, write: Callable[[], None], quiet: bool = False) -> Future[None] | None:
        try:
            return self._thread.submit(self._guarded, write, quiet)
        except RuntimeError:  # closed already: the app is leaving for the second time
            return None

    def _guarded(self, write: Callable[[], None], quiet: bool) -> None:
        try:
            write()
        except LocalHyperError as error:
            _log.warning("the conversation is not stored: %s", error.message)
            self._fail(Failure.of(error))
        except Exception as error:  # the chat goes on without its history
            _log.exception("the conversation is not stored")
            self._fail(Failure.of(error))
        else:
            self._failing = False
            if not quiet:
                self._told(None)

    def _fail(self, failure: Failure) -> None:
        if not self._failing:
            self._failing = True
            self._told(failure)

    def close(self) -> None:
        """Wait for what is still to be written."""
        self._thread.shutdown(wait=True)
