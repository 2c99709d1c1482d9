"""Batches of coming steps, made in worker processes while the device computes.

A batch is a function of its step, so workers need no state and order is all that must be kept. A GPU takes a step in a
tenth of a second; making its batch takes one core longer.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from torch.utils.data import DataLoader, Dataset

T = TypeVar("T")
AHEAD = 4  # batches that each worker makes in advance


class _Steps(Dataset[T], Generic[T]):
    """Step to batch."""

    def __init__(self, make: Callable[[int], T]) -> None:
        self._make = make

    def __getitem__(self, step: int) -> T:
        return self._make(step)


def _as_it_is(batch: Any) -> Any:
    return batch


def prefetch(make: Callable[[int], T], first: int, last: int, workers: int) -> Iterator[T]:
    """`make(first)`, …, `make(last - 1)` in this order.

    Args:
        make: Step to batch, tensors on the CPU; must not touch a GPU, for workers are forks of this process.
        first: First step.
        last: The step after the last one.
        workers: Processes, at most as many as processors; 0 = in this one, when each is asked for.
    """
    workers = min(workers, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    ahead: dict[str, Any] = {"prefetch_factor": AHEAD, "multiprocessing_context": "fork"} if workers else {}
    loader = DataLoader(
        _Steps(make),
        batch_size=None,
        sampler=range(first, last),
        num_workers=workers,
        collate_fn=_as_it_is,
        **ahead,
    )
    return iter(loader)
