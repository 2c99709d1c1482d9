"""The job queue: order, one at a time, pause, cancel, failures, restarts."""

from __future__ import annotations

from pathlib import Path

import pytest

from localhyper.database import Database
from localhyper.errors import SourceError
from localhyper.jobs import Job, JobQueue, JobRequest, JobRunner
from localhyper.progress import CancelToken, Progress, ProgressCallback

DEAD_PID = 2**22 + 5  # above Linux's largest process id


@pytest.fixture
def queue(tmp_path: Path) -> JobQueue:
    """An empty queue."""
    return JobQueue(Database(tmp_path / "library.sqlite3"))


def never(job: Job, report: ProgressCallback, cancel: CancelToken) -> int:
    """Work that must not be done."""
    raise AssertionError("this job should not run")


def test_jobs_run_in_order_and_remember_how_they_ended(queue: JobQueue) -> None:
    seen: list[str] = []

    def work(job: Job, report: ProgressCallback, cancel: CancelToken) -> int:
        seen.append(job.request.source)
        assert queue.get(job.id).state == "running"
        report(Progress("encode", 3, 7, "x"))
        if job.request.source == "bad":
            raise SourceError("no text", "choose another")
        return 0

    for source in ("one", "bad", "two"):
        queue.submit(JobRequest(source=source))
    runner = JobRunner(queue, work)
    ended = []
    while (job := runner.run()) is not None:
        ended.append((job.state, job.message, job.hint))
    assert seen == ["one", "bad", "two"]
    assert ended == [("done", "", ""), ("failed", "no text", "choose another"), ("done", "", "")]
    stored = queue.list()[0]
    assert (stored.progress.stage, stored.progress.done, stored.progress.total) == ("encode", 3, 7)
    assert stored.finished_at
    assert queue.clear_finished() == 3
    assert queue.list() == ()


def test_the_same_request_is_one_open_job(queue: JobQueue) -> None:
    first = queue.submit(JobRequest(source="x", rank=8))
    assert queue.submit(JobRequest(source="x", rank=8)).id == first.id
    assert queue.submit(JobRequest(source="x", rank=9)).id != first.id
    queue.pause(first.id)
    assert queue.get(first.id).state == "paused"
    assert queue.submit(JobRequest(source="x", rank=8)).state == "queued"


def test_a_stop_pauses_and_a_second_run_goes_on(queue: JobQueue) -> None:
    token = CancelToken()

    def stopped(job: Job, report: ProgressCallback, cancel: CancelToken) -> int:
        token.cancel()
        cancel.check()
        raise AssertionError("unreachable")

    job = queue.submit(JobRequest(text="words"))
    ended = JobRunner(queue, stopped).run(cancel=token)
    assert ended is not None
    assert ended.state == "paused"
    assert JobRunner(queue, never).run() is None
    queue.resume(job.id)
    assert JobRunner(queue, lambda *_: 0).run() == queue.get(job.id)
    assert queue.get(job.id).state == "done"


@pytest.mark.parametrize(("wish", "state"), [("pause", "paused"), ("cancel", "cancelled")])
def test_a_wish_reaches_the_running_job(queue: JobQueue, wish: str, state: str) -> None:
    other = JobQueue(Database(queue._database.path))

    def work(job: Job, report: ProgressCallback, cancel: CancelToken) -> int:
        report(Progress("chunk", 0, 2))
        (other.pause if wish == "pause" else other.cancel)(job.id)
        report(Progress("encode", 1, 2))
        cancel.check()
        raise AssertionError("the wish was not seen")

    queue.submit(JobRequest(text="words"))
    job = JobRunner(queue, work).run()
    assert job is not None
    assert job.state == state


def test_interrupt_stops_without_waiting_for_a_report(queue: JobQueue) -> None:
    def work(job: Job, report: ProgressCallback, cancel: CancelToken) -> int:
        queue.cancel(job.id)
        runner.interrupt()
        cancel.check()
        raise AssertionError("not interrupted")

    runner = JobRunner(queue, work)
    queue.submit(JobRequest(text="words"))
    job = runner.run()
    assert job is not None
    assert job.state == "cancelled"
    runner.interrupt()


def test_jobs_of_a_dead_process_are_queued_again(queue: JobQueue) -> None:
    dead, alive = queue.submit(JobRequest(text="a")), queue.submit(JobRequest(text="b"))
    queue.claim(dead.id)
    queue.claim(alive.id)
    with queue._database.transaction() as connection:
        connection.execute("UPDATE jobs SET owner = ? WHERE id = ?", [DEAD_PID, dead.id])
    assert queue.recover() == 1
    assert [queue.get(job.id).state for job in (dead, alive)] == ["queued", "running"]


def test_a_queued_job_is_cancelled_at_once_and_claimed_once(queue: JobQueue) -> None:
    one, two = queue.submit(JobRequest(text="a")), queue.submit(JobRequest(text="b"))
    queue.cancel(one.id)
    assert queue.get(one.id).state == "cancelled"
    claimed = queue.claim()
    assert claimed is not None
    assert claimed.id == two.id
    assert queue.claim() is None
    assert queue.claim(two.id) is None


def test_an_unexpected_error_is_stored_and_raised(queue: JobQueue) -> None:
    def work(job: Job, report: ProgressCallback, cancel: CancelToken) -> int:
        raise ZeroDivisionError("oops")

    job = queue.submit(JobRequest(text="a"))
    with pytest.raises(ZeroDivisionError):
        JobRunner(queue, work).run()
    assert queue.get(job.id).state == "failed"
    assert "ZeroDivisionError" in queue.get(job.id).message
