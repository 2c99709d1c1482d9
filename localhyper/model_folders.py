"""The files of an entry that is a folder: are they all there, of the right size, with the right checksums.

Knows neither models.toml nor where folders lie; `registry` asks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from localhyper.checksums import file_sha256
from localhyper.errors import ModelError
from localhyper.model_specs import FolderSpec
from localhyper.progress import CancelToken, Progress, ProgressCallback


def place(folder: Path, file: str) -> Path:
    """Where a file of the repository lies in a folder; `file` was checked when models.toml was read."""
    return folder / PurePosixPath(file)


def is_complete(spec: FolderSpec, folder: Path) -> bool:
    """Whether every file is there."""
    return all(place(folder, file).is_file() for file in spec.files)


def size_on_disk(spec: FolderSpec, folder: Path) -> int:
    """Bytes of its files."""
    return sum(place(folder, file).stat().st_size for file in spec.files)


def check_sizes(spec: FolderSpec, folder: Path, hint: str) -> None:
    """Compare the sizes that are known.

    Raises:
        ModelError: One differs.
    """
    for file in spec.files:
        got, wanted = place(folder, file).stat().st_size, spec.sizes.get(file, 0)
        if wanted and got != wanted:
            raise ModelError(f"`{place(folder, file)}` is damaged: {got:,} bytes, wanted {wanted:,}", hint)


def check_digests(
    spec: FolderSpec,
    folder: Path,
    cache_file: Path,
    hint: str,
    *,
    progress: ProgressCallback,
    cancel: CancelToken | None,
) -> str:
    """Compare the checksums that are known.

    Returns:
        One digest for the whole folder: sha256 of its files' digests and paths, as `sha256sum` would list them.

    Raises:
        ModelError: One differs.
        OSError: A file cannot be read.
        Cancelled: `cancel` was set.
    """
    lines = []
    for file, report in _one_bar(spec, folder, progress):
        path = place(folder, file)
        digest, wanted = file_sha256(path, cache_file, progress=report, cancel=cancel), spec.sha256.get(file, "")
        if wanted and digest != wanted:
            raise ModelError(f"`{path}` is damaged: sha256 is {digest}, wanted {wanted}", hint)
        lines.append(f"{digest}  {file}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _one_bar(spec: FolderSpec, folder: Path, progress: ProgressCallback) -> Iterator[tuple[str, ProgressCallback]]:
    """Each file with a callback that counts it as a part of the whole."""
    done, total = 0, size_on_disk(spec, folder)
    for file in spec.files:
        yield file, shifted(progress, done, total)
        done += place(folder, file).stat().st_size


def shifted(progress: ProgressCallback, before: int, total: int) -> ProgressCallback:
    """A callback for one of several files: its bytes come after `before`, of `total` (0 = not known)."""

    def report(one: Progress) -> None:
        progress(Progress(one.stage, before + one.done, total, one.item, one.eta_seconds))

    return report
