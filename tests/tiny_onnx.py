"""Tiny ONNX bundles for tests: real graphs with random weights, a few kilobytes. Never shipped."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

FINGERPRINT = "ab" * 32


@dataclass(frozen=True)
class TinyBundle:
    """What to write. The graph gives one rank per token: a = ffn rows, b = a fixed matrix times hidden rows.

    With `chunks`, it takes the number of a document's chunks too and divides a by it. `constants` are outputs that no
    input changes.
    """

    hidden: int = 8
    ffn: int = 12
    blocks: int = 4
    taps: tuple[int, ...] = (0, 2)
    ffn_blocks: tuple[int, ...] = (1, 3)
    target: str = "ffn_down"
    chunk_tokens: int = 16
    fingerprint: str = FINGERPRINT
    architecture: str = "llama"
    prefix: str = ""
    suffix: str = ""
    bias: bool = True
    metric: bool = True
    floor: bool = False
    chunks: bool = False
    whitening: float = 0.0
    gain: float = 0.05
    constants: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    metadata: Mapping[str, object] = field(default_factory=dict)


def describe(tiny: TinyBundle) -> dict[str, object]:
    """The JSON object of the description, with `tiny.metadata` on top."""
    return {
        "format": 1,
        "name": "tiny",
        "kind": "document",
        "base": {
            "architecture": tiny.architecture,
            "block_count": tiny.blocks,
            "hidden_size": tiny.hidden,
            "ffn_size": tiny.ffn,
            "fingerprint": tiny.fingerprint,
        },
        "taps": list(tiny.taps),
        "ffn_blocks": list(tiny.ffn_blocks),
        "targets": {tiny.target: list(tiny.ffn_blocks)},
        "rank": 0,
        "chunk_tokens": tiny.chunk_tokens,
        "prefix": tiny.prefix,
        "suffix": tiny.suffix,
        "whitening": tiny.whitening,
        "licence": "Apache-2.0",
        "card": {"note": "random weights for tests"},
        **tiny.metadata,
    }


def bias_arrays(tiny: TinyBundle) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The constant bias adapter of rank 2 in the graph."""
    rng = np.random.default_rng(7)
    layers = len(tiny.ffn_blocks)
    a = rng.standard_normal((layers, 2, tiny.ffn)).astype(np.float32) * np.float32(0.1)
    return a, rng.standard_normal((layers, tiny.hidden, 2)).astype(np.float32) * np.float32(0.1)


def build(tiny: TinyBundle) -> onnx.ModelProto:
    """The model in memory."""
    rng = np.random.default_rng(5)
    layers = len(tiny.ffn_blocks)
    turn = rng.standard_normal((layers, tiny.hidden, tiny.hidden)).astype(np.float32) * np.float32(tiny.gain)
    constants: list[tuple[str, NDArray[np.generic]]] = [("turn", turn), ("last", np.array([len(tiny.taps) - 1]))]
    a, b = f"a.{tiny.target}", f"b.{tiny.target}"
    nodes = [
        helper.make_node("Div", ["ffn", "chunks"], [a]) if tiny.chunks else helper.make_node("Identity", ["ffn"], [a]),
        helper.make_node("Gather", ["activations", "last"], ["top"], axis=0),
        helper.make_node("Transpose", ["top"], ["columns"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["turn", "columns"], [b]),
    ]
    outputs = [
        helper.make_tensor_value_info(a, TensorProto.FLOAT, [layers, "tokens", tiny.ffn]),
        helper.make_tensor_value_info(b, TensorProto.FLOAT, [layers, tiny.hidden, "tokens"]),
    ]
    for name, array in _constant_outputs(tiny):
        constants.append((f"{name}.value", array))
        nodes.append(helper.make_node("Identity", [f"{name}.value"], [name]))
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape))
    inputs = [
        helper.make_tensor_value_info("activations", TensorProto.FLOAT, [len(tiny.taps), "tokens", tiny.hidden]),
        helper.make_tensor_value_info("ffn", TensorProto.FLOAT, [layers, "tokens", tiny.ffn]),
    ]
    if tiny.chunks:
        inputs.append(helper.make_tensor_value_info("chunks", TensorProto.FLOAT, [1]))
    initializers = [numpy_helper.from_array(array, name) for name, array in constants]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"localhyper": json.dumps(describe(tiny))})
    return model


def _constant_outputs(tiny: TinyBundle) -> Sequence[tuple[str, NDArray[np.float32]]]:
    layers = len(tiny.ffn_blocks)
    found: list[tuple[str, NDArray[np.float32]]] = []
    if tiny.bias:
        a, b = bias_arrays(tiny)
        found += [(f"bias_a.{tiny.target}", a), (f"bias_b.{tiny.target}", b)]
    if tiny.metric:
        basis = np.repeat(np.eye(tiny.ffn, 2, dtype=np.float32)[None], layers, axis=0)
        excess = np.full((layers, 2), 3.0, np.float32)
        found += [(f"metric_basis.{tiny.target}", basis), (f"metric_excess.{tiny.target}", excess)]
    if tiny.floor:
        found.append((f"metric_floor.{tiny.target}", np.arange(1, layers + 1).astype(np.float32)))
    return [*found, *tiny.constants.items()]


def search_arrays(
    tiny: TinyBundle, size: int = 4, seed: int = 11, head: str = "search"
) -> dict[str, NDArray[np.float32]]:
    """A search head that fits, or, called `parts`, what tells chunks apart beside one."""
    rng, width = np.random.default_rng(seed), len(tiny.taps) * tiny.hidden
    document = rng.standard_normal((width, size)).astype(np.float32)
    question = np.concatenate((document, np.zeros((width, 1), np.float32)), 1)
    scalars = np.array([0.5, 3.0, 0.25], np.float32)
    arrays = (np.zeros(width, np.float32), document, question, scalars)
    names = ("mean", "document", "question", "scalars")
    return {f"{head}_{name}": array for name, array in zip(names, arrays, strict=True)}


def write(path: Path, tiny: TinyBundle | None = None) -> Path:
    """Write a bundle and return its path."""
    path.write_bytes(build(tiny or TinyBundle()).SerializeToString())
    return path
