"""Which training command a recipe asks for: `localhyper train` begins here."""

from __future__ import annotations

import argparse
from pathlib import Path

from localhyper.errors import LocalHyperError
from localhyper.export import search_config, sum_config, task_config
from localhyper.export.command_line import refuse
from localhyper.export.train_config import read_tables


def main(argv: list[str] | None = None) -> int:
    """Hand the command line to documents' training, or to that of tasks, search or sums by a table of the recipe."""
    parser = argparse.ArgumentParser(prog="localhyper train", add_help=False)
    parser.add_argument("recipe", type=Path, nargs="?")
    options, _ = parser.parse_known_args(argv)
    try:
        tables = read_tables(options.recipe) if options.recipe is not None else {}
    except LocalHyperError as error:
        refuse(parser, error)
    if task_config.KIND_TABLE in tables:
        from localhyper.export.task_train import main as run
    elif search_config.KIND_TABLE in tables:
        from localhyper.export.search_train import main as run
    elif sum_config.KIND_TABLE in tables:
        from localhyper.export.sum_train import main as run
    else:
        from localhyper.export.train import main as run
    return run(argv)


if __name__ == "__main__":
    raise SystemExit(main())
