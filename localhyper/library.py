"""What has been made: adapters on disk, their rows, and the text they were made from, for quotes.

Knows neither models nor hypernetworks; it stores what the pipeline tells it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path

from localhyper.database import Database
from localhyper.errors import LibraryError
from localhyper.full_text import any_word

TRASH = ".trash"
UNFINISHED = ".unfinished"
MAX_NAME = 64
_NAME = re.compile(r"[^\W_][\w.-]*", re.UNICODE)
_LIST_HINT = "`localhyper adapters list` shows the names"


@dataclass(frozen=True)
class AdapterInfo:
    """One adapter of the library.

    Attributes:
        id: Row number, stable; 0 before it is stored.
        name: Unique, for people and for `--with`.
        path: The `.gguf` file.
        key: Hex digest over document, base, hypernetwork and options: equal keys, equal adapters.
        title: The document's title.
        kind: The document's kind (`pdf`, `txt`, …); `merge`, or `peft` and `gguf` for what was imported.
        origin: Where the document came from.
        document_sha256: Hex digest of the document's text; empty where none is known.
        base_name: Name of the base model it was made with.
        base_fingerprint: Fingerprint of that base model.
        hypernet_name: Name of the hypernetwork; empty where none made it.
        hypernet_sha256: Digest of the hypernetwork's bundle; likewise.
        rank: LoRA rank, on the mean over blocks; of one that is yet to be made its rank budget, 0 = none.
        energy_kept: Share of the generated update's energy that survived recompression, 1.0 = all.
        tokens: Tokens of the document; 0 where no document is known.
        chunks: Chunks it was cut into; likewise.
        size_bytes: Size of the file; 0 = it is made when it is first wanted.
        made_at: ISO 8601 in UTC.
        notes: What was left out of the document and why.
        chunk_files: Adapters of single chunks, one a chunk, and one of an overview after them; 0 = none.
        chunk_bytes: Size of their files together.
        dtype: Number format of the file; empty where nobody noted it.
    """

    name: str
    path: Path
    key: str
    title: str
    kind: str
    origin: str
    document_sha256: str
    base_name: str
    base_fingerprint: str
    hypernet_name: str
    hypernet_sha256: str
    rank: int
    energy_kept: float
    tokens: int
    chunks: int
    size_bytes: int
    made_at: str
    notes: tuple[str, ...] = ()
    chunk_files: int = 0
    chunk_bytes: int = 0
    dtype: str = ""
    id: int = 0

    @property
    def all_bytes(self) -> int:
        """Size of everything on the disk."""
        return self.size_bytes + self.chunk_bytes

    def chunk_path(self, chunk: int) -> Path:
        """The adapter file of one chunk, from 0, or of the overview; meaningful where `chunk_files` is not 0."""
        return self.path if chunk < self.chunks == 1 else chunk_file(chunk_folder(self.path), chunk)

    @property
    def whole_made(self) -> bool:
        """Whether the file has been made: the adapter of the whole document, where its chunks have adapters."""
        return self.size_bytes > 0

    @property
    def place(self) -> Path:
        """Its file, or the folder of its chunks' adapters where that is all there is yet."""
        return self.path if self.whole_made else chunk_folder(self.path)

    @property
    def usable(self) -> bool:
        """Whether the file is there with the size it was written with, or what answers in its place."""
        if not self.whole_made:
            return self.place.is_dir()
        try:
            return self.path.stat().st_size == self.size_bytes
        except OSError:
            return False


@dataclass(frozen=True)
class Passage:
    """A piece of an adapter's source text.

    Attributes:
        adapter_id: `AdapterInfo.id`; 0 before it is stored.
        chunk: 0-based chunk of the document.
        text: The words, with the white space after them: all passages of a document joined are its text.
        start: Character offset in the document's text.
        end: Character offset after the last character.
        score: Relevance, higher is better; 0 where nothing was searched.
    """

    chunk: int
    text: str
    start: int
    end: int
    adapter_id: int = 0
    score: float = 0.0


def now(timespec: str = "seconds") -> str:
    """The time as ISO 8601 in UTC, to the second or as finely as `datetime.isoformat` takes it."""
    return datetime.now(UTC).isoformat(timespec=timespec)


def check_name(name: str) -> str:
    """Return `name` if it may name an adapter.

    Raises:
        LibraryError: Empty, too long, or with characters that belong to paths or to `NAME@SCALE`.
    """
    if not _NAME.fullmatch(name) or len(name) > MAX_NAME or ".." in name:
        raise LibraryError(
            f"`{name[:80]}` cannot be an adapter's name",
            f"use up to {MAX_NAME} letters, digits, `-`, `_` and `.`, beginning with a letter or digit",
        )
    return name


