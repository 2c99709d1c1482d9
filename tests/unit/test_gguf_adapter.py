"""Adapter files: exact round trips, keys as llama.cpp wants them, atomic writes, checks against a base."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localhyper.base_header import read_base_info
from localhyper.engine import BaseModelInfo
from localhyper.errors import AdapterError
from localhyper.gguf_adapter import (
    AdapterMetadata,
    check_adapter,
    permute_for_base,
    read_adapter,
    read_architecture,
    read_metadata,
    unpermute_for_base,
    write_adapter,
)
from localhyper.gguf_writer import Dtype
from localhyper.lora import LoraTarget, LoraWeights
from tests.tiny_gguf import TinySpec, tiny_lora, write_tiny_gguf

ALL_MODULES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModelInfo:
    return read_base_info(write_tiny_gguf(tmp_path_factory.mktemp("base") / "m.gguf"))


def metadata(base: BaseModelInfo) -> AdapterMetadata:
    return AdapterMetadata(
        name="Vertrag",
        source_title="Vertrag über Größe.pdf",
        source_kind="pdf",
        source_sha256="ab" * 32,
        source_tokens=131072,
        source_chunks=512,
        hypernetwork_name="smollm2-135m-document",
        hypernetwork_sha256="cd" * 32,
        base_fingerprint=base.fingerprint,
        rank=3,
        energy_kept=0.987654321,
        made_at="2026-11-24T01:02:03Z",
        merged_from="[]",
        values="tokens",
    )


def test_f32_round_trip_is_exact(tmp_path: Path, base: BaseModelInfo) -> None:
    weights = tiny_lora(modules=ALL_MODULES)
    path = tmp_path / "a.gguf"
    write_adapter(path, weights, base, metadata(base), "f32")
    got, described = read_adapter(path)
    assert described == metadata(base)
    assert got.targets.keys() == weights.targets.keys()
    for module, target in weights.targets.items():
        assert got.targets[module].layers == target.layers
        assert np.array_equal(got.targets[module].a, target.a)
        assert np.array_equal(got.targets[module].b, target.b)


def test_f16_is_the_default_and_rounds_once(tmp_path: Path, base: BaseModelInfo) -> None:
    weights = tiny_lora()
    path = tmp_path / "a.gguf"
    write_adapter(path, weights, base, metadata(base))
    got, _ = read_adapter(path)
    assert np.array_equal(
        got.targets["ffn_down"].b, weights.targets["ffn_down"].b.astype(np.float16).astype(np.float32)
    )


def test_the_file_has_the_keys_and_names_llama_cpp_reads(tmp_path: Path, base: BaseModelInfo) -> None:
    path = tmp_path / "a.gguf"
    write_adapter(path, tiny_lora(rank=5), base, metadata(base))
    reader = gguf.GGUFReader(path)
    found = {key: reader.fields[key].contents() for key in reader.fields}
    assert found["general.type"] == "adapter"
    assert found["general.architecture"] == "llama"
    assert found["adapter.type"] == "lora"
    assert found["adapter.lora.alpha"] == 5.0  # alpha / rank = 1: all scaling is in b
    assert {f"localhyper.{field.name}" for field in fields(AdapterMetadata)} <= found.keys()
    shapes = {tensor.name: list(tensor.shape) for tensor in reader.tensors}
    assert shapes["blk.0.ffn_down.weight.lora_a"] == [96, 5]
    assert shapes["blk.1.ffn_down.weight.lora_b"] == [5, 64]
    assert len(shapes) == 4


def test_only_named_layers_are_written(tmp_path: Path, base: BaseModelInfo) -> None:
    full = tiny_lora().targets["ffn_down"]
    path = tmp_path / "a.gguf"
    write_adapter(path, LoraWeights({"ffn_down": LoraTarget((1,), full.a[1:], full.b[1:])}), base, metadata(base))
    assert {tensor.name for tensor in gguf.GGUFReader(path).tensors} == {
        "blk.1.ffn_down.weight.lora_a",
        "blk.1.ffn_down.weight.lora_b",
    }


@settings(max_examples=15, deadline=None)
@given(rank=st.integers(1, 20), seed=st.integers(0, 1000))
def test_any_rank_comes_back(
    tmp_path_factory: pytest.TempPathFactory, base: BaseModelInfo, rank: int, seed: int
) -> None:
    path = tmp_path_factory.mktemp("ranks") / "a.gguf"
    weights = tiny_lora(rank=rank, seed=seed)
    write_adapter(path, weights, base, metadata(base), "f32")
    assert np.array_equal(read_adapter(path)[0].targets["ffn_down"].a, weights.targets["ffn_down"].a)
    assert check_adapter(path, base).name == "Vertrag"


@pytest.mark.parametrize(("dtype", "ranks"), [("f32", (96, 96)), ("q8_0", (64, 96)), ("f16", (1, 96))])
def test_zeros_that_fill_up_a_block_are_not_written(
    tmp_path: Path, base: BaseModelInfo, dtype: Dtype, ranks: tuple[int, int]
) -> None:
    weights = tiny_lora(rank=96, modules=("ffn_down",))
    target = weights.targets["ffn_down"]
    target.a[0, 40 if ranks[0] > 1 else 0 :] = 0
    target.b[0, :, 40 if ranks[0] > 1 else 0 :] = 0
    path = tmp_path / "a.gguf"
    write_adapter(path, weights, base, metadata(base), dtype)
    shapes = {tensor.name: list(tensor.shape) for tensor in gguf.GGUFReader(path).tensors}
    first = [shapes[f"blk.{block}.ffn_down.weight.lora_b"][0] for block in target.layers[:2]]
    assert first == [shapes[f"blk.{block}.ffn_down.weight.lora_a"][1] for block in target.layers[:2]] == list(ranks)
    got = read_adapter(path)[0].targets["ffn_down"]
    off = {"f32": 1e-6, "f16": 1e-3, "q8_0": 0.01}[dtype]
    wanted = target.b @ target.a
    assert np.abs(got.b @ got.a - wanted).max() <= off * np.abs(wanted).max()


def test_permutation_is_the_converters(base: BaseModelInfo) -> None:
    """One head of width 8: the converter turns halves 0123 4567 into pairs 04 15 26 37."""
    rows = np.arange(16, dtype=np.float32).reshape(1, 16, 1)
    got = permute_for_base(rows, 2, "llama")[0, :, 0].tolist()
    assert got == [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]
    assert permute_for_base(rows, 2, "qwen3") is rows


@given(heads=st.integers(1, 6), half=st.integers(1, 9), rank=st.integers(1, 4))
def test_unpermuting_is_the_inverse(heads: int, half: int, rank: int) -> None:
    b = np.arange(2 * heads * 2 * half * rank, dtype=np.float32).reshape(2, -1, rank)
    assert np.array_equal(unpermute_for_base(permute_for_base(b, heads, "llama"), heads, "llama"), b)
    assert np.array_equal(permute_for_base(unpermute_for_base(b, heads, "llama"), heads, "llama"), b)
    assert unpermute_for_base(b, heads, "gemma2") is b


def test_wrong_shapes_ranks_and_values_are_refused_and_leave_no_file(tmp_path: Path, base: BaseModelInfo) -> None:
    good = tiny_lora().targets["ffn_down"]
    broken = good.b.copy()
    broken[0, 0, 0] = np.nan
    huge = good.b * np.float32(1e6)
    cases = {
        "the base has": LoraWeights({"ffn_up": good}),
        "ranks": LoraWeights({"ffn_down": good, **tiny_lora(rank=4, modules=("ffn_up",)).targets}),
        "not finite as f16": LoraWeights({"ffn_down": LoraTarget(good.layers, good.a, broken)}),
        "are not finite": LoraWeights({"ffn_down": LoraTarget(good.layers, good.a, huge)}),
        r"`blk\.7\.ffn_down": LoraWeights({"ffn_down": LoraTarget((0, 7), good.a, good.b)}),
        "ranks \\[\\]": LoraWeights({}),
    }
    for words, weights in cases.items():
        with pytest.raises(AdapterError, match=words):
            write_adapter(tmp_path / "a.gguf", weights, base, metadata(base))
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_file(
    tmp_path: Path, base: BaseModelInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.gguf"
    write_adapter(path, tiny_lora(), base, metadata(base))
    before = path.read_bytes()

    def full(self: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensors_to_file", full)
    with pytest.raises(AdapterError, match="No space left"):
        write_adapter(path, tiny_lora(seed=2), base, metadata(base))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_another_base_of_the_same_shape_is_refused(tmp_path: Path, base: BaseModelInfo) -> None:
    path = tmp_path / "a.gguf"
    write_adapter(path, tiny_lora(), base, metadata(base))
    other = read_base_info(write_tiny_gguf(tmp_path / "other.gguf", TinySpec(rope_base=500.0)))
    with pytest.raises(AdapterError, match="made for another base model") as caught:
        check_adapter(path, other)
    assert caught.value.hint


def test_a_foreign_adapter_passes_on_shapes(tmp_path: Path, base: BaseModelInfo) -> None:
    path = tmp_path / "foreign.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8.0)
    a, b = np.ones((4, 96), np.float32), np.ones((64, 4), np.float32)
    writer.add_tensor("blk.0.ffn_down.weight.lora_a", a)
    writer.add_tensor("blk.0.ffn_down.weight.lora_b", b)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert check_adapter(path, base) == AdapterMetadata(name="foreign")
    weights, _ = read_adapter(path)
    assert np.array_equal(weights.targets["ffn_down"].b[0], 2 * b)  # alpha 8 / rank 4, folded in


def test_metadata_can_be_read_alone(tmp_path: Path, base: BaseModelInfo) -> None:
    path = tmp_path / "a.gguf"
    write_adapter(path, tiny_lora(), base, metadata(base))
    assert read_metadata(path) == metadata(base)
    assert read_architecture(path) == "llama"


def test_a_base_without_its_file_is_checked_by_its_sizes(tmp_path: Path, base: BaseModelInfo) -> None:
    from dataclasses import replace

    gone = replace(base, path=tmp_path / "gone.gguf")
    path = tmp_path / "a.gguf"
    write_adapter(path, tiny_lora(modules=ALL_MODULES), gone, metadata(base))
    check_adapter(path, gone)
