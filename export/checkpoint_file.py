"""A published checkpoint as `torch.save` wrote it: a zip of one pickle and one raw file for each tensor's memory.

Opened without torch and without `pickle` (see `checkpoint_pickle`). Tensors are read one at a time, when asked for,
against the zip's checksums, so that a checkpoint of 1.3 GB is never in memory as a whole. Every size is compared with
the file's real bytes before anything is allocated.
"""

from __future__ import annotations

import contextlib
import math
import struct
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray

from localhyper.errors import HypernetworkError
from localhyper.export.checkpoint_pickle import MAX_PICKLE_BYTES, PickleRefused, Storage, TensorView, read_pickle
from localhyper.gguf_header import shown

MAX_BYTES = 1 << 34
MAX_DIRECTORY_BYTES = 1 << 23  # some 100,000 entries
MAX_TENSORS = 1 << 14
READ_BYTES = 1 << 24
COMPILED = "_orig_mod."  # what torch.compile puts before names
HINT = "the file is damaged or is no published checkpoint; fetch it again"
_END, _END64, _LOCATOR64 = b"PK\5\6", b"PK\6\6", b"PK\6\7"
# What a zip that is not sound makes `zipfile` raise.
_ZIP_ERRORS = (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError, OverflowError, struct.error)

Array = NDArray[np.float32] | NDArray[np.int64]


@dataclass(frozen=True)
class Checkpoint:
    """An open checkpoint.

    Attributes:
        path: The file.
        tensors: Name, without `_orig_mod.`, to where it lies, in the file's order.
        values: The entries that are no tensors, unchecked.
    """

    path: Path
    tensors: Mapping[str, TensorView]
    values: Mapping[str, object]
    _zip: zipfile.ZipFile = field(repr=False)
    _stem: str = field(repr=False)

    def read(self, name: str) -> Array:
        """A tensor's values, not shared: float32 (bfloat16 and half precision widened), or int64.

        Raises:
            HypernetworkError: No such tensor, or its bytes are not those that were written.
        """
        view = self.tensors.get(name)
        if view is None:
            raise self._bad(f"it has no tensor `{name}`")
        return self.read_view(view, name)

    def read_view(self, view: TensorView, name: str = "") -> Array:
        """The same of a tensor that may stand somewhere among `values`."""
        self.check(name, view)
        stored = self._stored(view.storage)
        steps = [stride * stored.itemsize for stride in view.strides]
        strided = np.lib.stride_tricks.as_strided(stored[view.offset :], view.shape, steps)
        if view.storage.kind == "<i8":
            return np.asarray(strided, np.int64, order="C")
        if view.storage.kind == "bfloat16":
            return (strided.astype(np.uint32, order="C") << np.uint32(16)).view(np.float32)
        return np.asarray(strided, np.float32, order="C")

    def check(self, name: str, view: TensorView) -> None:
        """Make sure that a tensor's memory is there, with exactly the bytes that its pickle claims.

        Raises:
            HypernetworkError: It is not, or the tensor has no element.
        """
        entry, wanted = self._entry(view.storage), _stored_bytes(view.storage)
        try:
            got = self._zip.getinfo(entry).file_size
        except KeyError:
            raise self._bad(f"tensor `{shown(name)}` lies in `{shown(entry)}`, which is not there") from None
        if got != wanted:
            raise self._bad(f"tensor `{shown(name)}` needs {wanted} bytes in `{shown(entry)}`, which has {got}")
        if math.prod(view.shape) == 0:
            raise self._bad(f"tensor `{shown(name)}` is empty")

    def _entry(self, storage: Storage) -> str:
        return f"{self._stem}/data/{storage.key}"

    def _stored(self, storage: Storage) -> NDArray[np.generic]:
        name = self._entry(storage)
        place, at = np.empty(_stored_bytes(storage), np.uint8), 0
        try:
            with self._zip.open(name) as file:
                while part := file.read(READ_BYTES):  # to the end, so that the checksum is compared
                    place[at : at + len(part)] = np.frombuffer(part, np.uint8)
                    at += len(part)
        except (*_ZIP_ERRORS, OSError, KeyError) as error:
            raise self._bad(f"entry `{shown(name)}` cannot be read ({_first_line(error)})") from error
        if at != len(place):
            raise self._bad(f"entry `{shown(name)}` is cut off")
        return place.view("<u2" if storage.kind == "bfloat16" else storage.kind)

    def _bad(self, what: str) -> HypernetworkError:
        return HypernetworkError(f"checkpoint `{self.path}`: {what}", HINT)


