"""A text to token ids by a `tokenizer.json`, in a child process: the file comes with a stranger's embedding model.

The tokenizer's native code panics on some files, loops on others, and grows a text without end where a file's rules say
so. The child has the locks of the document readers; whatever happens in it ends in one line. The only run-time file
that knows tokenizers, and only in the child.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

from localhyper.errors import ModelError
from localhyper.progress import CancelToken
from localhyper.sources.child import Ended, run_process
from localhyper.sources.confinement import confine
from localhyper.sources.frames import pack, unpack
from localhyper.sources.limits import MIB, ReadLimits
from localhyper.sources.reader_process import hide_standard_output

MAX_BYTES = 64 * MIB
SECONDS = 60.0
MEMORY_BYTES = 1024 * MIB
HINT = "fetch the embedder again, or give the vector with --embedding FILE"


class Tokens(NamedTuple):
    """Token ids of a text, special ones included, and whether some were cut off."""

    ids: list[int]
    truncated: bool


def tokenize(path: Path, text: str, max_tokens: int, cancel: CancelToken | None = None) -> Tokens:
    """The first `max_tokens` tokens of a text.

    Raises:
        ModelError: The file is missing, no tokenizer, fails on the text, or passes a limit of time or memory.
        Cancelled: `cancel` was set; the process is gone.
    """
    head = {"text": text, "max_tokens": max_tokens, "seconds": SECONDS}
    most = 65536 + 16 * max_tokens  # of digits
    ended = run_process(__name__, pack(head), _read(path), out_bytes=most, seconds=SECONDS, cancel=cancel)
    if ended.late:
        raise ModelError(f"tokenizer `{path}` takes more than {SECONDS:g} seconds on the description", HINT)
    try:
        answer = json.loads(ended.out)
    except ValueError:
        raise _crash_error(path, ended) from None
    if "error" in answer:
        raise ModelError(f"tokenizer `{path}` {answer['error']}", HINT)
    if not 0 < answer["count"] <= max_tokens:
        raise ModelError(f"tokenizer `{path}` gives {answer['count']} tokens, wanted 1 to {max_tokens}", HINT)
    return Tokens(answer["ids"], answer["truncated"])


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ModelError(f"tokenizer `{path}` has {size} bytes, at most {MAX_BYTES} are read", HINT)
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"tokenizer `{path}` cannot be read: {error.strerror or error}", HINT) from error


def _crash_error(path: Path, ended: Ended) -> ModelError:
    """The line for a child that ended without an answer."""
    last = (ended.errors.decode("utf-8", "replace").strip().splitlines() or [""])[-1]
    if "ModuleNotFoundError" in last:
        return ModelError(f"the tokenizer could not start: {last[:160]}", "install localhyper again")
    what = (
        f"more than {MEMORY_BYTES // MIB} MiB of memory"
        if b"memory allocation" in ended.errors
        else "what it was allowed"
    )
    return ModelError(f"tokenizer `{path}` takes {what} on the description (exit {ended.code})", HINT)


def main() -> None:
    """The child: one request and the file on stdin, one JSON object on stdout, then the end."""
    answer_fd = hide_standard_output()
    request = unpack(sys.stdin.buffer)
    import tokenizers

    confine(ReadLimits(seconds=request["seconds"], memory_bytes=MEMORY_BYTES))
    line = json.dumps(_answer(tokenizers.Tokenizer, request, sys.stdin.buffer.read(MAX_BYTES))).encode("ascii")
    while line:
        line = line[os.write(answer_fd, line) :]
    os._exit(0)


def _answer(tokenizer: Any, request: dict[str, Any], data: bytes) -> dict[str, Any]:
    what = "is no tokenizer"
    try:
        loaded = tokenizer.from_str(data.decode("utf-8"))
        what = "fails on the description"
        loaded.no_padding()
        loaded.encode_special_tokens = True  # a description that spells out `[SEP]` or `<s>` means the letters
        loaded.enable_truncation(request["max_tokens"])
        found = loaded.encode(request["text"])
    except BaseException as error:  # bare ones, and a panic of native code is no Exception
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return {"error": f"{what} ({reason[:160]})"}
    ids = found.ids[: request["max_tokens"]]
    return {"ids": ids, "count": len(found.ids), "truncated": bool(found.overflowing)}
