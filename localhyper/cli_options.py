"""Options that several commands share, and what they open."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated

import typer

from localhyper.config import Config, load_config, with_value
from localhyper.library import AdapterInfo
from localhyper.paths import Paths, get_paths
from localhyper.workbench import Workbench

BaseOption = Annotated[
    str, typer.Option("--base", help="Base model: a name from `localhyper models list` or a .gguf file.")
]
HypernetOption = Annotated[str, typer.Option("--hypernet", help="Hypernetwork: a name or an .onnx file.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
WithOption = Annotated[
    list[str] | None,
    typer.Option("--with", metavar="NAME[@SCALE]", help="Adapter to use, at a strength; may be given again."),
]


def open_settings() -> tuple[Paths, Config]:
    """Folders (made when missing) and settings.

    Raises:
        ConfigError: A folder cannot be made, or config.toml is wrong.
    """
    paths = get_paths().create()
    return paths, load_config(paths.config_file)


def open_workbench(
    base: str = "", hypernet: str = "", settings: Mapping[str, object] | None = None, *, kind: str = "document"
) -> Workbench:
    """A workbench over the settings in force; `settings` (key to value, None = as set) go before those of the file.

    `kind` is that of the hypernetwork.

    Raises:
        ConfigError: A setting is wrong.
    """
    paths, config = open_settings()
    for key, value in (settings or {}).items():
        if value is not None:
            config = with_value(config, key, value)
    return Workbench(paths, config, base=base, hypernet=hypernet, kind=kind)


def adapter_json(adapter: AdapterInfo) -> dict[str, object]:
    """An adapter for scripts."""
    return {**dataclasses.asdict(adapter), "path": str(adapter.path), "usable": adapter.usable}
