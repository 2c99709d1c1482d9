"""LoRA weights as arrays: check, merge over chunks, recompress, scale. Knows no file format and no model.

Everything here is linear algebra on the factors: a dense update [d_out, d_in] is never made, except where the
factors have grown to rank min(d_out, d_in) and the dense matrix *is* the smaller form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from localhyper.blas_threads import each
from localhyper.errors import AdapterError
from localhyper.rank_budget import allot_ranks

FloatArray = NDArray[np.float32]
TOKENS = "tokens"  # what associations write: tokens as they are in a text


@dataclass(frozen=True)
class LoraTarget:
    """LoRA matrices of one target module in several blocks.

    Attributes:
        layers: Block indices, ascending.
        a: float32 [layers, rank, d_in].
        b: float32 [layers, d_out, rank]. The update is `b @ a`: all scaling is folded in.
    """

    layers: tuple[int, ...]
    a: FloatArray
    b: FloatArray

    @property
    def rank(self) -> int:
        """Rank of every block of this target, zeros that fill it up counted."""
        return int(self.a.shape[1])

    @property
    def own_ranks(self) -> tuple[int, ...]:
        """Rank of each block up to the last that is not all zeros."""
        return tuple(
            _last(rows.any(axis=1) & columns.any(axis=0)) for rows, columns in zip(self.a, self.b, strict=True)
        )


def _last(flags: NDArray[np.bool_]) -> int:
    """Place after the last that is set; 0 where none is."""
    places = np.flatnonzero(flags)
    return int(places[-1]) + 1 if len(places) else 0


@dataclass(frozen=True)
class LoraWeights:
    """A whole adapter: GGUF module name (`ffn_down`, `attn_q`, …) to its matrices."""

    targets: Mapping[str, LoraTarget]

    @property
    def rank(self) -> int:
        """The largest rank of any target; 0 for no targets."""
        return max((target.rank for target in self.targets.values()), default=0)

    @property
    def mean_rank(self) -> int:
        """Rank of a target on the mean over its blocks, rounded up, zeros that fill them up left out; the largest."""
        ranks = [target.own_ranks for target in self.targets.values()]
        return max((-(-sum(of_blocks) // len(of_blocks)) for of_blocks in ranks), default=0)


@dataclass(frozen=True)
class Metric:
    """Second moment of a target's inputs, in which truncation is measured: C_l ≈ floor_l·(I + U_l diag(excess_l) U_lᵀ).

    Truncating B·A by SVD of B·A·C^{1/2} keeps what acts on inputs that occur, not what is large as a matrix.

    Attributes:
        basis: float32 [layers, d_in, k], orthonormal columns U_l.
        excess: float32 [layers, k], eigenvalue / floor - 1, ≥ 0.
        floor: float32 [layers], > 0; None where only the direction of C is known. Truncation does not need it.
    """

    basis: FloatArray
    excess: FloatArray
    floor: FloatArray | None = None

    def gram(self, index: int, rows: FloatArray) -> FloatArray:
        """R·C·Rᵀ up to the floor, float32 [m, m], for rows R [m, d_in]."""
        projected = (rows @ self.basis[index]) * np.sqrt(self.excess[index])
        gram: FloatArray = rows @ rows.T
        gram += projected @ projected.T
        return gram

    def moment(self, index: int) -> FloatArray:
        """C of a layer, float32 [d_in, d_in]; a floor of 1 where it is not known."""
        basis, floor = self.basis[index], self._floor(index)
        whole: FloatArray = (basis * (self.excess[index] * floor)) @ basis.T
        whole[np.diag_indices(len(whole))] += floor
        return whole

    def times(self, index: int, rows: FloatArray) -> FloatArray:
        """R·C, float32 [m, d_in], for rows R [m, d_in]."""
        return self._turn(index, rows, self.excess[index]) * self._floor(index)

    def over(self, index: int, rows: FloatArray) -> FloatArray:
        """R·C⁻¹, likewise."""
        return self._turn(index, rows, -self.shrink(index)) / self._floor(index)

    def shrink(self, index: int) -> FloatArray:
        """What C⁻¹ takes away along the basis, float32 [k]: excess / (1 + excess)."""
        shrink: FloatArray = self.excess[index] / (1 + self.excess[index])
        return shrink

    def spread(self, index: int, second: FloatArray) -> float:
        """tr(S·C⁻¹) of a layer for S float32 [d_in, d_in]."""
        along = np.einsum("ij,ij->j", self.basis[index], second @ self.basis[index])
        return float((np.trace(second) - along @ self.shrink(index)) / self._floor(index))

    def _floor(self, index: int) -> np.float32:
        return np.float32(1 if self.floor is None else self.floor[index])

    def _turn(self, index: int, rows: FloatArray, values: FloatArray) -> FloatArray:
        """R·(I + U diag(values) Uᵀ)."""
        basis = self.basis[index]
        turned: FloatArray = rows + ((rows @ basis) * values) @ basis.T
        return turned


class Measure(Protocol):
    """A second moment of inputs, as far as truncation needs it."""

    def gram(self, index: int, rows: FloatArray) -> FloatArray:
        """R·C·Rᵀ up to a factor, float32 [m, m], for rows R [m, d_in] of layer `index`."""
        ...


@dataclass(frozen=True)
class Recompressed:
    """Result of a recompression: the weights and the share of squared norm kept (1.0 = lossless)."""

    weights: LoraWeights
    energy_kept: float


def validate(weights: LoraWeights) -> LoraWeights:
    """Check shapes, dtypes and values; return the same weights, so that calls can be chained.

    Raises:
        AdapterError: No target, layers out of order, shapes that don't match, another dtype, NaN or infinity.
    """
    if not weights.targets:
        raise AdapterError("LoRA weights have no target module")
    for name, target in weights.targets.items():
        _validate_target(name, target)
    return weights


def _validate_target(name: str, target: LoraTarget) -> None:
    layers, a, b = target.layers, target.a, target.b
    if not layers or list(layers) != sorted(set(layers)) or layers[0] < 0:
        raise AdapterError(f"LoRA target `{name}`: layers must be ascending block indices, got {list(layers)[:8]}")
    for part, array in (("a", a), ("b", b)):
        if array.dtype != np.float32:
            raise AdapterError(f"LoRA target `{name}`: `{part}` must be float32, got {array.dtype}")
        if array.ndim != 3 or array.shape[0] != len(layers):
            raise AdapterError(
                f"LoRA target `{name}`: `{part}` must have shape [{len(layers)}, …, …], got {list(array.shape)}"
            )
        if not np.isfinite(array).all():
            raise AdapterError(f"LoRA target `{name}`: `{part}` has values that are not finite")
    if a.shape[1] != b.shape[2]:
        raise AdapterError(f"LoRA target `{name}`: rank of `a` is {a.shape[1]}, rank of `b` is {b.shape[2]}")


def check_metrics(weights: LoraWeights, metrics: Mapping[str, Metric]) -> None:
    """Check that metrics fit the targets they name.

    Raises:
        AdapterError: A shape differs, or an excess is negative or not finite.
    """
    for name, metric in metrics.items():
        if name not in weights.targets:
            continue
        a = weights.targets[name].a
        want = (a.shape[0], a.shape[2])
        if metric.basis.ndim != 3 or metric.basis.shape[:2] != want:
            raise AdapterError(f"metric of `{name}`: basis must be [{want[0]}, {want[1]}, k], got {metric.basis.shape}")
        if metric.excess.shape != (want[0], metric.basis.shape[2]):
            raise AdapterError(f"metric of `{name}`: excess {metric.excess.shape} for basis {metric.basis.shape}")
        if not (np.isfinite(metric.basis).all() and np.isfinite(metric.excess).all() and (metric.excess >= 0).all()):
            raise AdapterError(f"metric of `{name}`: values must be finite and excess at least 0")
        floor = metric.floor
        if floor is not None and not (floor.shape == want[:1] and np.isfinite(floor).all() and (floor > 0).all()):
            raise AdapterError(f"metric of `{name}`: floor must be [{want[0]}], finite and above 0")


def merge(parts: Sequence[LoraWeights], bias: LoraWeights | None = None) -> LoraWeights:
    """Concatenate ranks, so that the update is the sum of the parts' updates plus one bias update.

    Args:
        parts: One or more adapters of the same targets, layers and widths; ranks may differ.
        bias: The context-free adapter, appended once however many parts there are.

    Raises:
        AdapterError: No parts, or parts that disagree.
    """
    everything = [*parts, bias] if bias is not None else list(parts)
    if not everything:
        raise AdapterError("nothing to merge")
    first = everything[0]
    for other in everything[1:]:
        _check_alike(first, other)
    return LoraWeights({name: _concatenate([part.targets[name] for part in everything]) for name in first.targets})


def _check_alike(first: LoraWeights, other: LoraWeights) -> None:
    if set(first.targets) != set(other.targets):
        raise AdapterError(f"cannot merge targets {sorted(first.targets)} with {sorted(other.targets)}")
    for name, one in first.targets.items():
        two = other.targets[name]
        if one.layers != two.layers:
            raise AdapterError(f"cannot merge `{name}`: blocks {list(one.layers)} and {list(two.layers)}")
        widths = (one.a.shape[2], one.b.shape[1]), (two.a.shape[2], two.b.shape[1])
        if widths[0] != widths[1]:
            raise AdapterError(f"cannot merge `{name}`: widths (in, out) {widths[0]} and {widths[1]}")


def _concatenate(targets: Sequence[LoraTarget]) -> LoraTarget:
    if len(targets) == 1:
        return targets[0]
    a = np.concatenate([target.a for target in targets], axis=1)
    return LoraTarget(targets[0].layers, a, np.concatenate([target.b for target in targets], axis=2))


def scale(weights: LoraWeights, gain: float, per_layer: Mapping[int, float] | None = None) -> LoraWeights:
    """Multiply every update by `gain`, and a block's by `per_layer[block]` too where given; changes `b` only."""
    gains = per_layer or {}

    def scaled(target: LoraTarget) -> LoraTarget:
        factors = np.array([gain * gains.get(layer, 1.0) for layer in target.layers], dtype=np.float32)
        return LoraTarget(target.layers, target.a, target.b * factors[:, None, None])

    return LoraWeights({name: scaled(target) for name, target in weights.targets.items()})


