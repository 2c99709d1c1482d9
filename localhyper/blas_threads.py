"""How many threads numpy's matrix products may use."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING

from localhyper.memory_check import thread_counts

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController


@contextlib.contextmanager
def one_core_left() -> Iterator[None]:
    """Inside, numpy uses all physical cores but one, at least one, and no more than it was given (OMP_NUM_THREADS).

    The threads of OpenBLAS wait for each other by spinning. With as many as there are cores, one other busy process
    makes them wait for a whole turn of the scheduler at every step: on two cores a merge took 30 s in place of 2 s.
    """
    controller = _controller()
    given = [library["num_threads"] for library in controller.info() if library["user_api"] == "blas"]
    with controller.limit(limits=min([thread_counts(0, 0)[0], *given]), user_api="blas"):
        yield


@functools.cache
def _controller() -> ThreadpoolController:
    """Looks through all loaded libraries once; numpy's is among them."""
    import numpy as np  # noqa: F401  # before the look
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
