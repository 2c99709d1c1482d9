"""Conversations that were had: stored turn by turn in the library's database, listed, renamed, deleted with undo.

Knows neither engine nor screen; it stores what it is told and writes a conversation as Markdown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from localhyper.database import Database
from localhyper.engine import GenerationStats, Sampling
from localhyper.errors import LibraryError
from localhyper.library import now

TITLE_CHARS = 60
KEPT_DAYS = 30
FINE = "microseconds"  # what changed last comes first, within one second, too
T = TypeVar("T")


@dataclass(frozen=True)
class UsedAdapter:
    """An adapter that acted on a reply, as it was called then."""

    name: str
    path: str
    scale: float


@dataclass(frozen=True)
class StoredTurn:
    """A question and its reply as far as it had come.

    Attributes:
        model: Name of the base model that answered; empty before one did.
        stats: What the reply cost; None where it never began, or the program ended before it did.
        sampling: How the tokens were chosen.
        note: What else is worth knowing of how the reply was made.
        forgotten: Messages at the beginning that the window had no room for.
        problem: Why the reply failed; empty = it did not.
        repeats: Position of the turn whose question is asked once more beside it, for comparison; -1 = none.
        asked_at: ISO 8601 in UTC.
    """

    question: str
    reply: str = ""
    model: str = ""
    adapters: tuple[UsedAdapter, ...] = ()
    stats: GenerationStats | None = None
    sampling: Sampling | None = None
    note: str = ""
    forgotten: int = 0
    problem: str = ""
    repeats: int = -1
    asked_at: str = ""


@dataclass(frozen=True)
class StoredChat:
    """One conversation in the list.

    Attributes:
        id: Row number.
        turns: How many questions it has.
        changed_at: ISO 8601 in UTC, of the last question, reply or new name.
    """

    id: int
    title: str
    turns: int
    created_at: str
    changed_at: str


class History:
    """Conversations in the library's database. Safe to use from any thread and process."""

    def __init__(self, database: Database) -> None:
        """Use the library's database."""
        self._database = database

    def create(self, title: str) -> int:
        """Begin a conversation; its number. The title is one line, cut to a length for lists."""
        with self._database.transaction() as connection:
            cursor = connection.execute(
                "INSERT INTO conversations (title, created_at, changed_at) VALUES (?, ?, ?)",
                [title_of(title), now(FINE), now(FINE)],
            )
            return int(cursor.lastrowid or 0)

    def list(self, search: str = "") -> tuple[StoredChat, ...]:
        """Conversations, the last changed first; with `search` those whose title, questions or replies hold it."""
        return self._list("removed_at IS NULL", search)

    def removed(self) -> tuple[StoredChat, ...]:
        """Deleted ones that can be brought back, the last deleted first."""
        return self._list("removed_at IS NOT NULL", "", "removed_at")

    def _list(self, condition: str, search: str, order: str = "changed_at") -> tuple[StoredChat, ...]:
        like = "%" + re.sub(r"([\\%_])", r"\\\1", search.strip()) + "%"
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT id, title, created_at, changed_at, "
                "(SELECT count(*) FROM turns WHERE conversation_id = id) AS turns FROM conversations "
                f"WHERE {condition} AND (title LIKE ? ESCAPE '\\' OR EXISTS (SELECT 1 FROM turns WHERE "
                "conversation_id = id AND (question LIKE ? ESCAPE '\\' OR reply LIKE ? ESCAPE '\\'))) "
                f"ORDER BY {order} DESC, id DESC",
                [like, like, like],
            ).fetchall()
        return tuple(StoredChat(**{field.name: row[field.name] for field in fields(StoredChat)}) for row in rows)

    def turns(self, number: int) -> tuple[StoredTurn, ...]:
        """All turns of a conversation, in order.

        Raises:
            LibraryError: There is no such conversation.
        """
        with self._database.reading() as connection:
            self._known(connection.execute("SELECT id FROM conversations WHERE id = ?", [number]).fetchone(), number)
            rows = connection.execute(
                "SELECT question, reply, about FROM turns WHERE conversation_id = ? ORDER BY position", [number]
            ).fetchall()
        return tuple(_turn(row["question"], row["reply"], row["about"]) for row in rows)

    def put(self, number: int, position: int, turn: StoredTurn) -> None:
        """Store the turn at a position, in place of what was there.

        Raises:
            LibraryError: There is no such conversation.
        """
        about = asdict(turn)
        question, reply = about.pop("question"), about.pop("reply")
        with self._database.transaction() as connection:
            changed = connection.execute("UPDATE conversations SET changed_at = ? WHERE id = ?", [now(FINE), number])
            self._known(changed.rowcount, number)
            connection.execute(
                "INSERT OR REPLACE INTO turns (conversation_id, position, question, reply, about) "
                "VALUES (?, ?, ?, ?, ?)",
                [number, position, question, reply, json.dumps(about, ensure_ascii=False)],
            )

    def cut(self, number: int, position: int) -> None:
        """Drop the turns from this position on."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM turns WHERE conversation_id = ? AND position >= ?", [number, position])

    def rename(self, number: int, title: str) -> str:
        """Give a conversation another title; the title as it is kept.

        Raises:
            LibraryError: There is no such conversation, or nothing is left of the title.
        """
        if not title.strip():
            raise LibraryError("a conversation needs a title", "type some words")
        with self._database.transaction() as connection:
            changed = connection.execute(
                "UPDATE conversations SET title = ?, changed_at = ? WHERE id = ?", [title_of(title), now(FINE), number]
            )
            self._known(changed.rowcount, number)
        return title_of(title)

    def remove(self, number: int) -> None:
        """Delete a conversation; `restore` undoes it for a month."""
        self._mark(number, now(FINE))

    def restore(self, number: int) -> None:
        """Bring a deleted conversation back.

        Raises:
            LibraryError: There is none, or its month is over.
        """
        self._mark(number, None)

    def _mark(self, number: int, removed_at: str | None) -> None:
        with self._database.transaction() as connection:
            changed = connection.execute("UPDATE conversations SET removed_at = ? WHERE id = ?", [removed_at, number])
            self._known(changed.rowcount, number)

    def purge(self, days: int = KEPT_DAYS) -> int:
        """Forget for good what was deleted more than so many days ago; how many."""
        limit = (datetime.now(UTC) - timedelta(days=days)).isoformat(timespec="seconds")
        with self._database.transaction() as connection:
            return connection.execute("DELETE FROM conversations WHERE removed_at < ?", [limit]).rowcount

    @staticmethod
    def _known(found: object, number: int) -> None:
        if not found:
            raise LibraryError(f"there is no conversation {number}", "it was deleted in another window")


def title_of(text: str) -> str:
    """A title out of a question: its first words on one line."""
    line = " ".join(text.split())
    return line if len(line) <= TITLE_CHARS else line[: TITLE_CHARS - 1].rstrip() + "…"


def to_markdown(title: str, turns: Sequence[StoredTurn]) -> str:
    """A conversation as a Markdown document: each question quoted, each reply as it came, and what made it."""
    return "\n\n".join([f"# {' '.join(title.split())}", *(part for turn in turns for part in _parts(turn))]) + "\n"


def _parts(turn: StoredTurn) -> Iterator[str]:
    heading = "You, once more for comparison" if turn.repeats >= 0 else "You"
    yield f"**{heading}**"
    yield "\n".join(f"> {line}".rstrip() for line in turn.question.splitlines())
    if turn.reply.strip():
        yield turn.reply.strip("\n")
    if turn.problem:
        yield f"*failed: {turn.problem}*"
    yield f"*{_made_with(turn)}*"


def _made_with(turn: StoredTurn) -> str:
    adapters = ", ".join(f"{adapter.name} @{adapter.scale:g}" for adapter in turn.adapters) or "no adapter"
    parts = [turn.model, adapters, turn.note]
    if turn.stats is not None:
        parts += [f"{turn.stats.generated_tokens} tokens", f"{turn.stats.tokens_per_second:.1f} tok/s"]
        parts.append(f"first token {turn.stats.first_token_seconds:.2f} s")
    return ", ".join([*filter(None, parts), turn.asked_at]).rstrip(", ")


def _turn(question: str, reply: str, about: str) -> StoredTurn:
    values: dict[str, Any] = json.loads(about)
    values = {key: value for key, value in values.items() if key in {field.name for field in fields(StoredTurn)}}
    values["adapters"] = tuple(_only(UsedAdapter, adapter) for adapter in values.get("adapters", ()))
    for key, kind in (("stats", GenerationStats), ("sampling", Sampling)):
        values[key] = _only(kind, values[key]) if values.get(key) else None
    return StoredTurn(question, reply, **values)


def _only(kind: type[T], values: dict[str, Any]) -> T:
    """The dataclass from stored values; fields that a newer version wrote are passed over."""
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]  # any dataclass
    return kind(
        **{key: tuple(value) if isinstance(value, list) else value for key, value in values.items() if key in names}
    )
