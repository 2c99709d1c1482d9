"""Documents attached in the engine thread, a chunk at a time, with turns for whoever waits in between.

Reading a file goes on in a second thread, which touches no model, while the engine thread serves the chat.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from localhyper.errors import Cancelled, LocalHyperError
from localhyper.jobs import Job, JobQueue, JobRunner
from localhyper.progress import CancelToken, Progress, ProgressCallback
from localhyper.sources.document import Document

from .host_events import Failure, HostEvent, JobAdvanced, JobChanged
from .model_room import ModelRoom

_READ_WAIT = 0.05  # seconds between two looks at a file that is being read
_log = logging.getLogger(__name__)

Serve = Callable[[float], bool]
"""Answers what waits, for at most so many seconds if nothing does; False when the job has to make way."""


class JobTurns:
    """Runs queued jobs for one model room. `run_next` and `recover` belong to the engine thread, the rest to anyone."""

    def __init__(
        self, room: ModelRoom, queue: Callable[[], JobQueue], say: Callable[[HostEvent], None], serve: Serve
    ) -> None:
        self._room, self._open_queue, self._say, self._serve = room, queue, say, serve
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="localhyper-reader")
        self._lock = threading.Lock()
        self._passwords: dict[int, str] = {}
        self._current: tuple[int, CancelToken] | None = None
        self._making_way = False
        self._leaving = False

    def remember_password(self, number: int, password: str) -> None:
        """Keep a password in memory for a job that will need it."""
        if password:
            self._passwords[number] = password

    def interrupt(self, number: int) -> None:
        """Have the job look at what is asked of it now."""
        with self._lock:
            if self._current is not None and self._current[0] == number:
                self._current[1].cancel()

    def notice(self) -> None:
        """Have the running job make way for what is in the inbox; it is queued again."""
        with self._lock:
            self._making_way = True
            if self._current is not None:
                self._current[1].cancel()

    def leave(self) -> None:
        """Make way for good: the program ends."""
        self._leaving = True
        self.notice()
        self._reader.shutdown(wait=False, cancel_futures=True)

    def recover(self) -> None:
        """Queue jobs again whose process died while they ran."""
        try:
            self._open_queue().recover()
        except LocalHyperError as error:
            _log.warning("jobs cannot be looked at: %s", error.message)

    def run_next(self, base: str) -> bool:
        """Do the next job for this base model to its end; False when there is none, or it had to make way."""
        try:
            queue = self._open_queue()
            job = next((job for job in queue.list(("queued",)) if job.request.base in ("", base)), None)
            return job is not None and self._run(queue, job)
        except LocalHyperError as error:  # the database itself
            _log.warning("jobs cannot be worked off: %s", error.message)
            return False

    def _run(self, queue: JobQueue, job: Job) -> bool:
        token = CancelToken()
        with self._lock:
            if self._leaving:
                return False
            self._current, self._making_way = (job.id, token), False
        runner = JobRunner(queue, self._work, lambda progress: self._say(JobAdvanced(job.id, progress)))
        failure = None
        try:
            ended = runner.run(job.id, token)
        except Exception as error:  # stored as failed by the runner; shown in a dialog, the app goes on
            _log.error("job %d met an unexpected error", job.id, exc_info=error)
            failure, ended = Failure.of(error), queue.get(job.id)
        finally:
            with self._lock:
                self._current = None
        return self._ended(queue, ended, failure)

    def _ended(self, queue: JobQueue, job: Job | None, failure: Failure | None) -> bool:
        if job is None:  # another process took it
            return True
        made_way = self._making_way and job.state == "paused"
        if made_way:
            queue.resume(job.id)
            job = queue.get(job.id)
        if job.state == "failed" and failure is None:
            _log.warning("job %d (%s) failed: %s", job.id, job.request.source or job.request.name, job.message)
        if job.state in ("done", "cancelled"):
            self._passwords.pop(job.id, None)
        self._say(JobChanged(job, failure))
        return not made_way

    def _work(self, job: Job, report: ProgressCallback, token: CancelToken) -> int:
        self._say(JobChanged(job))
        document = self._read(job, report, token)

        def between_chunks(progress: Progress) -> None:
            report(progress)
            # Only here is nothing of the engine's in flight, and the pipeline's clock for the time left not running.
            if progress.stage in ("encode", "learn") and not self._serve(0):
                self.notice()

        return self._room.attach(job.request, document, between_chunks, token)

    def _read(self, job: Job, report: ProgressCallback, token: CancelToken) -> Document:
        password = self._passwords.get(job.id, "")
        if self._leaving:
            raise Cancelled("the program ends")
        reading = self._reader.submit(self._room.read, job.request, password, report, token)
        while not reading.done():
            if not self._serve(_READ_WAIT):
                self.notice()
                break
        return reading.result()
