"""Counting operations: tokens that are shared, weights of adapters and graphs, the reading of a description."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest

from localhyper.bundle import read_bundle
from localhyper.evaluate.task_costs import (
    Spent,
    adapter_weights,
    answer_flops,
    common_beginning,
    made_of_description,
    onnx_weights,
    tree_tokens,
)
from localhyper.gguf_adapter import AdapterMetadata, write_adapter
from localhyper.lora import LoraTarget, LoraWeights
from tests.fakes import fake_info
from tests.tiny_onnx import TinyBundle, write
from tests.tiny_task import TinyTask, write_embedder, write_task


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """Rank 2 on one block of the fake model, from a description of seven tokens."""
    info = fake_info()
    a, b = np.ones((1, 2, info.ffn_size), np.float32), np.ones((1, info.hidden_size, 2), np.float32)
    metadata = AdapterMetadata("a", source_tokens=7, rank=2)
    write_adapter(tmp_path / "a.gguf", LoraWeights({"ffn_down": LoraTarget((1,), a, b)}), info, metadata)
    return tmp_path / "a.gguf"


def ids(text: str) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    return np.array([ord(letter) for letter in text], np.int32)


def test_tokens_in_common_are_read_once() -> None:
    assert common_beginning(ids("abcd"), ids("abx")) == 2 and common_beginning(ids("ab"), ids("abc")) == 2
    assert common_beginning(ids("x"), ids("")) == 0
    assert tree_tokens([ids("prompt a"), ids("prompt bb"), ids("promised")]) == 8 + 2 + 4


def test_an_answer_costs_two_operations_for_each_weight_and_token() -> None:
    spent = Spent(prompt_tokens=100, reused_tokens=80, reply_tokens=10, seconds=1.0)
    assert answer_flops(1e6, spent) == 2e6 * 110
    assert answer_flops(1e6, spent, in_a_row=True) == 2e6 * 30


def test_weights_are_counted_in_files(tmp_path: Path, adapter: Path) -> None:
    info = fake_info()
    assert adapter_weights(adapter) == 2 * (info.ffn_size + info.hidden_size)
    bundle = write(tmp_path / "b.onnx", TinyBundle())
    graph = onnx.load(bundle).graph
    assert onnx_weights(bundle) == sum(math.prod(tensor.dims) for tensor in graph.initializer) > 100
    (tmp_path / "bad").write_bytes(b"\xff" * 40)
    assert onnx_weights(tmp_path / "bad") == onnx_weights(tmp_path / "none") == adapter_weights(tmp_path / "bad") == 0


def test_reading_a_description_runs_the_blocks_up_to_the_last_one_read(tmp_path: Path, adapter: Path) -> None:
    tiny = TinyBundle(hidden=16, ffn=32, taps=(2,), ffn_blocks=(1,), metadata={"kind": "task"})
    bundle = read_bundle(write(tmp_path / "b.onnx", tiny))
    spent = made_of_description(adapter, 0.5, fake_info(), bundle, 3, None)
    assert (spent.description_tokens, spent.seconds) == (7, 0.5)
    assert spent.encode_flops == 2 * 1000 * (2 / 4) * (7 + 3), "blocks 0 and 1 of four, 1000 weights in all"
    assert spent.generate_flops == 2 * onnx_weights(bundle.path) * (10 + 1)
    assert spent.flops == spent.encode_flops + spent.generate_flops
    taught = made_of_description(adapter, 0.5, fake_info(), bundle, 3, None, 5e5)
    assert taught.learn_flops == 5e5 == taught.flops - spent.flops


def test_an_embedder_reads_the_description_in_the_base_models_place(tmp_path: Path, adapter: Path) -> None:
    bundle = read_bundle(write_task(tmp_path / "t.onnx", TinyTask()))
    embedder = write_embedder(tmp_path / "e") / "onnx" / "model.onnx"
    spent = made_of_description(adapter, 0.5, fake_info(), bundle, 0, embedder)
    assert spent.encode_flops == 2 * onnx_weights(embedder) * 7 > 0
    assert spent.generate_flops == 2 * onnx_weights(bundle.path) * (1 + 4)
