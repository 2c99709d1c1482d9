"""Where files go, who may read them, and where the log goes."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from localhyper.errors import ConfigError
from localhyper.paths import HOME_VARIABLE, Paths, get_paths, setup_logging


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    logger = logging.getLogger("localhyper")
    before = list(logger.handlers), logger.level, logger.propagate
    yield logger
    for handler in logger.handlers:
        handler.close()
    logger.handlers[:], logger.level, logger.propagate = before


def test_home_overrides_everything(home: Path) -> None:
    paths = get_paths()
    assert paths == Paths(home / "config", home / "data", home / "cache", home / "state")
    everything = {*paths.folders(), *paths.listing().values(), paths.checksums_file, paths.models_file}
    assert all(home in path.parents for path in everything)


def test_without_home_the_system_places_are_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(HOME_VARIABLE)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    paths = get_paths()
    assert tmp_path in paths.data_dir.parents
    assert "localhyper" in paths.data_dir.parts


@pytest.mark.parametrize("value", ["", "  "])
def test_an_empty_home_is_none(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(HOME_VARIABLE, value)
    assert get_paths().data_dir != Path("data").absolute()


def test_a_relative_or_tilde_home_becomes_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(HOME_VARIABLE, "~/here")
    assert get_paths().data_dir == tmp_path / "here" / "data"
    monkeypatch.chdir(tmp_path)
    assert get_paths(Path("there")).data_dir == tmp_path / "there" / "data"


def test_asking_makes_nothing_and_create_makes_private_folders(tmp_path: Path) -> None:
    paths = get_paths(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    paths.create()
    for folder in paths.folders():
        assert folder.stat().st_mode & 0o777 == 0o700, folder
    paths.create()  # twice is fine


def test_existing_folders_keep_their_permissions(tmp_path: Path) -> None:
    paths = get_paths(tmp_path)
    paths.data_dir.mkdir(mode=0o755)
    paths.data_dir.chmod(0o755)
    paths.create()
    assert paths.data_dir.stat().st_mode & 0o777 == 0o755


def test_a_file_in_the_way_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("not a folder")
    with pytest.raises(ConfigError) as caught:
        get_paths(tmp_path).create()
    assert str(tmp_path / "data") in caught.value.message
    assert HOME_VARIABLE in caught.value.hint


def test_the_log_goes_to_its_file_only(paths: Paths, logger: logging.Logger, capfd: pytest.CaptureFixture[str]) -> None:
    file = setup_logging(paths)
    logging.getLogger("localhyper.some.part").warning("häßlich \udce4 %d", 7)
    logging.getLogger("localhyper").debug("too fine")
    for handler in logger.handlers:
        handler.flush()
    text = file.read_text(encoding="utf-8")
    assert "WARNING localhyper.some.part: häßlich ? 7" in text
    assert "too fine" not in text
    assert capfd.readouterr() == ("", "")


def test_setting_up_twice_doubles_nothing(paths: Paths, logger: logging.Logger) -> None:
    setup_logging(paths)
    file = setup_logging(paths, logging.DEBUG)
    logger.debug("once")
    assert file.read_text(encoding="utf-8").count("once") == 1


def test_the_log_is_rotated(paths: Paths, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("localhyper.paths.LOG_BYTES", 200)
    file = setup_logging(paths)
    for number in range(20):
        logger.info("a line of some length, number %d", number)
    assert sorted(os.listdir(file.parent)) == [file.name, *(f"{file.name}.{n}" for n in (1, 2, 3))]


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path, logger: logging.Logger) -> None:
    (tmp_path / "state").write_text("in the way")
    setup_logging(get_paths(tmp_path))
    logger.warning("goes nowhere")
