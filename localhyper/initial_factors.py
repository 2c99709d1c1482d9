"""What learning a task's examples begins with, where a hypernetwork's bundle holds it.

They were learnt over many tasks, each of which was learnt from them (`localhyper.export.initial_train`). Knows no
engine and no file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from localhyper.engine import FloatArray
from localhyper.errors import AdapterError, HypernetworkError
from localhyper.lora import LoraTarget, LoraWeights, validate

INITIAL_OUTPUTS = ("initial_a", "initial_b")  # of a bundle, each followed by a dot and a module's name


@dataclass(frozen=True)
class InitialFactors:
    """LoRA matrices of a base model's last blocks.

    Attributes:
        weights: Of one rank and of the same blocks for every module.
    """

    weights: LoraWeights

    @property
    def start(self) -> int:
        """The first block."""
        return min(target.layers[0] for target in self.weights.targets.values())

    @property
    def rank(self) -> int:
        """Of each matrix."""
        return self.weights.rank


def make_initial(values: Mapping[str, FloatArray], block_count: int) -> InitialFactors:
    """Factors of the arrays that a bundle holds.

    Args:
        values: `initial_a.MODULE` [blocks, rank, inputs] and `initial_b.MODULE` [blocks, outputs, rank] of each module.
        block_count: Blocks of the base model; the factors are of the last ones.

    Raises:
        HypernetworkError: An array is missing, has another shape or values that are not finite.
    """
    targets: dict[str, LoraTarget] = {}
    for module in sorted({name.split(".", 1)[1] for name in values}):
        a, b = (values.get(f"{name}.{module}") for name in INITIAL_OUTPUTS)
        if a is None or b is None:
            raise HypernetworkError(f"factors to begin with of `{module}` need {' and '.join(INITIAL_OUTPUTS)}")
        count = len(a) if a.ndim else 0
        if not 0 < count <= block_count:
            raise HypernetworkError(
                f"factors to begin with of `{module}` must be of 1 to {block_count} blocks, got {list(a.shape)}"
            )
        targets[module] = LoraTarget(tuple(range(block_count - count, block_count)), a, b)
    try:
        weights = validate(LoraWeights(targets))
    except AdapterError as error:
        raise HypernetworkError(f"factors to begin with: {error.message}") from error
    if len({(target.layers, target.rank) for target in targets.values()}) != 1:
        raise HypernetworkError("factors to begin with must be of the same blocks and of one rank")
    return InitialFactors(weights)
