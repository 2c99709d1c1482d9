"""Tiny task hypernetworks and text embedders for tests: real ONNX graphs with random weights. Never shipped."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.tiny_onnx import FINGERPRINT

WORDS = ("sort", "the", "words", "alphabetically", "reverse", "answer", "in", "french", ".", "instruct", ":")
MODEL = "owner/tiny-embedder"
FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class TinyTask:
    """What to write: a and b are fixed matrices times the vector."""

    embedding: int = 6
    width: int = 8
    blocks: int = 4
    rank: int = 2
    target: str = "attn_output"
    fingerprint: str = FINGERPRINT
    architecture: str = "llama"
    hidden: int = 8
    metadata: Mapping[str, object] = field(default_factory=dict)


def describe_task(tiny: TinyTask) -> dict[str, object]:
    """The JSON object of the description, with `tiny.metadata` on top."""
    return {
        "format": 1,
        "name": "tiny-task",
        "kind": "task",
        "base": {
            "architecture": tiny.architecture,
            "block_count": tiny.blocks,
            "hidden_size": tiny.hidden,
            "fingerprint": tiny.fingerprint,
        },
        "embedding": {"size": tiny.embedding, "model": MODEL, "pooling": "first", "full_stop": True},
        "targets": {tiny.target: list(range(tiny.blocks))},
        "rank": tiny.rank,
        "chunk_tokens": 16,
        "licence": "Apache-2.0",
        **tiny.metadata,
    }


def task_matrices(tiny: TinyTask) -> tuple[FloatArray, FloatArray]:
    """What a and b are made with: [blocks · rank · width, E] each."""
    random = np.random.default_rng(11)
    shape = (2, tiny.blocks * tiny.rank * tiny.width, tiny.embedding)
    made = random.standard_normal(shape).astype(np.float32) * np.float32(0.1)
    return made[0], made[1]


def build_task(tiny: TinyTask) -> onnx.ModelProto:
    """The bundle in memory."""
    shapes = {"a": (tiny.blocks, tiny.rank, tiny.width), "b": (tiny.blocks, tiny.width, tiny.rank)}
    nodes, constants, outputs = [], [], []
    for (part, shape), matrix in zip(shapes.items(), task_matrices(tiny), strict=True):
        name = f"{part}.{tiny.target}"
        constants += [
            numpy_helper.from_array(matrix, f"{part}.matrix"),
            numpy_helper.from_array(np.array(shape, np.int64), f"{part}.shape"),
        ]
        nodes.append(helper.make_node("MatMul", [f"{part}.matrix", "embedding"], [f"{part}.flat"]))
        nodes.append(helper.make_node("Reshape", [f"{part}.flat", f"{part}.shape"], [name]))
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    inputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [tiny.embedding])]
    model = _model(nodes, inputs, outputs, constants)
    helper.set_model_props(model, {"localhyper": json.dumps(describe_task(tiny))})
    return model


def write_task(path: Path, tiny: TinyTask | None = None) -> Path:
    """Write a bundle and return its path."""
    path.write_bytes(build_task(tiny or TinyTask()).SerializeToString())
    return path


@dataclass(frozen=True)
class TinyEmbedder:
    """What to write: a token's state is its row of a table plus the mean of all rows."""

    embedding: int = 6
    inputs: tuple[str, ...] = ("input_ids", "attention_mask", "token_type_ids")
    output: str = "last_hidden_state"
    dtype: int = TensorProto.FLOAT
    gain: float = 1.0


def table(tiny: TinyEmbedder) -> FloatArray:
    """[vocabulary, E]."""
    rows = np.random.default_rng(3).standard_normal((len(WORDS) + 3, tiny.embedding)) * tiny.gain
    return rows.astype(np.float32)


def write_embedder(folder: Path, tiny: TinyEmbedder | None = None) -> Path:
    """Write an embedder's folder and return it."""
    tiny = tiny or TinyEmbedder()
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("ReduceMean", ["rows"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Add", ["rows", "mean"], ["sum"]),
        helper.make_node("Cast", ["sum"], [tiny.output], to=tiny.dtype),
    ]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"]) for name in tiny.inputs]
    shape: list[str | int | None] = ["batch", "tokens", tiny.embedding]
    outputs = [helper.make_tensor_value_info(tiny.output, tiny.dtype, shape)]
    model = _model(nodes, inputs, outputs, [numpy_helper.from_array(table(tiny), "table")])
    (folder / "onnx").mkdir(parents=True, exist_ok=True)
    (folder / "onnx" / "model.onnx").write_bytes(model.SerializeToString())
    write_tokenizer(folder / "tokenizer.json")
    return folder


def write_tokenizer(path: Path) -> None:
    """Whole words in lower case, [CLS] before and [SEP] after them, padded and cut by itself as some files say."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    names = ["[UNK]", "[CLS]", "[SEP]", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.enable_padding(length=64, pad_id=0, pad_token="[UNK]")
    tokenizer.enable_truncation(4)
    path.write_text(tokenizer.to_str(), encoding="utf-8")


def state(tiny: TinyEmbedder, ids: Sequence[int]) -> FloatArray:
    """What the embedder makes of these tokens, float32 [tokens, E]."""
    rows: FloatArray = table(tiny)[list(ids)]
    found: FloatArray = rows + rows.mean(0, keepdims=True)
    return found


def _model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: list[onnx.TensorProto],
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
