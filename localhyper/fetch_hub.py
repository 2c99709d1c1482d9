"""One file from a Hugging Face repository, resumable over kills: a part file grows until its checksum is right.

The hub's own client opens the connections, so its settings hold (`HF_ENDPOINT`, `HF_TOKEN`, proxies, certificates);
its downloader starts again from nothing after a kill, so the loop is ours. Knows nothing of models.toml.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localhyper.errors import DownloadError
from localhyper.progress import CancelToken, Progress, ProgressCallback

ATTEMPTS = 5  # in a row without a new byte
RETRY_SECONDS = 1.0
TIMEOUT_SECONDS = 30.0
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")
_START = re.compile(r"bytes (\d+)-")
_HINT_AGAIN = "check the connection and run the same command again: it goes on where it stopped"


@dataclass(frozen=True)
class HubFile:
    """What the hub says of a file.

    Attributes:
        url: Where to get it; redirects are followed.
        size: Bytes; 0 when the hub does not say.
        sha256: Hex digits; empty when the hub does not say (small files have `git_blob` in its place).
        etag: What tells one version of the file from another.
        name: The file's name, for people.
        commit: Hash of the commit that it is of; empty when the hub does not say.
        git_blob: Git's id of the content, 40 hex digits; empty when the hub does not say.
    """

    url: str
    size: int
    sha256: str
    etag: str
    name: str
    commit: str = ""
    git_blob: str = ""


def describe(repo: str, file: str, revision: str) -> HubFile:
    """Ask the hub about a file.

    Raises:
        DownloadError: The hub cannot be reached, or has no such file for this user.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read at its import: nobody is told what is installed here
    import httpx
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    what = f"`{file}` in the Hugging Face repository `{repo}`"
    try:
        url = hf_hub_url(repo, file, revision=revision, endpoint=_endpoint())
        found = get_hf_file_metadata(url, timeout=TIMEOUT_SECONDS, headers=_headers())
    except GatedRepoError as error:
        hint = "accept its licence on the model's page, then set HF_TOKEN"
        raise DownloadError(f"{what} is only given to users who accepted its licence", hint) from error
    except (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError) as error:
        hint = "the entry in models.toml is wrong, or the repository is private (set HF_TOKEN)"
        raise DownloadError(f"there is no {what} at revision `{revision}`", hint) from error
    except (httpx.HTTPError, OSError, ValueError) as error:
        raise DownloadError(f"the hub gave no answer about {what}: {_line(error)}", _HINT_AGAIN) from error
    etag, commit = found.etag or "", found.commit_hash or ""
    if _SHA1.fullmatch(commit):  # a branch may move while the file is fetched, a commit does not
        url = hf_hub_url(repo, file, revision=commit, endpoint=_endpoint())
    else:
        commit = ""
    return HubFile(
        url,
        max(found.size or 0, 0),
        etag if _SHA256.fullmatch(etag) else "",
        etag,
        file.rpartition("/")[2],
        commit,
        etag if _SHA1.fullmatch(etag) else "",
    )


def fetch(found: HubFile, part: Path, progress: ProgressCallback, cancel: CancelToken | None) -> None:
    """Fill `part` until it is whole; what lies there already is kept and continued.

    Args:
        found: The file.
        part: Grows on disk; must belong to this very version of the file.
        progress: Told the bytes, stage `download`.
        cancel: Read between blocks.

    Raises:
        DownloadError: The connection broke too often, or more bytes came than there should be.
        Cancelled: `cancel` was set; the part file stays.
    """
    import httpx

    failures, before = 0, -1
    while not found.size or _size(part) < found.size:
        if cancel is not None:
            cancel.check()
        try:
            _continue(found, part, progress, cancel)
            if not found.size:
                return
            problem = "the connection closed too early"
        except (httpx.HTTPError, OSError) as error:
            problem = _line(error)
        grew, before = _size(part) > before, _size(part)
        failures = 1 if grew else failures + 1
        if _size(part) < found.size and failures >= ATTEMPTS:
            raise DownloadError(f"`{found.name}` could not be fetched: {problem}", _HINT_AGAIN)
        if failures > 1:
            time.sleep(RETRY_SECONDS * min(2 ** (failures - 2), 8))
    if _size(part) > found.size > 0:
        part.unlink()
        raise DownloadError(
            f"`{found.name}`: more than the announced {found.size:,} bytes came", "run the command again"
        )


def _continue(found: HubFile, part: Path, progress: ProgressCallback, cancel: CancelToken | None) -> None:
    """One request for what is missing."""
    from huggingface_hub import get_session

    start = _size(part)
    headers = _headers() | ({"Range": f"bytes={start}-"} if start else {})
    with get_session().stream("GET", found.url, headers=headers, timeout=TIMEOUT_SECONDS) as response:
        response.raise_for_status()
        start = _resumed_at(response.status_code, response.headers, start)
        with open(part, "r+b" if part.exists() else "wb") as out:
            out.truncate(start)
            out.seek(start)
            for block in response.iter_raw():  # no size given: else what a breaking connection brought is lost
                if cancel is not None:
                    cancel.check()
                out.write(block)
                start += len(block)
                progress(Progress("download", start, found.size, found.name))
                if found.size and start > found.size:
                    return


def _resumed_at(status: int, headers: Mapping[str, str], start: int) -> int:
    """Where in the file the answer's first byte belongs: servers may ignore or move the range."""
    if status != 206:
        return 0
    match = _START.match(headers.get("content-range", ""))
    if match is None or int(match.group(1)) > start:
        raise OSError("the server answered with another part of the file")
    return int(match.group(1))


def _headers() -> dict[str, str]:
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # public, though not in `__all__`

    headers: dict[str, Any] = build_hf_headers(library_name="localhyper")
    return headers | {"Accept-Encoding": "identity"}


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _line(error: BaseException) -> str:
    text = (str(error).strip().splitlines() or [""])[0][:160]
    return text or type(error).__name__
