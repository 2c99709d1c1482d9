"""Changing settings: the schema, typed texts, and what is written into config.toml."""

from __future__ import annotations

from pathlib import Path

import pytest

from localhyper.config import Config, describe, load_config
from localhyper.config_edit import parse_text, save_setting, schema, value_of
from localhyper.errors import ConfigError

INFOS = {info.key: info for info in schema()}
FILE = """# mine
[engine]
threads = 3  # not four

[ui]
theme = "nord"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "config.toml"
    file.write_text(FILE, encoding="utf-8")
    return file


def test_schema_has_every_setting_with_type_and_rules() -> None:
    assert list(INFOS) == [key for key, _, _ in describe(Config())]
    assert INFOS["engine.kv_type"].choices == ("f16", "f32")
    assert (INFOS["sampling.top_p"].low, INFOS["sampling.top_p"].high) == (0.0, 1.0)
    kinds = {INFOS[key].kind for key in INFOS}
    assert kinds == {"bool", "int", "float", "str", "list", "table"}
    assert all(value_of(Config(), key) == info.default for key, info in INFOS.items())


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("engine.threads", " 4 ", 4),
        ("sampling.temperature", "0.5", 0.5),
        ("engine.flash_attention", "false", False),
        ("hypernet.providers", "One, Two", ["One", "Two"]),
        ("hypernet.providers", "", []),
        ("ui.theme", "nord", "nord"),
    ],
)  # fmt: skip
def test_typed_texts_become_values(key: str, text: str, value: object) -> None:
    assert parse_text(INFOS[key], text) == value


@pytest.mark.parametrize(
    ("key", "text"), [("engine.threads", "4.5"), ("sampling.top_p", "x"), ("engine.flash_attention", "1")]
)
def test_texts_of_another_type_are_refused_by_name(key: str, text: str) -> None:
    with pytest.raises(ConfigError, match=key):
        parse_text(INFOS[key], text)


def test_one_line_changes_and_the_rest_stays(file: Path) -> None:
    assert save_setting(file, "engine.threads", 5).engine.threads == 5
    assert file.read_text(encoding="utf-8") == FILE.replace("3", "5")
    save_setting(file, "engine.threads", 3)
    save_setting(file, "sampling.top_k", 9)
    assert file.read_text(encoding="utf-8").startswith(FILE)
    assert load_config(file).sampling.top_k == 9


def test_default_takes_the_line_away_and_keys_are_a_table(file: Path) -> None:
    config = save_setting(file, "ui.keys", {"chat.new": "ctrl+t"})
    assert load_config(file) == config and config.ui.keys == {"chat.new": "ctrl+t"}
    assert config.ui.theme == "nord"
    assert save_setting(file, "ui.theme", None).ui.theme == Config().ui.theme
    assert "nord" not in file.read_text(encoding="utf-8")


def test_a_file_is_made_and_a_wrong_value_leaves_it_as_it_was(file: Path, tmp_path: Path) -> None:
    assert save_setting(tmp_path / "new" / "config.toml", "adapter.rank_budget", 64).adapter.rank_budget == 64
    for key, value in (("engine.threads", -1), ("engine.none", 1), ("none.x", 1), ("ui.keys", {"chat.new": 3})):
        with pytest.raises(ConfigError):
            save_setting(file, key, value)
    assert file.read_text(encoding="utf-8") == FILE


def test_a_file_that_was_wrong_before_is_not_written_over(file: Path) -> None:
    file.write_text("[engine\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="not valid TOML"):
        save_setting(file, "engine.threads", 5)
    assert file.read_text(encoding="utf-8") == "[engine\n"
