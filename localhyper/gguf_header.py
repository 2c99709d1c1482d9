"""GGUF headers, read defensively: metadata and tensor table of any file, hostile ones included.

Pure Python over a memory map: nothing is allocated because a file says so. It knows the container only, not what a
base model or an adapter is, and it never reads tensor data. llama.cpp trusts headers more than a stranger's file
deserves (an assert there ends the process), so every file passes here before any native call.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

Scalar = bool | int | float | str
Value = Scalar | tuple[Scalar, ...]

MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 16
MAX_KEY_BYTES = 1 << 16
MAX_STRING_BYTES = 1 << 24
MAX_ARRAY_ITEMS = 1 << 23
MAX_NAME_BYTES = 63  # ggml keeps names in 64 bytes with the closing zero
MAX_DIMENSIONS = 4
DEFAULT_ALIGNMENT = 32

_STRING, _ARRAY = 8, 9
_SCALARS: Mapping[int, struct.Struct] = {
    0: struct.Struct("<B"), 1: struct.Struct("<b"), 2: struct.Struct("<H"), 3: struct.Struct("<h"),
    4: struct.Struct("<I"), 5: struct.Struct("<i"), 6: struct.Struct("<f"), 7: struct.Struct("<?"),
    10: struct.Struct("<Q"), 11: struct.Struct("<q"), 12: struct.Struct("<d"),
}  # fmt: skip
_LENGTH = struct.Struct("<Q")
_WORD = struct.Struct("<I")


def shown(text: str, limit: int = 80) -> str:
    """Text of a stranger's file, fit for one line of a terminal: no control characters, not endless."""
    return "".join(character if character.isprintable() else "?" for character in text[:limit])


class HeaderError(Exception):
    """A file is not a sound GGUF file; whoever knows what it should be turns this into its own error."""


