"""Estimates with 95 % confidence intervals: bootstrap over clusters, and Wilson's interval for shares.

Questions about one document are not independent, so the bootstrap draws whole documents. All columns of a run share the
same draws, which makes every difference and every ratio a paired one. Knows numbers only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 2000
LEVEL = 0.95
_Z = 1.959963984540054  # quantile of the normal distribution for a two-sided 95 %


@dataclass(frozen=True)
class Estimate:
    """A figure and the ends of its 95 % confidence interval."""

    value: float
    low: float
    high: float


class ClusterBootstrap:
    """Percentile bootstrap that resamples clusters (documents) with replacement.

    Args:
        clusters: Cluster number of every item, 0-based and without gaps.
        seed: Seed of the draws.
        resamples: Number of draws.
    """

    def __init__(self, clusters: Sequence[int], seed: int, resamples: int = RESAMPLES) -> None:
        self._clusters = np.asarray(clusters, np.int64)
        count = int(self._clusters.max()) + 1
        generator = np.random.default_rng(seed)
        # How often each cluster is drawn: float64 [resamples, clusters].
        self._draws = generator.multinomial(count, np.full(count, 1.0 / count), size=resamples).astype(np.float64)

    def mean(self, values: ArrayLike) -> Estimate:
        """Mean over items; values [items]."""
        return self.ratio(values, np.ones(len(self._clusters))) or Estimate(0.0, 0.0, 0.0)

    def ratio(self, numerator: ArrayLike, denominator: ArrayLike) -> Estimate | None:
        """Sum of `numerator` over sum of `denominator`, both [items].

        None when the denominator sums to 0, or does so in so many draws that the interval has no upper end.
        """
        above, below = self._sums(numerator), self._sums(denominator)
        tops, bottoms = self._draws @ above, self._draws @ below
        usable, tail = bottoms != 0, (1 - LEVEL) / 2
        if below.sum() == 0 or usable.mean() <= 1 - tail:
            return None
        low, high = np.quantile(tops[usable] / bottoms[usable], (tail, 1 - tail))
        return Estimate(float(above.sum() / below.sum()), float(low), float(high))

    def _sums(self, values: ArrayLike) -> NDArray[np.float64]:
        """Sum of each cluster, float64 [clusters]."""
        weights = np.asarray(values, np.float64)
        sums = np.zeros(self._draws.shape[1])
        np.add.at(sums, self._clusters, weights)
        return sums


class TaskBootstrap:
    """Percentile bootstrap of a mean over tasks: tasks are drawn with replacement, and then each one's instances.

    Both are samples: of the tasks there are, and of a task's instances. Every task weighs alike, however many instances
    it has. All calls share the draws, so differences of columns are paired. With one task, instances alone are drawn.

    Args:
        sizes: Number of instances of each task.
        seed: Seed of the draws.
        resamples: Number of draws.
    """

    def __init__(self, sizes: Sequence[int], seed: int, resamples: int = RESAMPLES) -> None:
        tasks = len(sizes)
        generator = np.random.default_rng(seed)
        drawn = generator.multinomial(tasks, np.full(tasks, 1.0 / tasks), size=resamples)  # [resamples, tasks]
        # A task drawn k times gives k times its n instances. What each weighs, float32 [resamples, n] per task:
        self._weights = [
            (generator.multinomial(drawn[:, task] * size, np.full(size, 1.0 / size)) / (size * tasks)).astype(
                np.float32
            )
            for task, size in enumerate(sizes)
        ]

    def mean(self, values: Sequence[ArrayLike]) -> Estimate:
        """Mean over tasks of the mean over instances; values [instances] of each task."""
        arrays = [np.asarray(part, np.float64) for part in values]
        means = sum(weights @ part for weights, part in zip(self._weights, arrays, strict=True))
        low, high = np.quantile(means, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
        return Estimate(float(np.mean([part.mean() for part in arrays])), float(low), float(high))


def wilson(hits: int, cases: int) -> Estimate:
    """Share of hits with Wilson's score interval; the interval is 0 to 1 when there are no cases."""
    if cases == 0:
        return Estimate(0.0, 0.0, 1.0)
    share, square = hits / cases, _Z * _Z
    centre = (share + square / (2 * cases)) / (1 + square / cases)
    half = _Z / (1 + square / cases) * math.sqrt(share * (1 - share) / cases + square / (4 * cases * cases))
    # Rounding must not push the share itself out of its interval.
    return Estimate(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)))
