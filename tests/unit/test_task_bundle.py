"""Bundles that read a vector of a description: their description, inputs and outputs, and what else they are given."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from localhyper.bundle import EmbeddingSpec, check_kind, read_bundle
from localhyper.engine import Activations
from localhyper.errors import HypernetworkError
from localhyper.hypernet import OnnxHypernetwork
from tests.tiny_onnx import TinyBundle, write
from tests.tiny_task import MODEL, TinyTask, build_task, task_matrices, write_task


def test_the_description_says_what_vector_is_read(tmp_path: Path) -> None:
    info = read_bundle(write_task(tmp_path / "t.onnx"))
    assert info.embedding == EmbeddingSpec(6, MODEL, "first", full_stop=True)
    assert (info.kind, info.rank, info.chunk_tokens) == ("task", 2, 16)
    assert not info.capture.taps and not info.capture.ffn_blocks


def test_a_vector_becomes_the_graphs_matrices(tmp_path: Path) -> None:
    tiny = TinyTask()
    network = OnnxHypernetwork.load(write_task(tmp_path / "t.onnx", tiny), threads=1)
    vector = np.arange(1, 7).astype(np.float32)
    target = network.from_embedding(vector).targets["attn_output"]
    a, b = task_matrices(tiny)
    assert (target.layers, target.rank) == ((0, 1, 2, 3), 2)
    np.testing.assert_allclose(target.a, (a @ vector).reshape(4, 2, 8), atol=1e-5)
    np.testing.assert_allclose(target.b, (b @ vector).reshape(4, 8, 2), atol=1e-5)
    assert network.bias() is None and not network.metrics()


@pytest.mark.parametrize(
    "vector,wanted",
    [
        (np.ones(5, np.float32), "must be float32 [6], got float32 [5]"),
        (np.ones((1, 6), np.float32), "must be float32 [6]"),
        (np.ones(6, np.float64), "got float64"),
        (np.zeros(6, np.float32), "is zero"),
        (np.full(6, np.nan, np.float32), "not finite"),
    ],
)
def test_other_vectors_are_refused(tmp_path: Path, vector: np.ndarray, wanted: str) -> None:
    network = OnnxHypernetwork.load(write_task(tmp_path / "t.onnx"), threads=1)
    with pytest.raises(HypernetworkError) as caught:
        network.from_embedding(vector)
    assert wanted in caught.value.message


def test_vectors_and_activations_are_not_confused(tmp_path: Path) -> None:
    task = OnnxHypernetwork.load(write_task(tmp_path / "t.onnx"), threads=1)
    document = OnnxHypernetwork.load(write(tmp_path / "d.onnx"), threads=1)
    with pytest.raises(HypernetworkError, match="reads a vector of a text, not activations"):
        task.generate(Activations(np.zeros((2, 3, 8), np.float32), np.zeros((2, 3, 12), np.float32)))
    with pytest.raises(HypernetworkError, match="reads activations, not a vector"):
        document.from_embedding(np.ones(6, np.float32))
    with pytest.raises(HypernetworkError, match="turns task descriptions into adapters, not documents"):
        check_kind(task.info, "document")


@pytest.mark.parametrize(
    "metadata,field",
    [
        ({"embedding": 6}, "embedding"),
        ({"embedding": {}}, "embedding.size"),
        ({"embedding": {"size": 0}}, "embedding.size"),
        ({"embedding": {"size": 1 << 20}}, "embedding.size"),
        ({"embedding": {"size": 6, "pooling": "max"}}, "embedding.pooling"),
        ({"embedding": {"size": 6, "prefix": 5}}, "embedding.prefix"),
        ({"embedding": {"size": 6, "full_stop": "yes"}}, "embedding.full_stop"),
        ({"embedding": {"size": 6, "model": "m" * 201}}, "embedding.model"),
        ({"embedding": {"size": 6}, "taps": [1]}, "embedding"),
        ({"embedding": {"size": 6}, "ffn_blocks": [1]}, "embedding"),
        ({"kind": "document"}, "embedding"),
    ],
)
def test_wrong_descriptions_name_the_field(tmp_path: Path, metadata: dict[str, object], field: str) -> None:
    path = write_task(tmp_path / "t.onnx", TinyTask(metadata=metadata))
    with pytest.raises(HypernetworkError) as caught:
        read_bundle(path)
    assert f"`{field}` must be" in caught.value.message


def test_a_graph_with_other_inputs_than_described_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.onnx"
    with pytest.raises(HypernetworkError, match="`embedding` must be"):
        OnnxHypernetwork.load(write_task(path, TinyTask(metadata={"embedding": {"size": 7}})), threads=1)
    model = build_task(TinyTask())
    model.graph.input.append(build_task(TinyTask()).graph.input[0])
    model.graph.input[1].name = "chunks"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(HypernetworkError, match=r"has inputs \['chunks', 'embedding'\]"):
        OnnxHypernetwork.load(path, threads=1)
    with pytest.raises(HypernetworkError, match="at least one tap"):
        read_bundle(write(path, replace(TinyBundle(), taps=(), metadata={"taps": [], "ffn_blocks": []})))
