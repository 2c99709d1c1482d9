"""Second moments of the base model's `ffn_down` inputs, and their low-rank form.

A key that is to fire on one context and on no other must be whitened by the second moment of the inputs it meets
(Rank-One Model Editing, Meng et al. 2022, arXiv 2202.05262, equation 2). C of 1536 x 1536 a block would not fit a
bundle, so it is kept as floor * (I + U diag(excess) U^T): the largest directions exactly, one floor for the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from localhyper.export.torch_base import TorchBase


@dataclass(frozen=True)
class LowRankMoment:
    """C_l ≈ floor_l (I + U_l diag(excess_l) U_l^T), the floor dropped: only its direction matters here.

    Attributes:
        basis: float32 [blocks, ffn, k], orthonormal columns.
        excess: float32 [blocks, k], ≥ 0.
        energy: float32 [blocks], mean squared norm of the inputs (trace of C).
    """

    basis: Tensor
    excess: Tensor
    energy: Tensor


@torch.no_grad()
def second_moments(base: TorchBase, batches: Iterable[Tensor], blocks: Sequence[int], skip: int) -> Tensor:
    """Mean of m mᵀ over tokens, float64 [blocks, ffn, ffn].

    Args:
        base: The base model.
        batches: Token ids [batch, tokens] of generic text, all of one length, no padding.
        blocks: Blocks whose `ffn_down` inputs are measured.
        skip: Leading tokens to leave out (attention sinks have inputs hundreds of times larger than the rest).
    """
    total = torch.zeros(len(blocks), base.shape.ffn, base.shape.ffn, dtype=torch.float64)
    count = 0
    for ids in batches:
        _, captured = base.run(base.embed(ids), 0, max(blocks) + 1, ffn_blocks=blocks)
        for index, block in enumerate(blocks):
            m = captured.ffn[block][:, skip:].reshape(-1, base.shape.ffn).float()
            total[index] += (m.T @ m).double().cpu()
        count += ids.shape[0] * (ids.shape[1] - skip)
    return total / count


def low_rank(moments: Tensor, rank: int, ridge: float = 0.02) -> LowRankMoment:
    """The `rank` largest directions of C + ridge * mean diagonal; the rest share their mean as the floor."""
    bases, excesses = [], []
    for moment in moments:
        size = moment.shape[0]
        values, vectors = torch.linalg.eigh(
            moment + ridge * moment.diagonal().mean() * torch.eye(size, dtype=moment.dtype)
        )
        floor = values[: size - rank].mean()
        bases.append(vectors[:, size - rank :].flip(1))
        excesses.append((values[size - rank :].flip(0) / floor - 1).clamp_min(0))
    energy = moments.diagonal(dim1=1, dim2=2).sum(-1).float()
    return LowRankMoment(torch.stack(bases).float(), torch.stack(excesses).float(), energy)
