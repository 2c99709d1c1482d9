"""Number formats of adapter files: what each keeps, what blocks leave as f16, foreign files, values that do not fit."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from localhyper.adapter_convert import convert_adapter
from localhyper.base_header import read_base_info
from localhyper.engine import BaseModelInfo
from localhyper.errors import AdapterError
from localhyper.gguf_adapter import AdapterMetadata, check_adapter, read_adapter, write_adapter
from localhyper.gguf_writer import BLOCK_BYTES, DTYPES, Dtype, encode
from localhyper.lora import LoraTarget, LoraWeights
from tests.tiny_gguf import down_pair, tiny_lora, write_raw_adapter, write_tiny_gguf

# Half a step of 127 in the largest value of a block of 32, and the rounding of its scale to float16.
Q8_0_ERROR = 0.5 / 127 + 2**-11
# A step of 16: where the largest value is the other way, the range ends one step short.
Q5_0_ERROR = 1 / 16 + 2**-11


@pytest.fixture
def base(tmp_path: Path) -> BaseModelInfo:
    return read_base_info(write_tiny_gguf(tmp_path / "tiny.gguf"))


def types(path: Path) -> dict[str, str]:
    return {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("converted", [True, False], ids=["converted", "written"])
def test_every_format_comes_back_within_its_step(
    tmp_path: Path, base: BaseModelInfo, dtype: Dtype, converted: bool
) -> None:
    weights = tiny_lora(rank=64, modules=("ffn_down", "attn_q"))
    metadata = AdapterMetadata(name="x", base_fingerprint=base.fingerprint, source_tokens=7, energy_kept=0.5)
    path = tmp_path / "out.gguf"
    if converted:
        write_adapter(tmp_path / "f32.gguf", weights, base, metadata, "f32")
        convert_adapter(tmp_path / "f32.gguf", path, dtype)
    else:
        write_adapter(path, weights, base, metadata, dtype)
    assert set(types(path).values()) == {dtype.upper()}
    assert check_adapter(path, base) == metadata
    got, _ = read_adapter(path)
    for module, target in weights.targets.items():
        for wanted, found in ((target.a, got.targets[module].a), (target.b, got.targets[module].b)):
            blocks = np.abs(wanted.reshape(-1, 32)).max(-1, keepdims=True)
            error = np.abs((found - wanted).reshape(-1, 32))
            step = {
                "f32": 0.0 * blocks,
                "f16": 2**-10 * blocks,
                "q8_0": Q8_0_ERROR * blocks,
                "q5_0": Q5_0_ERROR * blocks,
            }[dtype]
            assert (error <= step).all()
    assert not np.array_equal(got.targets["ffn_down"].a, weights.targets["ffn_down"].a) or dtype == "f32"


@pytest.mark.parametrize("dtype", BLOCK_BYTES)
def test_rows_that_are_no_whole_blocks_become_f16(tmp_path: Path, base: BaseModelInfo, dtype: Dtype) -> None:
    """A b of rank 3 has rows of 3: a padded rank would change what alpha / rank means in a foreign file."""
    path = tmp_path / "a.gguf"
    write_adapter(path, tiny_lora(rank=3), base, AdapterMetadata(), dtype)
    assert types(path) == {
        "blk.0.ffn_down.weight.lora_a": dtype.upper(),
        "blk.0.ffn_down.weight.lora_b": "F16",
        "blk.1.ffn_down.weight.lora_a": dtype.upper(),
        "blk.1.ffn_down.weight.lora_b": "F16",
    }
    check_adapter(path, base)


def test_a_foreign_file_keeps_its_alpha_ranks_targets_and_words(tmp_path: Path, base: BaseModelInfo) -> None:
    path, out = tmp_path / "foreign.gguf", tmp_path / "out.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8.0)
    writer.add_string("adapter.lora.task_name", "sums")
    writer.add_uint32("general.file_type", 1)
    random = np.random.default_rng(0)
    for block, rank in ((0, 4), (1, 2)):
        writer.add_tensor(f"blk.{block}.ffn_down.weight.lora_a", random.normal(size=(rank, 96)).astype(np.float32))
        writer.add_tensor(f"blk.{block}.ffn_down.weight.lora_b", random.normal(size=(64, rank)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    convert_adapter(path, out, "f16")
    found = gguf.GGUFReader(out)
    assert found.fields["adapter.lora.alpha"].contents() == 8.0
    assert found.fields["adapter.lora.task_name"].contents() == "sums"
    assert not [key for key in found.fields if key.startswith("localhyper.")]
    assert [list(tensor.shape) for tensor in found.tensors] == [[96, 4], [4, 64], [96, 2], [2, 64]]
    before, after = read_adapter(path)[0].targets["ffn_down"], read_adapter(out)[0].targets["ffn_down"]
    assert before.rank == 4, "the smaller rank is filled up with zeros"
    for row, factor in ((0, 2.0), (1, 4.0)):
        raw = gguf.GGUFReader(path).tensors[2 * row + 1].data
        assert np.allclose(before.b[row][:, : raw.shape[1]], factor * raw)
    assert np.allclose(before.b @ before.a, after.b @ after.a, atol=0.05)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e9])
@pytest.mark.parametrize("dtype", ["f16", *BLOCK_BYTES])
def test_values_that_a_format_cannot_hold_are_refused(
    tmp_path: Path, base: BaseModelInfo, value: float, dtype: Dtype
) -> None:
    target = tiny_lora(rank=32).targets["ffn_down"]
    b = target.b.copy()
    b[1, 5, 5] = value
    with pytest.raises(AdapterError, match=f"not finite as {dtype}"):
        write_adapter(
            tmp_path / "a.gguf",
            LoraWeights({"ffn_down": LoraTarget(target.layers, target.a, b)}),
            base,
            AdapterMetadata(),
            dtype,
        )
    assert not (tmp_path / "a.gguf").exists()


@pytest.mark.parametrize("dtype", BLOCK_BYTES)
def test_a_damaged_scale_of_a_block_is_found(tmp_path: Path, base: BaseModelInfo, dtype: Dtype) -> None:
    path = tmp_path / "a.gguf"
    write_adapter(path, tiny_lora(rank=32), base, AdapterMetadata(), dtype)
    tensor = gguf.GGUFReader(path).tensors[2]
    data = bytearray(path.read_bytes())
    at = int(tensor.data_offset) + BLOCK_BYTES[dtype] * 3
    data[at : at + 2] = b"\x00\x7c"
    path.write_bytes(data)
    with pytest.raises(AdapterError, match=r"not finite"):
        check_adapter(path, base)


def test_zeros_and_the_smallest_numbers_are_no_trouble() -> None:
    rows = np.zeros((2, 32), np.float32)
    rows[1] = 1e-42
    assert encode("x", rows, "q8_0").values.shape == (2, 34)
    assert encode("x", rows, "q5_0").values.shape == (2, 22)


def test_an_activated_adapter_and_trained_norms_are_refused(tmp_path: Path, base: BaseModelInfo) -> None:
    for number, words in enumerate(("activated LoRA", "trained norms")):

        def add(writer: gguf.GGUFWriter, words: str = words) -> None:
            if words == "activated LoRA":
                writer.add_array("adapter.alora.invocation_tokens", [1, 2])
            else:
                writer.add_tensor("blk.0.attn_norm.weight", np.ones(64, np.float32))

        path = write_raw_adapter(tmp_path / f"{number}.gguf", down_pair(4), add)
        with pytest.raises(AdapterError, match=words):
            check_adapter(path, base)
