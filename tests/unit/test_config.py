"""config.toml: every wrong key or value is named, the right ones arrive typed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from localhyper.config import Config, describe, load_config, parse_config, with_value
from localhyper.errors import ConfigError


def _load(tmp_path: Path, text: str) -> Config:
    file = tmp_path / "config.toml"
    file.write_text(text, encoding="utf-8")
    return load_config(file)


def test_no_file_means_the_defaults(tmp_path: Path) -> None:
    assert load_config(tmp_path / "none.toml") == Config()


def test_values_arrive_and_the_rest_keeps_its_defaults(tmp_path: Path) -> None:
    config = _load(
        tmp_path,
        """
        [engine]
        threads = 3
        flash_attention = false
        [sampling]
        temperature = 1
        [hypernet]
        providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
        [adapter]
        dtype = "f32"
        """,
    )
    assert (config.engine.threads, config.engine.flash_attention) == (3, False)
    assert config.sampling.temperature == 1.0
    assert type(config.sampling.temperature) is float
    assert config.hypernet.providers == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert config.adapter.dtype == "f32"
    assert config.base == Config().base
    assert config.engine.threads_batch == Config().engine.threads_batch


def test_every_default_passes_its_own_rules() -> None:
    config = Config()
    for key, value, meaning in describe(config):
        assert with_value(config, key, value) == config, key
        assert meaning, key
    assert len(describe(config)) == sum(
        len(dataclasses.fields(getattr(config, section.name))) for section in dataclasses.fields(config)
    )


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("[engin]\nthreads = 1", "unknown key `engin`", "did you mean `engine`?"),
        ("[engine]\nthread = 1", "[engine]: unknown key `thread`", "did you mean `threads`?"),
        ("[engine]\nxyzzy = 1", "unknown key `xyzzy`", "known are `threads`"),
        ("[engine]\nthreads = -1", "`threads` must be from 0 to 1024, got `-1`", ""),
        ("[engine]\nthreads = 2.0", "`threads` must be a whole number, got `2.0`", ""),
        ("[engine]\nthreads = true", "`threads` must be a whole number, got `True`", ""),
        ("[engine]\nflash_attention = 1", "`flash_attention` must be true or false, got `1`", ""),
        ("[engine]\nthreads = '4'", "`threads` must be a whole number, got `'4'`", ""),
        ("[sampling]\ntemperature = nan", "`temperature` must be from 0.0 to 5.0, got `nan`", ""),
        ("[sampling]\ntop_p = inf", "`top_p` must be from 0.0 to 1.0", ""),
        ("[adapter]\ndtype = 'q8'", "`dtype` must be one of `f16`, `f32`, `q8_0`, `q5_0`, got `'q8'`", ""),
        ("[hypernet]\nproviders = 'CPU'", "`providers` must be a list, got `'CPU'`", ""),
        ("[hypernet]\nproviders = [1]", "`providers` must be a text in quotes, got `1`", ""),
        ("engine = 3", "`engine` must be a section, got `3`", "write `[engine]`"),
        ("[base]\nname = 'x'\nname = 'y'", "is not valid TOML", ""),
        ("[engine\n", "is not valid TOML", ""),
        ("[engine]\nthreads = " + "9" * 400, "`threads` must be from 0 to 1024", ""),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, text)
    assert message in caught.value.message
    assert str(tmp_path / "config.toml") in caught.value.message
    assert len(caught.value.message) < 400
    assert hint in caught.value.hint


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes("[base]\nname = 'ä'".encode("latin-1"))
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        load_config(file)
    file.write_bytes(b"\xef\xbb\xbf[engine]\r\nthreads = 2\r\n")
    assert load_config(file).engine.threads == 2


def test_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)


def test_with_value_changes_one_setting_and_checks_it() -> None:
    config = with_value(Config(), "engine.n_ctx", 4096)
    assert config.engine.n_ctx == 4096
    assert config.sampling == Config().sampling
    with pytest.raises(ConfigError, match="must be from 0"):
        with_value(config, "engine.n_ctx", -5)
    for key in ("engine.nope", "nope.n_ctx", "engine", ""):
        with pytest.raises(ConfigError, match="unknown key"):
            with_value(config, key, 1)


def test_settings_cannot_be_changed_in_place() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().engine.threads = 2  # type: ignore[misc]


def test_the_rooms_take_their_settings_as_they_are() -> None:
    """Names and defaults are the rooms' own, so that nothing has to be translated."""
    from localhyper.engine import EngineConfig, Sampling
    from localhyper.sources.limits import ReadLimits

    config = parse_config({}, "test")
    assert EngineConfig(**dataclasses.asdict(config.engine)) == EngineConfig()
    assert Sampling(**dataclasses.asdict(config.sampling)) == Sampling()
    assert ReadLimits(**dataclasses.asdict(config.source)) == ReadLimits()