def recompress(
    weights: LoraWeights, rank: int, metrics: Mapping[str, Measure] | None = None, *, shared: bool = False
) -> Recompressed:
    """Truncate every block so that the least is lost in the metric; exact where nothing has to go.

    For each block, with M = B·A·C^{1/2}, the kept update is U_k·U_kᵀ·B·A, where U_k are the k first left singular
    vectors of M: the best rank-k approximation of B·A in the norm ‖X·C^{1/2}‖. B goes through QR first, so that
    nothing wider than the factors appears; U comes from the Gram matrix of M, several times faster than from an SVD
    of M. In float32 it tells directions apart that have more than about a ten-millionth of the largest one's energy.

    Args:
        weights: Any adapter.
        rank: Rank budget of each block, at least 1.
        metrics: Target name to the second moment of its inputs; targets without one are truncated in the plain norm.
        shared: Whether the blocks of a target share their budgets (`allot_ranks`); zeros then fill up the smaller ones.

    Returns:
        The new weights and kept / total squared singular values over all blocks and targets.
    """
    if rank < 1:
        raise AdapterError(f"rank must be at least 1, got {rank}")
    check_metrics(weights, {name: m for name, m in (metrics or {}).items() if isinstance(m, Metric)})
    if all(_within(target, rank, shared) for target in weights.targets.values()):
        return Recompressed(weights, 1.0)
    kept = total = 0.0
    targets = {}
    for name, target in weights.targets.items():
        metric = (metrics or {}).get(name)
        targets[name], target_kept, target_total = _recompress_target(target, rank, metric, shared)
        kept, total = kept + target_kept, total + target_total
    return Recompressed(LoraWeights(targets), kept / total if total > 0 else 1.0)


