"""An ONNX file written weight by weight, so that a model of more than a gigabyte is never in memory a second time.

Protobuf's wire format, of which only what is needed here: a length-delimited field is its tag, its length and its bytes
(https://protobuf.dev/programming-guides/encoding/).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

# Tags of length-delimited fields in onnx.proto: ModelProto.graph, GraphProto.initializer, TensorProto.raw_data.
_GRAPH, _INITIALIZER, _RAW_DATA = (number << 3 | 2 for number in (7, 5, 9))
_TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}


@dataclass(frozen=True)
class Weight:
    """An initializer that is yet to be written.

    Attributes:
        name: Its name in the graph.
        shape: Its shape.
        dtype: `float32` or `float16`.
        read: Gives its values, asked once.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], NDArray[np.generic]]

    @property
    def size(self) -> int:
        """Bytes of its values."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    def head(self) -> bytes:
        """The message up to its values."""
        message = TensorProto(name=self.name, dims=self.shape, data_type=_TYPES[self.dtype])
        return bytes(message.SerializeToString()) + _tag(_RAW_DATA, self.size)


def write_model(model: onnx.ModelProto, weights: Sequence[Weight], path: Path) -> None:
    """Write `model`, whose graph lacks `weights`, with them.

    Raises:
        OSError: The file cannot be written, or the disk is full.
    """
    graph = bytes(model.graph.SerializeToString())
    outside = onnx.ModelProto()
    outside.CopyFrom(model)
    outside.ClearField("graph")
    heads = [weight.head() for weight in weights]
    tags = [_tag(_INITIALIZER, len(head) + weight.size) for head, weight in zip(heads, weights, strict=True)]
    total = len(graph) + sum(len(tag) + len(head) for tag, head in zip(tags, heads, strict=True))
    with path.open("wb") as file:
        file.write(bytes(outside.SerializeToString()))
        file.write(_tag(_GRAPH, total + sum(weight.size for weight in weights)) + graph)
        for weight, tag, head in zip(weights, tags, heads, strict=True):
            values = np.ascontiguousarray(weight.read(), np.dtype(weight.dtype).newbyteorder("<"))
            file.write(tag + head)
            file.write(values.reshape(-1).view(np.uint8).data)


def _tag(tag: int, length: int) -> bytes:
    return _varint(tag) + _varint(length)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
