"""Write a file or folder so that a reader sees the old content or the new, never half of either.

Every file localhyper keeps (adapters, bundles, the library, settings, downloads) goes through here:
a temporary file in the same folder, fsync, rename. It knows nothing about what is inside the files.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

STALE_SECONDS = 30 * 24 * 3600


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Lend a temporary path next to `path`; rename it over `path` when the block ends well.

    When the block raises, the temporary file is removed and an existing `path` stays as it was.
    The folder is created if it is missing. The temporary file exists and is empty, and readable
    by the owner only; the finished file gets the permissions of the file it replaces, or the usual ones.

    Args:
        path: the final path; a symbolic link is followed, so that the link survives.

    Yields:
        The temporary path. The block must leave a regular file there.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    final = Path(os.path.realpath(path))
    final.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{final.name[:80]}.", suffix=".tmp", dir=final.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _sync(temporary)
        os.chmod(temporary, _mode_for(final))
        os.replace(temporary, final)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(final.parent)


def remove_stale(entries: Iterable[Path]) -> None:
    """Delete files and folders of unfinished work that nobody came back for in a month."""
    oldest = time.time() - STALE_SECONDS
    for entry in entries:
        with contextlib.suppress(OSError):
            if entry.stat().st_mtime < oldest:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def write_bytes_atomic(path: str | os.PathLike[str], data: bytes | bytearray | memoryview) -> None:
    """Write `data` to `path` all or nothing.

    Raises:
        OSError: the folder cannot be written, or the disk is full; the old file is then untouched.
    """
    with atomic_path(path) as temporary, open(temporary, "wb") as out:
        out.write(data)


def write_text_atomic(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` to `path` as UTF-8, all or nothing, with newlines left as they are.

    Raises:
        OSError: the folder cannot be written, or the disk is full; the old file is then untouched.
        UnicodeEncodeError: the text holds lone surrogates.
    """
    write_bytes_atomic(path, text.encode("utf-8"))


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Lend a temporary folder next to `path`; rename it to `path` when the block ends well.

    A folder that is there makes way only then and is deleted with all that is in it: ask before. When the block
    raises, the temporary folder is removed and an existing `path` stays as it was.

    Args:
        path: the final path; a symbolic link is followed, so that the link survives.

    Yields:
        The temporary folder, empty and for the owner only. The block leaves plain files there, no folders.

    Raises:
        OSError: the parent folder cannot be written, or the disk is full.
    """
    final = Path(os.path.realpath(path))
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{final.name[:80]}.", suffix=".tmp", dir=final.parent))
    try:
        yield temporary
        for file in temporary.iterdir():
            _sync(file)
        _sync_folder(temporary)
        os.chmod(temporary, _mode_for(final, 0o777))
        _take_place(temporary, final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync_folder(final.parent)


def _take_place(new: Path, final: Path) -> None:
    """No rename replaces a full folder: the old one steps aside first, and comes back when the new one cannot come."""
    if not final.exists():
        os.rename(new, final)
        return
    aside = new.with_suffix(".old")
    os.rename(final, aside)
    try:
        os.rename(new, final)
    except BaseException:
        os.rename(aside, final)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _mode_for(final: Path, usual: int = 0o666) -> int:
    """Permissions for what is finished: those of what it replaces, else what the umask allows of the usual ones."""
    try:
        return final.stat().st_mode & 0o777
    except FileNotFoundError:
        umask = os.umask(0o077)
        os.umask(umask)
        return usual & ~umask


def _sync(path: Path) -> None:
    """Push a file's content to the disk before it takes its final name."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Push the rename itself to the disk, where the system lets a folder be opened."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
