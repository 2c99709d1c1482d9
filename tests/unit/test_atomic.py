"""Files and folders are replaced whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from localhyper.atomic import atomic_folder, atomic_path, write_bytes_atomic, write_text_atomic


def test_writes_and_makes_the_folder(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b.bin"
    write_bytes_atomic(file, b"\x00new")
    assert file.read_bytes() == b"\x00new"
    assert os.listdir(file.parent) == ["b.bin"]


def test_text_is_utf8_with_its_newlines(tmp_path: Path) -> None:
    write_text_atomic(tmp_path / "t", "ä\r\nb\n")
    assert (tmp_path / "t").read_bytes() == b"\xc3\xa4\r\nb\n"


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic_path(file) as temporary:
        temporary.write_bytes(b"half")
        assert file.read_bytes() == b"old"
        raise RuntimeError
    assert file.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "x"):
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_a_reader_with_the_old_file_open_keeps_it(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"old")
    with open(file, "rb") as reader:
        write_bytes_atomic(file, b"new")
        assert reader.read() == b"old"
    assert file.read_bytes() == b"new"


def test_permissions_of_the_replaced_file_stay(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"old")
    file.chmod(0o640)
    write_bytes_atomic(file, b"new")
    assert file.stat().st_mode & 0o777 == 0o640


def test_a_new_file_gets_what_the_umask_allows(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_bytes_atomic(tmp_path / "x", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640


def test_a_link_survives_and_its_target_changes(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    write_bytes_atomic(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


def test_the_block_may_replace_the_temporary_file(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"moved")
    with atomic_path(tmp_path / "x") as temporary:
        os.replace(other, temporary)
    assert (tmp_path / "x").read_bytes() == b"moved"


def test_a_folder_comes_whole_and_replaces_the_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    before = os.umask(0o027)
    try:
        for text in ("one", "two"):
            with atomic_folder(folder) as temporary:
                assert not folder.exists() or (folder / "x").read_text() == "one"
                (temporary / "x").write_text(text)
            assert (folder / "x").read_text() == text
    finally:
        os.umask(before)
    assert os.listdir(folder.parent) == ["b"]
    assert folder.stat().st_mode & 0o777 == 0o750
    assert (folder / "x").stat().st_mode & 0o777 == 0o640


def test_an_interrupt_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    (folder / "old").write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_folder(folder) as temporary:
        (temporary / "new").write_text("half")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["x"]
    assert os.listdir(folder) == ["old"]


def test_the_old_folder_comes_back_when_the_new_one_cannot_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    (folder / "old").write_text("old")
    rename = os.rename

    def failing(source: Path, target: Path) -> None:
        if Path(source).suffix == ".tmp":
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OSError, match="Input/output"), atomic_folder(folder) as temporary:
        (temporary / "new").write_text("new")
    assert os.listdir(tmp_path) == ["x"]
    assert os.listdir(folder) == ["old"]
