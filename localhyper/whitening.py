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

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from localhyper.errors import AdapterError
from localhyper.lora import DenseMetric, FloatArray, LoraTarget, LoraWeights, Metric


@dataclass(frozen=True)
class InputMoment:
    """S of one target's inputs.

    Attributes:
        second: float32 [layers, d_in, d_in], Σ m mᵀ.
        tokens: Number of inputs summed.
    """

    second: FloatArray
    tokens: int


def add_inputs(moment: InputMoment | None, inputs: FloatArray) -> InputMoment:
    """S with the inputs of one more chunk, float32 [layers, tokens, d_in]. `moment` must not be used any more."""
    if moment is None:
        return InputMoment(np.matmul(inputs.transpose(0, 2, 1), inputs), inputs.shape[1])
    for layer, rows in enumerate(inputs):
        moment.second[layer] += rows.T @ rows
    return InputMoment(moment.second, moment.tokens + inputs.shape[1])


@dataclass(frozen=True)
class Whitened:
    """The turned weights, and the moment (w C + S) / (w + T) of each target in which to recompress them."""

    weights: LoraWeights
    metrics: Mapping[str, DenseMetric]


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
        width = target.a.shape[2]
        if moment.second.shape != (len(target.layers), width, width):
            raise AdapterError(f"`{name}` has width {width}, its input moment is {list(moment.second.shape)}")
        targets[name], measured[name] = _whiten_target(target, moment, metric, weight)
    return Whitened(LoraWeights(targets), measured)


def _whiten_target(
    target: LoraTarget, moment: InputMoment, metric: Metric, weight: float
) -> tuple[LoraTarget, DenseMetric]:
    rows, total = [], np.empty_like(moment.second)
    for layer in range(len(target.layers)):
        generic = metric.moment(layer)
        mixed = weight * generic + moment.second[layer]
        turned, spread = np.linalg.inv(mixed), metric.inverse(layer)
        before, after = float(np.vdot(moment.second[layer], spread)), float(np.vdot(moment.second[layer], turned))
        scale = before / after if after > 0 else weight
        rows.append((target.a[layer] @ (scale * (generic @ turned))).astype(np.float32))
        total[layer] = mixed / np.float32(weight + moment.tokens)
    return LoraTarget(target.layers, np.stack(rows), target.b), DenseMetric(total)
