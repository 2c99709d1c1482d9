"""One file, resumable over broken connections and kills: a part file grows until it is whole.

Servers are not trusted: they may break off, ignore or move the range, send another version, too much, or nothing.
"""

from __future__ import annotations

import re
import time
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

from localhyper import fetch_hub
from localhyper.errors import DownloadError
from localhyper.fetch_hub import HINT_AGAIN, Answer, Broken, HubFile, asked_pause, pause_after
from localhyper.progress import CancelToken, Progress, ProgressCallback, wait
from localhyper.watched import watched

MAX_UNKNOWN_BYTES = 2**34  # of a file that nobody knows the size of
_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)")
_TOTAL = re.compile(r"bytes \*/(\d{1,18})")


def fetch(found: HubFile, part: Path, progress: ProgressCallback, cancel: CancelToken | None) -> None:
    """Fill `part` until it is whole; what lies there already is kept and continued.

    Args:
        found: The file.
        part: Grows on disk; must belong to this very version of the file.
        progress: Told the bytes, stage `download`.
        cancel: Seen within a moment, also while the server is silent.

    Raises:
        DownloadError: The connection broke too often, the server refuses, another version or too many bytes came, or
            the disk is full. The part file stays where going on from it makes sense.
        Cancelled: `cancel` was set; the part file stays.
    """
    failures, best = 0, _size(part)
    while not found.size or _size(part) < found.size:
        problem, pause = "the connection closed too early", 0.0
        try:
            _attempt(found, part, progress, cancel)
            if not found.size or _size(part) >= found.size:
                break
        except (Broken, TimeoutError) as error:
            problem, pause = str(error), getattr(error, "pause", 0.0)
        grew, best = _size(part) - best, max(best, _size(part))
        failures = 0 if grew >= fetch_hub.PATIENCE.slow_bytes else failures + 1
        if failures >= fetch_hub.PATIENCE.attempts:
            raise DownloadError(f"`{found.name}` could not be fetched: {problem}", HINT_AGAIN)
        if failures or pause:
            wait(pause_after(max(failures, 1), pause, f"`{found.name}`"), cancel)
    if _size(part) > found.size > 0:
        part.unlink()
        raise DownloadError(
            f"`{found.name}`: more than the announced {found.size:,} bytes came", "run the same command again"
        )


def _attempt(found: HubFile, part: Path, progress: ProgressCallback, cancel: CancelToken | None) -> None:
    """One request for what is missing; a file of unknown size is whole when it returns."""
    start = _size(part)
    with closing(watched(lambda: fetch_hub.request(found.url, start), cancel, fetch_hub.PATIENCE.timeout)) as items:
        answer = next(items)
        assert isinstance(answer, Answer)  # the first item is
        if answer.status == 416:
            _past_the_end(found, part, answer)
            return
        start = _begins_at(found, part, answer, start)
        try:
            _write(found, part, start, items, progress)
        except OSError as error:
            if isinstance(error, TimeoutError):
                raise
            raise DownloadError(
                f"`{part}` cannot be written: {error.strerror or error}",
                "make room and run the same command again: it goes on where it stopped",
            ) from error


def _write(
    found: HubFile, part: Path, start: int, items: Generator[Answer | bytes, None, None], progress: ProgressCallback
) -> None:
    limit, done = found.size or MAX_UNKNOWN_BYTES, start
    since, before = time.monotonic(), start
    with open(part, "r+b" if part.exists() else "wb") as out:
        out.truncate(start)
        out.seek(start)
        for block in items:
            assert isinstance(block, bytes)  # all but the first are
            out.write(block)
            done += len(block)
            progress(Progress("download", min(done, limit), found.size, found.name))
            if done > limit:
                break
            if time.monotonic() - since > fetch_hub.PATIENCE.timeout:
                if done - before < fetch_hub.PATIENCE.slow_bytes:
                    raise Broken(f"only {done - before} bytes came in {fetch_hub.PATIENCE.timeout:.0f} s")
                since, before = time.monotonic(), done
    if done > limit and not found.size:
        part.unlink()
        raise DownloadError(f"`{found.name}`: the server sends without end", "name the `size` in models.toml")


def _begins_at(found: HubFile, part: Path, answer: Answer, start: int) -> int:
    """Where in the file the answer's first byte belongs: servers may ignore or move the range.

    Raises:
        Broken: It is an error that may pass, or another part of the file.
        DownloadError: It is an error that stays, or another version of the file.
    """
    if answer.status in (408, 429) or answer.status >= 500:
        raise Broken(f"HTTP {answer.status}", asked_pause(answer.headers))
    if answer.status not in (200, 206):
        raise DownloadError(
            f"`{found.name}` could not be fetched: HTTP {answer.status}",
            "HF_TOKEN may not read this file" if answer.status in (401, 403) else "try again later",
        )
    if found.etag and answer.etag and answer.etag != found.etag:
        part.unlink(missing_ok=True)
        raise DownloadError(f"`{found.name}` was changed at its source meanwhile", "run the same command again")
    if answer.status == 200:
        return 0
    match = _RANGE.match(answer.headers.get("content-range", ""))
    encoding = answer.headers.get("content-encoding", "identity")
    if encoding != "identity" or match is None or int(match.group(1)) > start:
        part.unlink(missing_ok=True)  # no part of it can be had from this server: the next request asks for all
        raise Broken("the server answered with another part of the file")
    if found.size and match.group(2) not in ("*", str(found.size)):
        part.unlink(missing_ok=True)
        raise Broken(f"the server has {match.group(2)} bytes, {found.size} were announced")
    return int(match.group(1))


def _past_the_end(found: HubFile, part: Path, answer: Answer) -> None:
    """The server has no byte after those that are here: they are the whole file, or not of it."""
    match = _TOTAL.match(answer.headers.get("content-range", ""))
    if not found.size and match is not None and int(match.group(1)) == _size(part):
        return
    part.unlink(missing_ok=True)
    raise Broken("the file is shorter than what has come")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
