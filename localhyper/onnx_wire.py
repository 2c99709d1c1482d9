"""Looks into an `.onnx` file without an ONNX library: metadata strings, number of weights, pointers to other files.

Reads protobuf's wire format directly, only the few fields needed, and never trusts a length. It does not judge the
graph: that is onnxruntime's work, which is only handed files that passed here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

# Field numbers of onnx.proto: message name -> {field number: message name of what lies inside}.
_INSIDE: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_METADATA_PROPS = 14
_TENSOR_DIMS, _TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 1, 13, 14
_MAX_DEPTH = 32
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class WireError(ValueError):
    """The bytes are not a well-formed message; the text says why."""


@dataclass(frozen=True)
class OnnxOutline:
    """What `outline` found.

    Attributes:
        metadata: The model's `metadata_props`.
        has_graph: Whether there is a graph at all.
        external_data: Whether a tensor keeps its values in another file.
        weights: Numbers in all constant tensors, as their shapes say.
    """

    metadata: dict[str, str]
    has_graph: bool
    external_data: bool
    weights: int = 0


def outline(data: memoryview) -> OnnxOutline:
    """Walk a serialized ModelProto.

    Raises:
        WireError: The bytes are cut off, nested too deeply or not protobuf.
    """
    metadata: dict[str, str] = {}
    has_graph = False
    for number, kind, value in _fields(data):
        if number == _METADATA_PROPS and kind == _BYTES:
            key, text = _entry(value)
            metadata[key] = text
        has_graph = has_graph or (number == 7 and kind == _BYTES)
    external, weights = False, 0
    for tensor in _tensors(data, "model", 0):
        elsewhere, elements = _look_at(tensor)
        external, weights = external or elsewhere, weights + elements
    return OnnxOutline(metadata, has_graph, external, weights)


def _tensors(data: memoryview, message: str, depth: int) -> Iterator[memoryview]:
    """Every tensor inside a message, at any depth."""
    if depth > _MAX_DEPTH:
        raise WireError("nested too deeply")
    if message == "tensor":
        yield data
        return
    inside = _INSIDE[message]
    for number, kind, value in _fields(data):
        if kind == _BYTES and number in inside:
            yield from _tensors(value, inside[number], depth + 1)


def _look_at(tensor: memoryview) -> tuple[bool, int]:
    """Whether a tensor keeps its values in another file, and how many it says it has."""
    external, elements = False, 1
    for number, kind, value in _fields(tensor):
        elsewhere = number == _TENSOR_DATA_LOCATION and kind == _VARINT and bytes(value) != b"\0"
        external = external or elsewhere or number == _TENSOR_EXTERNAL_DATA
        if number == _TENSOR_DIMS and kind in (_VARINT, _BYTES):  # each in a field of its own, or packed
            at = 0
            while at < len(value):
                size, at = _varint(value, at)
                elements *= size
    return external, elements


def _entry(data: memoryview) -> tuple[str, str]:
    """A StringStringEntryProto."""
    parts = {1: "", 2: ""}
    for number, kind, value in _fields(data):
        if kind == _BYTES and number in parts:
            try:
                parts[number] = str(value, "utf-8")
            except UnicodeDecodeError as error:
                raise WireError("metadata is not UTF-8") from error
    return parts[1], parts[2]


def _fields(data: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Field number, wire type and raw value of each field of one message."""
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        start = at
        if kind == _VARINT:
            _, at = _varint(data, at)
        elif kind == _BYTES:
            length, start = _varint(data, at)
            at = start + length
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise WireError(f"unknown wire type {kind} at byte {start}")
        if at > end:
            raise WireError("cut off")
        if number == 0:
            raise WireError("field number 0")
        yield number, kind, data[start:at]


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for index in range(10):
        if at + index >= len(data):
            raise WireError("cut off")
        byte = data[at + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, at + index + 1
    raise WireError("a number longer than 10 bytes")