@contextlib.contextmanager
def open_checkpoint(path: Path) -> Iterator[Checkpoint]:
    """Open a checkpoint and read its pickle; tensors are read by `Checkpoint.read`.

    Raises:
        HypernetworkError: Missing, no file of `torch.save`, damaged, or with anything that published checkpoints don't
            hold. Nothing of the file has been executed.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("rb"))
            _check_outside(path, file)
            checkpoint = _read(path, stack.enter_context(zipfile.ZipFile(file)))
        except FileNotFoundError as error:
            raise HypernetworkError(
                f"checkpoint `{path}` does not exist", "name the file or folder that was fetched"
            ) from error
        except IsADirectoryError as error:
            raise HypernetworkError(f"checkpoint `{path}` is a folder", "name the file inside it") from error
        except _ZIP_ERRORS as error:
            _refuse(path, f"it is no sound zip ({_first_line(error)})")
        except OSError as error:
            message = f"checkpoint `{path}` cannot be read: {error.strerror or error}"
            raise HypernetworkError(message, "check its permissions") from error
        yield checkpoint


def _check_outside(path: Path, file: BinaryIO) -> None:
    """What must hold before `zipfile` looks: a regular file, begun and ended as torch.save does, a small directory."""
    if not path.is_file():
        _refuse(path, "it is not a regular file")
    size = path.stat().st_size
    if size == 0:
        _refuse(path, "it is empty")
    if size > MAX_BYTES:
        _refuse(path, f"it has {size} bytes, at most {MAX_BYTES} are read")
    start = file.read(4)
    if start[:1] == b"\x80":
        raise HypernetworkError(
            f"checkpoint `{path}` is a bare pickle, not a zip of `torch.save`",
            "such a file cannot be opened safely; ask its author for one written by torch 1.6 or newer",
        )
    if start != b"PK\3\4":
        _refuse(path, "it is no zip of `torch.save`")
    directory = _directory_bytes(file, size)
    if directory is None:
        _refuse(path, "it is cut off, or something follows the zip")
    if directory > MAX_DIRECTORY_BYTES:
        _refuse(path, f"its list of entries has {directory} bytes, at most {MAX_DIRECTORY_BYTES} are read")


def _directory_bytes(file: BinaryIO, size: int) -> int | None:
    """Size of the zip's list of entries, which `zipfile` reads at once; None where the zip's end is not at the end."""
    tail = min(size, 22 + 20 + 56)
    file.seek(size - tail)
    data = file.read(tail)
    end = data[-22:]
    if len(end) < 22 or end[:4] != _END or end[20:22] != b"\0\0":
        return None
    small: int = struct.unpack_from("<I", end, 12)[0]
    if data[-42:-38] != _LOCATOR64:
        return small
    if data[-98:-94] != _END64:
        return None
    large: int = struct.unpack_from("<Q", data, len(data) - 98 + 40)[0]
    return large


def _read(path: Path, opened: zipfile.ZipFile) -> Checkpoint:
    stem = _check_entries(path, opened)
    try:
        top = read_pickle(opened.read(f"{stem}/data.pkl"))
    except PickleRefused as error:
        raise HypernetworkError(
            f"checkpoint `{path}` is refused: {error}",
            "nothing of it was run; if its author can be trusted, ask for a file of tensors and settings only",
        ) from error
    if not isinstance(top, dict):
        _refuse(path, f"it holds a {type(top).__name__}, wanted a dictionary of tensors")
    tensors: dict[str, TensorView] = {}
    values: dict[str, object] = {}
    for key, value in top.items():
        if not isinstance(key, str):
            _refuse(path, f"it has an entry whose name is a {type(key).__name__}")
        name = key.removeprefix(COMPILED) if isinstance(value, TensorView) else key
        if name in tensors or name in values:
            _refuse(path, f"it has the entry `{shown(name)}` twice")
        if isinstance(value, TensorView):
            tensors[name] = value
        else:
            values[name] = value
    if len(tensors) > MAX_TENSORS:
        _refuse(path, f"it has {len(tensors)} tensors, at most {MAX_TENSORS} are read")
    checkpoint = Checkpoint(path, tensors, values, opened, stem)
    for name, view in tensors.items():
        checkpoint.check(name, view)
    return checkpoint


def _check_entries(path: Path, opened: zipfile.ZipFile) -> str:
    """The folder inside the zip, after a look at every entry: stored as it is, in that folder, none twice."""
    stems, names = set(), set()
    for entry in opened.infolist():
        name = entry.filename
        stem, _, rest = name.partition("/")
        if not stem or not rest or stem == ".." or "\\" in name or ".." in rest.split("/") or "" in rest.split("/"):
            _refuse(path, f"it has an entry with the unusual name `{shown(name)}`")
        if name in names:
            _refuse(path, f"it has the entry `{shown(name)}` twice")
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size or entry.flag_bits & 1:
            _refuse(path, f"its entry `{shown(name)}` is compressed or encrypted, which `torch.save` never does")
        stems.add(stem)
        names.add(name)
    if len(stems) != 1:
        _refuse(path, f"its entries lie in {len(stems)} folders, wanted one")
    stem = stems.pop()
    if f"{stem}/data.pkl" not in names:
        _refuse(path, f"it has no `{shown(stem, 40)}/data.pkl`, so it was not written by `torch.save`")
    entries = {entry.filename: entry for entry in opened.infolist()}
    if sum(entry.file_size for entry in entries.values()) > path.stat().st_size:
        _refuse(path, "its entries claim more bytes than the file has")
    if entries[f"{stem}/data.pkl"].file_size > MAX_PICKLE_BYTES:
        _refuse(path, f"its pickle has more than {MAX_PICKLE_BYTES} bytes")
    order = entries.get(f"{stem}/byteorder")
    if order is not None and (order.file_size > 8 or opened.read(order) != b"little"):
        _refuse(path, "it was not written by a little-endian machine")
    return stem


def _stored_bytes(storage: Storage) -> int:
    return storage.elements * (2 if storage.kind == "bfloat16" else np.dtype(storage.kind).itemsize)


def _refuse(path: Path, what: str) -> NoReturn:
    raise HypernetworkError(f"checkpoint `{path}`: {what}", HINT)


def _first_line(error: BaseException) -> str:
    return shown((str(error).strip().splitlines() or [type(error).__name__])[0], 120)