@dataclass(frozen=True)
class TensorEntry:
    """One row of the tensor table.

    Attributes:
        name: E.g. `blk.0.ffn_down.weight`.
        shape: ggml order (innermost first): a numpy `[rows, columns]` matrix has shape `(columns, rows)`.
        type_id: ggml type number.
        type_name: Its name, e.g. `Q4_1`.
        offset: Bytes from the start of the file.
        size_bytes: Bytes of data.
    """

    name: str
    shape: tuple[int, ...]
    type_id: int
    type_name: str
    offset: int
    size_bytes: int

    @property
    def elements(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class GgufHeader:
    """Everything before the data.

    Attributes:
        path: The file.
        size_bytes: Its size.
        metadata: Key to value; arrays are tuples.
        tensors: In file order.
    """

    path: Path
    size_bytes: int
    metadata: Mapping[str, Value]
    tensors: tuple[TensorEntry, ...]

    def text(self, key: str) -> str:
        """A string value; empty when absent or of another type."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) else ""

    def strings(self, key: str) -> tuple[str, ...]:
        """An array of strings; empty when absent or of another type."""
        value = self.metadata.get(key)
        if not isinstance(value, tuple):
            return ()
        return tuple(item for item in value if isinstance(item, str))


class _Cursor:
    """A position in the mapped file; every read is checked against the end."""

    def __init__(self, data: mmap.mmap, size: int) -> None:
        self.data = data
        self.size = size
        self.at = 0

    def take(self, count: int, what: str) -> int:
        """Advance by `count` bytes and return the old position."""
        start = self.at
        if count < 0 or start + count > self.size:
            raise HeaderError(f"the file ends inside {what}, it is cut off or damaged")
        self.at = start + count
        return start

    def word(self, what: str) -> int:
        """An unsigned 32-bit number."""
        number: int = _WORD.unpack_from(self.data, self.take(4, what))[0]
        return number

    def length(self, what: str) -> int:
        """An unsigned 64-bit number."""
        number: int = _LENGTH.unpack_from(self.data, self.take(8, what))[0]
        return number

    def string(self, what: str, limit: int = MAX_STRING_BYTES) -> str:
        """A string of at most `limit` bytes; bytes that are no UTF-8 are replaced."""
        count = self.length(what)
        if count > limit:
            raise HeaderError(f"{what} claims {count} bytes, more than {limit}")
        start = self.take(count, what)
        return self.data[start : start + count].decode("utf-8", "replace")


def read_header(path: Path) -> GgufHeader:
    """Read and check the header of a GGUF file, and that all its tensor data lie inside the file.

    Raises:
        HeaderError: Not GGUF, unsupported version, damaged or cut off.
        OSError: The file cannot be opened.
    """
    size = path.stat().st_size
    if size < 24:
        raise HeaderError(f"not a GGUF file: only {size} bytes")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        cursor = _Cursor(data, size)
        tensor_count, key_count = _read_counts(cursor)
        metadata = _read_metadata(cursor, key_count)
        tensors = _read_tensors(cursor, tensor_count, _alignment(metadata))
    return GgufHeader(path, size, metadata, tensors)


def _read_counts(cursor: _Cursor) -> tuple[int, int]:
    start = cursor.take(4, "the magic number")
    magic = cursor.data[start : start + 4]
    if magic != b"GGUF":
        raise HeaderError(f"not a GGUF file: it starts with {magic!r}, wanted b'GGUF'")
    version = cursor.word("the version")
    if version not in (2, 3):
        raise HeaderError(f"GGUF version {version}, wanted 2 or 3 (little endian)")
    tensor_count, key_count = cursor.length("the tensor count"), cursor.length("the key count")
    if tensor_count > MAX_TENSORS:
        raise HeaderError(f"the header claims {tensor_count} tensors, more than {MAX_TENSORS}")
    if key_count > MAX_KEYS:
        raise HeaderError(f"the header claims {key_count} metadata keys, more than {MAX_KEYS}")
    return tensor_count, key_count


def _read_metadata(cursor: _Cursor, count: int) -> dict[str, Value]:
    metadata: dict[str, Value] = {}
    for _ in range(count):
        key = cursor.string("a metadata key", MAX_KEY_BYTES)
        if key in metadata:
            raise HeaderError(f"metadata key `{shown(key)}` stands twice")
        kind = cursor.word(f"the type of `{shown(key)}`")
        metadata[key] = _read_array(cursor, key) if kind == _ARRAY else _read_scalar(cursor, kind, key)
    return metadata


def _read_scalar(cursor: _Cursor, kind: int, key: str) -> Scalar:
    if kind == _STRING:
        return cursor.string(f"the value of `{shown(key)}`")
    layout = _SCALARS.get(kind)
    if layout is None:
        raise HeaderError(f"metadata key `{shown(key)}` has unknown type {kind}")
    value: Scalar = layout.unpack_from(cursor.data, cursor.take(layout.size, f"the value of `{shown(key)}`"))[0]
    return value


def _read_array(cursor: _Cursor, key: str) -> tuple[Scalar, ...]:
    what = f"the array `{shown(key)}`"
    kind, count = cursor.word(what), cursor.length(what)
    if count > MAX_ARRAY_ITEMS:
        raise HeaderError(f"{what} claims {count} items, more than {MAX_ARRAY_ITEMS}")
    if kind == _STRING:
        return _read_strings(cursor, count, what)
    layout = _SCALARS.get(kind)
    if layout is None:
        raise HeaderError(f"{what} has unknown item type {kind}")
    start = cursor.take(layout.size * count, what)
    return tuple(item[0] for item in layout.iter_unpack(cursor.data[start : cursor.at]))


def _read_strings(cursor: _Cursor, count: int, what: str) -> tuple[str, ...]:
    """The hot loop (a vocabulary and its merges): the cursor's work, inlined."""
    if count * 8 > cursor.size - cursor.at:
        raise HeaderError(f"{what} claims {count} strings, more than the file can hold")
    data, size, at = cursor.data, cursor.size, cursor.at
    unpack, strings = _LENGTH.unpack_from, []
    for _ in range(count):
        if at + 8 > size:
            raise HeaderError(f"the file ends inside {what}, it is cut off or damaged")
        end = at + 8 + unpack(data, at)[0]
        if end > size or end - at > MAX_STRING_BYTES:
            raise HeaderError(f"the file ends inside {what}, it is cut off or damaged")
        strings.append(data[at + 8 : end].decode("utf-8", "replace"))
        at = end
    cursor.at = at
    return tuple(strings)


def _alignment(metadata: Mapping[str, Value]) -> int:
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    good = isinstance(alignment, int) and 0 < alignment <= 1 << 20 and alignment & (alignment - 1) == 0
    if not good:
        raise HeaderError(f"general.alignment is {str(alignment)[:40]}, wanted a power of two")
    return int(alignment)  # type: ignore[arg-type]  # checked the line above


def _read_tensors(cursor: _Cursor, count: int, alignment: int) -> tuple[TensorEntry, ...]:
    rows = [_read_tensor(cursor) for _ in range(count)]
    data_start = -(-cursor.at // alignment) * alignment
    seen: set[str] = set()
    entries = []
    for row in rows:
        entry = TensorEntry(row.name, row.shape, row.type_id, row.type_name, row.offset + data_start, row.size_bytes)
        if entry.name in seen:
            raise HeaderError(f"tensor `{shown(entry.name)}` stands twice")
        if row.offset % alignment:
            raise HeaderError(f"tensor `{shown(entry.name)}` starts at {row.offset}, not a multiple of {alignment}")
        if entry.offset + entry.size_bytes > cursor.size:
            raise HeaderError(
                f"the data of tensor `{shown(entry.name)}` end at byte {entry.offset + entry.size_bytes}, "
                f"the file has {cursor.size}: it is cut off or damaged"
            )
        seen.add(entry.name)
        entries.append(entry)
    return tuple(entries)


def _read_tensor(cursor: _Cursor) -> TensorEntry:
    """One row, its offset still counted from the start of the data."""
    name = cursor.string("a tensor name", MAX_NAME_BYTES)
    what = f"the table row of tensor `{shown(name)}`"
    dimensions = cursor.word(what)
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise HeaderError(f"tensor `{shown(name)}` has {dimensions} dimensions, wanted 1 to {MAX_DIMENSIONS}")
    shape = tuple(cursor.length(what) for _ in range(dimensions))
    type_id, offset = cursor.word(what), cursor.length(what)
    if any(not 1 <= extent < 1 << 40 for extent in shape) or math.prod(shape) >= 1 << 48:
        raise HeaderError(f"tensor `{shown(name)}` has an impossible shape {list(shape)}")
    type_name, block, block_bytes = tensor_type(type_id, name)
    if shape[0] % block:
        raise HeaderError(f"tensor `{shown(name)}` has rows of {shape[0]}, not a multiple of its block of {block}")
    return TensorEntry(name, shape, type_id, type_name, offset, math.prod(shape) // block * block_bytes)


def tensor_type(type_id: int, name: str) -> tuple[str, int, int]:
    """Name, weights per block and bytes per block of a ggml type.

    Raises:
        HeaderError: Unknown type.
    """
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        kind = GGMLQuantizationType(type_id)
    except ValueError as error:
        raise HeaderError(f"tensor `{shown(name)}` has unknown type {type_id}") from error
    block, block_bytes = GGML_QUANT_SIZES[kind]
    return kind.name, block, block_bytes
