"""The doors to documents: a file, stdin, a text, or any of these by one name. Parses nothing itself."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from pathlib import Path
from typing import BinaryIO

from localhyper.errors import SourceError
from localhyper.progress import CancelToken, ProgressCallback, ignore_progress
from localhyper.sources.cleaning import clean_text, clean_title
from localhyper.sources.document import Document
from localhyper.sources.frames import Request
from localhyper.sources.limits import DEFAULT_LIMITS, MIB, ReadLimits

STDIN = "-"
_NAME_CHARS = 160


def read_any(
    origin: str | Path,
    *,
    limits: ReadLimits = DEFAULT_LIMITS,
    password: str = "",
    progress: ProgressCallback = ignore_progress,
    cancel: CancelToken | None = None,
    stdin: BinaryIO | None = None,
) -> Document:
    """A file, a folder or `-` (stdin) as one document; a folder's files become its sections.

    Args:
        origin: Path, or `-`.
        limits: Bounds on time, memory and size.
        password: For encrypted PDFs.
        progress: Told of every file of a folder, stage `read`.
        cancel: Read between files and while one is read.
        stdin: Stream in place of the process's own stdin.

    Raises:
        SourceError: Nothing readable there.
        Cancelled: `cancel` was set.
    """
    from localhyper.sources.folder import folder_document, read_folder

    if str(origin) != STDIN and os.path.isdir(origin):  # pathlib's raises on names that are too long
        path = Path(origin)
        result = read_folder(path, limits=limits, password=password, progress=progress, cancel=cancel)
        return folder_document(path, result)
    return read_source(origin, limits=limits, password=password, cancel=cancel, stdin=stdin)


def read_source(
    origin: str | Path,
    *,
    limits: ReadLimits = DEFAULT_LIMITS,
    password: str = "",
    cancel: CancelToken | None = None,
    stdin: BinaryIO | None = None,
) -> Document:
    """One file, or stdin for `-`, read in a child process; arguments and errors as for `read_any`."""
    from localhyper.sources.child import run_reader

    if str(origin) == STDIN:
        name = STDIN
        data = _read_stdin(limits, stdin if stdin is not None else sys.stdin.buffer)
    else:
        name = _printable(Path(origin).name)
        data = _read_file(Path(origin), limits)
    answer = run_reader(Request(name, limits, password), data, cancel)
    if name == STDIN:
        title = answer.title if answer.title != STDIN else "stdin"
        return _document(title, answer.text, "stdin", STDIN, answer.notes, answer.pages)
    return _document(answer.title, answer.text, answer.kind, str(origin), answer.notes, answer.pages)


def read_text(text: str, title: str) -> Document:
    """Text that is already at hand, cleaned like any other.

    Raises:
        SourceError: Nothing but white space.
    """
    cleaned = clean_text(text)
    if not cleaned.strip():
        raise SourceError("the text is empty", "give some text")
    return _document(clean_title(title) or title or "text", cleaned, "text", "", ())


def _document(title: str, text: str, kind: str, origin: str, notes: tuple[str, ...], pages: int = 0) -> Document:
    """A document with the digest of its text."""
    return Document(title, text, kind, text_sha256(text), origin, notes, pages)


def text_sha256(text: str) -> str:
    """Hex digest of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _read_stdin(limits: ReadLimits, stream: BinaryIO) -> bytes:
    """All of stdin, bounded."""
    if stream.isatty():
        raise SourceError("`-` reads a document from stdin, but stdin is the keyboard", "pipe a file in, or name one")
    data = stream.read(limits.file_bytes + 1)
    _check_size(STDIN, len(data), limits)
    return data


def _read_file(path: Path, limits: ReadLimits) -> bytes:
    """All of a regular file, bounded; devices, pipes and addresses are refused before they are opened."""
    if str(path).startswith(("http:/", "https:/")):
        raise SourceError(
            f"{_printable(str(path))}: a web address, not a file",
            "save the page as a file first: localhyper works offline",
        )
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise SourceError(f"{_printable(str(path))}: a folder, where one file is wanted", "name a file in it")
        if not stat.S_ISREG(status.st_mode):
            raise SourceError(
                f"{_printable(str(path))}: not a regular file", "pipe its content in, with `-` in place of the file"
            )
        _check_size(_printable(path.name), status.st_size, limits)
        # The file may have changed since: the handle's own size is not trusted either.
        with open(path, "rb", opener=_open_without_waiting) as file:
            data = file.read(limits.file_bytes + 1)
    except (OSError, ValueError) as error:
        raise _file_error(path, error) from error
    _check_size(_printable(path.name), len(data), limits)
    return data


def _open_without_waiting(path: str, flags: int) -> int:
    """`os.open` that does not hang should a pipe have taken the file's place."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _check_size(name: str, size: int, limits: ReadLimits) -> None:
    """Refuse more bytes than the limit."""
    if size > limits.file_bytes:
        raise SourceError(
            f"{name}: larger than {limits.file_bytes / MIB:g} MiB, the most that is read", "split it into smaller files"
        )


def _file_error(path: Path, error: Exception) -> SourceError:
    """The line for a file that the system does not give us."""
    name = _printable(str(path))
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return SourceError(f"{name}: no such file", "check the path; quote it when it has spaces")
    if isinstance(error, PermissionError):
        return SourceError(f"{name}: not allowed to read it", "check the file's permissions")
    if isinstance(error, OSError):
        return SourceError(f"{name}: cannot be opened ({error.strerror or type(error).__name__})", "check the path")
    return SourceError(f"{name}: not a possible file name", "check the path")


def _printable(name: str) -> str:
    """A file name that can be printed and sent: control characters and the like become `?`, long ones are cut."""
    if len(name) > _NAME_CHARS:
        name = "…" + name[-_NAME_CHARS:]  # the end has the file's own name and its ending
    return "".join(letter if letter.isprintable() and not "\ud800" <= letter <= "\udfff" else "?" for letter in name)
