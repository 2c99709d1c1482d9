"""The weights of a run alone, in pieces of bounded size, to carry them from the machine they were trained on.

    python -m localhyper.export.task_weights RUN --out DIR --mib 15
    cat DIR/weights.* > RUN/checkpoint.pt   # there, beside RUN/curve.jsonl, for `localhyper export`

Large tensors are rounded to float16, as in a bundle. Optimizer state stays behind: such a file begins a run (--init)
and is exported, but no run goes on from it.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from localhyper.atomic import write_bytes_atomic
from localhyper.errors import LocalHyperError
from localhyper.export.checkpoints import read_run
from localhyper.export.command_line import make_folder, refuse

MIB = 2**20
HALF_ABOVE = 4096  # as in a bundle


def packed(weights: Mapping[str, Tensor], step: int = 0, seconds: float = 0.0) -> bytes:
    """A checkpoint of weights alone, large tensors as float16."""
    halved = {name: value.half() if value.numel() >= HALF_ABOVE else value for name, value in weights.items()}
    stream = io.BytesIO()
    torch.save({"step": step, "seconds": seconds, "hypernetwork": halved}, stream)
    return stream.getvalue()


def pack(run: Path) -> bytes:
    """Step, seconds and weights of a run's checkpoint.

    Raises:
        ConfigError: The run has none.
    """
    state = read_run(run)
    return packed(state["hypernetwork"], state["step"], state["seconds"])


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m localhyper.export.task_weights", description=__doc__.split("\n")[0]
    )
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--out", type=Path, required=True, help="folder for weights.00, weights.01, …")
    parser.add_argument("--mib", type=int, default=15, help="largest piece")
    options = parser.parse_args(argv)
    try:
        make_folder(options.out)
        data, size = pack(options.run), options.mib * MIB
    except LocalHyperError as error:
        refuse(parser, error)
    for number, start in enumerate(range(0, len(data), size)):
        write_bytes_atomic(options.out / f"weights.{number:02}", data[start : start + size])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
