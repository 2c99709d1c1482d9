"""Ctrl+C while native code runs and calls back into Python.

Python raises KeyboardInterrupt at the first Python instruction after the signal. When that is the first instruction of
a ctypes callback, nothing can catch it there: it is printed and lost. So while native code runs in the main thread the
signal is only noted, callbacks end the work early, and KeyboardInterrupt is raised once the native call is over.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class DeferredInterrupt:
    """A context manager round one native call; `struck` tells callbacks inside it to stop.

    Does nothing in other threads (signals go to the main one) and where a program has its own handler for Ctrl+C.
    """

    def __init__(self) -> None:
        self.struck = False
        self._installed = False

    def __enter__(self) -> DeferredInterrupt:
        """Take over the default handler."""
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._note)
            self._installed = True
        return self

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.struck = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the handler back; raise KeyboardInterrupt if the signal came meanwhile."""
        if self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if self.struck:
            raise KeyboardInterrupt
