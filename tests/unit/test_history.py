"""Conversations in the library: turns, titles, search, trash, Markdown, and libraries of older versions."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from localhyper.attach_times import AttachTimes
from localhyper.database import MIGRATIONS, Database
from localhyper.engine import GenerationStats, Sampling
from localhyper.errors import LibraryError
from localhyper.history import History, StoredTurn, UsedAdapter, title_of, to_markdown

STATS = GenerationStats(12, 0, 21, 0.25, 0.31, 2.0, "stop")
TURN = StoredTurn(
    "When does it\nstart?", "In **May**.", "base", (UsedAdapter("lease", "/x/lease.gguf", 0.8),), STATS,
    Sampling(seed=7, stop=("x",)), "sampled at 0.7", 2, asked_at="2026-01-01T00:00:00+00:00",
)  # fmt: skip


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(Database(tmp_path / "library.sqlite3"))


def test_turns_come_back_whole_and_are_replaced_by_position(history: History) -> None:
    number = history.create("first")
    history.put(number, 0, replace(TURN, reply="half", stats=None))
    history.put(number, 1, StoredTurn("again", repeats=0, problem="no room"))
    history.put(number, 0, TURN)
    assert history.turns(number) == (TURN, StoredTurn("again", repeats=0, problem="no room"))
    history.cut(number, 1)
    assert history.turns(number) == (TURN,)


def test_list_is_searched_in_titles_questions_and_replies(history: History) -> None:
    lease, other = history.create("the lease"), history.create("100%")
    history.put(lease, 0, TURN)
    assert {chat.id for chat in history.list()} == {lease, other}
    assert [chat.id for chat in history.list("MAY")] == [lease]
    assert [chat.id for chat in history.list("start?")] == [lease]
    assert [chat.id for chat in history.list("%")] == [other], "a percent sign is no wildcard"
    assert next(chat.turns for chat in history.list("lease")) == 1


def test_what_changed_last_comes_first_within_a_second_too(history: History) -> None:
    first, second = history.create("first"), history.create("second")
    assert [chat.id for chat in history.list()] == [second, first]
    history.put(first, 0, TURN)
    assert [chat.id for chat in history.list()] == [first, second]
    history.rename(second, "other")
    assert [chat.id for chat in history.list()] == [second, first]
    history.remove(second)
    history.remove(first)
    assert [chat.id for chat in history.removed()] == [first, second]


def test_titles_are_one_short_line(history: History) -> None:
    number = history.create("a  question\nover two lines " + "x" * 100)
    assert history.list()[0].title.startswith("a question over two lines xx") and len(history.list()[0].title) == 60
    assert history.rename(number, " new\tname ") == "new name" == history.list()[0].title
    with pytest.raises(LibraryError, match="needs a title"):
        history.rename(number, "  ")
    assert title_of("short") == "short"


def test_deleted_ones_come_back_until_their_month_is_over(history: History) -> None:
    kept, gone = history.create("kept"), history.create("gone")
    history.put(gone, 0, TURN)
    history.remove(gone)
    assert [chat.id for chat in history.list()] == [kept]
    assert [chat.id for chat in history.removed()] == [gone]
    assert history.purge() == 0
    history.restore(gone)
    assert history.turns(gone) == (TURN,)
    history.remove(gone)
    assert history.purge(days=-1) == 1
    with pytest.raises(LibraryError, match="no conversation"):
        history.restore(gone)
    with pytest.raises(LibraryError, match="no conversation"):
        history.turns(gone)
    with pytest.raises(LibraryError, match="no conversation"):
        history.put(gone, 0, TURN)


def test_markdown_has_questions_replies_and_what_made_them() -> None:
    text = to_markdown("My *chat*", (TURN, StoredTurn("again", problem="no room", repeats=0)))
    assert text.startswith("# My *chat*\n\n**You**\n\n> When does it\n> start?\n\nIn **May**.\n\n*base, lease @0.8, ")
    assert "21 tokens, 10.0 tok/s, first token 0.31 s, 2026-01-01" in text
    assert text.endswith("**You, once more for comparison**\n\n> again\n\n*failed: no room*\n\n*no adapter*\n")


def test_what_a_newer_version_wrote_is_passed_over(history: History, tmp_path: Path) -> None:
    number = history.create("x")
    history.put(number, 0, TURN)
    with sqlite3.connect(tmp_path / "library.sqlite3") as connection:
        about = json.loads(connection.execute("SELECT about FROM turns").fetchone()[0])
        about["future"], about["stats"]["future"], about["adapters"][0]["future"] = 1, 2, 3
        connection.execute("UPDATE turns SET about = ?", [json.dumps(about)])
    connection.close()
    assert history.turns(number) == (TURN,)


def test_a_library_of_the_first_version_gets_the_new_tables_and_keeps_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "library.sqlite3"
    with sqlite3.connect(path) as connection:
        for migration in MIGRATIONS[:3]:
            migration(connection)
        connection.execute("INSERT INTO jobs (request, state, created_at) VALUES ('{}', 'queued', 'then')")
        connection.execute("PRAGMA user_version = 3")
    connection.close()
    database = Database(path)
    History(database).create("new")
    with database.reading() as reading:
        assert reading.execute("SELECT count(*) FROM jobs").fetchone()[0] == 1
        assert reading.execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS) >= 5


def test_expected_time_is_the_median_of_this_pair_of_models(tmp_path: Path) -> None:
    times = AttachTimes(Database(tmp_path / "library.sqlite3"))
    assert times.expect("base", "net", 10) is None
    for seconds in (2.0, 4.0, 40.0):
        times.record("base", "net", 2, seconds)
    times.record("base", "other", 1, 1000.0)
    times.record("base", "net", 0, 1000.0)
    assert times.expect("base", "net", 10) == pytest.approx(20.0)
