"""What the benchmarks of answers share: the shipped models in a home of their own, and shares with intervals."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from localhyper.config import Config, load_config
from localhyper.errors import LocalHyperError
from localhyper.evaluate.intervals import wilson
from localhyper.paths import get_paths
from localhyper.registry import load_registry
from localhyper.workbench import Workbench


def on_shipped_models(work: Callable[[Workbench], None]) -> int:
    """Do this with the default models, in a folder that is deleted afterwards; the exit code."""
    base = load_registry().find_base(Config().base.name)  # may lie in the user's home; what is made here does not
    config = load_config(get_paths().config_file)
    try:
        with tempfile.TemporaryDirectory(prefix="localhyper-benchmark-") as folder:
            with Workbench(get_paths(Path(folder)).create(), config, base=str(base)) as bench:
                work(bench)
    except LocalHyperError as error:
        print(f"error: {error.message}", error.hint, sep="\n", file=sys.stderr)
        return error.exit_code
    return 0


def share(flags: Sequence[bool]) -> str:
    """A share in per cent with its interval."""
    interval = wilson(sum(flags), len(flags))
    return f"{100 * interval.value:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
