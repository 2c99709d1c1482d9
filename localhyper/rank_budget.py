"""How the blocks of a target share a rank budget. Knows neither weights nor models."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

STEP = 32  # what q8_0 and q5_0 share a scale over, so that a b of any such rank can be stored in them


def allot_ranks(energies: Sequence[NDArray[np.float64]], rank: int) -> list[int]:
    """The ranks at which the blocks lose the least, each loss taken as a share of its block's own energy.

    Blocks differ in how fast their energies fall: what a document writes into an early one lies in few directions, in
    a late one in many (docs/decisions/0030). Shares, because a small update of one block is not worth less than a large
    one of another. Taking the largest share first is best, as energies fall.

    Args:
        energies: Of each block, the squared singular values of its update, the largest first.
        rank: What each block may have on the mean. Ranks are whole multiples of `STEP`, or all there is, if it is one.

    Returns:
        A rank a block; together at most `rank` times as many as there are blocks.
    """
    step = STEP if rank % STEP == 0 else 1
    ranks, left = [0] * len(energies), rank * len(energies)
    waiting = [_next(of_block, 0, step, block) for block, of_block in enumerate(energies)]
    heapq.heapify(waiting)
    while waiting and left:
        share, block, more = heapq.heappop(waiting)
        if not share or more > left:  # nothing is lost without it, or there is no room for all of it
            continue
        ranks[block], left = ranks[block] + more, left - more
        if ranks[block] < len(energies[block]):
            heapq.heappush(waiting, _next(energies[block], ranks[block], step, block))
    return ranks


def _next(energies: NDArray[np.float64], have: int, step: int, block: int) -> tuple[float, int, int]:
    """What a block's next directions would keep, negative, so that the heaviest come first; it; how many they are."""
    total, more = float(energies.sum()), energies[have : have + step]
    return (-float(more.sum()) / total if total > 0 else 0.0), block, len(more)
