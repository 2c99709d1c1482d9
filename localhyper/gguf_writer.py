"""Writes adapter files: matrices as f32, f16, q8_0 or q5_0, keys in order.

Knows neither base models nor where weights come from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from localhyper.atomic import atomic_path
from localhyper.errors import AdapterError

Dtype = Literal["f16", "f32", "q8_0", "q5_0"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
ALPHA = "adapter.lora.alpha"
BLOCK = 32  # weights that share a scale
BLOCK_BYTES = {"q8_0": 34, "q5_0": 22}  # of a block: a float16 scale, then 32 numbers of 8 or 5 bits
VALUES_AT_ONCE = 24_576  # quantized together: its intermediate results stay in the cache


@dataclass(frozen=True)
class Encoded:
    """A matrix as a file holds it.

    Attributes:
        values: float32 or float16 [rows, columns], or the bytes of blocks, uint8 [rows, columns / 32 · `BLOCK_BYTES`].
        dtype: Which of them.
    """

    values: NDArray[np.generic]
    dtype: Dtype


def encode(name: str, matrix: NDArray[np.floating[Any]], dtype: Dtype) -> Encoded:
    """A matrix in another number format.

    q8_0 and q5_0 take rows of whole blocks only. A matrix with other rows (a b of rank 8, say) becomes f16, as
    llama.cpp's converter has it: padding the rank would change alpha / rank.

    Args:
        name: For messages.
        matrix: float [rows, columns].
        dtype: The format.

    Raises:
        AdapterError: A value is not finite, or not in this format.
    """
    if dtype in BLOCK_BYTES and matrix.shape[-1] % BLOCK:
        dtype = "f16"
    with np.errstate(all="ignore"):  # what does not fit is found by its result
        if dtype in BLOCK_BYTES:
            values, numbers = _blocks(matrix, dtype)
        else:
            values = numbers = np.ascontiguousarray(matrix.astype(np.float16 if dtype == "f16" else np.float32))
    if not np.isfinite(numbers).all():
        raise AdapterError(f"weights for `{name}` are not finite as {dtype}")
    return Encoded(values, dtype)


def _blocks(matrix: NDArray[np.floating[Any]], dtype: Dtype) -> tuple[NDArray[np.generic], NDArray[np.float16]]:
    """Blocks, and their scales, which are what may overflow."""
    import gguf

    # `gguf.quants.quantize` takes 16 rows at a time however short they are, which for b is three times slower.
    quantizer = getattr(gguf.quants, dtype.upper())
    parts = np.array_split(matrix.astype(np.float32), max(1, matrix.size // VALUES_AT_ONCE))
    blocks = np.concatenate([quantizer.quantize_rows(part) for part in parts])
    return blocks, block_scales(blocks.reshape(-1), dtype)


def block_scales(data: NDArray[np.uint8], dtype: str) -> NDArray[np.float16]:
    """The scale of each block of a format's bytes."""
    return np.ascontiguousarray(data.reshape(-1, BLOCK_BYTES[dtype])[:, :2]).view("<f2").reshape(-1)


def write_gguf(
    path: Path,
    architecture: str,
    alpha: float,
    keys: Sequence[tuple[str, str | int | float]],
    matrices: Mapping[str, Encoded],
) -> None:
    """Write a LoRA adapter file as llama.cpp reads it, whole or not at all.

    Args:
        path: The file; an older one is replaced.
        architecture: GGUF architecture of the base.
        alpha: llama.cpp multiplies by alpha / rank, and by nothing where it is 0.
        keys: More metadata: texts, whole numbers (uint64) and fractions (float64).
        matrices: Tensor name to matrix.

    Raises:
        AdapterError: The file cannot be written.
    """
    try:
        with atomic_path(path) as temporary:
            _write(temporary, architecture, alpha, keys, matrices)
    except OSError as error:
        message = f"cannot write `{path}`: {error.strerror}"
        raise AdapterError(message, "check the folder, its permissions and the space left") from error


def _write(
    path: Path,
    architecture: str,
    alpha: float,
    keys: Sequence[tuple[str, str | int | float]],
    matrices: Mapping[str, Encoded],
) -> None:
    import gguf

    writer = gguf.GGUFWriter(path, architecture)
    add: dict[type, Callable[[str, Any], None]] = {
        str: writer.add_string,
        int: writer.add_uint64,
        float: writer.add_float64,
    }
    try:
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string("adapter.type", "lora")
        writer.add_float32(ALPHA, alpha)
        for key, value in keys:
            add[type(value)](key, value)
        for name, matrix in matrices.items():
            quantized = gguf.GGMLQuantizationType[matrix.dtype.upper()] if matrix.dtype in BLOCK_BYTES else None
            writer.add_tensor(name, matrix.values, raw_dtype=quantized)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
