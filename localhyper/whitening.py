"""Whitening by the document's own inputs: what makes the sum of many chunks readable.

The keys that a bundle makes are whitened by C, the second moment of inputs over generic text. A document writes
hundreds or thousands of associations, and what its inputs have in common beyond C adds up in phase. So when all chunks
are known, the sum is turned once:

    A' = s A C (w C + S)⁻¹,   s = tr(S C⁻¹) / tr(S (w C + S)⁻¹)

with S = Σ m mᵀ over the document's tokens and w the number of tokens that C counts for, which the bundle says. This is
MEMIT's closed form (Meng et al. 2022, arXiv 2210.07229, equation 14) seen from the keys; s makes the answer to the
document's own inputs, on the mean over its tokens, what it was before. `localhyper.export.whitening` is the same in
torch. Knows no model and no file format.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from localhyper.blas_threads import each
from localhyper.errors import AdapterError
from localhyper.lora import FloatArray, LoraTarget, LoraWeights, Metric

SMALL_BLOCK = 192  # about where numpy's own inverse is as fast as products of its halves


@dataclass(frozen=True)
class InputMoment:
    """S of one target's inputs, as long as it is the smaller form the inputs themselves.

    Attributes:
        tokens: Number of inputs summed.
        rows: float32 [layers, tokens, d_in], the inputs; None once there are many.
        second: float32 [layers, d_in, d_in], Σ m mᵀ; None until then.
    """

    tokens: int
    rows: FloatArray | None = None
    second: FloatArray | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Layers and d_in."""
        held = self.rows if self.rows is not None else self.second
        return (0, 0) if held is None else (held.shape[0], held.shape[2])


def add_inputs(moment: InputMoment | None, inputs: FloatArray) -> InputMoment:
    """S with the inputs of one more chunk, float32 [layers, tokens, d_in]. `moment` must not be used any more."""
    count, width = inputs.shape[1:]
    if moment is None:
        return InputMoment(count, rows=inputs)
    total = moment.tokens + count
    if moment.second is not None:
        each(_count_in, moment.second, inputs)
        return InputMoment(total, second=moment.second)
    assert moment.rows is not None
    together = np.concatenate((moment.rows, inputs), axis=1)
    # From about here on, one inverse of d_in costs less than the products with every row.
    if total <= 5 * width // 6:
        return InputMoment(total, rows=together)
    second = np.zeros((len(together), width, width), np.float32)
    each(_count_in, second, together)
    return InputMoment(total, second=second)


def _count_in(second: FloatArray, rows: FloatArray) -> None:
    """Add the inputs of a layer, [tokens, d_in], to its S."""
    second += rows.T @ rows


@dataclass(frozen=True)
class DocumentMetric:
    """(w C + S) / (w + T): the moment of a document's inputs, in which its sum is recompressed."""

    generic: Metric
    own: InputMoment
    weight: float

    def gram(self, index: int, rows: FloatArray) -> FloatArray:
        """R·M·Rᵀ, float32 [m, m], for rows R [m, d_in]."""
        assert self.generic.floor is not None
        gram = self.generic.gram(index, rows)
        gram *= self.weight * self.generic.floor[index]
        if self.own.rows is not None:
            answers = rows @ self.own.rows[index].T
            gram += answers @ answers.T
        elif self.own.second is not None:
            half = (rows @ self.own.second[index]) @ rows.T
            gram += (half + half.T) / 2
        gram /= np.float32(self.weight + self.own.tokens)
        return gram


@dataclass(frozen=True)
class Whitened:
    """The turned weights, and the moment of each target in which to recompress them."""

    weights: LoraWeights
    metrics: Mapping[str, DocumentMetric]


