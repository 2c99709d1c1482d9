"""Zip containers from strangers: bounded before anything is unpacked. Knows no document format."""

from __future__ import annotations

import io
import zipfile

from localhyper.errors import SourceError
from localhyper.sources.frames import Request

MAX_MEMBERS = 20_000


def open_archive(data: bytes, job: Request) -> zipfile.ZipFile:
    """The container in `data`, checked against the limits of `job`.

    Python's zipfile never gives more bytes of a member than the directory says, so the sum of those is a true bound.

    Raises:
        SourceError: Encrypted, or it unpacks to more than the limit.
    """
    archive = zipfile.ZipFile(io.BytesIO(data))
    members = archive.infolist()
    unpacked = sum(member.file_size for member in members)
    if unpacked > job.limits.unpacked_bytes or len(members) > MAX_MEMBERS:
        raise SourceError(
            f"{job.name}: unpacks to {unpacked // 1048576} MiB in {len(members)} parts, "
            f"more than {job.limits.unpacked_bytes // 1048576} MiB or {MAX_MEMBERS} parts",
            "this may be a zip bomb; if it is not, split the document",
        )
    if any(member.flag_bits & 1 for member in members):
        raise SourceError(f"{job.name}: encrypted, its text cannot be read", "save it without password")
    return archive


def check_archive(data: bytes, job: Request) -> None:
    """Raise what `open_archive` raises, for libraries that open the container themselves."""
    open_archive(data, job).close()
