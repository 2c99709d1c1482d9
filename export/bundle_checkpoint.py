"""A bundle's weights as a checkpoint that `--init` takes where the bundle itself would not do.

What is read out of a bundle is held to what this machine's exporter makes of the same sizes, so another version of
PyTorch may refuse it. A checkpoint is plain tensors.

    python -m localhyper.export.bundle_checkpoint RECIPE BUNDLE.onnx --out FILE.pt
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from localhyper.atomic import write_bytes_atomic
from localhyper.errors import LocalHyperError
from localhyper.export.bundle_weights import read_bundle_weights
from localhyper.export.command_line import refuse
from localhyper.export.task_weights import packed
from localhyper.export.train_config import load_recipe


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    about = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m localhyper.export.bundle_checkpoint", description=about)
    parser.add_argument("recipe", type=Path, help="recipe of the bundle's sizes")
    parser.add_argument("bundle", type=Path, help="bundle of an association hypernetwork")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    options = parser.parse_args(argv)
    try:
        weights = read_bundle_weights(options.bundle, load_recipe(options.recipe).hypernetwork)
        write_bytes_atomic(options.out, packed(weights))
    except LocalHyperError as error:
        refuse(parser, error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
