"""Weights back out of a bundle, so that training can go on from one that was shipped.

The exporter folds constants: a weight may lie in the file transposed, reshaped, or as its exponential, under a name
that says nothing. But what it does depends on the graph alone. So a twin of the same sizes with random weights is
exported, each of its tensors is found in its file by value, and the bundle's weights lie in the same places. What comes
out is held to the bundle by running both.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor

from localhyper.errors import HypernetworkError, LocalHyperError
from localhyper.export.hypernetwork import AssociationConfig, AssociationHypernetwork
from localhyper.export.metric import LowRankMoment
from localhyper.export.onnx_bundle import PARITY, BundleGraph, check_parity, export_graph
from localhyper.hypernet import OnnxHypernetwork

HALF = ".half"
FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Form:
    """One way in which a tensor may lie in a file, and back."""

    there: Callable[[Tensor], Tensor]
    back: Callable[[Tensor], Tensor]


FORMS = (
    Form(lambda t: t, lambda t: t),
    Form(lambda t: t.transpose(-1, -2) if t.dim() > 1 else t, lambda t: t.transpose(-1, -2) if t.dim() > 1 else t),
    Form(torch.exp, torch.log),
)


def read_bundle_weights(path: Path, config: AssociationConfig) -> dict[str, Tensor]:
    """The state dict of the hypernetwork in a bundle, float32 with the values that the file holds.

    Args:
        path: An association bundle that `write_bundle` wrote.
        config: Its sizes: those of the recipe it was trained by.

    Raises:
        HypernetworkError: No bundle of these sizes, or one whose graph this version's exporter makes differently.
    """
    OnnxHypernetwork.load(path)  # checks a stranger's file before anything else reads it
    held = _initializers(onnx.load(path))
    twin = _twin(config)
    places = _places(twin, path)
    state = {}
    for name, own in twin.state_dict().items():
        place, form = places[name]
        if place not in held or held[place].size != own.numel():
            raise HypernetworkError(
                f"bundle {path} does not have `{name}` where it was looked for",
                "is the recipe the one that the bundle was trained by?",
            )
        values = form.back(torch.from_numpy(held[place].copy()).reshape(form.there(own).shape))
        state[name] = values.contiguous()
    _check(path, config, state)
    return state


def _twin(config: AssociationConfig) -> AssociationHypernetwork:
    """The same sizes; random values that no two tensors share, and that exp and log bear."""
    blocks, rank = len(config.blocks), config.metric_rank
    generator = torch.Generator().manual_seed(0)
    moment = LowRankMoment(torch.zeros(blocks, config.ffn, rank), torch.zeros(blocks, rank), torch.zeros(blocks))
    twin = AssociationHypernetwork(config, moment).eval()
    for tensor in [*twin.parameters(), *twin.buffers()]:
        tensor.data = 0.5 + torch.rand(tensor.shape, generator=generator)
    return twin


def _places(twin: AssociationHypernetwork, path: Path) -> dict[str, tuple[str, Form]]:
    """Where each tensor of the twin lies in its file, and in which form."""
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "twin.onnx"
        export_graph(BundleGraph(twin), draft)
        held = _initializers(onnx.load(draft))
    by_size: dict[int, list[str]] = {}
    for name, values in held.items():
        by_size.setdefault(values.size, []).append(name)
    found = {}
    for name, tensor in twin.state_dict().items():
        match = next((m for m in _matches(tensor, held, by_size)), None)
        if match is None:
            raise HypernetworkError(f"this version's exporter hides `{name}`: weights of {path} cannot be read back")
        found[name] = match
    return found


def _matches(
    tensor: Tensor, held: Mapping[str, FloatArray], by_size: Mapping[int, list[str]]
) -> list[tuple[str, Form]]:
    """Every place and form that has the tensor's values."""
    out = []
    for form in FORMS:
        wanted = form.there(tensor).reshape(-1).numpy()
        for place in by_size.get(tensor.numel(), ()):
            if np.allclose(held[place].reshape(-1), wanted, rtol=1e-6, atol=0):
                out.append((place, form))
    return out


def _initializers(model: onnx.ModelProto) -> dict[str, FloatArray]:
    """Every float tensor of the graph by the name it had before it was halved."""
    return {
        entry.name.removesuffix(HALF): numpy_helper.to_array(entry).astype(np.float32)
        for entry in model.graph.initializer
        if entry.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    }


def _check(path: Path, config: AssociationConfig, state: Mapping[str, Tensor]) -> None:
    hypernetwork = AssociationHypernetwork(config).eval()
    try:
        hypernetwork.load_state_dict(state)
        difference = check_parity(BundleGraph(hypernetwork), path).max_difference
    except (LocalHyperError, RuntimeError, ValueError) as error:
        raise HypernetworkError(f"weights of {path} do not fit the recipe's sizes: {error}") from error
    if not difference <= PARITY:
        raise HypernetworkError(f"weights read from {path} differ from it by {difference:.1e}")