def _within(target: LoraTarget, rank: int, shared: bool) -> bool:
    """Whether a budget holds a target as it is."""
    return target.rank <= rank or (shared and sum(target.own_ranks) <= rank * len(target.layers))


def _recompress_target(
    target: LoraTarget, rank: int, metric: Measure | None, shared: bool
) -> tuple[LoraTarget, float, float]:
    """One target, its kept and its total energy. The energy of an untouched target counts too."""
    turned = each(lambda index: _turned(target, index, metric), range(len(target.layers)))
    energies = [block.energies for block in turned]
    total = sum(float(of_block.sum()) for of_block in energies)
    if _within(target, rank, shared):
        return target, total, total
    ranks = allot_ranks(energies, rank) if shared else [min(rank, len(energies[0]))] * len(turned)
    kept = sum(float(of_block[:k].sum()) for of_block, k in zip(energies, ranks, strict=True))
    pairs = [block.cut(k, max(1, *ranks)) for block, k in zip(turned, ranks, strict=True)]
    return LoraTarget(target.layers, np.stack([a for a, _ in pairs]), np.stack([b for _, b in pairs])), kept, total


@dataclass(frozen=True)
class _Turned:
    """One block's update in the order of what its directions weigh: b @ a = outer @ vectors @ vectorsᵀ @ right.

    Attributes:
        outer: float32 [d_out, m] with orthonormal columns; None = identity.
        right: float32 [m, d_in].
        vectors: float32 [m, m], a direction a column, the heaviest first.
        energies: float64 [m], squared singular values of M.
    """

    outer: FloatArray | None
    right: FloatArray
    vectors: FloatArray
    energies: NDArray[np.float64]

    def cut(self, rank: int, width: int) -> tuple[FloatArray, FloatArray]:
        """The `rank` first directions as a [width, d_in] and b [d_out, width], zeros in the rest."""
        turn = self.vectors[:, :rank]
        a, b = turn.T @ self.right, turn if self.outer is None else self.outer @ turn
        # Balanced, so that half precision suits both.
        norms = np.linalg.norm(a, axis=1)
        roots = np.sqrt(np.where(norms > 0, norms, 1.0)).astype(np.float32)
        missing = width - rank
        return (
            np.pad((a / roots[:, None]).astype(np.float32), ((0, missing), (0, 0))),
            np.pad((b * roots).astype(np.float32), ((0, 0), (0, missing))),
        )


