"""The queue of what to attach: kept in the library's database, worked off one at a time, alive over restarts.

Knows neither models nor the pipeline: a callback does the work.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Literal

from localhyper.database import Database
from localhyper.errors import Cancelled, LibraryError, LocalHyperError
from localhyper.library import now
from localhyper.progress import CancelToken, Progress, ProgressCallback

State = Literal["queued", "running", "paused", "done", "failed", "cancelled"]
OPEN: tuple[State, ...] = ("queued", "running", "paused")
FINISHED: tuple[State, ...] = ("done", "failed", "cancelled")
WISH_SECONDS = 0.5  # how often a running job looks for wishes of other processes


@dataclass(frozen=True)
class JobRequest:
    """What to attach. A password is never stored.

    Attributes:
        source: Path of a file or folder; empty when `text` is given.
        text: The text itself, when there is no file.
        name: Wanted adapter name; empty = from the title.
        base: Base model as on the command line; empty = the default.
        hypernet: Hypernetwork as on the command line; empty = the default.
        rank: Rank budget; 0 = the default.
        kind: `document`, or `task` where source or text describe a task.
    """

    source: str = ""
    text: str = ""
    name: str = ""
    base: str = ""
    hypernet: str = ""
    rank: int = 0
    kind: str = "document"


@dataclass(frozen=True)
class Job:
    """One job as stored.

    Attributes:
        id: Row number; jobs run in this order.
        state: `queued`, `running`, `paused`, `done`, `failed` or `cancelled`.
        progress: The last report stored; stage is empty before the first.
        message: Why it failed.
        hint: What to do about it.
        adapter_id: The adapter it made; 0 before it is done.
    """

    id: int
    request: JobRequest
    state: State
    progress: Progress
    message: str
    hint: str
    adapter_id: int
    created_at: str
    started_at: str
    finished_at: str


Work = Callable[[Job, ProgressCallback, CancelToken], int]
"""Does a job and returns the adapter's id; raises `Cancelled` at a safe point when told to stop."""


