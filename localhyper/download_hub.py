"""The files of one entry out of a Hugging Face repository: what is missing is fetched, checked and put in place.

Knows entries of models.toml and no HTTP; `fetch_hub` opens the connections.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from localhyper.checksums import file_sha256, git_blob_sha1
from localhyper.download_check import HINT_DAMAGED, check_room, check_sha256, put_in_place
from localhyper.errors import DownloadError
from localhyper.fetch_hub import HubFile, describe
from localhyper.fetch_stream import fetch
from localhyper.model_folders import place, shifted
from localhyper.model_specs import FolderSpec, HubSource, ModelSpec
from localhyper.progress import CancelToken, ProgressCallback


@dataclass(frozen=True)
class WantedFile:
    """One file to be on this machine.

    Attributes:
        owner: Name of the entry in models.toml.
        remote: Its path in the repository.
        target: Where it goes.
        size: Bytes; 0 = not known.
        sha256: 64 hex digits; empty = not known.
    """

    owner: str
    remote: str
    target: Path
    size: int
    sha256: str


def wanted_files(spec: ModelSpec, target: Path) -> list[WantedFile]:
    """The files of an entry, which go to (or, of a folder, into) `target`."""
    if isinstance(spec, FolderSpec):
        return [
            WantedFile(spec.name, file, place(target, file), spec.sizes.get(file, 0), spec.sha256.get(file, ""))
            for file in spec.files
        ]
    remote = (spec.hub.path if spec.hub is not None else "") or spec.file
    return [WantedFile(spec.name, remote, target, spec.size, spec.sha256)]


def pull_files(
    source: HubSource,
    wanted: list[WantedFile],
    parts: Path,
    checksums_file: Path,
    *,
    force: bool,
    progress: ProgressCallback,
    cancel: CancelToken | None,
) -> None:
    """Fetch the files that are not there, one after another.

    Args:
        source: The repository.
        wanted: The files.
        parts: Folder for what is not whole yet.
        checksums_file: Where digests are remembered.
        force: Fetch also those that are there and right.
        progress: Told the bytes of all files together: stages `download` and `check`.
        cancel: Stops between blocks; what has come is kept.

    Raises:
        DownloadError: One could not be fetched or is not what it should be; those before it are there.
        OSError: One cannot be written.
        Cancelled: `cancel` was set.
    """
    found = _describe(source, wanted, cancel)
    pairs = list(zip(wanted, found, strict=True))
    missing = [file for file, hub in pairs if force or not _is_right(file, hub, checksums_file)]
    check_room(parts, sum(hub.size - _size(_part(parts, file, hub)) for file, hub in pairs if file in missing))
    done, total = 0, sum(hub.size for hub in found) if all(hub.size for hub in found) else 0
    for file, hub in pairs:
        if file in missing:
            _pull_file(file, hub, _part(parts, file, hub), checksums_file, shifted(progress, done, total), cancel)
        done += hub.size


def _describe(source: HubSource, wanted: list[WantedFile], cancel: CancelToken | None) -> list[HubFile]:
    """Ask the hub about all files; all come from the commit that the first one is of."""
    found: list[HubFile] = []
    for file in wanted:
        revision = (found[0].commit if found else "") or source.revision
        hub = describe(source.repo, file.remote, revision, cancel)
        if file.size and hub.size and file.size != hub.size:
            raise DownloadError(
                f"`{file.remote}` in `{source.repo}` has {hub.size:,} bytes, models.toml says {file.size:,}",
                "the repository has changed since; pin a `revision` in models.toml",
            )
        found.append(replace(hub, size=hub.size or file.size))
    return found


def _is_right(file: WantedFile, hub: HubFile, checksums_file: Path) -> bool:
    """Whether the file is there, as models.toml and the hub describe it."""
    if not file.target.is_file() or _size(file.target) != (file.size or hub.size or _size(file.target)):
        return False
    if digest := file.sha256 or hub.sha256:
        return file_sha256(file.target, checksums_file) == digest
    return not hub.git_blob or git_blob_sha1(file.target) == hub.git_blob


def _pull_file(
    file: WantedFile,
    hub: HubFile,
    part: Path,
    checksums_file: Path,
    progress: ProgressCallback,
    cancel: CancelToken | None,
) -> None:
    for other in part.parent.glob(f"{part.stem}.*"):
        if other != part or not hub.etag:  # of another version, or of nobody knows which
            other.unlink(missing_ok=True)
    fetch(hub, part, progress, cancel)
    digest = check_sha256(file.owner, part, file.sha256 or hub.sha256, progress, cancel)
    if not (file.sha256 or hub.sha256) and hub.git_blob and git_blob_sha1(part) != hub.git_blob:
        part.unlink()
        raise DownloadError(f"what was fetched for `{file.owner}` is damaged: `{file.remote}`", HINT_DAMAGED)
    put_in_place(part, file.target, digest, checksums_file)


def _part(parts: Path, file: WantedFile, hub: HubFile) -> Path:
    """One name for each version of each file; nothing that a server says becomes part of a path."""
    return parts / f"{file.owner[:80]}-{_short(file.remote)}.{_short(hub.etag)}"


def _short(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
