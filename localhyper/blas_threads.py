"""How numpy's matrix products share the cores: one thread each, several products at once.

The threads of one product in OpenBLAS wait for each other by spinning. With as many as there are cores, one other busy
process makes them wait for a whole turn of the scheduler at every step: on two cores a merge took 30 s in place of 2 s.
They go on spinning for a while when it is done, too: the base model read a chunk in 310 ms in place of 230 after one.
Products of different layers wait for nobody.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

from localhyper.memory_check import physical_cores

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

T = TypeVar("T")
_AT_ONCE: ContextVar[int] = ContextVar("_AT_ONCE", default=1)


@contextlib.contextmanager
def one_thread_a_product() -> Iterator[None]:
    """Inside, a product of numpy's has one thread, and `each` has as many at once as there are physical cores.

    No more than numpy was given threads (OMP_NUM_THREADS).
    """
    controller = _controller()
    given = [library["num_threads"] for library in controller.info() if library["user_api"] == "blas"]
    token = _AT_ONCE.set(min([physical_cores(), *given]))
    try:
        with controller.limit(limits=1, user_api="blas"):
            yield
    finally:
        _AT_ONCE.reset(token)


def each(function: Callable[..., T], *items: Iterable[Any]) -> list[T]:
    """As `map`; several at once inside `one_thread_a_product`, else one by one."""
    workers = _AT_ONCE.get()
    if workers < 2:
        return list(map(function, *items))
    with ThreadPoolExecutor(workers, thread_name_prefix="layers") as pool:
        return list(pool.map(function, *items))


@functools.cache
def _controller() -> ThreadpoolController:
    """Looks through all loaded libraries once; numpy's is among them."""
    import numpy as np  # noqa: F401  # before the look
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
