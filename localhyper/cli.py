"""The command line: assembles the commands, starts logging, and turns whatever happens into an exit code.

The commands themselves stand in the `cli_*.py` files; the rooms `tui` and `export` are reached from here alone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from localhyper import __version__
from localhyper.cli_adapters import adapters_app
from localhyper.cli_attach import attach
from localhyper.cli_chat import ask, chat
from localhyper.cli_eval import eval_app
from localhyper.cli_eval_adapters import register as register_eval_adapters
from localhyper.cli_eval_tasks import register as register_eval_tasks
from localhyper.cli_hypernet import hypernet_app
from localhyper.cli_machine import config_app, demo, doctor, show_paths
from localhyper.cli_models import models_app
from localhyper.cli_options import BaseOption, WithOption, open_settings
from localhyper.cli_output import (
    EXIT_CODES,
    EXIT_INTERRUPTED,
    drop_stdout,
    note,
    put,
    show_error,
    show_unexpected,
)
from localhyper.cli_serve import serve
from localhyper.config import with_value
from localhyper.errors import ConfigError, LocalHyperError
from localhyper.paths import get_paths, setup_logging
from localhyper.workbench import parse_use

PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

app = typer.Typer(
    name="localhyper",
    help="Attach documents to a quantized language model as weights, and ask it about them, offline.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(epilog=EXIT_CODES)(attach)
app.command(epilog=EXIT_CODES)(ask)
app.command(epilog=EXIT_CODES)(chat)
app.command(epilog=EXIT_CODES)(serve)
app.add_typer(adapters_app, name="adapters")
app.add_typer(models_app, name="models")
app.add_typer(hypernet_app, name="hypernet")
register_eval_adapters(eval_app)
register_eval_tasks(eval_app)
app.add_typer(eval_app, name="eval")
app.add_typer(config_app, name="config")
app.command(name="paths")(show_paths)
app.command()(doctor)
app.command(epilog=EXIT_CODES)(demo)


def _show_version(wanted: bool) -> None:
    if wanted:
        put(f"localhyper {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Options before the command."""


@app.command()
def tui(with_adapters: WithOption = None, base: BaseOption = "") -> None:
    """Open the terminal UI."""
    try:
        from localhyper.tui.app import run as run_tui
    except ModuleNotFoundError as error:
        raise _missing_extra(error, "textual", "localhyper") from error
    paths, config = open_settings()
    if base:
        config = with_value(config, "base.name", base)
    attached = dict(parse_use(text) for text in with_adapters or [])
    raise typer.Exit(run_tui(config, paths, attached=attached))


@app.command(context_settings=PASS_THROUGH)
def train(context: typer.Context) -> None:
    """Train a hypernetwork (needs the `train` extra); `localhyper train --help` shows its own options."""
    try:
        from localhyper.export.start import main as run_train
    except ModuleNotFoundError as error:
        raise _missing_extra(error, "PyTorch", "localhyper[train]") from error
    raise typer.Exit(run_train(context.args))


@app.command(name="export", context_settings=PASS_THROUGH)
def export_bundle(context: typer.Context) -> None:
    """Turn a training run into a hypernetwork bundle (needs the `train` extra); see `localhyper export --help`."""
    try:
        from localhyper.export.make_bundle import main as run_export
    except ModuleNotFoundError as error:
        raise _missing_extra(error, "PyTorch", "localhyper[train]") from error
    raise typer.Exit(run_export(context.args))


@hypernet_app.command(name="import", context_settings=PASS_THROUGH)
def import_hypernetwork(context: typer.Context) -> None:
    """Turn a published checkpoint into a bundle (needs the `train` extra); see `localhyper hypernet import --help`."""
    try:
        from localhyper.export.import_checkpoint import main as run_import
    except ModuleNotFoundError as error:
        raise _missing_extra(error, "PyTorch", "localhyper[train]") from error
    raise typer.Exit(run_import(context.args))


def _missing_extra(error: ModuleNotFoundError, what: str, package: str) -> LocalHyperError:
    if (error.name or "").partition(".")[0] == "localhyper":
        raise error
    return ConfigError(
        f"this command needs {what}, which is not installed", f"install it with `pip install '{package}'`"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; never raises."""
    paths = get_paths()
    log_file = setup_logging(paths)
    _safe_streams()
    try:
        code = app(args=list(arguments) if arguments is not None else None, standalone_mode=False)
        return code if isinstance(code, int) else 0
    except LocalHyperError as error:
        return show_error(error)
    except (KeyboardInterrupt, typer.Abort):
        note("\nstopped")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return drop_stdout()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except Exception as error:
        usage = getattr(error, "format_message", None)  # typer's own usage errors, whose classes moved between versions
        if usage is None:
            return show_unexpected(error, log_file)
        return show_error(ConfigError(_plain(str(usage())), _usage_hint(error)))


def _usage_hint(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    command = getattr(context, "command_path", "localhyper") if context is not None else "localhyper"
    return f"`{command} --help` shows what it takes"


def _plain(message: str) -> str:
    return " ".join(message.split()).rstrip(".").replace("'", "`")


def _safe_streams() -> None:
    """Text that the terminal's encoding lacks must not end a command."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
