"""What the commands of the training room have in common: the options of those that make data, and how all end."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from localhyper.errors import ConfigError, LocalHyperError


def data_parser(module: str, about: str | None, data: str, out: str) -> argparse.ArgumentParser:
    """Options of a command that makes training data out of a data folder.

    Args:
        module: Its name in this package.
        about: Its docstring; the first line describes it.
        data: What lies in the folder.
        out: What is written.
    """
    what = (about or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog=f"python -m localhyper.export.{module}", description=what)
    parser.add_argument("--base", type=Path, required=True, help="GGUF file of the base model")
    parser.add_argument("--data", type=Path, required=True, help=f"folder {data} lie in")
    parser.add_argument("--out", type=Path, required=True, help=f"{out}, gzip'd")
    return parser


def make_folder(path: Path) -> None:
    """The folder of `--out`, if it is not there yet.

    Raises:
        ConfigError: It cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"folder `{path}` cannot be made: {error.strerror}", "name another with --out") from error


def refuse(parser: argparse.ArgumentParser, error: LocalHyperError) -> NoReturn:
    """End the program with the error's line, its hint, and its exit code."""
    hint = f"\nhint: {error.hint}\n" if error.hint else ""
    parser.exit(error.exit_code, f"error: {error.message}\n{hint}")


def write_out(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, write: Callable[[argparse.Namespace], None]
) -> int:
    """Read the command line, write the file of `--out`, say its name; what cannot be done is one clear line."""
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    try:
        write(options)
    except LocalHyperError as error:
        refuse(parser, error)
    print(options.out)
    return 0
