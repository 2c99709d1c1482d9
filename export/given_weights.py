"""Weights that a run begins with: another run's checkpoint, or a bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from localhyper.errors import ConfigError
from localhyper.export.checkpoints import read_checkpoint
from localhyper.export.hypernetwork import AssociationConfig


def read_given(path: Path, device: torch.device, bundled: AssociationConfig) -> dict[str, Any]:
    """`hypernetwork` and `step` (None of a bundle).

    Args:
        path: A `checkpoint.pt` or a bundle.
        device: Where a checkpoint's tensors go.
        bundled: Sizes of the hypernetwork in a bundle.

    Raises:
        ConfigError: It is missing.
        HypernetworkError: A bundle of other sizes.
    """

    def of_bundle() -> dict[str, Tensor]:
        from localhyper.export.bundle_weights import read_bundle_weights

        return read_bundle_weights(path, bundled)

    return _read(path, device, of_bundle)


def read_given_task(path: Path, device: torch.device) -> dict[str, Any]:
    """`hypernetwork` and `step` (None of a bundle) of a task run.

    Raises:
        ConfigError: It is missing.
        HypernetworkError: No bundle, or one that no task run has made.
    """

    def of_bundle() -> dict[str, Tensor]:
        from localhyper.export.task_onnx import read_task_bundle

        return read_task_bundle(path)

    return _read(path, device, of_bundle)


def _read(path: Path, device: torch.device, of_bundle: Callable[[], dict[str, Tensor]]) -> dict[str, Any]:
    if path.suffix == ".onnx" and path.is_file():
        return {"hypernetwork": of_bundle(), "step": None}
    return read_checkpoint(path, device, or_bundle=True)


def take_given(module: nn.Module, path: Path, weights: Mapping[str, Tensor], fresh: Sequence[str] = ()) -> list[str]:
    """Load weights; what they do not have yet and what `fresh` names stays as it is, and is returned by name, sorted.

    Raises:
        ConfigError: They are of another hypernetwork, or it has no parameter of a name in `fresh`.
    """
    own = module.state_dict()
    if unknown := sorted(set(fresh) - set(own)):
        raise ConfigError(f"recipe key run.fresh names {unknown[0]!r}, which this hypernetwork lacks")
    weights = {name: values for name, values in weights.items() if name not in fresh}
    strange = [name for name, values in weights.items() if name not in own or own[name].shape != values.shape]
    if strange:
        raise ConfigError(f"checkpoint {path} has {strange[0]}, which does not fit this recipe's hypernetwork")
    module.load_state_dict(own | weights)
    return sorted(set(own) - set(weights))


def run_name(path: Path) -> str:
    """What the curve and the card call it."""
    return path.name if path.suffix == ".onnx" else path.parent.name
