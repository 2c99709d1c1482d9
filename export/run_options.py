"""What all training commands take on the command line, and how they begin and end."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from localhyper.base_header import read_base_info
from localhyper.errors import LocalHyperError
from localhyper.export.command_line import make_folder, refuse
from localhyper.export.speed import fast_dtype


def add_run_options(parser: argparse.ArgumentParser, example: str) -> None:
    """Recipe, base model, data, folder and device; `example` is a recipe in `export/recipes`."""
    parser.add_argument("recipe", type=Path, help=f"TOML recipe, e.g. export/recipes/{example}")
    parser.add_argument("--base", type=Path, required=True, help="GGUF file of the base model")
    parser.add_argument("--data", type=Path, required=True, help="folder the recipe's files are relative to")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of this run; an interrupted run goes on from it"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--dtype",
        choices=("auto", "bfloat16", "float32"),
        default="auto",
        help="precision of the base model; auto: bfloat16 where the device multiplies in it, else float32",
    )
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 = PyTorch's choice")


def add_stop_option(parser: argparse.ArgumentParser) -> None:
    """Where a run is to end for now."""
    parser.add_argument(
        "--stop-at",
        type=int,
        default=0,
        metavar="STEP",
        help="end after this step; the same command without it goes on",
    )


def chosen_dtype(options: argparse.Namespace) -> torch.dtype:
    """Precision of the base model."""
    found: torch.dtype = fast_dtype(options.device) if options.dtype == "auto" else getattr(torch, options.dtype)
    return found


def run_command(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, action: Callable[[argparse.Namespace], None]
) -> int:
    """Read the command line, look at the base model, make the folder, do it; what cannot be done is one clear line."""
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        read_base_info(options.base)
        make_folder(options.out)
        action(options)
    except LocalHyperError as error:
        refuse(parser, error)
    return 0
