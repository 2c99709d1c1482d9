"""The library's SQLite file: opening, migrations, and errors as one clear line. Knows no table's meaning.

A connection lives for one transaction, so that any thread and any process may call at any time.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from localhyper.errors import LibraryError

BUSY_SECONDS = 20.0  # a second process waits this long for the first one's transaction
RETRY_SECONDS = 0.01


def create_adapters(connection: sqlite3.Connection) -> None:
    """Adapters. Removed ones keep their row until purged, so names and keys are unique among the living only."""
    connection.execute(
        """CREATE TABLE adapters (
            id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL COLLATE NOCASE, key TEXT NOT NULL,
            file TEXT NOT NULL, title TEXT NOT NULL, kind TEXT NOT NULL, origin TEXT NOT NULL,
            document_sha256 TEXT NOT NULL, base_name TEXT NOT NULL, base_fingerprint TEXT NOT NULL,
            hypernet_name TEXT NOT NULL, hypernet_sha256 TEXT NOT NULL, rank INTEGER NOT NULL,
            energy_kept REAL NOT NULL, tokens INTEGER NOT NULL, chunks INTEGER NOT NULL,
            size_bytes INTEGER NOT NULL, made_at TEXT NOT NULL, notes TEXT NOT NULL, removed_at TEXT)"""
    )
    connection.execute("CREATE UNIQUE INDEX adapter_names ON adapters(name) WHERE removed_at IS NULL")
    connection.execute("CREATE UNIQUE INDEX adapter_keys ON adapters(key) WHERE removed_at IS NULL")


def create_passages(connection: sqlite3.Connection) -> None:
    """The source text of each adapter, chunk by chunk, searchable for quotes."""
    connection.execute(
        "CREATE VIRTUAL TABLE passages USING fts5(text, adapter_id UNINDEXED, chunk UNINDEXED, "
        "start UNINDEXED, stop UNINDEXED, tokenize = 'unicode61 remove_diacritics 2')"
    )


def create_jobs(connection: sqlite3.Connection) -> None:
    """The queue. `wish` is what another thread or process asks of a running job; `owner` the pid that runs it."""
    connection.execute(
        """CREATE TABLE jobs (
            id INTEGER PRIMARY KEY AUTOINCREMENT, request TEXT NOT NULL, state TEXT NOT NULL,
            wish TEXT NOT NULL DEFAULT '', owner INTEGER NOT NULL DEFAULT 0,
            stage TEXT NOT NULL DEFAULT '', done INTEGER NOT NULL DEFAULT 0, total INTEGER NOT NULL DEFAULT 0,
            item TEXT NOT NULL DEFAULT '', message TEXT NOT NULL DEFAULT '', hint TEXT NOT NULL DEFAULT '',
            adapter_id INTEGER REFERENCES adapters(id) ON DELETE SET NULL,
            created_at TEXT NOT NULL, started_at TEXT, finished_at TEXT)"""
    )
    connection.execute("CREATE INDEX job_states ON jobs(state, id)")


def create_conversations(connection: sqlite3.Connection) -> None:
    """Conversations and their turns. `about` is JSON: what a reply was made with and what it cost."""
    connection.execute(
        "CREATE TABLE conversations (id INTEGER PRIMARY KEY AUTOINCREMENT, title TEXT NOT NULL, "
        "created_at TEXT NOT NULL, changed_at TEXT NOT NULL, removed_at TEXT)"
    )
    connection.execute(
        "CREATE TABLE turns (conversation_id INTEGER NOT NULL REFERENCES conversations(id) ON DELETE CASCADE, "
        "position INTEGER NOT NULL, question TEXT NOT NULL, reply TEXT NOT NULL, about TEXT NOT NULL, "
        "PRIMARY KEY (conversation_id, position))"
    )


def create_attach_times(connection: sqlite3.Connection) -> None:
    """What attaches took on this machine, for telling the next one's time beforehand."""
    connection.execute(
        "CREATE TABLE attach_times (id INTEGER PRIMARY KEY, base_fingerprint TEXT NOT NULL, "
        "hypernet_sha256 TEXT NOT NULL, chunks INTEGER NOT NULL, seconds REAL NOT NULL, made_at TEXT NOT NULL)"
    )