def whiten(
    weights: LoraWeights, moments: Mapping[str, InputMoment], metrics: Mapping[str, Metric], weight: float
) -> Whitened:
    """Turn the sum of a document's chunks.

    Args:
        weights: The sum, without the bias.
        moments: Target name to S; targets without one stay as they are.
        metrics: Target name to C, with its floor.
        weight: w, in tokens, above 0.

    Raises:
        AdapterError: A moment whose C is missing or has no floor, or that does not fit.
    """
    targets, measured = dict(weights.targets), {}
    for name, moment in moments.items():
        metric, target = metrics.get(name), targets.get(name)
        if target is None or metric is None or metric.floor is None:
            raise AdapterError(f"`{name}` cannot be whitened: the hypernetwork has no input moment for it")
        wanted = (len(target.layers), target.a.shape[2])
        if moment.shape != wanted:
            raise AdapterError(f"`{name}` has {wanted[0]} layers of width {wanted[1]}, its inputs {moment.shape}")
        turn = functools.partial(_turn, moment=moment, metric=metric, weight=weight)
        turned = each(turn, target.a, range(len(target.a)))
        targets[name] = LoraTarget(target.layers, np.stack(turned), target.b)
        measured[name] = DocumentMetric(metric, moment, weight)
    return Whitened(LoraWeights(targets), measured)


def _turn(a: FloatArray, layer: int, moment: InputMoment, metric: Metric, weight: float) -> FloatArray:
    """A' of one layer, float32 [rank, d_in]."""
    if moment.rows is not None:
        return _turn_by_rows(a, layer, moment.rows[layer], metric, weight)
    assert moment.second is not None
    second = moment.second[layer]
    inverse = invert_positive(weight * metric.moment(layer) + second)
    scale = _scale(metric.spread(layer, second), float(np.vdot(second, inverse)), weight)
    turned: FloatArray = np.matmul(metric.times(layer, a), inverse)
    turned *= scale
    return turned


def _turn_by_rows(a: FloatArray, layer: int, rows: FloatArray, metric: Metric, weight: float) -> FloatArray:
    """The same through the Woodbury identity: an inverse as large as there are tokens.

    (w C + MᵀM)⁻¹ = (C⁻¹ - C⁻¹Mᵀ (w I + G)⁻¹ M C⁻¹) / w and tr(S (w C + S)⁻¹) = tr(G (w I + G)⁻¹), with G = M C⁻¹ Mᵀ.
    """
    whitened = metric.over(layer, rows)
    gram = whitened @ rows.T
    shifted = gram.copy()
    shifted[np.diag_indices(len(gram))] += weight
    inverse = invert_positive(shifted)
    scale = _scale(float(np.trace(gram)), float(np.vdot(gram, inverse)), weight)
    overlap: FloatArray = np.matmul(np.matmul(a, rows.T), inverse)
    turned: FloatArray = a - np.matmul(overlap, whitened)
    turned *= np.float32(scale / weight)
    return turned


def invert_positive(matrix: FloatArray) -> FloatArray:
    """Inverse of a symmetric positive definite matrix, float32 [n, n], by halves and Schur complements.

    All but small blocks is matrix products, which run several times faster than the LU inverse that numpy has;
    LAPACK's own for such matrices would need SciPy. Errors are below 1e-4 of the largest value for the moments of
    the default base, condition 1,300; a file in float16 rounds more.
    """
    size = len(matrix)
    if size <= SMALL_BLOCK:
        small: FloatArray = np.linalg.inv(matrix)
        return small
    half = size // 2
    first = invert_positive(matrix[:half, :half])
    mixed = first @ matrix[:half, half:]
    last = invert_positive(matrix[half:, half:] - matrix[half:, :half] @ mixed)
    across = mixed @ last
    out = np.empty_like(matrix)
    out[:half, :half] = first + across @ mixed.T
    out[:half, half:] = -across
    out[half:, :half] = -across.T
    out[half:, half:] = last
    return out


def _scale(before: float, after: float, weight: float) -> np.float32:
    """s, from the summed answers to the document's own inputs before and after; w where there are none."""
    return np.float32(before / after if after > 0 else weight)
