"""The wire between the reader process and its parent: length-prefixed JSON, then raw bytes. No pickle, no code.

Request on the child's stdin: one frame (`Request`), then the file's bytes up to the end of the stream.
Answer on the child's stdout: one frame (`Answer`).
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass, field
from typing import Any, BinaryIO

from localhyper.sources.limits import ReadLimits

_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True)
class Request:
    """What the child is asked to read.

    Attributes:
        name: File name (no folder), for messages and as a hint at the format; `-` for stdin.
        limits: Bounds that the child keeps itself; the parent keeps time and output size as well.
        password: For encrypted PDFs; empty for none.
    """

    name: str
    limits: ReadLimits
    password: str = ""


@dataclass(frozen=True)
class Answer:
    """What the child found: a text, or an error when `message` is not empty. `pages` 0 = the format has none."""

    title: str = ""
    text: str = ""
    kind: str = ""
    notes: tuple[str, ...] = field(default=())
    message: str = ""
    hint: str = ""
    pages: int = 0


def pack(value: dict[str, Any]) -> bytes:
    """One frame: 8 bytes of length, little-endian, then JSON in UTF-8."""
    body = json.dumps(value, ensure_ascii=True).encode("ascii")
    return _LENGTH.pack(len(body)) + body


def pack_request(request: Request) -> bytes:
    """A request as one frame."""
    return pack({"name": request.name, "limits": request.limits.to_json(), "password": request.password})


def pack_answer(answer: Answer) -> bytes:
    """An answer as one frame."""
    return pack(asdict(answer))


def unpack(stream: BinaryIO) -> Any:
    """The value of the frame at the head of `stream`, which our own side wrote."""
    (length,) = _LENGTH.unpack(stream.read(_LENGTH.size))
    return json.loads(stream.read(length))


def read_request(stream: BinaryIO) -> Request:
    """The request at the head of `stream`."""
    value = unpack(stream)
    return Request(value["name"], ReadLimits(**value["limits"]), value["password"])


def parse_answer(data: bytes) -> Answer | None:
    """The answer in `data`; None when it is not exactly one well-formed frame."""
    if len(data) < _LENGTH.size or _LENGTH.unpack_from(data)[0] != len(data) - _LENGTH.size:
        return None
    try:
        value = json.loads(data[_LENGTH.size :])
        texts = [value[name] for name in ("title", "text", "kind", "message", "hint")]
        notes, pages = tuple(value["notes"]), value.get("pages", 0)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not all(isinstance(item, str) for item in (*texts, *notes)) or type(pages) is not int or pages < 0:
        return None
    title, text, kind, message, hint = texts
    return Answer(title, text, kind, notes, message, hint, pages)
