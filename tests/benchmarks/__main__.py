"""`python -m tests.benchmarks`: measure everything on this machine and write `docs/benchmarks.md`."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from localhyper.atomic import write_text_atomic
from localhyper.config import Config
from localhyper.engine import EngineConfig
from localhyper.errors import LocalHyperError
from localhyper.hypernet import OnnxHypernetwork
from localhyper.llama_engine import LlamaEngine
from localhyper.paths import HOME_VARIABLE
from localhyper.registry import load_registry
from tests.benchmarks.machine import this_machine
from tests.benchmarks.measure import QUICK, Bench, Plan
from tests.benchmarks.page import page

PAGE = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round, page to stdout")
    parser.add_argument("--rounds", type=int, help="rounds of each measurement")
    parser.add_argument("--base", default=Config().base.name, help="name or file of the base model")
    parser.add_argument("--hypernet", default="", help="name or file of the hypernetwork")
    parser.add_argument("--out", type=Path, help="where to write the page instead")
    options = parser.parse_args(arguments)
    try:
        plan, command = (QUICK, "python -m tests.benchmarks --quick") if options.quick else (Plan(), "make bench")
        if options.rounds:
            plan = replace(plan, rounds=max(1, options.rounds))
            command = f"python -m tests.benchmarks{' --quick' if options.quick else ''} --rounds {plan.rounds}"
        text = _measure(plan, options.base, options.hypernet, command)
    except LocalHyperError as error:
        print(f"error: {error.message}", *([f"hint: {error.hint}"] if error.hint else []), sep="\n", file=sys.stderr)
        return error.exit_code
    out = options.out or (None if options.quick else PAGE)
    if out is None:
        print(text, end="")
    else:
        write_text_atomic(out, text)
        print(f"wrote {out}", file=sys.stderr)
    return 0


def _measure(plan: Plan, base: str, hypernet: str, command: str) -> str:
    """Load the models, run the benchmarks in a home of their own, return the page."""
    machine = this_machine()
    registry = load_registry()  # models may lie in the user's home; everything made here does not
    with (
        tempfile.TemporaryDirectory(prefix="localhyper-bench-") as folder,
        LlamaEngine.load(registry.find_base(base), EngineConfig()) as engine,
    ):
        os.environ[HOME_VARIABLE] = folder
        bundle = registry.find_hypernetwork(engine.info.fingerprint, name=hypernet or None)
        hypernetwork = OnnxHypernetwork.load(bundle, expected_base=engine.info)
        figures = Bench(plan, engine, hypernetwork, Path(folder)).measure()
        day = datetime.now(UTC).date().isoformat()
        return page(figures, machine, engine.info, hypernetwork.info, plan.rounds, command, day)


if __name__ == "__main__":
    raise SystemExit(main())
