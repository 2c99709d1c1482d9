"""Files in a Hugging Face repository: what the hub says of one, and the answers to a request for it.

The hub's own client opens the connections, so its settings hold (`HF_ENDPOINT`, `HF_TOKEN`, proxies, certificates), and
it keeps the token from other hosts. Its downloader is not used: it goes on after a broken connection but starts again
from nothing after a kill, mixes versions when the file changes meanwhile, takes a stop only between blocks, and its
bar is its own. `fetch_stream` has that loop. Knows nothing of models.toml.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from localhyper.errors import DownloadError
from localhyper.progress import CancelToken, wait
from localhyper.watched import call

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")
_RESET = re.compile(r";\s*t=(\d{1,9})\b")  # of a `ratelimit` header, draft-ietf-httpapi-ratelimit-headers
HINT_AGAIN = "check the connection and run the same command again: it goes on where it stopped"
T = TypeVar("T")


@dataclass(frozen=True)
class Patience:
    """What is borne from a server.

    Attributes:
        timeout: Seconds without a byte, or with fewer than `slow_bytes`, that end a connection.
        attempts: Requests in a row without progress that end a fetch.
        questions: The same when the hub is asked about a file: who has no network should not wait long.
        pause: Seconds before the second request without progress; doubled before each one after it, up to eight times.
        longest_pause: Longest wait that a server may ask for (`Retry-After`), seconds.
        slow_bytes: Fewer bytes than this are no progress.
    """

    timeout: float = 30.0
    attempts: int = 5
    questions: int = 3
    pause: float = 1.0
    longest_pause: float = 300.0
    slow_bytes: int = 1024


PATIENCE = Patience()


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


@dataclass(frozen=True)
class Answer:
    """The head of an answer to a request for a file.

    Attributes:
        status: HTTP status.
        headers: Its headers, names in lower case.
        etag: The version that the hub itself (before a redirect to its storage) says it sends; empty = it does not say.
    """

    status: int
    headers: Mapping[str, str]
    etag: str


class Broken(Exception):
    """A request failed in a way that another one may mend. `pause` is what the server asks to wait, seconds."""

    def __init__(self, problem: str, pause: float = 0.0) -> None:
        super().__init__(problem)
        self.pause = pause


def describe(repo: str, file: str, revision: str, cancel: CancelToken | None = None) -> HubFile:
    """Ask the hub about a file.

    Args:
        repo: `owner/name`.
        file: Path of the file in it.
        revision: Branch, tag or commit.
        cancel: Ends the waiting.

    Raises:
        DownloadError: The hub cannot be reached, or has no such file for this user.
        Cancelled: `cancel` was set.
    """
    what, failures = f"`{file}` in the Hugging Face repository `{repo}`", 0
    while True:
        try:
            return call(lambda: _ask(repo, file, revision, what), cancel, PATIENCE.timeout)
        except (Broken, TimeoutError) as error:
            failures += 1
            if failures >= PATIENCE.questions:
                raise DownloadError(f"the hub gave no answer about {what}: {error}", HINT_AGAIN) from error
            wait(pause_after(failures, getattr(error, "pause", 0.0), what), cancel)


def request(url: str, start: int) -> Iterator[Answer | bytes]:
    """Ask for a file from byte `start` on: first the head of the answer, then blocks of its body as they come.

    Raises:
        Broken: The connection could not be made, or broke.
    """
    _quiet()
    import httpx
    from huggingface_hub import get_session

    headers = _headers() | ({"Range": f"bytes={start}-"} if start else {})
    try:
        with get_session().stream("GET", url, headers=headers, timeout=PATIENCE.timeout) as response:
            yield Answer(response.status_code, dict(response.headers), _version(response))
            # No size given: else what a breaking connection brought is lost.
            yield from response.iter_bytes() if response.status_code == 200 else response.iter_raw()
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, ValueError) as error:
        raise Broken(_line(error)) from error


def pause_after(failures: int, asked: float, what: str) -> float:
    """Seconds to wait before the next request.

    Raises:
        DownloadError: The server asks for more than is borne.
    """
    if asked > PATIENCE.longest_pause:
        raise DownloadError(
            f"the server asks to wait {asked:,.0f} s before {what} is asked for again", "try again then"
        )
    return max(asked, PATIENCE.pause * min(1 << (failures - 1), 8))


def asked_pause(headers: Mapping[str, str]) -> float:
    """Seconds that a server asks to wait, 0 when it does not; dates are taken as one minute."""
    text = headers.get("retry-after", "").strip()
    if text:
        return float(text) if text.isascii() and text.isdigit() and len(text) < 10 else 60.0
    match = _RESET.search(headers.get("ratelimit", ""))
    return float(match.group(1)) if match else 0.0


def _ask(repo: str, file: str, revision: str, what: str) -> HubFile:
    _quiet()
    import httpx
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    try:
        url = hf_hub_url(repo, file, revision=revision, endpoint=_endpoint())
        found = get_hf_file_metadata(url, timeout=PATIENCE.timeout, headers=_headers())
    except HfHubHTTPError as error:
        raise _refusal(error, repo, revision, what) from error
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        raise Broken(_line(error)) from error
    etag, commit = found.etag or "", found.commit_hash or ""
    if _SHA1.fullmatch(commit):  # a branch may move while the file is fetched, a commit does not
        url = hf_hub_url(repo, file, revision=commit, endpoint=_endpoint())
    return HubFile(
        url,
        max(found.size or 0, 0),
        etag if _SHA256.fullmatch(etag) else "",
        etag,
        file.rpartition("/")[2],
        commit if _SHA1.fullmatch(commit) else "",
        etag if _SHA1.fullmatch(etag) else "",
    )


def _refusal(error: Any, repo: str, revision: str, what: str) -> Exception:
    """An HTTP status in words; `Broken` where asking again may help."""
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    status, place = error.response.status_code, (_endpoint() or constants.ENDPOINT).rstrip("/")
    token = bool(get_token())
    if isinstance(error, GatedRepoError):
        account = "the account that HF_TOKEN belongs to" if token else "an account"
        then = "" if token else f", make a token at {place}/settings/tokens and set HF_TOKEN to it"
        hint = f"read and accept its licence at {place}/{repo} with {account}{then}; then run the same command again"
        return DownloadError(f"{what} is only given to users who accepted its licence", hint)
    if isinstance(error, RepositoryNotFoundError | RevisionNotFoundError | EntryNotFoundError):
        hint = "the entry in models.toml is wrong, or the repository is private (set HF_TOKEN)"
        return DownloadError(f"there is no {what} at revision `{revision}`", hint)
    if status in (401, 403):
        hint = "HF_TOKEN is not valid, or may not read this repository" if token else "set HF_TOKEN to a token that may"
        return DownloadError(f"the hub does not give {what} to this user (HTTP {status})", hint)
    if status == 429 or status >= 500:
        return Broken(f"HTTP {status}", asked_pause(error.response.headers))
    return DownloadError(f"the hub refused to tell of {what}: HTTP {status}", "look at its entry in models.toml")


def _version(response: Any) -> str:
    """The version by the hub's own words; what its storage calls the version is another name."""
    for hop in (*response.history, response):
        if linked := hop.headers.get("x-linked-etag"):
            return _plain_etag(linked)
    return "" if response.history else _plain_etag(response.headers.get("etag", ""))


def _plain_etag(text: str) -> str:
    return text.removeprefix("W/").strip('"')


def _headers() -> dict[str, str]:
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # public, though not in `__all__`

    headers: dict[str, Any] = build_hf_headers(library_name="localhyper")
    return headers | {"Accept-Encoding": "identity"}


def _quiet() -> None:
    """Read at the client's import: nobody is told what is installed here."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _line(error: BaseException) -> str:
    text = (str(error).strip().splitlines() or [""])[0][:160]
    return text or type(error).__name__
