"""The sum of a long document's associations, in which those that are written weakest count for less.

Each token of a document writes one association, and its size says how much the hypernetwork makes of it. To a question
about one of them the others are noise, and most of it comes from the many that are written weakly. So the strongest of
each block stay as they are, and each of the others counts by its size over that of the weakest of these
(docs/decisions/0031). A document of no more associations is summed as it is. Knows no hypernetwork and no file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from localhyper.errors import AdapterError
from localhyper.lora import (
    Accumulator,
    AccumulatorState,
    FloatArray,
    LoraTarget,
    LoraWeights,
    Metric,
    Recompressed,
    Turned,
    finish_sum,
    fold,
    merge,
    scale,
)

STRONGEST = 1024  # associations of a block that count in full
WAITING = 512  # more than that before they are sifted: one sifting for a few chunks
# The longer a document, the less is left of an association at a question's inputs, which are only like its own.
STRENGTH_EXPONENT = 1 / 8
MOST_STRENGTH = 1.2


@dataclass(frozen=True)
class SumState:
    """An `AssociationSum` between two chunks, for a checkpoint.

    Attributes:
        strongest: Those that may count in full yet; None before the first.
        weaker: Sum of the others, each times its size.
        added: How many there are of both, in a block.
    """

    strongest: LoraWeights | None
    weaker: AccumulatorState
    added: int = 0


class AssociationSum:
    """Sums the adapters of many chunks in bounded memory; their order changes nothing but how it rounds."""

    def __init__(self, limit: int, metrics: Mapping[str, Metric] | None = None, strongest: int = STRONGEST) -> None:
        """Begin.

        Args:
            limit: Of the `Accumulator` that sums what is weaker.
            metrics: Likewise.
            strongest: How many of each block count in full; 0 = all of them, however many.
        """
        self._most, self._metrics = strongest, dict(metrics or {})
        self._strongest: list[LoraWeights] = []
        self._weaker = Accumulator(limit, metrics)
        self._added = 0

    @property
    def state(self) -> SumState:
        """Everything added so far, exactly as it is held."""
        strongest = merge(self._strongest) if self._strongest else None
        return SumState(strongest, self._weaker.state, self._added)

    def restore(self, state: SumState) -> None:
        """Go on from another sum's state."""
        self._strongest = [state.strongest] if state.strongest is not None else []
        self._weaker.restore(state.weaker)
        self._added = state.added

    def add(self, part: LoraWeights) -> None:
        """Add one chunk's adapter."""
        self._added += part.rank
        if not self._most:
            self._weaker.add(part)
            return
        self._strongest.append(part)
        if sum(one.rank for one in self._strongest) > self._most + WAITING:
            self._sift()

    def finish(
        self, bias: LoraWeights | None, rank: int, turn: Callable[[LoraWeights], Turned] | None = None
    ) -> Recompressed:
        """Append the bias once and recompress to the budget; see `lora.finish_sum`.

        Raises:
            AdapterError: Nothing was added, or a budget below 1.
        """
        result = finish_sum(self.total(), bias, rank, self._metrics, turn)
        return Recompressed(result.weights, result.energy_kept * self._weaker.kept_share)

    def total(self) -> LoraWeights:
        """The sum of everything added, the weaker for less.

        Raises:
            AdapterError: Nothing was added.
        """
        if not self._most:
            return self._weaker.total()
        if not self._strongest:
            raise AdapterError("nothing to merge")
        if sum(one.rank for one in self._strongest) > self._most:
            self._sift()
        (strongest,) = self._strongest = [merge(self._strongest)]
        if self._added <= self._most:
            return strongest
        strength = min(MOST_STRENGTH, (self._added / self._most) ** STRENGTH_EXPONENT)
        weaker = self._weaker.total().targets
        lessened = {name: _over_least(weaker[name], target) for name, target in strongest.targets.items()}
        return _smaller(scale(merge([strongest, LoraWeights(lessened)]), strength))

    def _sift(self) -> None:
        """Leave the strongest of each block, and add the others to what is weaker."""
        everything = merge(self._strongest)
        kept, left = {}, {}
        for name, target in everything.targets.items():
            kept[name], left[name] = _parted(target, self._most)
        self._strongest = [LoraWeights(kept)]
        self._weaker.add(LoraWeights(left))


def sizes(target: LoraTarget) -> FloatArray:
    """‖a‖ ‖b‖ of each association, float32 [layers, rank]."""
    found: FloatArray = np.linalg.norm(target.a, axis=2) * np.linalg.norm(target.b, axis=1)
    return found


def _smaller(weights: LoraWeights) -> LoraWeights:
    """The same update as dense matrices, where those are smaller than its factors and so is what is done to them."""
    widths = [min(target.a.shape[2], target.b.shape[1]) for target in weights.targets.values()]
    return fold(weights) if weights.rank > max(widths) else weights


def _parted(target: LoraTarget, most: int) -> tuple[LoraTarget, LoraTarget]:
    """So many of each block as they are, the strongest, and the others, each times its size; both in their order."""
    size = sizes(target)
    order = np.argsort(-size, axis=1, kind="stable")  # of equals, the first one is the stronger
    kept, left = (np.sort(part, axis=1) for part in (order[:, :most], order[:, most:]))
    rest = _taken(target, left)
    weighed = rest.b * np.take_along_axis(size, left, 1)[:, None, :]
    return _taken(target, kept), LoraTarget(rest.layers, rest.a, weighed)


def _taken(target: LoraTarget, places: NDArray[np.intp]) -> LoraTarget:
    """Some associations of each block, `places` [layers, n]."""
    # Block by block: rows are copied as a whole, where `np.take_along_axis` looks each value up.
    a = np.stack([rows[chosen] for rows, chosen in zip(target.a, places, strict=True)])
    b = np.stack([np.take(columns, chosen, axis=1) for columns, chosen in zip(target.b, places, strict=True)])
    return LoraTarget(target.layers, a, b)


def _over_least(weaker: LoraTarget, strongest: LoraTarget) -> LoraTarget:
    """What is weaker, over the size of the weakest of the strongest of its block."""
    least = sizes(strongest).min(axis=1)
    over = np.divide(1.0, least, out=np.zeros_like(least), where=least > 0)
    return LoraTarget(weaker.layers, weaker.a, weaker.b * over[:, None, None])
