"""Checkpoint files in the published format for tests: a pickle of protocol 2, opcode by opcode, in a zip.

Nothing is imported to write one: classes are only names.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from localhyper.export.checkpoint_pickle import Record, Storage, TensorView, read_pickle

FIXTURES = Path(__file__).parent / "parity" / "fixtures"
REFERENCE_RUNS = ("gemma2_l2l", "gemma2_niah", "qwen3_l2l", "qwen3_niah")
MODULES = {
    "LoraConfig": "peft.tuners.lora.config",
    "LoraRuntimeConfig": "peft.tuners.lora.config",
    "HypernetConfig": "ctx_to_lora.modeling.hypernet",
    "AggregatorConfig": "ctx_to_lora.modeling.aggregator",
    "CtxEncoderArguments": "ctx_to_lora.configs",
}
STORAGES = {"<f4": "FloatStorage", "<i8": "LongStorage", "<f2": "HalfStorage", "bfloat16": "BFloat16Storage"}
EMPTY = b"ccollections\nOrderedDict\n)R"


def dump(value: object) -> bytes:
    """The opcodes of one value, without the stop at the end: what `read_pickle` understands."""
    simple = {None: b"N", True: b"\x88", False: b"\x89"}
    if value is None or isinstance(value, bool):
        return simple[value]
    if isinstance(value, str):
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
    if isinstance(value, int):
        return b"\x8a\x08" + value.to_bytes(8, "little", signed=True)
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, tuple | list | frozenset | set):
        items = b"(" + b"".join(map(dump, sorted(value) if isinstance(value, frozenset | set) else value))
        if isinstance(value, tuple):
            return items + b"t"
        return b"]" + items + b"e" if isinstance(value, list) else b"c__builtin__\nset\n]" + items + b"e\x85R"
    if isinstance(value, Mapping):
        return b"}(" + b"".join(dump(key) + dump(item) for key, item in value.items()) + b"u"
    if isinstance(value, Record):
        return f"c{MODULES[value.kind]}\n{value.kind}\n".encode() + b")\x81" + dump(value.fields) + b"b"
    if isinstance(value, TensorView):
        arguments = dump(value.offset) + dump(value.shape) + dump(value.strides) + b"\x89" + EMPTY
        return b"ctorch._utils\n_rebuild_tensor_v2\n(" + _storage(value.storage) + arguments + b"tR"
    raise TypeError(type(value))


def _storage(storage: Storage, device: str = "cuda:0") -> bytes:
    kind = f"ctorch\n{STORAGES[storage.kind]}\n".encode()
    return b"(" + dump("storage") + kind + dump(storage.key) + dump(device) + dump(storage.elements) + b"tQ"


def dump_state(entries: Mapping[str, object]) -> bytes:
    """The whole pickle of a state dict."""
    items = b"".join(dump(key) + dump(value) for key, value in entries.items())
    return b"\x80\x02" + EMPTY + b"(" + items + b"u."


def write_zip(path: Path, data: bytes, storages: Mapping[str, bytes], stem: str = "pytorch_model") -> Path:
    """A file as torch.save lays one out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{stem}/data.pkl", data)
        file.writestr(f"{stem}/byteorder", "little")
        for key, content in storages.items():
            file.writestr(f"{stem}/data/{key}", content)
        file.writestr(f"{stem}/version", "3\n")
    return path


def write_checkpoint(path: Path, tensors: Mapping[str, NDArray[Any]], values: Mapping[str, object]) -> Path:
    """Tensors and settings as a checkpoint; an array among the fields of a record becomes a tensor too."""
    storages: dict[str, bytes] = {}

    def keep(value: object) -> object:
        if isinstance(value, np.ndarray):
            key, kind = str(len(storages)), "<i8" if value.dtype == np.int64 else "<f4"
            storages[key] = np.ascontiguousarray(value, kind).tobytes()
            strides = tuple(step // value.itemsize for step in np.ascontiguousarray(value).strides)
            return TensorView(Storage(key, kind, value.size), 0, value.shape, strides)
        if isinstance(value, Record):
            return Record(value.kind, {key: keep(item) for key, item in value.fields.items()})
        return value

    entries = {key: keep(value) for key, value in {**tensors, **values}.items()}
    return write_zip(path, dump_state(entries), storages)


def reference_pickle(run: str) -> bytes:
    """The pickle of a reference checkpoint, byte for byte as the reference implementation wrote it."""
    return (FIXTURES / f"d2l_{run}.pkl").read_bytes()


def write_reference_run(folder: Path, run: str) -> Path:
    """A run's folder with its checkpoint: the reference's own pickle round the fixture's weights."""
    data = reference_pickle(run)
    entries = read_pickle(data)
    assert isinstance(entries, dict)
    with np.load(FIXTURES / f"d2l_{run}.npz", allow_pickle=False) as file:
        weights = {key.removeprefix("weight/"): file[key] for key in file.files if key.startswith("weight/")}
    storages = {}
    for name, view in entries.items():
        if isinstance(view, TensorView):
            assert view.shape == weights[name].shape and view.storage.elements == weights[name].size
            storages[view.storage.key] = weights[name].astype("<f4").tobytes()
    blocks: TensorView = entries["hypernet_config"].fields["layer_indices"]
    storages[blocks.storage.key] = np.arange(blocks.shape[0], dtype="<i8").tobytes()
    write_zip(folder / run / "checkpoint-1" / "pytorch_model.bin", data, storages)
    return folder / run


def reference_values(run: str) -> dict[str, Any]:
    """The settings in a reference checkpoint, free to be changed."""
    entries = read_pickle(reference_pickle(run))
    assert isinstance(entries, dict)
    values = {key: value for key, value in entries.items() if not isinstance(value, TensorView)}
    blocks = values["hypernet_config"].fields["layer_indices"].shape[0]
    values["hypernet_config"].fields["layer_indices"] = np.arange(blocks, dtype=np.int64)
    return values
