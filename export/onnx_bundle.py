"""A trained hypernetwork to one self-describing ONNX file, with a parity check through onnxruntime.

Weights are rounded to float16 in the file and cast up when it runs: arithmetic stays float32, so torch with the same
rounded weights and ONNX agree to float32 accuracy.
"""

from __future__ import annotations

import copy
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from localhyper.atomic import write_bytes_atomic
from localhyper.engine import Activations, BaseModelInfo
from localhyper.errors import HypernetworkError
from localhyper.export.hypernetwork import AssociationHypernetwork
from localhyper.hypernet import BUNDLE_FORMAT, METADATA_KEY, OnnxHypernetwork

TARGET = "ffn_down"
OPSET = 20
HALF_ABOVE = 4096  # smaller tensors stay float32: norms, gains and biases cost nothing and shift everything
HALF = ".half"  # ends the name of an initializer that lies in the file as float16 and is cast up
PARITY = 1e-4


class BundleGraph(nn.Module):
    """One chunk in, LoRA matrices out: the arithmetic that the bundle ships."""

    def __init__(self, hypernetwork: AssociationHypernetwork) -> None:
        super().__init__()
        self.inner = hypernetwork

    def forward(self, activations: Tensor, ffn: Tensor, chunks: Tensor) -> tuple[Tensor, ...]:
        """Activations [taps, tokens, hidden], ffn [blocks, tokens, ffn], chunks [1] to a, b, bias and metric."""
        mask = torch.ones_like(activations[0, :, :1]).transpose(0, 1)
        a, b = self.inner(activations[None], ffn[None], mask, chunks)
        out = [a[0], b[0]]
        if self.inner.config.bias_rank:
            out += [self.inner.bias_a * 1.0, self.inner.bias_b * 1.0]
        return (*out, self.inner.basis * 1.0, self.inner.excess * 1.0, self.inner.floor())

    def output_names(self) -> list[str]:
        """Names of the outputs in their order."""
        parts = ["a", "b"] + (["bias_a", "bias_b"] if self.inner.config.bias_rank else [])
        return [f"{part}.{TARGET}" for part in [*parts, "metric_basis", "metric_excess", "metric_floor"]]


@dataclass(frozen=True)
class Parity:
    """Largest difference of a and b between torch and onnxruntime (`difference`), and the lengths tried."""

    lengths: tuple[int, ...]
    max_difference: float


def rounded(hypernetwork: AssociationHypernetwork) -> AssociationHypernetwork:
    """A float32 copy on the CPU whose large tensors hold float16 values: what the bundle holds."""
    copied = copy.deepcopy(hypernetwork).float().cpu().eval()
    for tensor in [*copied.parameters(), *copied.buffers()]:
        if tensor.numel() >= HALF_ABOVE:
            tensor.data = tensor.data.half().float()
    return copied


def export_graph(graph: BundleGraph, path: Path) -> None:
    """The graph in float32, as torch's exporter folds and names it."""
    c = graph.inner.config
    tokens = torch.export.Dim("tokens", min=2, max=c.max_tokens)
    example = (torch.randn(len(c.taps), 37, c.hidden), torch.randn(len(c.blocks), 37, c.ffn), torch.tensor([3.0]))
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells of every operator of packages that are absent
    with warnings.catch_warnings():
        # torch 2.13's exporter calls its own deprecated functions and names both token axes as one.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph,
            example,
            path,
            input_names=["activations", "ffn", "chunks"],
            output_names=graph.output_names(),
            dynamic_shapes=({1: tokens}, {1: tokens}, None),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def halve_initializers(model: onnx.ModelProto) -> None:
    """Store large float32 initializers as float16 followed by a Cast to float32."""
    casts = []
    for initializer in list(model.graph.initializer):
        if initializer.data_type != TensorProto.FLOAT or int(np.prod(initializer.dims)) < HALF_ABOVE:
            continue
        values = numpy_helper.to_array(initializer)
        half = values.astype(np.float16)
        if not np.isfinite(half).all():
            raise HypernetworkError(
                f"weight {initializer.name} does not fit float16", "retrain with a smaller learning rate"
            )
        name = initializer.name
        casts.append(helper.make_node("Cast", [name + HALF], [name], to=TensorProto.FLOAT))
        model.graph.initializer.remove(initializer)
        model.graph.initializer.append(numpy_helper.from_array(half, name + HALF))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(casts + nodes)


def update_description(model: onnx.ModelProto, fields: dict[str, object]) -> None:
    """Replace fields of a bundle's description."""
    for entry in model.metadata_props:
        if entry.key == METADATA_KEY:
            entry.value = json.dumps(json.loads(entry.value) | fields, ensure_ascii=False)


