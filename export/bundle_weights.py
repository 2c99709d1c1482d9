"""Weights back out of a bundle, so that training can go on from one that was shipped.

The exporter folds constants: a weight may lie in the file transposed, reshaped, or as its exponential, under a name
that says nothing, or be one with another that happens to be equal. But which input of which node it feeds depends on
the sizes alone. So a twin of the same sizes with random weights is exported, each of its tensors is found in its file
by value, and the bundle's weights feed the same inputs. What comes out is held to the bundle by running both.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from localhyper.errors import HypernetworkError, LocalHyperError
from localhyper.export.hypernetwork import AssociationConfig, AssociationHypernetwork
from localhyper.export.onnx_bundle import HALF, PARITY, BundleGraph, check_parity, export_graph
from localhyper.hypernet import OnnxHypernetwork
from localhyper.lora import FloatArray

Use = tuple[int, int] | str  # number of a node and of its input, or an output of the graph


@dataclass(frozen=True)
class Form:
    """One way in which a tensor may lie in a file, and back."""

    there: Callable[[Tensor], Tensor]
    back: Callable[[Tensor], Tensor]


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _transposed(tensor: Tensor) -> Tensor:
    return tensor.mT if tensor.dim() > 1 else tensor


FORMS = (Form(_as_it_is, _as_it_is), Form(_transposed, _transposed), Form(torch.exp, torch.log))


@dataclass(frozen=True)
class Place:
    """Where a tensor, or a slice of it, lies in a file: one of its uses."""

    use: Use
    form: Form


def read_bundle_weights(path: Path, config: AssociationConfig) -> dict[str, Tensor]:
    """The state dict of the hypernetwork in a bundle, float32 with the values that the file holds.

    Args:
        path: An association bundle that `write_bundle` wrote.
        config: Its sizes: those of the recipe it was trained by.

    Raises:
        HypernetworkError: No bundle of these sizes, or one whose graph this version's exporter makes differently.
    """
    OnnxHypernetwork.load(path)  # checks a stranger's file before anything else reads it
    twin = _twin(config)
    places = _places(twin, path)
    held = _by_use(onnx.load(path))
    state = {name: _found(own, places[name], held, path) for name, own in twin.state_dict().items()}
    _check(path, config, state)
    return state


def _found(own: Tensor, places: Sequence[Place], held: Mapping[Use, FloatArray], path: Path) -> Tensor:
    """The bundle's values of one tensor, of which the twin's is `own`."""
    parts = []
    for place, twin_part in zip(places, [own] if len(places) == 1 else own, strict=True):
        values = held.get(place.use)
        if values is None or values.size != twin_part.numel():
            raise HypernetworkError(
                f"bundle {path} has other weights than looked for at {place.use}",
                "is the recipe the one that the bundle was trained by?",
            )
        shape = place.form.there(twin_part).shape
        parts.append(place.form.back(torch.from_numpy(values.copy()).reshape(shape)).contiguous())
    return parts[0] if len(parts) == 1 else torch.stack(parts)


def _twin(config: AssociationConfig) -> AssociationHypernetwork:
    """The same sizes; random values that no two tensors share, and that exp and log bear."""
    generator = torch.Generator().manual_seed(0)
    twin = AssociationHypernetwork(config).eval()
    for tensor in [*twin.parameters(), *twin.buffers()]:
        tensor.data = 0.5 + torch.rand(tensor.shape, generator=generator)
    return twin


def _places(twin: AssociationHypernetwork, path: Path) -> dict[str, list[Place]]:
    """Where each tensor of the twin lies in its file, and in which form."""
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "twin.onnx"
        export_graph(BundleGraph(twin), draft)
        held = _by_use(onnx.load(draft))
    by_size: dict[int, list[Use]] = {}
    for use, values in held.items():
        by_size.setdefault(values.size, []).append(use)
    found = {}
    for name, tensor in twin.state_dict().items():
        whole = _place(tensor, held, by_size)
        # The exporter cuts small tensors into the slices that are used.
        places = [whole] if whole else [_place(part, held, by_size) for part in tensor]
        if not places or None in places:
            raise HypernetworkError(f"this version's exporter hides `{name}`: weights of {path} cannot be read back")
        found[name] = [place for place in places if place]
    return found


def _place(tensor: Tensor, held: Mapping[Use, FloatArray], by_size: Mapping[int, list[Use]]) -> Place | None:
    """The first place and form that has the tensor's values."""
    for form in FORMS:
        wanted = form.there(tensor).reshape(-1).numpy()
        for use in by_size.get(tensor.numel(), ()):
            if np.allclose(held[use].reshape(-1), wanted, rtol=1e-6, atol=0):
                return Place(use, form)
    return None


def _by_use(model: onnx.ModelProto) -> dict[Use, FloatArray]:
    """Every float tensor by each of its uses; a tensor that was halved counts as where it is cast back."""
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    values = {
        entry.name.removesuffix(HALF): numpy_helper.to_array(entry).astype(np.float32)
        for entry in model.graph.initializer
        if entry.data_type in floats
    }
    uses: dict[Use, FloatArray] = {out.name: values[out.name] for out in model.graph.output if out.name in values}
    nodes = [node for node in model.graph.node if not (node.op_type == "Cast" and node.input[0].endswith(HALF))]
    for number, node in enumerate(nodes):
        uses.update({(number, i): values[name] for i, name in enumerate(node.input) if name in values})
    return uses


def _check(path: Path, config: AssociationConfig, state: Mapping[str, Tensor]) -> None:
    hypernetwork = AssociationHypernetwork(config).eval()
    try:
        hypernetwork.load_state_dict(state)
        difference = check_parity(BundleGraph(hypernetwork), path).max_difference
    except (LocalHyperError, RuntimeError, ValueError) as error:
        raise HypernetworkError(f"weights of {path} do not fit the recipe's sizes: {error}") from error
    if not difference <= PARITY:
        raise HypernetworkError(f"weights read from {path} differ from it by {difference:.1e}")
