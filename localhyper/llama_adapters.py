"""Loaded adapters: check a file, load it once, keep it while it may be wanted again, free it safely.

One of the `llama_*` files. Knows files and native adapters, not the KV cache: `LlamaEngine` clears that.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localhyper.engine import AdapterUse, BaseModelInfo
from localhyper.errors import AdapterError
from localhyper.gguf_adapter import check_adapter
from localhyper.llama_native import NativeModel
from localhyper.lora import TOKENS

MAX_SCALE = 100.0  # far beyond any use; what lies further overflows 16 bits and gives no words at all
MAX_UNUSED = 8  # adapters kept loaded though not in force: a switch back then costs no disk


@dataclass(frozen=True)
class FileState:
    """A file as it was when loaded: another time, size or inode makes it another adapter."""

    path: Path
    modified_ns: int
    size: int
    inode: int


@dataclass(frozen=True)
class _Native:
    """An adapter that llama.cpp holds, and what its file says that it writes (`AdapterMetadata.values`)."""

    pointer: Any
    values: str


Loaded = tuple[tuple[Any, float], ...]


class AdapterCache:
    """Native adapters of one model by file state."""

    def __init__(self, model: NativeModel, info: BaseModelInfo) -> None:
        self._model = model
        self._info = info
        self._loaded: OrderedDict[FileState, _Native] = OrderedDict()

    def load(self, uses: Sequence[AdapterUse]) -> tuple[tuple[FileState, float], ...]:
        """Check and load every adapter; the result names them in order. Scale 0 is checked and then left out.

        Raises:
            AdapterError: A file is damaged or does not fit, a scale is out of range, or a file is named twice.
        """
        wanted: dict[FileState, float] = {}
        for use in uses:
            if not abs(use.scale) <= MAX_SCALE:  # so written, it refuses what is not a number too
                raise AdapterError(
                    f"adapter `{use.path.name}` has scale {use.scale}, wanted {-MAX_SCALE} to {MAX_SCALE}"
                )
            state = self._load_one(use.path)
            if state in wanted:
                raise AdapterError(f"adapter `{use.path.name}` is given twice", "give it once, with the scale you want")
            wanted[state] = use.scale
        return tuple((state, scale) for state, scale in wanted.items() if scale != 0.0)

    def native(self, states: Sequence[tuple[FileState, float]]) -> Loaded:
        """Native pointers and scales of loaded adapters."""
        return tuple((self._loaded[state].pointer, scale) for state, scale in states)

    def say_tokens(self, states: Sequence[tuple[FileState, float]]) -> list[bool]:
        """Of each of these loaded adapters whether it says tokens of its text."""
        return [self._loaded[state].values == TOKENS for state, _ in states]

    def _load_one(self, path: Path) -> FileState:
        state = _file_state(path)
        if state in self._loaded:
            self._loaded.move_to_end(state)
            return state
        metadata = check_adapter(path, self._info)
        pointer = self._model.load_adapter(path)
        if not pointer:
            raise AdapterError(f"llama.cpp cannot load adapter `{path.name}`", "the log file says why")
        if _file_state(path) != state:  # checked one file, loaded another
            self._model.free_adapter(pointer)
            raise AdapterError(f"adapter `{path.name}` changed while it was read", "try again")
        self._loaded[state] = _Native(pointer, metadata.values)
        return state

    def drop_unused(self, in_force: Sequence[tuple[FileState, float]]) -> None:
        """Free the oldest adapters that are not in force, beyond `MAX_UNUSED`."""
        used = {state for state, _ in in_force}
        unused = [state for state in self._loaded if state not in used]
        for state in unused[: max(0, len(unused) - MAX_UNUSED)]:
            self._model.free_adapter(self._loaded.pop(state).pointer)

    def close(self) -> None:
        """Free everything; no context may hold an adapter any more."""
        while self._loaded:
            self._model.free_adapter(self._loaded.popitem()[1].pointer)


def _file_state(path: Path) -> FileState:
    try:
        stat = path.stat()
    except OSError as error:
        raise AdapterError(
            f"adapter file `{path}` cannot be read: {error.strerror}", "`localhyper adapters list` shows what there is"
        ) from error
    return FileState(path.absolute(), stat.st_mtime_ns, stat.st_size, stat.st_ino)
