"""A published Doc-to-LoRA hypernetwork to one self-describing ONNX file, with a parity check through onnxruntime.

The graph takes raw taps of one chunk: the base model's final RMS norm, which the published context encoder puts over
its last hidden state, is part of it, and so is the scaling. Weights keep their published names in the file.
"""

from __future__ import annotations

import json
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from localhyper.atomic import atomic_path
from localhyper.base_header import BaseHeader
from localhyper.bundle import MAX_BYTES, MAX_CHUNK_TOKENS
from localhyper.engine import Activations
from localhyper.errors import HypernetworkError
from localhyper.export.onnx_bundle import HALF, HALF_ABOVE, OPSET, PARITY, Parity, describe_base
from localhyper.export.onnx_stream import Weight, write_model
from localhyper.export.perceiver import DocToLora, PerceiverConfig
from localhyper.export.published import TARGETS
from localhyper.hypernet import BUNDLE_FORMAT, METADATA_KEY, OnnxHypernetwork

NET = "net."
GRAPH_BYTES = 1 << 22  # nodes, description and norms beside the weights
Dtype = Literal["f32", "f16"]


@dataclass(frozen=True)
class FinalNorm:
    """The base model's last RMS norm.

    Attributes:
        weight: float32 [hidden], as it is multiplied: Gemma's one is added already.
        epsilon: Added to the mean square.
    """

    weight: Tensor
    epsilon: float


class PublishedGraph(nn.Module):
    """One chunk's taps in, LoRA matrices out: the arithmetic that the bundle ships."""

    final_norm: Tensor

    def __init__(self, net: DocToLora, scaling: float, norm: FinalNorm) -> None:
        super().__init__()
        self.net, self.scaling, self.epsilon = net, scaling, norm.epsilon
        self.register_buffer("final_norm", norm.weight)

    def features(self, taps: Tensor) -> Tensor:
        """Raw taps [taps, tokens, hidden] with the last one normed, as the published context encoder gives them."""
        if not self.net.config.last_tap_normed:
            return taps
        last = taps[-1:]
        scale = torch.rsqrt(last.square().mean(-1, keepdim=True) + self.epsilon)
        return torch.cat((taps[:-1], last * scale * self.final_norm))

    def forward(self, activations: Tensor) -> tuple[Tensor, ...]:
        """Taps [taps, tokens, hidden] to a [blocks, rank, d_in] and b [blocks, d_out, rank] of each module; biases."""
        aggregator = self.net.aggregator
        features, perceiver = self.features(activations), aggregator.perceiver
        # One tap after the other: 26 taps of 512 tokens at four times the width would be 500 MB, twice.
        taps = range(len(self.net.config.taps))
        context = torch.cat([perceiver.modality_projection(features[tap : tap + 1]) for tap in taps])
        latents = perceiver.decoder(perceiver.encoder(context, None), None)
        made = self.net.emit(latents.reshape(1, *aggregator.shape[:-1], latents.shape[-1]))
        out = []
        for module in self.net.config.modules:
            out += [made[module].a[0], made[module].b[0].transpose(1, 2) * self.scaling]
        for module in self.net.config.modules if self.net.config.use_bias else ():
            out += [self.net.bias_A[module] * 1.0, self.net.bias_B[module].transpose(1, 2) * self.scaling]
        return tuple(out)

    def output_names(self) -> list[str]:
        """Names of the outputs in their order."""
        parts = [("a", "b")] + ([("bias_a", "bias_b")] if self.net.config.use_bias else [])
        return [f"{part}.{TARGETS[module]}" for pair in parts for module in self.net.config.modules for part in pair]


def final_norm(base: BaseHeader) -> FinalNorm:
    """Read the base model's last norm out of its file.

    Raises:
        HypernetworkError: The file has none, or one of another width.
    """
    import gguf

    path, info = base.info.path, base.info
    reader = gguf.GGUFReader(path)
    found = next((tensor for tensor in reader.tensors if tensor.name == "output_norm.weight"), None)
    field = reader.get_field(f"{info.architecture}.attention.layer_norm_rms_epsilon")
    if found is None or field is None:
        raise HypernetworkError(f"base model `{path.name}` has no final norm", "take another file of the model")
    values = gguf.quants.dequantize(found.data, found.tensor_type).astype(np.float32).reshape(-1)
    if values.shape != (info.hidden_size,) or not np.isfinite(values).all():
        raise HypernetworkError(f"base model `{path.name}` has a damaged final norm", "fetch the file again")
    return FinalNorm(torch.from_numpy(values.copy()), float(field.contents()))


def choose_dtype(net: nn.Module, wanted: Literal["auto", "f32", "f16"]) -> Dtype:
    """Number format of the weights: float32 as published where the file stays below protobuf's 2 GiB.

    Raises:
        HypernetworkError: The file would not.
    """
    count = sum(parameter.numel() for parameter in net.parameters())
    if wanted == "auto":
        wanted = "f32" if 4 * count + GRAPH_BYTES <= MAX_BYTES else "f16"
    size = count * (4 if wanted == "f32" else 2) + GRAPH_BYTES
    if size > MAX_BYTES:
        hint = "half precision (--dtype f16) may fit" if wanted == "f32" else "a larger hypernetwork cannot be imported"
        raise HypernetworkError(
            f"the bundle would have {size} bytes as {wanted}, at most {MAX_BYTES} are possible", hint
        )
    return wanted