def _turned(target: LoraTarget, index: int, metric: Measure | None) -> _Turned:
    outer, right = _orthogonal_left(target.a[index], target.b[index])
    gram = metric.gram(index, right) if metric is not None else right @ right.T
    values, vectors = np.linalg.eigh(gram.astype(np.float64))
    ordered = np.ascontiguousarray(vectors[:, ::-1], dtype=np.float32)
    return _Turned(outer, right, ordered, np.maximum(values[::-1], 0.0))


def _orthogonal_left(a: FloatArray, b: FloatArray) -> tuple[FloatArray | None, FloatArray]:
    """Q [d_out, m] with orthonormal columns (None = identity) and R [m, d_in] such that b @ a = Q @ R."""
    d_out, rank = b.shape
    if rank < d_out:
        outer, inner = np.linalg.qr(b)
        return outer, inner @ a
    # The rank has reached d_out: b @ a has no more rows than a, so it stands for itself.
    folded = rank == d_out and np.array_equal(b, np.eye(d_out, dtype=np.float32))
    return None, a if folded else b @ a


def fold(weights: LoraWeights, onto: LoraWeights | None = None) -> LoraWeights:
    """The sum of both at rank min(d_in, d_out) without loss: one factor an identity, the other the dense update.

    Worth it where the ranks together exceed min(d_in, d_out): the dense update is the smaller form then.

    Args:
        weights: Any adapter.
        onto: An earlier result of this function to add to; None = nothing.
    """
    return LoraWeights(
        {name: _fold_target(target, onto.targets[name] if onto else None) for name, target in weights.targets.items()}
    )


def _fold_target(target: LoraTarget, onto: LoraTarget | None) -> LoraTarget:
    d_in, d_out = target.a.shape[2], target.b.shape[1]
    dense = np.stack(each(np.matmul, target.b, target.a))
    if onto is not None:
        dense += onto.a if d_out <= d_in else onto.b
    identity = np.repeat(np.eye(min(d_in, d_out), dtype=np.float32)[None], len(target.layers), axis=0)
    a, b = (dense, identity) if d_out <= d_in else (identity, dense)
    return LoraTarget(target.layers, a, b)


class Turned(Protocol):
    """A sum after a last linear step, and what to measure its truncation in."""

    @property
    def weights(self) -> LoraWeights:
        """The sum."""
        ...

    @property
    def metrics(self) -> Mapping[str, Measure]:
        """Target name to the second moment of its inputs."""
        ...


@dataclass(frozen=True)
class AccumulatorState:
    """An `Accumulator` between two chunks, for a checkpoint.

    Attributes:
        settled: What earlier compactions left; None before the first.
        pending: Sum of the parts since; None when there are none.
        kept_share: Share of energy that lossy compactions kept so far.
    """

    settled: LoraWeights | None
    pending: LoraWeights | None
    kept_share: float = 1.0


