"""Pasted paths, numbers for people, what jobs look like, what is remembered, the inbox: the parts without a screen."""

from __future__ import annotations

import shlex
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from localhyper.jobs import Job, JobRequest, State
from localhyper.progress import Progress
from localhyper.tui.host_events import JobAdvanced, JobChanged
from localhyper.tui.inbox import Inbox
from localhyper.tui.job_board import JobBoard, clock
from localhyper.tui.path_completion import candidates
from localhyper.tui.remembered import Memory, Remembered
from localhyper.tui.words import as_path, day_text, dropped_paths, plain, visible


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A name that needs quoting everywhere."""
    file = tmp_path / "it's a (new) file #1.txt"
    file.write_text("x", encoding="utf-8")
    return file


def test_a_dropped_path_is_understood_however_it_is_quoted(odd: Path) -> None:
    spellings = [
        str(odd),
        shlex.quote(str(odd)),
        f'"{odd}"',
        "".join(f"\\{letter}" if letter in " '()#" else letter for letter in str(odd)),
        odd.as_uri(),
        f"  {odd}\n",
    ]
    for text in spellings:
        assert dropped_paths(text) == (odd,), text
        assert as_path(text) == odd, text


def test_several_are_taken_and_what_is_no_path_is_text(odd: Path) -> None:
    folder = odd.parent
    assert dropped_paths(f"{shlex.quote(str(odd))} {folder}") == (odd, folder)
    assert dropped_paths(f"{odd}\n{folder}\n") == (odd, folder)
    for text in ("", "   ", "what is /tmp?", f"see {odd}", "it's", "/no/such/file", "a\0b", "file://[", "x" * 10_000):
        assert dropped_paths(text) == (), text


def test_completion_looks_into_one_folder_and_hides_what_is_hidden(tmp_path: Path) -> None:
    for name in ("lease.pdf", "letter.txt", ".hidden", "zebra.md"):
        (tmp_path / name).write_text("x", encoding="utf-8")
    (tmp_path / "legal").mkdir()
    (tmp_path / "legal" / "note.txt").write_text("x", encoding="utf-8")
    assert [each.text for each in candidates("le", tmp_path)] == ["lease.pdf", "legal/", "letter.txt"]
    assert [each.text for each in candidates("zbr", tmp_path)] == ["zebra.md"], "fuzzy"
    assert [each.text for each in candidates("legal/", tmp_path)] == ["legal/note.txt"]
    assert [each.text for each in candidates(".h", tmp_path)] == [".hidden"]
    assert candidates("none/", tmp_path) == ()
    assert [each.path for each in candidates(f"{tmp_path}/zeb", Path("/"))] == [tmp_path / "zebra.md"]


def test_texts_of_strangers_cannot_steer_the_terminal() -> None:
    hostile = "a\x1b[31m\tb\r\nc\u202e\x9b2J\x07é🙂\u200d"
    assert plain(hostile) == "a�[31m b c��2J�é🙂\u200d"
    assert visible(hostile) == "a�[31m\tb�\nc��2J�é🙂\u200d"


def test_times_and_spans_for_people() -> None:
    assert [clock(seconds) for seconds in (-1, 7.4, 130, 3723)] == ["0:00", "0:07", "2:10", "1:02:03"]
    moment = datetime(2026, 3, 4, 5, 6, tzinfo=UTC)
    assert day_text(moment.isoformat(), moment) == moment.astimezone().strftime("%H:%M")
    assert day_text("2026-03-04T05:06:00+00:00", datetime(2027, 1, 1, tzinfo=UTC)) == "2026-03-04"
    assert day_text("yesterday, maybe") == "yesterday,"


def job(number: int, state: State = "queued", done: int = 0, total: int = 0) -> Job:
    request = JobRequest(source="/x/lease.pdf")
    return Job(number, request, state, Progress("encode", done, total), "", "", 0, "", "", "")


def test_board_shows_live_progress_and_counts_the_rest() -> None:
    board = JobBoard()
    board.replace([job(1, "running"), job(2), job(3, "paused", 2, 8), job(4, "done")])
    board.apply(JobAdvanced(1, Progress("generate", 17, 41, "lease", 130.2)))
    assert board.line() == "▸ lease.pdf: encode + generate 17 of 41 chunks ████░░░░░░ 41.5 % 2:10 left, 2 more"
    short = "▸ lease.pdf: encode + generate 17 of 41 chunks 2:10 left, 2 more"
    assert board.line(len(board.line())) == board.line()
    assert board.line(len(board.line()) - 1) == short.replace("chunks", "chunks 41.5 %")
    assert board.line(len(short)) == short
    assert board.line(len(short) - 1) == short.replace("lease.pdf", "lease.p…")
    assert board.line(1) == short.replace("lease.pdf", "lease.p…"), "what is left of a name can be told"
    board.replace([job(1, "running", 3, 41), job(2)])
    assert board.running is not None and board.running.progress.done == 17, "the database is behind"
    board.apply(JobChanged(job(1, "paused", 18, 41)))
    assert board.line() == "jobs: 1 waiting, 1 paused"
    assert board.views[0].state == "paused at encode + generate 18 of 41 chunks"
    board.apply(JobAdvanced(99, Progress("encode", 1, 2)))
    board.replace([job(1, "done")])
    assert board.line() == ""


def test_memory_survives_and_a_damaged_file_means_starting_plain(tmp_path: Path) -> None:
    file = tmp_path / "tui.json"
    first = Remembered(file)
    for draft in ("h", "ha", "half"):
        first.update(draft=draft, attached={"lease": 0.8})
    first.close()
    first.update(draft="too late")
    assert Remembered(file).memory == Memory("half", {"lease": 0.8})
    for text in ("", "[]", '{"attached": 3}', '{"attached": {"x": "y"}}', "\x00"):
        file.write_text(text, encoding="utf-8")
        assert Remembered(file).memory == Memory()


def test_inbox_keeps_the_order_but_for_what_is_put_in_front() -> None:
    inbox: Inbox[int] = Inbox()
    assert inbox.get(0) is None
    for number in (1, 2):
        inbox.put(number)
    inbox.put_front(0)
    assert [inbox.get(0), inbox.get(0), inbox.get(0), inbox.get(0.01)] == [0, 1, 2, None]
    threading.Timer(0.05, lambda: inbox.put(7)).start()
    assert inbox.get() == 7
