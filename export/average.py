"""A run's weights and those it began from, mixed.

    python -m localhyper.export.average RUN FIRST --share 0.5 --out AVERAGED

Weights that one run reached from the other's lie in one valley of the loss, so that between them lies a model that
keeps what both can do (Wortsman et al. 2022, arXiv 2203.05482 and 2109.01903): here, short documents from long
training and long ones from before it.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from localhyper.errors import ConfigError, LocalHyperError
from localhyper.export.checkpoints import read_run
from localhyper.export.command_line import make_folder, refuse
from localhyper.export.given_weights import read_given_task


def average(last: dict[str, Any], first: dict[str, Any], share: float, kept: Sequence[str] = ()) -> dict[str, Any]:
    """A checkpoint, without optimizers, whose weights are `share` of `last` and the rest of `first`.

    Args:
        last: A run's checkpoint.
        first: That of what it began from.
        share: 0 to 1.
        kept: Beginnings of names of weights that are those of `first` alone.

    Raises:
        ConfigError: They are of two kinds of hypernetwork, or it has no weight of a name in `kept`.
    """
    one, other = last["hypernetwork"], first["hypernetwork"]
    if {name: value.shape for name, value in one.items()} != {name: value.shape for name, value in other.items()}:
        raise ConfigError("the two checkpoints are of different hypernetworks", "average a run with what it began from")
    for part in kept:
        if not any(name.startswith(part) for name in one):
            raise ConfigError(f"no weight of this hypernetwork has a name that begins with {part!r}")
    shares = {name: 0.0 if name.startswith(tuple(kept)) else share for name in one}
    mixed = {name: part * one[name].float() + (1 - part) * other[name].float() for name, part in shares.items()}
    facts = {name: last[name] for name in ("step", "seconds")}
    return {**facts, "hypernetwork": mixed, "averaged": share, "kept": list(kept)}


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    about = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m localhyper.export.average", description=about)
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("first", type=Path, help="checkpoint.pt that it began from, or a bundle of tasks")
    parser.add_argument("--share", type=float, default=0.5, help="of the run's weights, 0 to 1")
    parser.add_argument(
        "--keep", action="append", default=[], metavar="NAME", help="weights of FIRST alone, by how their names begin"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write, for `localhyper export`")
    options = parser.parse_args(argv)
    try:
        if not 0 <= options.share <= 1:
            raise ConfigError(f"--share must be 0 to 1, got {options.share}")
        first = read_given_task(options.first, torch.device("cpu"))
        mixed = average(read_run(options.run), first, options.share, options.keep)
        make_folder(options.out)
        torch.save(mixed, options.out / "checkpoint.pt")
        shutil.copyfile(options.run / "curve.jsonl", options.out / "curve.jsonl")
    except LocalHyperError as error:
        refuse(parser, error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
