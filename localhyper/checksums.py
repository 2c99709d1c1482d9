"""sha256 of large files, computed once: remembered by path, size and time of change.

It knows nothing of what a file should be; the registry and the downloads compare.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path

from localhyper.atomic import write_text_atomic
from localhyper.progress import CancelToken, Progress, ProgressCallback, ignore_progress

BLOCK_BYTES = 4 * 1024 * 1024
MAX_REMEMBERED = 500


def file_sha256(
    path: Path,
    cache_file: Path | None = None,
    *,
    progress: ProgressCallback = ignore_progress,
    cancel: CancelToken | None = None,
) -> str:
    """The file's sha256 as 64 hex digits.

    Args:
        path: The file.
        cache_file: Where digests are remembered; None = read the file in any case and remember nothing.
        progress: Told the bytes done, stage `check`.
        cancel: Read between blocks.

    Raises:
        OSError: The file cannot be read.
        Cancelled: `cancel` was set.
    """
    key = _key(path)
    remembered = _load(cache_file)
    if key in remembered:
        return remembered[key]
    digest = _compute(path, progress, cancel)
    if cache_file is not None and _key(path) == key:  # not changed meanwhile
        _remember(cache_file, key, digest)
    return digest


def remember_sha256(path: Path, cache_file: Path, digest: str) -> None:
    """Remember a digest that the caller has computed of this very file."""
    _remember(cache_file, _key(path), digest)


def git_blob_sha1(path: Path) -> str:
    """The id that git gives a file's content, 40 hex digits: what the hub has for files outside its large storage.

    Raises:
        OSError: The file cannot be read.
    """
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def forget(cache_file: Path) -> None:
    """Forget every digest, so that files are really read again."""
    cache_file.unlink(missing_ok=True)


def _key(path: Path) -> str:
    status = path.stat()
    return f"{os.path.realpath(path)}|{status.st_size}|{status.st_mtime_ns}"


def _compute(path: Path, progress: ProgressCallback, cancel: CancelToken | None) -> str:
    digest, done, total = hashlib.sha256(), 0, path.stat().st_size
    with open(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            if cancel is not None:
                cancel.check()
            digest.update(block)
            done += len(block)
            progress(Progress("check", done, total, path.name))
    return digest.hexdigest()


def _load(cache_file: Path | None) -> dict[str, str]:
    """What is remembered; a damaged or missing file means nothing."""
    if cache_file is None:
        return {}
    try:
        found = json.loads(cache_file.read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {key: value for key, value in found.items() if isinstance(value, str) and len(value) == 64}


def _remember(cache_file: Path, key: str, digest: str) -> None:
    path = key.split("|")[0]
    kept = {old: value for old, value in _load(cache_file).items() if old.split("|")[0] != path}
    kept = dict(list(kept.items())[-MAX_REMEMBERED + 1 :]) | {key: digest}
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time, nothing else
        write_text_atomic(cache_file, json.dumps(kept, indent=0))
