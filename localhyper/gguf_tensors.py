"""Tensors of a GGUF file as float32, dequantized as llama.cpp would. Headers are `gguf_header`'s."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from localhyper.gguf_header import HeaderError, TensorEntry


def read_rows(path: Path, entry: TensorEntry, start: int = 0, count: int | None = None) -> NDArray[np.float32]:
    """Some rows of a matrix, float32 [count, columns], or a vector as one row.

    Args:
        path: The file.
        entry: The tensor, of one or two dimensions.
        start: First row.
        count: How many; None = all from there on.

    Raises:
        HeaderError: Its number format is unknown here, or the file is cut off.
    """
    import gguf

    columns, rows = entry.shape[0], entry.elements // entry.shape[0]
    count = rows - start if count is None else count
    width = entry.size_bytes // rows
    raw = np.fromfile(path, np.uint8, count * width, offset=entry.offset + start * width)
    try:
        kind = gguf.GGMLQuantizationType(entry.type_id)
        values = gguf.quants.dequantize(raw.reshape(count, width), kind)
    except (NotImplementedError, KeyError, ValueError) as error:
        raise HeaderError(f"tensor `{entry.name}` is stored as {entry.type_name}, unknown here") from error
    return values.astype(np.float32, copy=False).reshape(count, columns)
