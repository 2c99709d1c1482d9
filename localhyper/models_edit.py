"""Writing entries into the user's models.toml and taking them out; comments and all other lines stay as they are."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from localhyper.atomic import write_text_atomic
from localhyper.config import read_toml
from localhyper.errors import ConfigError
from localhyper.file_lock import locked
from localhyper.model_specs import parse_known

EDIT_HINT = "edit it by hand; the head of the shipped models.toml explains the keys"


def add_entry(file: Path, section: str, name: str, values: Mapping[str, Any]) -> None:
    """Add `[section.name]` at the end of a models.toml, which is made when missing.

    Args:
        file: The user's models.toml.
        section: `base`, `hypernetwork`, `published` or `embedder`.
        name: The entry's name; there must be none of this name in this section.
        values: Keys of the entry and their values; empty ones are left out.

    Raises:
        ConfigError: The file was wrong before, has such an entry, would be wrong then, or cannot be written.
    """
    import tomlkit

    entry, table, outer = tomlkit.document(), tomlkit.table(), tomlkit.table(is_super_table=True)
    table.update({key: value for key, value in values.items() if value not in ("", 0)})
    outer[name] = table
    entry[section] = outer

    def change(text: str, before: dict[str, Any]) -> str:
        if name in before.get(section, {}):
            raise ConfigError(f"{file} has an entry [{section}.{name}] already", "choose another name")
        return f"{text.rstrip()}\n\n{tomlkit.dumps(entry)}".lstrip()

    _change(file, change)


def remove_entry(file: Path, section: str, name: str) -> None:
    """Take `[section.name]` out of a models.toml.

    Raises:
        ConfigError: The file is wrong, has no such entry, would be wrong then, or cannot be written.
    """
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    def change(text: str, before: dict[str, Any]) -> str:
        if name not in before.get(section, {}):
            raise ConfigError(f"{file} has no entry [{section}.{name}]")
        try:
            document = tomlkit.parse(text)
            entries: Any = document[section]
            del entries[name]
            result = tomlkit.dumps(document)
        except (TOMLKitError, KeyError) as error:
            raise ConfigError(f"{file}: [{section}.{name}] cannot be taken out: {error}", EDIT_HINT) from error
        del before[section][name]
        if not _same(tomllib.loads(result), before):
            raise ConfigError(f"{file}: [{section}.{name}] cannot be taken out alone", EDIT_HINT)
        return result

    _change(file, change)


def _change(file: Path, change: Callable[[str, dict[str, Any]], str]) -> None:
    """Read, change, check, write: one process at a time."""
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(file.with_name(f".{file.name}.lock"), None, lambda: None):
            before = read_toml(file)
            parse_known(before, str(file))
            text = change(file.read_bytes().decode("utf-8-sig") if file.exists() else "", before)
            parse_known(_parsed(file, text), str(file))
            write_text_atomic(file, text)
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror or error}", "check its permissions") from error


def _parsed(file: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} cannot take another entry: {error}", EDIT_HINT) from error


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two files mean the same; a section without entries means nothing."""
    return {key: value for key, value in one.items() if value} == {key: value for key, value in other.items() if value}