def take_out(model: onnx.ModelProto, gone: Callable[[str], bool]) -> None:
    """Take outputs, nodes and initializers of such names out of a bundle."""
    for kept in (model.graph.output, model.graph.node, model.graph.initializer):
        for item in [item for item in kept if gone(item.name)]:
            kept.remove(item)


def write_changed(model: onnx.ModelProto, out: Path, look: Callable[[OnnxHypernetwork], object]) -> None:
    """Write a bundle that was changed, atomically, once it loads and `look` has found what was put in.

    Raises:
        HypernetworkError: It does not load, or `look` says so; nothing is written.
    """
    onnx.checker.check_model(model)
    data = model.SerializeToString()
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / out.name
        draft.write_bytes(data)
        look(OnnxHypernetwork.load(draft))
    write_bytes_atomic(out, data)


def describe_base(base: BaseModelInfo) -> dict[str, object]:
    """What a bundle's description says of its base model."""
    return {
        "architecture": base.architecture,
        "block_count": base.block_count,
        "hidden_size": base.hidden_size,
        "ffn_size": base.ffn_size,
        "fingerprint": base.fingerprint,
    }


def describe(
    hypernetwork: AssociationHypernetwork, base: BaseModelInfo, name: str, prefix: str, card: dict[str, Any]
) -> dict[str, Any]:
    """The bundle's description (see `docs/formats.md`)."""
    c = hypernetwork.config
    return {
        "format": BUNDLE_FORMAT,
        "name": name,
        "kind": "document",
        "base": describe_base(base),
        "taps": list(c.taps),
        "ffn_blocks": list(c.blocks),
        "targets": {TARGET: list(c.blocks)},
        "rank": 0,
        "chunk_tokens": c.max_tokens,
        "prefix": prefix,
        "suffix": "",
        "whitening": c.whitening,
        "licence": "Apache-2.0",
        "card": card,
    }


def write_bundle(
    hypernetwork: AssociationHypernetwork,
    base: BaseModelInfo,
    path: Path,
    *,
    name: str,
    prefix: str,
    card: dict[str, Any],
) -> Parity:
    """Export, check against torch at unseen lengths, and write atomically.

    Raises:
        HypernetworkError: torch and ONNX differ by more than 1e-4; nothing is written.
    """
    graph = BundleGraph(rounded(hypernetwork)).eval()
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "draft.onnx"
        export_graph(graph, draft)
        model = onnx.load(draft)
        halve_initializers(model)
        entry = model.metadata_props.add()
        entry.key = METADATA_KEY
        entry.value = json.dumps(describe(graph.inner, base, name, prefix, card), ensure_ascii=False)
        model.producer_name, model.doc_string = "localhyper", ""
        for node in model.graph.node:
            del node.metadata_props[:]  # tracebacks of the exporting machine
            node.doc_string = ""
        del model.graph.value_info[:]
        onnx.checker.check_model(model)
        draft.write_bytes(model.SerializeToString())
        parity = check_parity(graph, draft)
        if parity.max_difference > PARITY:
            raise HypernetworkError(
                f"torch and ONNX differ by {parity.max_difference:.1e}, at most {PARITY:.0e} is allowed"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomic(path, draft.read_bytes())
    return parity


def difference(have: np.ndarray[Any, Any], want: Tensor) -> float:
    """Largest absolute difference, relative to the largest value where that is above 1.

    A trained late block writes values of 75: float32 alone moves them by 4e-5 (torch against its own float64).
    """
    expected = want.numpy()
    return float(np.abs(have - expected).max()) / max(1.0, float(np.abs(expected).max()))


@torch.no_grad()
def check_parity(graph: BundleGraph, path: Path, lengths: Sequence[int] = (2, 61, 256)) -> Parity:
    """Compare a and b of torch and onnxruntime on random activations at lengths the export never saw."""
    session, c = OnnxHypernetwork.load(path), graph.inner.config
    generator, worst = torch.Generator().manual_seed(0), 0.0
    tried = tuple(min(length, c.max_tokens) for length in lengths)
    for length in tried:
        activations = torch.randn(len(c.taps), length, c.hidden, generator=generator)
        ffn = torch.randn(len(c.blocks), length, c.ffn, generator=generator)
        chunks = length  # any number will do
        a, b, *_ = graph(activations, ffn, torch.tensor([float(chunks)]))
        made = session.generate(Activations(activations.numpy(), ffn.numpy()), chunks).targets[TARGET]
        worst = max(worst, difference(made.a, a), difference(made.b, b))
    return Parity(tried, worst)
