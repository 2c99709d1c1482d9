"""An adapter file in another number format, matrix by matrix: ranks, alpha and names stay as they are.

Works on any adapter that llama.cpp loads, those included whose targets `LoraWeights` has no place for.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from localhyper.gguf_adapter import (
    PREFIX,
    AdapterMetadata,
    adapter_pairs,
    load_tensor,
    metadata_items,
    metadata_of,
    read_adapter_header,
)
from localhyper.gguf_header import GgufHeader
from localhyper.gguf_writer import ALPHA, Dtype, encode, write_gguf

_WRITTEN = ("general.architecture", "general.type", "adapter.type")
MAX_COPIED = 1 << 16


def convert_adapter(source: Path, target: Path, dtype: Dtype) -> None:
    """Write `source` to `target` with its matrices in another number format.

    Texts among its keys are copied, whoever wrote it; so is our metadata. In q8_0 and q5_0, matrices whose rows are
    no multiple of 32 become f16.

    Raises:
        AdapterError: A damaged file, a value this format cannot hold, or a file that cannot be written.
    """
    header = read_adapter_header(source)
    entries = [entry for pair in adapter_pairs(header).values() for entry in pair]
    matrices = {entry.name: encode(entry.name, load_tensor(entry, source), dtype) for entry in entries}
    alpha = header.metadata.get(ALPHA)
    factor = alpha if isinstance(alpha, float) else 0.0  # missing and 0 mean the same
    write_gguf(target, header.text("general.architecture"), factor, _keys(header), matrices)


def _keys(header: GgufHeader) -> list[tuple[str, str | int | float]]:
    """The texts of the file, and those of our keys that it has."""
    own = {PREFIX + field.name for field in fields(AdapterMetadata)}
    texts = [
        (key, value)
        for key, value in header.metadata.items()
        if isinstance(value, str) and len(value) <= MAX_COPIED and key not in own and key not in _WRITTEN
    ]
    return [*texts, *((key, value) for key, value in metadata_items(metadata_of(header)) if key in header.metadata)]
