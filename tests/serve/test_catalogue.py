"""What can be served, read from real files: models folder, library, trash."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from localhyper.base_header import read_base_info
from localhyper.config import Config
from localhyper.database import Database
from localhyper.errors import LibraryError, ModelError
from localhyper.library import AdapterInfo, Library
from localhyper.paths import Paths
from localhyper.serve.catalogue import Catalogue
from localhyper.serve.model_names import default_choice, listing
from tests.tiny_gguf import TinySpec, write_tiny_gguf


@pytest.fixture
def base(paths: Paths) -> Path:
    """The only base model of this machine."""
    return write_tiny_gguf(paths.create().models_dir / "tiny.gguf", TinySpec())


@pytest.fixture
def library(paths: Paths) -> Library:
    return Library(Database(paths.library_db), paths.adapters_dir)


def put(library: Library, name: str, fingerprint: str) -> AdapterInfo:
    key = (name.encode().hex() + "0" * 64)[:64]
    path = library.file_for(name, key)
    path.write_bytes(b"gguf" * 10)
    return library.add(
        AdapterInfo(
            name, path, key, name, "txt", "/x", "aa", "tiny", fingerprint, "net", "cc", 8, 0.9, 100, 2, 40,
            "2026-01-01T00:00:00+00:00",
        )
    )  # fmt: skip


def names(catalogue: Catalogue) -> list[str]:
    return [choice.id for choice in listing(catalogue.snapshot())]


def test_every_look_sees_what_has_changed(paths: Paths, base: Path, library: Library) -> None:
    catalogue = Catalogue(paths, Config(), "tiny")
    assert names(catalogue) == ["tiny"]
    fingerprint = read_base_info(base).fingerprint
    put(library, "lease", fingerprint)
    put(library, "foreign", "f" * 64)
    assert names(catalogue) == ["tiny", "tiny+lease"]
    library.rename("lease", "contract")
    assert names(catalogue) == ["tiny", "tiny+contract"]
    write_tiny_gguf(paths.models_dir / "second.gguf", replace(TinySpec(), blocks=3))
    assert names(catalogue) == ["second", "tiny", "tiny+contract"]
    library.remove("contract")
    assert names(catalogue) == ["second", "tiny"]


def test_what_is_damaged_or_gone_is_not_served_and_hides_nothing(paths: Paths, base: Path, library: Library) -> None:
    (paths.models_dir / "broken.gguf").write_bytes(b"GGUF" + bytes(50))
    put(library, "short", read_base_info(base).fingerprint).path.write_bytes(b"x")
    put(library, "gone", read_base_info(base).fingerprint).path.unlink()
    put(library, "whole", read_base_info(base).fingerprint)
    assert names(Catalogue(paths, Config(), "tiny")) == ["tiny", "tiny+whole"]


def test_a_base_given_as_a_file_is_served_by_its_name(paths: Paths, base: Path, tmp_path: Path) -> None:
    other = write_tiny_gguf(tmp_path / "other.gguf", replace(TinySpec(), blocks=3))
    there = Catalogue(paths, Config(), str(other)).snapshot()
    assert default_choice(there).id == "other"
    assert set(there.bases) == {"tiny", "other"}
    twin = tmp_path / "tiny.gguf"
    other.rename(twin)
    there = Catalogue(paths, Config(), str(twin)).snapshot()
    assert default_choice(there).base.path == twin.resolve()
    assert there.bases["tiny"].path == base  # two files of one name stay apart
    assert len(there.bases) == 2


def test_what_the_server_is_started_with_must_be_there_at_the_start(paths: Paths, base: Path) -> None:
    with pytest.raises(ModelError, match="no base model is named `nothing`"):
        Catalogue(paths, Config(), "nothing").check_default()
    with pytest.raises(LibraryError, match="no adapter named `lease`"):
        Catalogue(paths, Config(), "tiny", ["lease"]).check_default()


def test_what_goes_while_serving_takes_only_the_alias_along(paths: Paths, base: Path, library: Library) -> None:
    put(library, "lease", read_base_info(base).fingerprint)
    catalogue = Catalogue(paths, Config(), "tiny", ["lease@0.5"])
    catalogue.check_default()
    assert default_choice(catalogue.snapshot()).id == "tiny+lease@0.5"
    library.remove("lease")
    assert catalogue.snapshot().default is None
    assert names(catalogue) == ["tiny"]