def slug(title: str) -> str:
    """A title as an adapter name: lower case, words joined by `-`; `adapter` where nothing is left."""
    plain = unicodedata.normalize("NFKC", title).casefold()
    words = re.findall(r"[^\W_]+", plain)
    text = ""
    for word in words:
        if len(text) + len(word) >= 40 and text:
            break
        text = f"{text}-{word[:40]}" if text else word[:40]
    return text or "adapter"


def chunk_folder(adapter: Path) -> Path:
    """Where the adapters of the single chunks of an adapter's document lie."""
    return adapter.with_suffix(".chunks")


def chunk_file(folder: Path, chunk: int) -> Path:
    """The adapter of one chunk, from 0, in such a folder."""
    return folder / f"{chunk:05d}.gguf"


def file_to_check(adapter: Path) -> Path:
    """An adapter's file, or that of its document's first chunk, which fits the same, where it is yet to be made."""
    first = chunk_file(chunk_folder(adapter), 0)
    return first if not adapter.exists() and first.exists() else adapter


class Library:
    """Adapters under one folder: rows in a database, weights in `adapters/*.gguf`."""

    def __init__(self, database: Database, adapters: Path) -> None:
        """Use an open database and the folder of adapter files (made when missing).

        Raises:
            LibraryError: The folder cannot be made.
        """
        self.database = database
        self._folder = adapters
        try:
            (adapters / TRASH).mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise LibraryError(f"cannot make folder `{adapters}`: {error.strerror}") from error

    def file_for(self, name: str, key: str) -> Path:
        """Where a new adapter's file goes: the name for people, a piece of the key to keep it apart for ever."""
        return self._folder / f"{check_name(name)}-{key[:12]}.gguf"

    def unfinished_folder(self, key: str) -> Path:
        """Where an attach keeps the adapters of chunks until the whole is stored; the same for the same hex `key`."""
        return self._folder / UNFINISHED / key

    def free_name(self, wanted: str) -> str:
        """`wanted`, or `wanted-2`, `wanted-3`, … until no living adapter has it."""
        check_name(wanted)
        with self.database.reading() as connection:
            rows = connection.execute("SELECT name FROM adapters WHERE removed_at IS NULL")
            taken = {str(row["name"]).casefold() for row in rows}
        number, name = 1, wanted
        while name.casefold() in taken:
            number += 1
            name = f"{wanted}-{number}"
        return name

    def check_free(self, name: str) -> None:
        """Refuse a name for a new adapter, before the work.

        Raises:
            LibraryError: It is impossible, or a living adapter has it.
        """
        if self.free_name(name) != name:
            raise _taken(name)

    def add(self, info: AdapterInfo, passages: Iterable[Passage] = ()) -> AdapterInfo:
        """Store an adapter whose file is written already; equal key = the stored one is returned.

        Raises:
            LibraryError: The name is taken by another adapter.
        """
        check_name(info.name)
        values = _to_row(info)
        columns, marks = ", ".join(values), ", ".join("?" * len(values))
        try:
            with self.database.transaction() as connection:
                cursor = connection.execute(f"INSERT INTO adapters ({columns}) VALUES ({marks})", list(values.values()))
                number = int(cursor.lastrowid or 0)
                connection.executemany(
                    "INSERT INTO passages (text, adapter_id, chunk, start, stop) VALUES (?, ?, ?, ?, ?)",
                    [(piece.text, number, piece.chunk, piece.start, piece.end) for piece in passages],
                )
        except sqlite3.IntegrityError as error:
            twin = self.find_by_key(info.key)
            if twin is not None:
                return twin
            raise _taken(info.name) from error
        return replace(info, id=number)

    def set_whole(self, info: AdapterInfo) -> None:
        """Note that the file of an adapter has been made since: its rank, energy and size.

        Raises:
            LibraryError: The adapter was removed meanwhile; the file is deleted.
        """
        values = [info.rank, info.energy_kept, info.size_bytes, info.id]
        with self.database.transaction() as connection:
            cursor = connection.execute(
                "UPDATE adapters SET rank = ?, energy_kept = ?, size_bytes = ? WHERE id = ? AND removed_at IS NULL",
                values,
            )
            if not cursor.rowcount:
                info.path.unlink(missing_ok=True)
                raise LibraryError(f"`{info.name}` was removed meanwhile", f"`adapters restore {info.name}`")

    def list(self) -> tuple[AdapterInfo, ...]:
        """All adapters, newest first."""
        with self.database.reading() as connection:
            rows = connection.execute("SELECT * FROM adapters WHERE removed_at IS NULL ORDER BY id DESC").fetchall()
        return tuple(self._info(row) for row in rows)

    def get(self, name: str) -> AdapterInfo:
        """The adapter of that name, or the only one whose name begins so.

        Raises:
            LibraryError: None or several.
        """
        everything = self.list()
        wanted = name.casefold()
        exact = [info for info in everything if info.name.casefold() == wanted]
        found = exact or [info for info in everything if wanted and info.name.casefold().startswith(wanted)]
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(f"`{info.name}`" for info in found[:5])
            raise LibraryError(f"`{name}` begins the names of {len(found)} adapters: {names}", "write more of the name")
        hint = _LIST_HINT if everything else "make one with `localhyper attach FILE`"
        raise LibraryError(f"there is no adapter named `{name[:80]}`", hint)

    def find_by_key(self, key: str) -> AdapterInfo | None:
        """The adapter made from exactly the same things; None where there is none or its file is gone or changed."""
        with self.database.reading() as connection:
            row = connection.execute("SELECT * FROM adapters WHERE key = ? AND removed_at IS NULL", [key]).fetchone()
        if row is None:
            return None
        info = self._info(row)
        if info.usable:
            return info
        with self.database.transaction() as connection:
            _purge_rows(connection, [info.id])
        return None

    def rename(self, name: str, to: str) -> AdapterInfo:
        """Give an adapter another name. Its file keeps its place.

        Raises:
            LibraryError: No such adapter, a bad name, or a name that is taken.
        """
        info = self.get(name)
        check_name(to)
        try:
            with self.database.transaction() as connection:
                connection.execute("UPDATE adapters SET name = ? WHERE id = ?", [to, info.id])
        except sqlite3.IntegrityError as error:
            raise LibraryError(f"there is an adapter named `{to}` already", "choose another name") from error
        return replace(info, name=to)

    def remove(self, name: str) -> AdapterInfo:
        """Move an adapter to the trash, where it stays until `purge`; `restore` undoes it."""
        info = self.get(name)
        trash = self._folder / TRASH / f"{info.id}-{info.path.name}"
        with self.database.transaction() as connection:
            connection.execute("UPDATE adapters SET removed_at = ? WHERE id = ?", [now(), info.id])
            if info.path.exists():
                os.replace(info.path, trash)
            _move_chunks(info.path, trash)
        return info

    def removed(self) -> tuple[AdapterInfo, ...]:
        """What lies in the trash, the last removed first."""
        with self.database.reading() as connection:
            rows = connection.execute(
                "SELECT * FROM adapters WHERE removed_at IS NOT NULL ORDER BY removed_at DESC, id DESC"
            ).fetchall()
        return tuple(self._info(row) for row in rows)

    def restore(self, name: str) -> AdapterInfo:
        """Bring back the last removed adapter of that name, under a free name.

        Raises:
            LibraryError: None in the trash, its file is gone, or the same document was attached again since.
        """
        found = [info for info in self.removed() if info.name.casefold() == name.casefold()]
        if not found:
            raise LibraryError(f"there is no `{name[:80]}` in the trash")
        info = found[0]
        trash = self._folder / TRASH / f"{info.id}-{info.path.name}"
        left = trash if info.whole_made else chunk_folder(trash)
        if not left.exists():
            raise LibraryError(f"the file of `{name}` is gone from the trash", "attach the document again")
        free = self.free_name(info.name)
        try:
            with self.database.transaction() as connection:
                connection.execute("UPDATE adapters SET removed_at = NULL, name = ? WHERE id = ?", [free, info.id])
                if trash.exists():
                    os.replace(trash, info.path)
                _move_chunks(trash, info.path)
        except sqlite3.IntegrityError as error:
            raise LibraryError(f"the document of `{name}` has been attached again since", _LIST_HINT) from error
        return replace(info, name=free)

    def purge(self) -> int:
        """Delete everything in the trash for good; how many adapters that were."""
        removed = self.removed()
        with self.database.transaction() as connection:
            _purge_rows(connection, [info.id for info in removed])
        for info in removed:
            trash = self._folder / TRASH / f"{info.id}-{info.path.name}"
            trash.unlink(missing_ok=True)
            shutil.rmtree(chunk_folder(trash), ignore_errors=True)
        return len(removed)

    def export(self, name: str, to: Path, *, overwrite: bool = False) -> Path:
        """Copy an adapter's file; `to` may be a folder.

        Raises:
            LibraryError: No such adapter, its file is gone, the target exists or cannot be written.
        """
        info = self.get(name)
        if not info.whole_made:
            raise LibraryError(f"the adapter of `{info.name}` as a whole is yet to be made", _LIST_HINT)
        target = to / f"{info.name}.gguf" if to.is_dir() else to
        if target.exists() and not overwrite:
            raise LibraryError(f"`{target}` exists already", "add --force to replace it")
        partial = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            shutil.copyfile(info.path, partial)
            os.replace(partial, target)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise LibraryError(f"cannot copy `{info.path}` to `{target}`: {error.strerror}") from error
        return target

    def search_passages(self, query: str, adapter_ids: Sequence[int], limit: int = 5) -> tuple[Passage, ...]:
        """Passages of these adapters' documents that share words with `query`, the best first."""
        match = any_word(query)
        if not match or not adapter_ids:
            return ()
        marks = ", ".join("?" * len(adapter_ids))
        with self.database.reading() as connection:
            rows = connection.execute(
                f"SELECT *, -bm25(passages) AS score FROM passages WHERE passages MATCH ? AND adapter_id IN ({marks}) "
                "ORDER BY score DESC, rowid LIMIT ?",
                [match, *adapter_ids, limit],
            ).fetchall()
        return tuple(_passage(row, float(row["score"])) for row in rows)

    def score_chunks(self, query: str, adapter_ids: Sequence[int]) -> dict[tuple[int, int], float]:
        """How much each chunk of these adapters' documents has to do with `query`: (adapter id, chunk) to a score.

        BM25 of the chunk's best passage; chunks that share no word with the query are left out. Sums over passages find
        less: long chunks then win by common words (docs/decisions/0018).
        """
        scores: dict[tuple[int, int], float] = {}
        for passage in self.search_passages(query, adapter_ids, limit=-1):
            place = passage.adapter_id, passage.chunk
            scores[place] = max(scores.get(place, 0.0), passage.score)
        return scores

    def passages(self, adapter_id: int) -> tuple[Passage, ...]:
        """The whole source text of an adapter, in order."""
        with self.database.reading() as connection:
            rows = connection.execute(
                "SELECT * FROM passages WHERE adapter_id = ? ORDER BY chunk, rowid", [adapter_id]
            ).fetchall()
        return tuple(_passage(row, 0.0) for row in rows)

    def has_text(self, adapter_id: int) -> bool:
        """Whether the text of an adapter's document is stored; an imported adapter comes without."""
        with self.database.reading() as connection:
            row = connection.execute("SELECT 1 FROM passages WHERE adapter_id = ? LIMIT 1", [adapter_id]).fetchone()
        return row is not None

    def _info(self, row: sqlite3.Row) -> AdapterInfo:
        values = {field.name: row[field.name] for field in fields(AdapterInfo) if field.name not in ("path", "notes")}
        # `file` is a bare name: a row from elsewhere cannot point out of the folder.
        return AdapterInfo(**values, path=self._folder / Path(row["file"]).name, notes=tuple(json.loads(row["notes"])))


def _taken(name: str) -> LibraryError:
    return LibraryError(f"there is an adapter named `{name}` already", "choose another --name")


def _move_chunks(adapter: Path, to: Path) -> None:
    """Move the folder of chunk adapters along with their adapter's file."""
    if chunk_folder(adapter).is_dir():
        shutil.rmtree(chunk_folder(to), ignore_errors=True)
        os.replace(chunk_folder(adapter), chunk_folder(to))


def _to_row(info: AdapterInfo) -> dict[str, object]:
    names = [field.name for field in fields(AdapterInfo) if field.name not in ("path", "id")]
    values: dict[str, object] = {name: getattr(info, name) for name in names}
    return {**values, "file": info.path.name, "notes": json.dumps(list(info.notes), ensure_ascii=False)}


def _passage(row: sqlite3.Row, score: float) -> Passage:
    return Passage(row["chunk"], row["text"], row["start"], row["stop"], row["adapter_id"], score)


def _purge_rows(connection: sqlite3.Connection, numbers: Sequence[int]) -> None:
    connection.executemany("DELETE FROM passages WHERE adapter_id = ?", [(number,) for number in numbers])
    connection.executemany("DELETE FROM adapters WHERE id = ?", [(number,) for number in numbers])
