"""The library: names, rows, files, trash, passages, damage, two processes."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from localhyper.database import MIGRATIONS, Database
from localhyper.errors import LibraryError
from localhyper.library import AdapterInfo, Library, Passage, check_name, slug


@pytest.fixture
def library(tmp_path: Path) -> Library:
    """An empty library."""
    return Library(Database(tmp_path / "library.sqlite3"), tmp_path / "adapters")


def put(library: Library, name: str, key: str = "", text: str = "") -> AdapterInfo:
    """Store a small file as an adapter."""
    key = key or (name.encode().hex() + "0" * 64)[:64]
    path = library.file_for(name, key)
    path.write_bytes(b"gguf" * 10)
    info = AdapterInfo(
        name, path, key, f"Title {name}", "txt", "/x", "aa", "base", "bb", "net", "cc", 8, 0.9, 100, 2, 40,
        "2026-01-01T00:00:00+00:00", ("page 3 has no text",),
    )  # fmt: skip
    pieces = [Passage(0, text, 0, len(text))] if text else []
    return library.add(info, pieces)


def test_what_is_stored_comes_back(library: Library) -> None:
    stored = put(library, "lease")
    assert stored.id > 0
    assert library.list() == (stored,)
    assert library.get("lease") == library.get("LEASE") == library.get("le") == stored
    assert library.find_by_key(stored.key) == stored
    assert stored.usable


def test_a_prefix_must_be_unique_but_a_whole_name_wins(library: Library) -> None:
    lease = put(library, "lease")
    put(library, "lease-2")
    assert library.get("lease") == lease
    with pytest.raises(LibraryError, match="begins the names of 2"):
        library.get("lea")
    with pytest.raises(LibraryError, match="no adapter named `x`"):
        library.get("x")
    with pytest.raises(LibraryError, match="no adapter named ``"):
        library.get("")


def test_names_are_free_or_counted_up(library: Library) -> None:
    assert library.free_name("lease") == "lease"
    put(library, "lease")
    assert library.free_name("Lease") == "Lease-2"
    with pytest.raises(LibraryError, match="already"):
        put(library, "LEASE", "1" * 64)
    put(library, "other")
    with pytest.raises(LibraryError, match="already"):
        library.rename("other", "lease")
    assert library.rename("other", "third").name == "third"
    assert library.get("third").path.exists()


@pytest.mark.parametrize(
    "name", ["", "../x", "a/b", "a\\b", "..", ".x", "-x", "a..b", "x@1", "a b", "a\n", "a\0", "x" * 65, "C:x", "_x"]
)
def test_names_that_could_be_paths_are_refused(library: Library, name: str) -> None:
    with pytest.raises(LibraryError, match="cannot be an adapter's name"):
        check_name(name)
    with pytest.raises(LibraryError):
        library.file_for(name, "0" * 64)


@pytest.mark.parametrize(
    ("title", "want"),
    [
        ("Lease 2025.pdf", "lease-2025-pdf"),
        ("../../etc/passwd", "etc-passwd"),
        ("  ", "adapter"),
        ("契約書 2024", "契約書-2024"),
        ("Ünï_cödé — x@2", "ünï-cödé-x-2"),
        ("w" * 300, "w" * 40),
    ],
)
def test_titles_become_names(title: str, want: str) -> None:
    assert slug(title) == want
    check_name(slug(title))


def test_removing_can_be_undone_until_purged(library: Library) -> None:
    info = put(library, "lease", text="the landlord pays")
    library.remove("lease")
    assert not info.path.exists()
    assert library.list() == ()
    assert library.find_by_key(info.key) is None
    assert [removed.name for removed in library.removed()] == ["lease"]
    again = put(library, "lease", "2" * 64)
    back = library.restore("lease")
    assert (back.name, back.key) == ("lease-2", info.key)
    assert back.path.read_bytes() == b"gguf" * 10
    assert [piece.text for piece in library.passages(back.id)] == ["the landlord pays"]
    library.remove("lease-2")
    library.remove("lease")
    assert library.purge() == 2
    assert list((library.file_for("x", "0" * 64).parent / ".trash").iterdir()) == []
    assert library.passages(back.id) == ()
    with pytest.raises(LibraryError, match="in the trash"):
        library.restore("lease")
    assert again.key == "2" * 64


def test_restore_gives_way_to_a_new_attach_of_the_same_document(library: Library) -> None:
    put(library, "lease")
    library.remove("lease")
    put(library, "lease")
    with pytest.raises(LibraryError, match="attached again"):
        library.restore("lease")


def test_equal_keys_are_one_adapter(library: Library) -> None:
    first = put(library, "one", "3" * 64)
    assert put(library, "two", "3" * 64) == first


def test_a_file_that_is_gone_or_changed_is_not_found_by_key(library: Library) -> None:
    info = put(library, "lease")
    info.path.write_bytes(b"short")
    assert not library.get("lease").usable
    assert library.find_by_key(info.key) is None
    assert library.list() == ()


def test_export_copies_and_does_not_overwrite(library: Library, tmp_path: Path) -> None:
    info = put(library, "lease")
    assert library.export("lease", tmp_path) == tmp_path / "lease.gguf"
    with pytest.raises(LibraryError, match="exists already"):
        library.export("lease", tmp_path)
    library.export("lease", tmp_path / "lease.gguf", overwrite=True)
    assert (tmp_path / "lease.gguf").read_bytes() == info.path.read_bytes()
    with pytest.raises(LibraryError, match="cannot copy"):
        library.export("lease", tmp_path / "no" / "such" / "x.gguf")


def test_passages_are_found_by_words_of_the_chosen_documents(library: Library) -> None:
    lease = put(library, "lease", text="The notice period is three months. Café rules apply.")
    other = put(library, "other", text="Notice of a period film.")
    found = library.search_passages('What is the NOTICE "period"?', [lease.id])
    assert [(piece.adapter_id, piece.start) for piece in found] == [(lease.id, 0)]
    assert len(library.search_passages("notice", [lease.id, other.id])) == 2
    assert library.search_passages("cafe", [lease.id])
    for query in ("", "???", 'x" OR "1', "NEAR(", "-", "*", "text:notice"):
        library.search_passages(query, [lease.id])
    assert library.search_passages("notice", []) == ()


def test_a_damaged_database_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "library.sqlite3"
    path.write_bytes(b"this is no database, " * 100)
    with pytest.raises(LibraryError, match="damaged") as caught:
        Database(path)
    assert "library.sqlite3` away" in caught.value.hint


def test_a_newer_database_is_refused_and_an_older_one_migrated(tmp_path: Path) -> None:
    path = tmp_path / "library.sqlite3"
    connection = sqlite3.connect(path)
    MIGRATIONS[0](connection)
    connection.execute("PRAGMA user_version = 1")
    connection.commit()
    connection.close()
    library = Library(Database(path), tmp_path / "adapters")
    put(library, "lease", text="words")
    assert library.search_passages("words", [1])
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(LibraryError, match="version 99"):
        Database(path)


def test_adapters_made_before_there_were_chunk_adapters_have_none(tmp_path: Path) -> None:
    path = tmp_path / "library.sqlite3"
    connection = sqlite3.connect(path)
    for migration in MIGRATIONS[:5]:
        migration(connection)
    names = "name, key, file, title, kind, origin, document_sha256, base_name, base_fingerprint, hypernet_name, "
    names += "hypernet_sha256, rank, energy_kept, tokens, chunks, size_bytes, made_at, notes"
    values = ["lease", "k", "lease.gguf", "T", "txt", "", "d", "b", "f", "n", "s", 8, 1.0, 900, 4, 3, "2026", "[]"]
    connection.execute(f"INSERT INTO adapters ({names}) VALUES ({', '.join('?' * len(values))})", values)
    connection.execute("PRAGMA user_version = 5")
    connection.commit()
    connection.close()
    (info,) = Library(Database(path), tmp_path / "adapters").list()
    assert (info.name, info.chunks, info.chunk_files, info.chunk_bytes) == ("lease", 4, 0, 0)


def test_a_row_cannot_point_out_of_the_folder(library: Library) -> None:
    put(library, "lease")
    with library.database.transaction() as connection:
        connection.execute("UPDATE adapters SET file = '../../etc/passwd'")
    info = library.get("lease")
    assert info.path.parent == library.file_for("x", "0" * 64).parent


def test_a_transaction_that_fails_leaves_nothing(library: Library) -> None:
    info = put(library, "lease")
    broken = replace(info, id=0, name="new", key="9" * 64)

    def pieces() -> object:
        yield Passage(0, "words", 0, 5)
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        library.add(broken, pieces())  # type: ignore[arg-type]
    assert [found.name for found in library.list()] == ["lease"]
    assert library.search_passages("words", [1, 2]) == ()


def test_opening_waits_while_another_process_makes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "library.sqlite3"
    other = sqlite3.connect(path, check_same_thread=False)
    other.execute("CREATE TABLE t (x)")
    other.execute("BEGIN IMMEDIATE")  # in the old journal mode: a lock for which SQLite does not wait in a switch
    waker = threading.Timer(0.3, other.rollback)
    waker.start()
    try:
        Database(path)
    finally:
        waker.join()
        other.close()


def test_two_processes_write_at_once(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "sys.path.insert(0, sys.argv[3])\n"
        "from localhyper.database import Database; from localhyper.library import Library\n"
        "from tests.unit.test_library import put\n"
        "root = Path(sys.argv[1])\n"
        "library = Library(Database(root / 'library.sqlite3'), root / 'adapters')\n"
        "for number in range(20): put(library, f'{sys.argv[2]}{number}')\n"
    )
    root = Path(__file__).parents[2]
    runs = [subprocess.Popen([sys.executable, "-c", code, tmp_path, who, root]) for who in ("a", "b")]
    assert [run.wait(60) for run in runs] == [0, 0]
    assert len(Library(Database(tmp_path / "library.sqlite3"), tmp_path / "adapters").list()) == 40
