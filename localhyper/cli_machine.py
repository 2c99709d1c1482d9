"""`localhyper paths`, `doctor`, `config show` and `demo`: this machine, its settings, and a first look."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from localhyper.cli_options import BaseOption, HypernetOption, JsonOption, open_settings, open_workbench
from localhyper.cli_output import ProgressView, note, put, put_json, put_table, stop_on_signals
from localhyper.paths import get_paths
from localhyper.progress import CancelToken

config_app = typer.Typer(help="Show the settings in force.", no_args_is_help=True)


def show_paths(as_json: JsonOption = False) -> None:
    """Print where everything lies."""
    listing = get_paths().listing()
    if as_json:
        put_json({name: str(path) for name, path in listing.items()})
        return
    for name, path in listing.items():
        put(f"{name:<15} {path}")


def doctor(as_json: JsonOption = False) -> None:
    """Say what this machine has, what is missing, and what to do about it."""
    from localhyper.doctor import FAIL, run_checks, worst

    checks = run_checks()
    if as_json:
        put_json([dataclasses.asdict(check) for check in checks])
    else:
        for check in checks:
            put(f"{check.status:<5} {check.name:<13} {check.detail}")
            if check.hint:
                put(f"{'':<19} hint: {check.hint}")
    if worst(checks) == FAIL:
        raise typer.Exit(1)


@config_app.command(name="show")
def show_config(as_json: JsonOption = False) -> None:
    """Print every setting in force, with its meaning."""
    from localhyper.config import describe

    paths, config = open_settings()
    rows = describe(config)
    if as_json:
        put_json({key: value for key, value, _ in rows})
        return
    note(f"from {paths.config_file}" if paths.config_file.is_file() else f"defaults; {paths.config_file} changes them")
    put_table(("setting", "value", "meaning"), [(key, _shown(value), meaning) for key, value, meaning in rows])


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def demo(
    sample: Annotated[str, typer.Option(help="harbour-note (one chunk) or harbour-office (several).")] = "harbour-note",
    base: BaseOption = "",
    hypernet: HypernetOption = "",
) -> None:
    """Attach a sample document and ask about it, without and with the adapter."""
    from localhyper.demo import run_demo

    token = CancelToken()
    with open_workbench(base, hypernet) as bench, stop_on_signals(token):
        with ProgressView() as view:
            bench.engine(view)
        run_demo(bench, sample, put, note, token)