class Accumulator:
    """Sums the adapters of many chunks in bounded memory.

    Parts are kept as they are until their ranks together exceed `limit`; then they are folded (lossless, where
    the limit reaches min(d_in, d_out)) or recompressed to half the limit. What share of the energy that kept is an
    estimate: losses of different steps are added as if orthogonal.
    """

    def __init__(self, limit: int, metrics: Mapping[str, Metric] | None = None) -> None:
        """Hold at most about `limit` ranks (at least 2) between chunks; measure losses in `metrics`."""
        if limit < 2:
            raise AdapterError(f"rank limit must be at least 2, got {limit}")
        self._limit = limit
        self._metrics = dict(metrics or {})
        self._settled: LoraWeights | None = None
        self._pending: list[LoraWeights] = []
        self._kept_share = 1.0

    @property
    def state(self) -> AccumulatorState:
        """Everything added so far, exactly as it is held."""
        return AccumulatorState(self._settled, merge(self._pending) if self._pending else None, self._kept_share)

    @property
    def kept_share(self) -> float:
        """Share of energy that lossy compactions kept so far."""
        return self._kept_share

    def restore(self, state: AccumulatorState) -> None:
        """Go on from another accumulator's state."""
        self._settled, self._kept_share = state.settled, state.kept_share
        self._pending = [state.pending] if state.pending is not None else []

    def add(self, part: LoraWeights) -> None:
        """Add one chunk's adapter."""
        self._pending.append(part)
        if sum(pending.rank for pending in self._pending) + (self._settled.rank if self._settled else 0) > self._limit:
            self._compact()

    def _compact(self) -> None:
        pending = merge(self._pending)
        if self._foldable(pending):
            self._settled = fold(pending, self._settled)
        else:
            everything = [self._settled, pending] if self._settled else [pending]
            shrunk = recompress(merge(everything), max(1, self._limit // 2), self._metrics)
            self._settled, self._kept_share = shrunk.weights, self._kept_share * shrunk.energy_kept
        self._pending = []

    def _foldable(self, weights: LoraWeights) -> bool:
        """Whether dense updates are within the limit, so that sums of them are kept without loss."""
        return all(min(t.a.shape[2], t.b.shape[1]) <= self._limit for t in weights.targets.values())

    def total(self) -> LoraWeights:
        """The sum of everything added.

        Raises:
            AdapterError: Nothing was added.
        """
        if self._settled is None:
            return merge(self._pending)
        if self._pending and self._foldable(self._pending[0]):
            return fold(merge(self._pending), self._settled)
        return merge([self._settled, *self._pending])


def finish_sum(
    total: LoraWeights,
    bias: LoraWeights | None,
    rank: int,
    metrics: Mapping[str, Metric],
    turn: Callable[[LoraWeights], Turned] | None = None,
) -> Recompressed:
    """Append the bias once to a sum and recompress to the budget.

    Args:
        total: The sum.
        bias: The context-free adapter; None = none.
        rank: Rank budget, which the blocks of a target share.
        metrics: Second moments to measure what is lost in, unless `turn` gives others.
        turn: Applied to the sum before the bias joins it; also gives the metrics of the recompression.

    Raises:
        AdapterError: A budget below 1.
    """
    turned = turn(total) if turn is not None else None
    summed, measured = (turned.weights, turned.metrics) if turned is not None else (total, metrics)
    return recompress(merge([summed], bias), rank, measured, shared=True)


def even_ranks(weights: LoraWeights, step: int = 1) -> LoraWeights:
    """Give all targets the largest rank, or the next multiple of `step`, by adding zeros: a file has one rank."""
    rank = -(-weights.rank // step) * step

    def padded(target: LoraTarget) -> LoraTarget:
        missing = rank - target.rank
        if missing == 0:
            return target
        a = np.pad(target.a, ((0, 0), (0, missing), (0, 0)))
        return LoraTarget(target.layers, a, np.pad(target.b, ((0, 0), (0, 0), (0, missing))))

    return LoraWeights({name: padded(target) for name, target in weights.targets.items()})


def working_rank(budget: int, widths: Sequence[tuple[int, int]]) -> int:
    """Rank limit of an `Accumulator` for a budget and the targets' (d_in, d_out).

    Four times the budget and at least 512; up to min(d_in, d_out) where that is at most 1024, which makes it lossless.
    """
    limit = max(4 * budget, 512)
    lossless = max((min(pair) for pair in widths), default=0)
    return max(limit, lossless) if lossless <= 1024 else limit
