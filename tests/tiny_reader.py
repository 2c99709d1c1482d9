"""A bundle for tasks as a trained one is built: it reads taps only, of all tokens at once, and adapts three modules.

Random weights of a real base model's sizes: `b` grows with what is read, so each description gives another adapter.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from localhyper.engine import BaseModelInfo

RANK = 16
BLOCKS = (10, 14, 18)
TAPS = (8, 16)


def widths(info: BaseModelInfo) -> dict[str, tuple[int, int]]:
    """Module to the widths of its input and output."""
    kv = info.hidden_size // info.head_count * info.head_count_kv
    return {
        "attn_q": (info.hidden_size, info.hidden_size),
        "attn_v": (info.hidden_size, kv),
        "ffn_down": (info.ffn_size, info.hidden_size),
    }


def write_reader(path: Path, info: BaseModelInfo, *, name: str = "tiny-reader", chunk_tokens: int = 128) -> Path:
    """Write a bundle for this base model and return its path."""
    random = np.random.default_rng(5)
    look = random.normal(0, 1, (len(TAPS), 1, info.hidden_size)).astype(np.float32)
    constants = [numpy_helper.from_array(look, "look"), numpy_helper.from_array(np.ones(1, np.float32), "one")]
    nodes = [
        helper.make_node("Mul", ["activations", "look"], ["seen"]),
        helper.make_node("ReduceMean", ["seen"], ["mean"], keepdims=0),
        helper.make_node("Sin", ["mean"], ["turn"]),
        helper.make_node("Add", ["turn", "one"], ["gain"]),
    ]
    outputs = []
    for target, (d_in, d_out) in widths(info).items():
        a = random.normal(0, d_in**-0.5, (len(BLOCKS), RANK, d_in)).astype(np.float32)
        b = random.normal(0, 0.05, (len(BLOCKS), d_out, RANK)).astype(np.float32)
        constants += [numpy_helper.from_array(a, f"{target}.a"), numpy_helper.from_array(b, f"{target}.b")]
        nodes.append(helper.make_node("Identity", [f"{target}.a"], [f"a.{target}"]))
        nodes.append(helper.make_node("Mul", [f"{target}.b", "gain"], [f"b.{target}"]))
        outputs.append(helper.make_tensor_value_info(f"a.{target}", TensorProto.FLOAT, a.shape))
        outputs.append(helper.make_tensor_value_info(f"b.{target}", TensorProto.FLOAT, b.shape))
    shape: list[str | int | None] = [len(TAPS), "tokens", info.hidden_size]
    inputs = [helper.make_tensor_value_info("activations", TensorProto.FLOAT, shape)]
    graph = helper.make_graph(nodes, "reader", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"localhyper": json.dumps(_describe(info, name, chunk_tokens))})
    path.write_bytes(model.SerializeToString())
    return path


def _describe(info: BaseModelInfo, name: str, chunk_tokens: int) -> dict[str, object]:
    return {
        "format": 1,
        "name": name,
        "kind": "task",
        "base": {
            "architecture": info.architecture,
            "block_count": info.block_count,
            "hidden_size": info.hidden_size,
            "ffn_size": info.ffn_size,
            "fingerprint": info.fingerprint,
        },
        "taps": list(TAPS),
        "ffn_blocks": [],
        "targets": {target: list(BLOCKS) for target in widths(info)},
        "rank": RANK,
        "chunk_tokens": chunk_tokens,
        "prefix": "",
        "suffix": "",
        "licence": "Apache-2.0",
        "card": {"note": "random weights for tests"},
    }
