"""The sum of a document's chunks on its way to one adapter: added up, whitened, the bias once, cut to a rank budget.

Knows hypernetworks and weights; neither engines, nor files, nor what a chunk says.
"""

from __future__ import annotations

from collections.abc import Mapping

from localhyper.association_sum import STRONGEST, AssociationSum, SumState
from localhyper.blas_threads import one_thread_a_product
from localhyper.engine import Activations
from localhyper.hypernet import Hypernetwork
from localhyper.lora import TOKENS, LoraWeights, Recompressed, even_ranks, working_rank
from localhyper.whitening import InputMoment, Whitened, add_inputs, whiten


class DocumentSum:
    """Chunks added so far; memory stays bounded however many they are."""

    def __init__(self, hypernetwork: Hypernetwork, rank: int) -> None:
        """`rank` is the budget of the result, at least 1."""
        self._hypernetwork, self._rank = hypernetwork, rank
        self._parts: AssociationSum | None = None
        self._moments: dict[str, InputMoment] = {}

    @property
    def state(self) -> SumState | None:
        """What has been added, for a checkpoint; None before the first chunk."""
        return self._parts.state if self._parts is not None else None

    @property
    def moments(self) -> Mapping[str, InputMoment]:
        """Target name to the moment of the inputs, where the bundle whitens by it."""
        return self._moments

    def restore(self, state: SumState, moments: Mapping[str, InputMoment]) -> None:
        """Go on from another sum's `state` and `moments`."""
        self._sum(state.strongest or state.weaker.settled or state.weaker.pending).restore(state)
        self._moments = dict(moments)

    def add(self, weights: LoraWeights, activations: Activations) -> None:
        """Add what the hypernetwork made of one chunk's activations."""
        with one_thread_a_product():
            self._sum(weights).add(weights)
            self._add_inputs(activations)

    def finish(self) -> Recompressed:
        """The bias appended once, recompressed to the budget, one rank for all targets.

        Raises:
            AdapterError: Nothing was added.
        """
        with one_thread_a_product():
            turn = self._whiten if self._hypernetwork.info.whitening else None
            result = self._sum().finish(self._hypernetwork.bias(), self._rank, turn)
            return Recompressed(even_ranks(result.weights), result.energy_kept)

    def _add_inputs(self, activations: Activations) -> None:
        """Count the chunk's inputs in, where the bundle whitens by them."""
        info = self._hypernetwork.info
        for name, layers in info.targets.items() if info.whitening else ():
            rows = activations.ffn[[info.capture.ffn_blocks.index(layer) for layer in layers]]
            self._moments[name] = add_inputs(self._moments.get(name), rows)

    def _whiten(self, weights: LoraWeights) -> Whitened:
        return whiten(weights, self._moments, self._hypernetwork.metrics(), self._hypernetwork.info.whitening)

    def _sum(self, like: LoraWeights | None = None) -> AssociationSum:
        """The sum, made when the widths of the targets are known."""
        if self._parts is None:
            info = self._hypernetwork.info
            # What other hypernetworks write is no list of associations, and without whitening nothing was measured.
            strongest = STRONGEST if info.whitening and info.values == TOKENS else 0
            self._parts = AssociationSum(self._limit(like), self._hypernetwork.metrics(), strongest)
        return self._parts

    def _limit(self, like: LoraWeights | None) -> int:
        targets = like.targets.values() if like is not None else ()
        return working_rank(self._rank, [(target.a.shape[2], target.b.shape[1]) for target in targets])