class JobQueue:
    """Jobs in the database. Safe to use from any thread and process."""

    def __init__(self, database: Database) -> None:
        """Use the library's database."""
        self._database = database

    def submit(self, request: JobRequest) -> Job:
        """Queue a request; an open job for the same request is returned instead (queued again if paused)."""
        text = json.dumps(asdict(request), ensure_ascii=False, sort_keys=True)
        with self._database.transaction() as connection:
            row = connection.execute(
                "SELECT id, state FROM jobs WHERE request = ? AND state IN ('queued', 'running', 'paused')", [text]
            ).fetchone()
            if row is None:
                cursor = connection.execute(
                    "INSERT INTO jobs (request, state, created_at) VALUES (?, 'queued', ?)", [text, now()]
                )
                number = int(cursor.lastrowid or 0)
            else:
                number = int(row["id"])
                connection.execute("UPDATE jobs SET state = 'queued' WHERE id = ? AND state = 'paused'", [number])
        return self.get(number)

    def get(self, number: int) -> Job:
        """One job.

        Raises:
            LibraryError: There is none of that number.
        """
        with self._database.reading() as connection:
            row = connection.execute("SELECT * FROM jobs WHERE id = ?", [number]).fetchone()
        if row is None:
            raise LibraryError(f"there is no job {number}")
        return _job(row)

    def list(self, states: Sequence[State] = (*OPEN, *FINISHED)) -> tuple[Job, ...]:
        """Jobs in these states, in the order they run."""
        marks = ", ".join("?" * len(states))
        with self._database.reading() as connection:
            rows = connection.execute(f"SELECT * FROM jobs WHERE state IN ({marks}) ORDER BY id", [*states]).fetchall()
        return tuple(_job(row) for row in rows)

    def pause(self, number: int) -> None:
        """Stop a job so that it can go on later; finished chunks are kept."""
        self._ask(number, "pause", "paused")

    def cancel(self, number: int) -> None:
        """Stop a job for good."""
        self._ask(number, "cancel", "cancelled")

    def resume(self, number: int) -> None:
        """Queue a paused, failed or cancelled job again."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE jobs SET state = 'queued', wish = '', message = '', hint = '', finished_at = NULL "
                "WHERE id = ? AND state IN ('paused', 'failed', 'cancelled')",
                [number],
            )

    def clear_finished(self) -> int:
        """Forget jobs that are over; how many."""
        with self._database.transaction() as connection:
            return connection.execute("DELETE FROM jobs WHERE state IN ('done', 'failed', 'cancelled')").rowcount

    def recover(self) -> int:
        """Queue jobs again whose process died while they ran; how many."""
        with self._database.transaction() as connection:
            rows = connection.execute("SELECT id, owner FROM jobs WHERE state = 'running'").fetchall()
            dead = [(int(row["id"]),) for row in rows if not _alive(int(row["owner"]))]
            connection.executemany("UPDATE jobs SET state = 'queued', owner = 0 WHERE id = ?", dead)
        return len(dead)

    def claim(self, number: int = 0) -> Job | None:
        """Take the next queued job (or that one) for this process; None when there is none."""
        which = "id = ? AND" if number else ""
        with self._database.transaction() as connection:
            row = connection.execute(
                f"UPDATE jobs SET state = 'running', wish = '', owner = ?, started_at = ? WHERE id = "
                f"(SELECT id FROM jobs WHERE {which} state = 'queued' ORDER BY id LIMIT 1) RETURNING *",
                [os.getpid(), now(), *([number] if number else [])],
            ).fetchone()
        return _job(row) if row is not None else None

    def wish(self, number: int) -> str:
        """What is asked of a running job: nothing, `pause` or `cancel`."""
        with self._database.reading() as connection:
            row = connection.execute("SELECT wish FROM jobs WHERE id = ?", [number]).fetchone()
        return str(row["wish"]) if row is not None else "cancel"

    def report(self, number: int, progress: Progress) -> None:
        """Store how far a running job is."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE jobs SET stage = ?, done = ?, total = ?, item = ? WHERE id = ?",
                [progress.stage, progress.done, progress.total, progress.item, number],
            )

    def finish(self, number: int, state: State, *, adapter_id: int = 0, message: str = "", hint: str = "") -> None:
        """Store how a job ended (or that it is paused)."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE jobs SET state = ?, wish = '', owner = 0, adapter_id = ?, message = ?, hint = ?, "
                "finished_at = ? WHERE id = ?",
                [state, adapter_id or None, message, hint, None if state == "paused" else now(), number],
            )

    def _ask(self, number: int, wish: str, state: State) -> None:
        with self._database.transaction() as connection:
            connection.execute("UPDATE jobs SET wish = ? WHERE id = ? AND state = 'running'", [wish, number])
            connection.execute(
                "UPDATE jobs SET state = ? WHERE id = ? "
                "AND (state = 'queued' OR (state = 'paused' AND ? = 'cancelled'))",
                [state, number, state],
            )


class JobRunner:
    """Works off the queue in the thread that calls it."""

    def __init__(self, queue: JobQueue, work: Work, watch: ProgressCallback | None = None) -> None:
        """`work` does a job; `watch` sees its progress in the working thread."""
        self._queue = queue
        self._work = work
        self._watch = watch
        self._token: CancelToken | None = None
        self._lock = threading.Lock()

    def run(self, number: int = 0, cancel: CancelToken | None = None) -> Job | None:
        """Do the next queued job (or that one) to its end; None when there is none.

        A `Cancelled` without a wish in the queue, such as ctrl+c, pauses the job. Errors are stored, not raised.
        """
        job = self._queue.claim(number)
        if job is None:
            return None
        token = cancel or CancelToken()
        with self._lock:
            self._token = token
        try:
            self._do(job, token)
        finally:
            with self._lock:
                self._token = None
        return self._queue.get(job.id)

    def interrupt(self) -> None:
        """Tell the running job, if any, to look at its wish now: call after `pause` or `cancel`, from any thread."""
        with self._lock:
            if self._token is not None:
                self._token.cancel()

    def _do(self, job: Job, token: CancelToken) -> None:
        try:
            adapter_id = self._work(job, self._reporter(job, token), token)
        except Cancelled:
            self._queue.finish(job.id, "cancelled" if self._queue.wish(job.id) == "cancel" else "paused")
        except LocalHyperError as error:
            self._queue.finish(job.id, "failed", message=error.message, hint=error.hint)
        except BaseException as error:
            self._queue.finish(job.id, "failed", message=f"unexpected {type(error).__name__}: {error}")
            raise
        else:
            self._queue.finish(job.id, "done", adapter_id=adapter_id)

    def _reporter(self, job: Job, token: CancelToken) -> ProgressCallback:
        last = float("-inf")
        stage = ""

        def report(progress: Progress) -> None:
            nonlocal last, stage
            if self._watch is not None:
                self._watch(progress)
            # Encoding and generating take turns with every chunk: to the database they are one stage.
            same = stage == progress.stage or {stage, progress.stage} == {"encode", "generate"}
            stage = progress.stage
            if same and time.monotonic() - last < WISH_SECONDS:
                return
            last = time.monotonic()
            self._queue.report(job.id, progress)
            if self._queue.wish(job.id):
                token.cancel()

        return report


def _alive(pid: int) -> bool:
    if pid <= 0:
        return False
    if os.name == "nt":  # os.kill(pid, 0) would end the process there
        return pid == os.getpid()
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _job(row: sqlite3.Row) -> Job:
    known = {field.name for field in fields(JobRequest)}
    values = {key: value for key, value in json.loads(row["request"]).items() if key in known}
    return Job(
        id=row["id"],
        request=JobRequest(**values),
        state=row["state"],
        progress=Progress(row["stage"], row["done"], row["total"], row["item"]),
        message=row["message"],
        hint=row["hint"],
        adapter_id=row["adapter_id"] or 0,
        created_at=row["created_at"],
        started_at=row["started_at"] or "",
        finished_at=row["finished_at"] or "",
    )
