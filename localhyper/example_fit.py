"""What examples teach, in closed form: an update of late `ffn_down`s that says what the model's predictions lacked.

At each token of each example's answer the model, as it is, reads an input m of `ffn_down` and predicts p where y is
right. The update answers m with what would raise y and lower what was predicted in its place:

    ΔW = g Vᵀ (K Kᵀ + λ I)⁻¹ K / |m|,    V = P Eᵀ(y - p)

with K the inputs as rows of length 1, |m| their mean length, E the output matrix (tied embeddings), P what tells its
rows apart (`output_head`). This is the delta rule (Widrow and Hoff 1960) as a ridge regression over all answers at
once, the step that gradient descent would begin with if what a late block writes reached the logits unchanged. A few
rounds, each from the predictions that the one before left, do most of what is to be had. Knows no model and no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from localhyper.blas_threads import each
from localhyper.engine import FloatArray
from localhyper.lora import LoraTarget

MODULE = "ffn_down"


@dataclass(frozen=True)
class FitSettings:
    """How examples are learnt; chosen on tasks that no suite has (docs/decisions/0032).

    Attributes:
        depths: Adapted blocks, as shares of the base model's depth; none is the last, whose inputs llama.cpp computes
            only where logits are wanted.
        gain: g, in root mean squares of rows of the output matrix.
        ridge: λ.
        rounds: Rounds, each of which reads all examples.
        floor: Of P.
        rank: Most ranks of the update of a block.
    """

    depths: tuple[float, ...] = (22 / 30, 26 / 30, 28 / 30)
    gain: float = 1.5
    ridge: float = 0.5
    rounds: int = 5
    floor: float = 0.3
    rank: int = 64

    def blocks(self, count: int) -> tuple[int, ...]:
        """The adapted blocks of a model of so many."""
        return tuple(sorted({min(count - 1, round(depth * count)) for depth in self.depths}))


def fit(blocks: Sequence[int], inputs: FloatArray, values: FloatArray, settings: FitSettings) -> LoraTarget:
    """The update of one round.

    Args:
        blocks: Adapted blocks, ascending.
        inputs: What enters their `ffn_down` at tokens of answers, float32 [blocks, n, ffn].
        values: V, float32 [n, hidden].
        settings: g and λ.

    Returns:
        a [blocks, n, ffn] and b [blocks, hidden, n].
    """
    written = (settings.gain * values.T).astype(np.float32)
    rows = each(lambda m: _answers(m, settings.ridge), inputs)
    return LoraTarget(tuple(blocks), np.stack(rows), np.repeat(written[None], len(blocks), axis=0))


def _answers(inputs: FloatArray, ridge: float) -> FloatArray:
    """(K Kᵀ + λ I)⁻¹ K / |m| for inputs [n, ffn]: float32 [n, ffn]."""
    lengths = np.linalg.norm(inputs, axis=1)
    keys = inputs / np.maximum(lengths, 1e-6)[:, None]
    gram = (keys @ keys.T).astype(np.float64)
    gram[np.diag_indices(len(gram))] += ridge
    solved = np.linalg.solve(gram, keys.astype(np.float64))
    answers: FloatArray = (solved / max(float(lengths.mean()), 1e-6)).astype(np.float32)
    return answers
