"""How the commands of the training room end when something is wrong."""

from __future__ import annotations

import argparse
from typing import NoReturn

from localhyper.errors import LocalHyperError


def refuse(parser: argparse.ArgumentParser, error: LocalHyperError) -> NoReturn:
    """End the program with the error's line, its hint, and its exit code."""
    hint = f"\nhint: {error.hint}\n" if error.hint else ""
    parser.exit(error.exit_code, f"error: {error.message}\n{hint}")
