"""Hostile GGUF files: cut anywhere, bytes flipped, absurd counts. One error class, one line, no memory taken."""

from __future__ import annotations

import random
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from localhyper.base_header import read_base_info
from localhyper.engine import BaseModelInfo
from localhyper.errors import AdapterError, ModelError
from localhyper.gguf_adapter import AdapterMetadata, check_adapter, read_adapter, write_adapter
from tests.tiny_gguf import tiny_lora, write_tiny_gguf


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("hostile") / "m.gguf")


@pytest.fixture(scope="module")
def base(model: Path) -> BaseModelInfo:
    return read_base_info(model)


@pytest.fixture(scope="module")
def adapter(model: Path, base: BaseModelInfo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("adapter") / "a.gguf"
    write_adapter(path, tiny_lora(), base, AdapterMetadata(name="a", base_fingerprint=base.fingerprint))
    return path


def refused(
    path: Path, data: bytes, check: Callable[[Path], object], kind: type[AdapterError] | type[ModelError]
) -> str:
    """Write `data`, expect `kind`, and return its message, which must be one short line without a full stop."""
    path.write_bytes(data)
    with pytest.raises(kind) as caught:
        check(path)
    message = caught.value.message
    assert "\n" not in message
    assert not message.endswith(".")
    assert len(message) < 400
    assert path.name in message
    return message


def test_a_model_cut_anywhere_is_refused(model: Path, tmp_path: Path) -> None:
    data = model.read_bytes()
    for cut in [0, 3, 4, 8, 16, 23, 24, 25, *range(40, len(data), len(data) // 60), len(data) - 40]:
        refused(tmp_path / "cut.gguf", data[:cut], read_base_info, ModelError)


def test_an_adapter_cut_anywhere_is_refused(adapter: Path, base: BaseModelInfo, tmp_path: Path) -> None:
    data = adapter.read_bytes()
    for cut in [0, 3, 24, *range(25, len(data) - 32, 97)]:
        refused(tmp_path / "cut.gguf", data[:cut], lambda path: check_adapter(path, base), AdapterError)


HEADER = b"GGUF" + struct.pack("<I", 3)
COUNTS = {
    "tensors": HEADER + struct.pack("<QQ", 2**60, 0),
    "metadata keys": HEADER + struct.pack("<QQ", 0, 2**60),
    "bytes": HEADER + struct.pack("<QQ", 0, 1) + struct.pack("<Q", 2**62) + b"x" * 64,
    "items": HEADER
    + struct.pack("<QQ", 0, 1)
    + struct.pack("<Q", 1)
    + b"k"
    + struct.pack("<IIQ", 9, 4, 2**61)
    + b"x" * 64,
    "strings": HEADER
    + struct.pack("<QQ", 0, 1)
    + struct.pack("<Q", 1)
    + b"k"
    + struct.pack("<IIQ", 9, 8, 2**22)
    + b"x" * 64,
    "unknown type": HEADER + struct.pack("<QQ", 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<I", 77) + b"x" * 64,
    "unknown item type": HEADER
    + struct.pack("<QQ", 0, 1)
    + struct.pack("<Q", 1)
    + b"k"
    + struct.pack("<IIQ", 9, 9, 1)
    + b"x" * 64,
    "dimensions": HEADER + struct.pack("<QQ", 1, 0) + struct.pack("<Q", 1) + b"t" + struct.pack("<I", 99) + b"x" * 64,
    "impossible shape": HEADER
    + struct.pack("<QQ", 1, 0)
    + struct.pack("<Q", 1)
    + b"t"
    + struct.pack("<IQQIQ", 2, 2**39, 2**39, 0, 0)
    + b"x" * 64,
    "the data of tensor": HEADER
    + struct.pack("<QQ", 1, 0)
    + struct.pack("<Q", 1)
    + b"t"
    + struct.pack("<IQQIQ", 2, 2**20, 2**20, 0, 0)
    + b"x" * 64,
    "more than 63": HEADER + struct.pack("<QQ", 1, 0) + struct.pack("<Q", 70) + b"t" * 70 + b"x" * 64,
    "version 1": b"GGUF" + struct.pack("<IQQ", 1, 0, 0) + b"x" * 8,
    "starts with b'PK": b"PK\x03\x04" + b"\0" * 60,
}


@pytest.mark.parametrize("words", list(COUNTS))
def test_absurd_numbers_are_named_and_cost_no_memory(words: str, base: BaseModelInfo, tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        assert words in refused(tmp_path / "bad.gguf", COUNTS[words], read_base_info, ModelError)
        assert words in refused(tmp_path / "bad.gguf", COUNTS[words], lambda p: check_adapter(p, base), AdapterError)
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


def test_random_damage_never_ends_in_another_exception(
    model: Path, adapter: Path, base: BaseModelInfo, tmp_path: Path
) -> None:
    random_ = random.Random(5)
    path = tmp_path / "damaged.gguf"
    for source, check in ((model, read_base_info), (adapter, lambda p: check_adapter(p, base))):
        data = source.read_bytes()
        header = min(len(data), 6000)
        for _ in range(150):
            damaged = bytearray(data)
            for _ in range(random_.randint(1, 4)):
                damaged[random_.randrange(header)] = random_.randrange(256)
            path.write_bytes(damaged)
            try:
                check(path)
            except (ModelError, AdapterError) as error:
                assert "\n" not in error.message


def adapter_bytes(tmp_path: Path, tensors: dict[str, np.ndarray], **keys: str) -> bytes:
    path = tmp_path / "made.gguf"
    writer = gguf.GGUFWriter(path, keys.pop("architecture", "llama"))
    writer.add_type(keys.pop("type", "adapter"))
    writer.add_string("adapter.type", keys.pop("adapter_type", "lora"))
    if keys.pop("alpha", ""):
        writer.add_string("adapter.lora.alpha", "one")
    for name, array in tensors.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


A, B = np.ones((2, 96), np.float32), np.ones((64, 2), np.float32)
DOWN = "blk.0.ffn_down.weight"
PAIR = {f"{DOWN}.lora_a": A, f"{DOWN}.lora_b": B}
NAN = np.full((64, 2), np.nan, np.float32)


@pytest.mark.parametrize(
    ("words", "tensors", "keys"),
    [
        ("wanted `adapter`", PAIR, {"type": "model"}),
        ("wanted `lora`", PAIR, {"adapter_type": "control_vector"}),
        ("architecture `qwen3`", PAIR, {"architecture": "qwen3"}),
        ("adapter.lora.alpha", PAIR, {"alpha": "text"}),
        ("no tensors", {}, {}),
        ("lacks `blk.0.ffn_down.weight.lora_b`", {f"{DOWN}.lora_a": A}, {}),
        ("lacks `blk.0.ffn_down.weight.lora_a`", {f"{DOWN}.lora_b": B}, {}),
        ("unexpected tensor `extra`", {**PAIR, "extra": A}, {}),
        ("cannot adapt", {"blk.9.ffn_down.weight.lora_a": A, "blk.9.ffn_down.weight.lora_b": B}, {}),
        ("cannot adapt", {"output_norm.weight.lora_a": A, "output_norm.weight.lora_b": B}, {}),
        ("cannot adapt", {"token_embd.weight.lora_a": A, "token_embd.weight.lora_b": B}, {}),
        ("no matching matrices", {f"{DOWN}.lora_a": A, f"{DOWN}.lora_b": np.ones((64, 3), np.float32)}, {}),
        ("no matching matrices", {f"{DOWN}.lora_a": A[0], f"{DOWN}.lora_b": B}, {}),
        ("the base maps 96 to 64", {f"{DOWN}.lora_a": A[:, :95], f"{DOWN}.lora_b": B}, {}),
        ("the base maps 96 to 64", {f"{DOWN}.lora_a": A, f"{DOWN}.lora_b": B[:32]}, {}),
        ("not finite", {f"{DOWN}.lora_a": A, f"{DOWN}.lora_b": NAN}, {}),
    ],
)
def test_wrong_adapters_are_named(
    words: str, tensors: dict[str, np.ndarray], keys: dict[str, str], base: BaseModelInfo, tmp_path: Path
) -> None:
    data = adapter_bytes(tmp_path, tensors, **keys)
    assert words in refused(tmp_path / "bad.gguf", data, lambda path: check_adapter(path, base), AdapterError)


def test_a_model_is_no_adapter_and_an_adapter_no_model(model: Path, adapter: Path, base: BaseModelInfo) -> None:
    with pytest.raises(AdapterError, match="no LoRA adapter"):
        check_adapter(model, base)
    with pytest.raises(ModelError, match="is an adapter"):
        read_base_info(adapter)


def test_reading_weights_of_a_broken_file_is_an_adapter_error_too(adapter: Path, tmp_path: Path) -> None:
    refused(tmp_path / "cut.gguf", adapter.read_bytes()[:-64], read_adapter, AdapterError)
