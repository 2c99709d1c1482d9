"""Training runs as processes that a test starts, kills and compares."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

Process = subprocess.Popen[str]
Start = Callable[[list[str], Path], Process]
CHILD_SECONDS = 240


@contextlib.contextmanager
def started() -> Iterator[Start]:
    """Starts a Python module in a process group of its own; no group outlives the block or `CHILD_SECONDS`."""
    groups: list[Process] = []

    def begin(arguments: list[str], log: Path) -> Process:
        command, environment = [sys.executable, "-m", *arguments], os.environ | {"OMP_NUM_THREADS": "1"}
        with log.open("w", encoding="utf-8") as errors:
            options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": errors, "start_new_session": True}
            groups.append(subprocess.Popen(command, text=True, env=environment, **options))
        return groups[-1]

    def end() -> None:
        for process in groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    watch = threading.Timer(CHILD_SECONDS, end)
    watch.start()
    try:
        yield begin
    finally:
        watch.cancel()
        end()
        for process in groups:
            process.communicate()


def finish(process: Process, log: Path) -> str:
    """Standard output of a process that must end well."""
    out, _ = process.communicate(timeout=CHILD_SECONDS)
    assert process.returncode == 0, log.read_text(encoding="utf-8")[-3000:]
    return out


def kill_after_step(process: Process, step: int) -> None:
    """SIGKILL as soon as the run has reported `step`."""
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line).get("step") == step:
            break
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)


def flat_tensors(value: object, where: str = "") -> Iterator[tuple[str, Any]]:
    """All tensors of a nested state, with their places."""
    import torch

    if isinstance(value, torch.Tensor):
        yield where, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from flat_tensors(inner, f"{where}/{key}")
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from flat_tensors(inner, f"{where}/{index}")


def assert_same_state(want: Mapping[str, Any], got: Mapping[str, Any]) -> None:
    """Weights and optimizer states of two checkpoints are equal, to the bit."""
    import torch

    for part in ("hypernetwork", "optimizers"):
        wanted, made = dict(flat_tensors(want[part])), dict(flat_tensors(got[part]))
        assert wanted.keys() == made.keys() and wanted, part
        different = [name for name in wanted if not torch.equal(wanted[name], made[name])]
        assert not different, (part, different)


def curve(out: Path) -> list[dict[str, Any]]:
    """The rows of a run's curve."""
    return [json.loads(line) for line in (out / "curve.jsonl").read_text(encoding="utf-8").splitlines()]