def add_chunk_files(connection: sqlite3.Connection) -> None:
    """Adapters of single chunks beside the whole document's: how many files, and their bytes together."""
    connection.execute("ALTER TABLE adapters ADD COLUMN chunk_files INTEGER NOT NULL DEFAULT 0")
    connection.execute("ALTER TABLE adapters ADD COLUMN chunk_bytes INTEGER NOT NULL DEFAULT 0")


def add_dtype(connection: sqlite3.Connection) -> None:
    """Number format of the own adapter, which may be made later than its row; empty where nobody noted it."""
    connection.execute("ALTER TABLE adapters ADD COLUMN dtype TEXT NOT NULL DEFAULT ''")


MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (
    create_adapters,
    create_passages,
    create_jobs,
    create_conversations,
    create_attach_times,
    add_chunk_files,
    add_dtype,
)


class Database:
    """One SQLite file, migrated to the present schema when first opened."""

    def __init__(self, path: Path) -> None:
        """Open or create `path`.

        Raises:
            LibraryError: Not a database, damaged, made by a newer localhyper, or not writable.
        """
        self.path = path
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise LibraryError(f"cannot make folder `{path.parent}`: {error.strerror}") from error
        with self.transaction() as connection:
            self._migrate(connection)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A connection in one write transaction: committed when the block ends, rolled back when it raises.

        Raises:
            LibraryError: The file is damaged, locked for too long, or the disk is full.
        """
        with self._guard():
            connection = self._connect()
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            finally:
                connection.close()

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection for reading, which waits for nobody.

        Raises:
            LibraryError: The file is damaged.
        """
        with self._guard():
            connection = self._connect()
            try:
                yield connection
            finally:
                connection.close()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA foreign_keys = ON")
            _write_ahead(connection)
            connection.execute("PRAGMA synchronous = NORMAL")
        except BaseException:
            connection.close()
            raise
        return connection

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.IntegrityError:
            raise
        except sqlite3.OperationalError as error:
            raise LibraryError(f"library `{self.path}`: {error}", self._hint(str(error))) from error
        except OSError as error:
            raise LibraryError(f"library `{self.path}`: {error.strerror or error}", "`localhyper paths`") from error
        except sqlite3.DatabaseError as error:
            raise LibraryError(f"library `{self.path}` is damaged: {error}", self._hint("damaged")) from error

    def _hint(self, what: str) -> str:
        if "locked" in what:
            return "another localhyper is writing; try again"
        if "readonly" in what or "unable to open" in what:
            return "check that the folder can be written; `localhyper paths` shows it"
        if "full" in what:
            return "free some disk space"
        return f"move `{self.path.name}` away; the next command starts a new one, and adapter files stay where they are"

    def _migrate(self, connection: sqlite3.Connection) -> None:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if version > len(MIGRATIONS):
            raise LibraryError(
                f"library `{self.path}` has version {version}, this localhyper knows {len(MIGRATIONS)}",
                "install a newer localhyper",
            )
        for number, migration in enumerate(MIGRATIONS[version:], version + 1):
            migration(connection)
            connection.execute(f"PRAGMA user_version = {number}")
        if version == 0 and os.name == "posix":
            os.chmod(self.path, 0o600)


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Switch to a write-ahead log, which the file then keeps.

    SQLite does not wait its busy timeout for the lock that a switch needs (https://sqlite.org/c3ref/busy_handler.html:
    waiting could deadlock), so two processes that open a new library at once must try again by themselves.
    """
    give_up = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                raise
        time.sleep(RETRY_SECONDS)
