"""Changing settings by hand: the one schema that forms are made from, and writing a value into config.toml.

Knows no widget; `config` checks every value.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from localhyper.atomic import write_text_atomic
from localhyper.config import Config, load_config, parse_config
from localhyper.errors import ConfigError


@dataclass(frozen=True)
class SettingInfo:
    """One setting as a form shows it.

    Attributes:
        key: `section.name`.
        kind: Type of the value: `bool`, `int`, `float`, `str`, `list` (of texts) or `table` (of texts).
        choices: The only values allowed; empty = any.
        low: Lowest value allowed; None = any.
    """

    key: str
    meaning: str
    kind: str
    default: Any
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None


def schema() -> tuple[SettingInfo, ...]:
    """Every setting, in the order of the file: what forms, validation and documentation are made from."""
    defaults = Config()
    return tuple(
        SettingInfo(
            f"{section.name}.{item.name}",
            item.metadata["meaning"],
            _kind(get_type_hints(type(getattr(defaults, section.name)))[item.name]),
            getattr(getattr(defaults, section.name), item.name),
            item.metadata.get("choices", ()),
            item.metadata.get("low"),
            item.metadata.get("high"),
        )
        for section in dataclasses.fields(defaults)
        for item in dataclasses.fields(getattr(defaults, section.name))
    )


def value_of(config: Config, key: str) -> Any:
    """The value of `section.name`."""
    section, _, name = key.partition(".")
    return getattr(getattr(config, section), name)


def parse_text(info: SettingInfo, text: str) -> Any:
    """What a person typed into a form, as a value of the setting's type; ranges are checked when it is laid over.

    Raises:
        ConfigError: Not of that type.
    """
    words = text.strip()
    if info.kind == "list":
        return [word.strip() for word in words.split(",") if word.strip()]
    try:
        if info.kind in ("int", "float"):
            return int(words) if info.kind == "int" else float(words)
    except ValueError as error:
        wanted = "a whole number" if info.kind == "int" else "a number"
        raise ConfigError(f"`{info.key}` must be {wanted}, got `{words[:60]}`") from error
    if info.kind == "bool":
        if words not in ("true", "false"):
            raise ConfigError(f"`{info.key}` must be true or false, got `{words[:60]}`")
        return words == "true"
    return words


def save_setting(file: Path, key: str, value: Any) -> Config:
    """Write one setting into config.toml; comments and all other lines stay as they are.

    Args:
        file: The settings; made when missing, and read anew, so that changes by an editor are kept.
        key: `section.name`.
        value: The new value; None = back to the default, the line goes.

    Returns:
        All settings, as they are then.

    Raises:
        ConfigError: No such setting, a wrong value, or the file cannot be written or was wrong before.
    """
    import tomlkit
    import tomlkit.exceptions

    section, _, name = key.partition(".")
    load_config(file)
    try:
        document = tomlkit.parse(file.read_bytes().decode("utf-8-sig")) if file.exists() else tomlkit.document()
        table = document.setdefault(section, tomlkit.table())
        if value is None:
            table.pop(name, None)
        else:
            table[name] = list(value) if isinstance(value, tuple) else value
        text = tomlkit.dumps(document)
        config = parse_config(tomllib.loads(text), str(file))
        write_text_atomic(file, text)
    except tomlkit.exceptions.TOMLKitError as error:
        raise ConfigError(f"{file}: `{key}` cannot be written: {error}") from error
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror or error}", "check its permissions") from error
    return config


def _kind(hint: Any) -> str:
    origin = get_origin(hint)
    return {tuple: "list", Mapping: "table"}.get(origin) or str(hint.__name__)
