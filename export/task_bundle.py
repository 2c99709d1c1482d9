"""A published Text-to-LoRA hypernetwork to one self-describing ONNX file, with a parity check through onnxruntime.

The graph takes the description's vector as its model gives it: the norm that the hypernetwork was trained with is part
of the graph, and so are the LoRA scaling and the order of rows of the GGUF base. A vector that is scaled already comes
out the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from localhyper.atomic import atomic_path
from localhyper.base_header import BaseHeader
from localhyper.errors import HypernetworkError
from localhyper.export.onnx_bundle import PARITY, describe_base, difference
from localhyper.export.published import TARGETS
from localhyper.export.published_bundle import Dtype, export_program, round_weights, write_program
from localhyper.export.text_to_lora import TextToLora, scaled
from localhyper.hypernet import BUNDLE_FORMAT, OnnxHypernetwork

MAX_TOKENS = 8192  # of a description, as in training
# Models whose use is specified: how a description becomes their vector.
KNOWN_EMBEDDERS: dict[str, dict[str, object]] = {
    "alibaba-nlp/gte-large-en-v1.5": {"pooling": "first", "prefix": "", "full_stop": True},
}


class TaskGraph(nn.Module):
    """A description's vector in, LoRA matrices out: the arithmetic that the bundle ships."""

    def __init__(self, net: TextToLora, scaling: float, base: BaseHeader) -> None:
        super().__init__()
        info = base.info
        heads = {"q_proj": info.head_count, "k_proj": info.head_count_kv} if info.architecture == "llama" else {}
        self.net, self.scaling, self.heads = net, scaling, heads

    def forward(self, embedding: Tensor) -> tuple[Tensor, ...]:
        """A vector [E] to a [blocks, rank, d_in] and b [blocks, d_out, rank] of each module."""
        out: list[Tensor] = []
        for module, pair in self.net(scaled(embedding)).items():
            out += [pair.a * 1.0, self._rows(module, pair.b) * self.scaling]
        return tuple(out)

    def _rows(self, module: str, b: Tensor) -> Tensor:
        """Rows of queries and keys in the order that llama.cpp's converter gives them: halves of a head to pairs."""
        if module not in self.heads:
            return b
        blocks, rows, rank = b.shape
        return b.reshape(blocks, self.heads[module], 2, -1, rank).transpose(2, 3).reshape(blocks, rows, rank)

    def output_names(self) -> list[str]:
        """Names of the outputs in their order."""
        return [f"{part}.{TARGETS[module]}" for module in self.net.config.modules for part in ("a", "b")]


def describe_task(net: TextToLora, base: BaseHeader, embedding_model: str, facts: dict[str, Any]) -> dict[str, Any]:
    """The bundle's description (see `docs/formats.md`); `facts` has name, licence and card."""
    config = net.config
    known = KNOWN_EMBEDDERS.get(embedding_model.lower(), {})
    return {
        "format": BUNDLE_FORMAT,
        "kind": "task",
        "base": describe_base(base.info),
        "embedding": {"size": config.embedding, "model": embedding_model, **known},
        "targets": {TARGETS[module]: list(range(config.blocks)) for module in config.modules},
        "rank": config.rank,
        "chunk_tokens": MAX_TOKENS,
        **facts,
    }


def write_task(graph: TaskGraph, path: Path, description: dict[str, Any], dtype: Dtype) -> float:
    """Export, check against torch, and write atomically; the largest difference, relative above 1.

    Raises:
        HypernetworkError: torch and ONNX differ; nothing is written.
        OSError: The folder cannot be written, or the disk is full.
    """
    if dtype == "f16":
        round_weights(graph.net)
    with atomic_path(path) as draft:
        example = torch.randn(graph.net.config.embedding)
        program = export_program(graph, "embedding", example, graph.output_names())
        write_program(program, graph.net, dtype, description, draft)
        return check_task(graph, draft)


@torch.no_grad()
def check_task(graph: TaskGraph, path: Path, vectors: int = 3) -> float:
    """Compare what torch and onnxruntime give on random vectors of several lengths."""
    session, generator, worst = OnnxHypernetwork.load(path), torch.Generator().manual_seed(0), 0.0
    for index in range(vectors):
        vector = torch.randn(graph.net.config.embedding, generator=generator) * 10.0 ** (index - 1)
        made = session.from_embedding(vector.numpy()).targets
        got = [
            array for module in graph.net.config.modules for array in (made[TARGETS[module]].a, made[TARGETS[module]].b)
        ]
        for have, want in zip(got, graph(vector), strict=True):
            worst = max(worst, difference(have, want))
    if not worst <= PARITY:
        raise HypernetworkError(f"torch and ONNX differ by {worst:.1e}, at most {PARITY:.0e} is allowed")
    return worst
