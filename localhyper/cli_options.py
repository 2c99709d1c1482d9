"""Options that several commands share, and what they open."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
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
HypernetsOption = Annotated[
    list[str] | None,
    typer.Option("--hypernet", help="Hypernetwork, a name or an .onnx file; again for the other kind."),
]
TaskOption = Annotated[
    str | None, typer.Option("--task", metavar="TEXT|@FILE|-", help="A task by its description, attached.")
]
ExamplesOption = Annotated[
    Path | None,
    typer.Option(
        "--examples", metavar="FILE", help="Examples of the task, learnt: .csv, .tsv, .jsonl or text (see docs)."
    ),
]
DocumentOption = Annotated[
    list[str] | None, typer.Option("--document", metavar="FILE", help="A file or folder, attached; may be given again.")
]
PasswordOption = Annotated[
    str, typer.Option("--password", help="For encrypted PDFs; never stored.", envvar="LOCALHYPER_PASSWORD")
]
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


def file_or_name(hypernet: str) -> str:
    """A hypernetwork's file with its whole path, so that a job can go on from another folder; a name as it is."""
    return os.path.abspath(Path(hypernet).expanduser()) if hypernet.endswith(".onnx") else hypernet


def adapter_json(adapter: AdapterInfo) -> dict[str, object]:
    """An adapter for scripts."""
    about = {"path": str(adapter.path), "whole_made": adapter.whole_made, "usable": adapter.usable}
    return {**dataclasses.asdict(adapter), **about}
