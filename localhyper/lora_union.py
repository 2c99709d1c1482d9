"""LoRA weights that are not alike: blocks of different ranks in one target, adapters of different targets in one.

`lora.merge` is for the parts of one document, which are alike. Knows no file format and no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from localhyper.errors import AdapterError
from localhyper.lora import FloatArray, LoraTarget, LoraWeights

# One block of a huge rank in a stranger's file must not fill the memory with zeros for the others.
MAX_GROWTH = 4
MAX_VALUES = 1 << 27
Pair = tuple[FloatArray, FloatArray]


def stack_blocks(name: str, blocks: Mapping[int, Pair]) -> LoraTarget:
    """One target of its blocks' matrices; a smaller rank is filled up with zeros, which change no update.

    Args:
        name: The target, for messages.
        blocks: Block to a [rank, d_in] and b [d_out, rank], float32.

    Raises:
        AdapterError: Widths differ, or ranks differ so much that zeros would fill the memory.
    """
    order = tuple(sorted(blocks))
    widths = {(blocks[block][0].shape[1], blocks[block][1].shape[0]) for block in order}
    if len(widths) != 1:
        raise AdapterError(f"`{name}` has different widths (in, out) in different blocks: {sorted(widths)[:4]}")
    ranks = [blocks[block][0].shape[0] for block in order]
    rank = max(ranks)
    if rank * len(ranks) > MAX_GROWTH * sum(ranks) and rank * len(ranks) * sum(*widths) > MAX_VALUES:
        raise AdapterError(f"`{name}` has ranks from {min(ranks)} to {rank} in different blocks, too far apart")
    a = np.stack([_padded(blocks[block][0], 0, rank) for block in order])
    return LoraTarget(order, a, np.stack([_padded(blocks[block][1], 1, rank) for block in order]))


def _padded(matrix: FloatArray, axis: int, rank: int) -> FloatArray:
    missing = rank - matrix.shape[axis]
    if not missing:
        return matrix
    return np.pad(matrix, ((0, missing), (0, 0)) if axis == 0 else ((0, 0), (0, missing)))


def combine(parts: Sequence[LoraWeights]) -> LoraWeights:
    """One adapter whose update is the sum of the parts' updates, over the union of their targets and blocks.

    Ranks are concatenated block by block, so nothing is lost and nothing is computed.

    Args:
        parts: One or more adapters for the same base model.

    Raises:
        AdapterError: No parts, or parts of different widths.
    """
    if not parts:
        raise AdapterError("nothing to merge")
    names = dict.fromkeys(name for part in parts for name in part.targets)
    return LoraWeights(
        {name: _combined(name, [part.targets[name] for part in parts if name in part.targets]) for name in names}
    )


def _combined(name: str, targets: Sequence[LoraTarget]) -> LoraTarget:
    widths = {(target.a.shape[2], target.b.shape[1]) for target in targets}
    if len(widths) != 1:
        raise AdapterError(f"cannot merge `{name}`: widths (in, out) {sorted(widths)[:4]}")
    blocks = {}
    for block in sorted({layer for target in targets for layer in target.layers}):
        found = [(target, target.layers.index(block)) for target in targets if block in target.layers]
        a = np.concatenate([target.a[row] for target, row in found], axis=0)
        blocks[block] = (a, np.concatenate([target.b[row] for target, row in found], axis=1))
    return stack_blocks(name, blocks)
