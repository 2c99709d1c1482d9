"""Tensors of a safetensors file, read defensively: every length and offset is checked before it is followed.

The layout is that of the format's own page (huggingface/safetensors, README "Format"): eight bytes that say how long
the header is, a JSON header, then the tensors one after the other. Read here and not with the library because that has
no bfloat16 without torch. Knows nothing of adapters.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_HEADER = 1 << 24
MAX_TENSORS = 1 << 15
MAX_NAME = 512
MAX_FILE = 1 << 32
MAX_TEXT = 1 << 14
ITEM_BYTES: Mapping[str, int] = {"F32": 4, "F16": 2, "BF16": 2}
FloatArray = NDArray[np.float32]


class SafetensorsError(Exception):
    """A file is not a sound safetensors file; whoever knows what it should be turns this into its own error."""


@dataclass(frozen=True)
class Tensor:
    """One tensor of the header.

    Attributes:
        name: Its name.
        dtype: `F32`, `F16` or `BF16`.
        shape: Rows first.
        start: Bytes from the start of the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int


@dataclass(frozen=True)
class TensorFile:
    """A checked header.

    Attributes:
        path: The file.
        tensors: By name, in the order of the file's bytes.
        metadata: The texts under `__metadata__`.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]

    def load(self, name: str) -> FloatArray:
        """A tensor as float32, whatever it is stored as; its values may be anything.

        Raises:
            OSError: The file cannot be read, or is shorter than it was.
        """
        tensor = self.tensors[name]
        stored = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[tensor.dtype]
        raw = np.fromfile(self.path, stored, math.prod(tensor.shape), offset=tensor.start)
        if len(raw) != math.prod(tensor.shape):
            raise OSError(0, "it became shorter while it was read")
        if tensor.dtype == "BF16":  # the upper half of a float32
            raw = (raw.astype(np.uint32) << 16).view(np.float32)
        return np.ascontiguousarray(raw, dtype=np.float32).reshape(tensor.shape)


def read_safetensors(path: Path) -> TensorFile:
    """Read and check the header.

    Raises:
        SafetensorsError: Not the format, damaged, cut off, beyond the bounds above, or of another number format.
        OSError: The file cannot be opened.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if not 8 < size <= MAX_FILE:
            raise SafetensorsError(f"{size} bytes, wanted 9 to {MAX_FILE}")
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(MAX_HEADER, size - 8):
            raise SafetensorsError(f"its header claims {length} bytes of {size}, at most {MAX_HEADER} are read")
        text = file.read(length)
    rows = _rows(text)
    metadata = rows.pop("__metadata__", {})
    return TensorFile(path, _tensors(rows, 8 + length, size), _texts(metadata))


def _rows(text: bytes) -> dict[str, Any]:
    try:
        rows = json.loads(text.decode("utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise SafetensorsError("its header is no JSON, or names something twice") from error
    if not isinstance(rows, dict):
        raise SafetensorsError("its header is no JSON object")
    if len(rows) > MAX_TENSORS:
        raise SafetensorsError(f"its header names {len(rows)} tensors, more than {MAX_TENSORS}")
    return rows


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _texts(metadata: object) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise SafetensorsError("its `__metadata__` is not made of texts")
    return {key: value for key, value in metadata.items() if len(key) <= MAX_NAME and len(value) <= MAX_TEXT}


def _tensors(rows: Mapping[str, object], data: int, size: int) -> dict[str, Tensor]:
    """In the order of their bytes, which must follow each other without gap or overlap to the end of the file."""
    spans = sorted((_span(name, row) for name, row in rows.items()), key=lambda span: span[1:])
    at, tensors = 0, {}
    for tensor, start, end in spans:
        if start != at:
            raise SafetensorsError(f"tensor `{_shown(tensor.name)}` begins at byte {start} of the data, wanted {at}")
        tensors[tensor.name] = Tensor(tensor.name, tensor.dtype, tensor.shape, data + start)
        at = end
    if data + at != size:
        raise SafetensorsError(f"its tensors take {at} bytes, it has {size - data}: it is cut off or damaged")
    return tensors


def _span(name: str, row: object) -> tuple[Tensor, int, int]:
    what = f"tensor `{_shown(name)}`"
    if len(name) > MAX_NAME:
        raise SafetensorsError(f"{what} has a name of {len(name)} characters, more than {MAX_NAME}")
    if not isinstance(row, dict) or set(row) != {"dtype", "shape", "data_offsets"}:
        raise SafetensorsError(f"{what} is not described by `dtype`, `shape` and `data_offsets`")
    dtype, shape, offsets = row["dtype"], row["shape"], row["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise SafetensorsError(f"{what} is stored as `{_shown(str(dtype), 20)}`, wanted {', '.join(ITEM_BYTES)}")
    if not _whole(shape, 8) or not _whole(offsets, 2) or len(offsets) != 2:
        raise SafetensorsError(f"{what} has no sound shape and offsets")
    start, end = offsets
    if end - start != math.prod(shape) * ITEM_BYTES[dtype]:
        raise SafetensorsError(f"{what} takes {end - start} bytes, its shape {list(shape)} does not")
    return Tensor(name, dtype, tuple(shape), 0), start, end


def _whole(numbers: object, most: int) -> bool:
    """Whether this is a list of at most `most` whole numbers of a size that a file may have."""
    return (
        isinstance(numbers, list)
        and len(numbers) <= most
        and all(isinstance(number, int) and not isinstance(number, bool) for number in numbers)
        and all(0 <= number <= MAX_FILE for number in numbers)
    )


def _shown(text: str, limit: int = 120) -> str:
    return "".join(character if character.isprintable() else "?" for character in text[:limit])