@torch.no_grad()
def round_weights(net: nn.Module) -> None:
    """Round large tensors to float16 in place: what an f16 bundle holds.

    Raises:
        HypernetworkError: A weight is too large for float16.
    """
    for name, tensor in net.named_parameters():
        if tensor.numel() < HALF_ABOVE:
            continue
        half = tensor.half()
        if not half.isfinite().all():
            raise HypernetworkError(f"weight `{name}` does not fit float16", "import it with --dtype f32")
        tensor.copy_(half)


def describe(config: PerceiverConfig, base: BaseHeader, facts: dict[str, Any]) -> dict[str, Any]:
    """The bundle's description (see `docs/formats.md`).

    `facts` has name, chunk_tokens, prefix, suffix, whether both are read with the chunk, licence and card.
    """
    return {
        "format": BUNDLE_FORMAT,
        "kind": "document",
        "base": describe_base(base.info),
        "taps": list(config.taps),
        "ffn_blocks": [],
        "targets": {TARGETS[module]: list(config.blocks) for module in config.modules},
        "rank": config.rank,
        **facts,
    }


def write_published(graph: PublishedGraph, path: Path, description: dict[str, Any], dtype: Dtype) -> Parity:
    """Export, check against torch at unseen lengths, and write atomically.

    Raises:
        HypernetworkError: torch and ONNX differ; nothing is written.
        OSError: The folder cannot be written, or the disk is full.
    """
    if dtype == "f16":
        round_weights(graph.net)
    with atomic_path(path) as draft:
        write_program(_export(graph), graph.net, dtype, description, draft)
        parity = check_published(graph, draft)
    return parity


def write_program(program: Any, net: nn.Module, dtype: Dtype, description: dict[str, Any], path: Path) -> None:
    """Write the file of an exported graph whose module `net` holds the weights, which are written one by one."""
    from onnxscript import ir

    weights = {f"{NET}{name}": tensor for name, tensor in net.state_dict().items()}
    values = program.model.graph.initializers
    used = [name for name in values if name in weights]
    for name in used:
        values[name].const_value = ir.tensor(np.zeros(1, np.float32), name=name)
    model: onnx.ModelProto = ir.to_proto(program.model)
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in weights]
    del model.graph.initializer[:], model.graph.value_info[:]
    model.graph.initializer.extend(kept)
    halves = [name for name in used if dtype == "f16" and weights[name].numel() >= HALF_ABOVE]
    casts = [helper.make_node("Cast", [name + HALF], [name], to=TensorProto.FLOAT) for name in halves]
    nodes = [*casts, *model.graph.node]
    for node in nodes:
        del node.metadata_props[:]  # tracebacks of the exporting machine
        node.doc_string = ""
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.producer_name, model.doc_string = "localhyper", ""
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, json.dumps(description, ensure_ascii=False)
    write_model(model, [_weight(name, weights[name], name in halves) for name in used], path)


def _weight(name: str, tensor: Tensor, half: bool) -> Weight:
    stored, dtype = (name + HALF, torch.float16) if half else (name, torch.float32)
    return Weight(stored, tuple(tensor.shape), "float16" if half else "float32", lambda: tensor.to(dtype).numpy())


def _export(graph: PublishedGraph) -> Any:
    config = graph.net.config
    tokens = torch.export.Dim("tokens", min=2, max=MAX_CHUNK_TOKENS)
    taps = torch.randn(len(config.taps), 37, config.hidden)
    return export_program(graph, "activations", taps, graph.output_names(), ({1: tokens},))


def export_program(
    graph: nn.Module, input_name: str, example: Tensor, outputs: list[str], dynamic_shapes: Any = None
) -> Any:
    """The torch exporter's graph without folding, so that weights stay as they are, under their names."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells of every operator of packages that are absent
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch 2.13's exporter calls its own deprecated functions
        return torch.onnx.export(
            graph,
            (example,),
            input_names=[input_name],
            output_names=outputs,
            dynamic_shapes=dynamic_shapes,
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            optimize=False,
            verbose=False,
        )


@torch.no_grad()
def check_published(graph: PublishedGraph, path: Path, lengths: tuple[int, ...] = (2, 61, 130)) -> Parity:
    """Compare everything that torch and onnxruntime give on random taps at lengths the export never saw."""
    session, config = OnnxHypernetwork.load(path), graph.net.config
    generator, worst = torch.Generator().manual_seed(0), 0.0
    tried = tuple(min(length, session.info.most_tokens) for length in lengths)
    for length in tried:
        taps = torch.randn(len(config.taps), length, config.hidden, generator=generator)
        want = dict(zip(graph.output_names(), graph(taps), strict=True))
        made = session.generate(Activations(taps.numpy(), np.empty((0, length, 0), np.float32))).targets
        bias = session.bias()
        got = {f"{part}.{name}": getattr(lora, part) for name, lora in made.items() for part in ("a", "b")}
        for name, lora in bias.targets.items() if bias is not None else ():
            got |= {f"bias_a.{name}": lora.a, f"bias_b.{name}": lora.b}
        if got.keys() != want.keys():
            raise HypernetworkError(f"the bundle gives {sorted(got)}, wanted {sorted(want)}")
        for name, values in want.items():
            size = max(1.0, float(values.abs().max()))
            worst = max(worst, float(np.abs(got[name] - values.numpy()).max()) / size)
    if worst > PARITY:
        raise HypernetworkError(f"torch and ONNX differ by {worst:.1e}, at most {PARITY:.0e} is allowed")
    return Parity(tried, worst)
