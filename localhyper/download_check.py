"""What is done with a file that has come: compared with its checksum, and moved to where the registry finds it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from localhyper.atomic import atomic_path
from localhyper.checksums import file_sha256, remember_sha256
from localhyper.errors import DownloadError
from localhyper.progress import CancelToken, ProgressCallback

SPARE_BYTES = 64 * 1024 * 1024
HINT_DAMAGED = "run the same command again; if it happens twice, the file was changed at its source"


def check_sha256(
    name: str, file: Path, wanted: str, progress: ProgressCallback, cancel: CancelToken | None = None
) -> str:
    """Compare the checksum; a wrong file is removed, so that the next try starts from nothing.

    Args:
        name: What was fetched, for messages.
        file: The file.
        wanted: 64 hex digits; empty = not known, nothing is compared.
        progress: Told the bytes, stage `check`.
        cancel: Read between blocks.

    Returns:
        The file's sha256.

    Raises:
        DownloadError: It has another one.
        Cancelled: `cancel` was set.
    """
    digest = file_sha256(file, progress=progress, cancel=cancel)
    if wanted and digest != wanted:
        file.unlink()
        raise DownloadError(
            f"what was fetched for `{name}` is damaged: sha256 is {digest}, wanted {wanted}", HINT_DAMAGED
        )
    return digest


def put_in_place(file: Path, target: Path, digest: str, checksums_file: Path) -> None:
    """Move a checked file over `target`; its digest is remembered, so that the first use does not read it again."""
    with atomic_path(target) as temporary:
        os.replace(file, temporary)
    remember_sha256(target, checksums_file, digest)


def check_room(folder: Path, wanted: int) -> None:
    """Refuse to begin what cannot end.

    Raises:
        DownloadError: The disk of `folder` has no room for `wanted` bytes.
    """
    free = shutil.disk_usage(folder).free
    if wanted + SPARE_BYTES > free:
        raise DownloadError(
            f"`{folder}` has {free / 1e6:,.0f} MB free, {(wanted + SPARE_BYTES) / 1e6:,.0f} MB are needed",
            "make room, or set LOCALHYPER_HOME to a larger disk",
        )
