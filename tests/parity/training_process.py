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

import pytest

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


def refused_with(
    key: str, value: str, recipe: Path, given: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> str:
    """What training says of a recipe with another value of a key; `given` are the options behind the recipe."""
    from localhyper.export import start as training

    lines = recipe.read_text(encoding="utf-8").splitlines()
    changed = [f"{key} = {value}" if line.startswith(f"{key} = ") else line for line in lines]
    bad = folder / "bad.toml"
    bad.write_text("\n".join(changed), encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        training.main([str(bad), *given])
    assert ended.value.code
    return capsys.readouterr().err


def kill_after_step(process: Process, step: int, log: Path) -> None:
    """SIGKILL as soon as the run has reported `step`; it must not have ended before."""
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line).get("step") == step:
            break
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, log.read_text(encoding="utf-8")[-3000:]


def load_state(out: Path) -> dict[str, Any]:
    """The checkpoint of a run."""
    import torch

    state: dict[str, Any] = torch.load(out / "checkpoint.pt", map_location="cpu", weights_only=True)
    return state


def check_a_killed_run_goes_on(
    start: Start, arguments: Callable[[Path], list[str]], folder: Path, save_every: int, steps: int
) -> None:
    """A run that is killed after its second checkpoint goes on from it and ends as one that was never stopped."""
    from localhyper.export import start as training

    whole, broken, log = folder / "whole", folder / "broken", folder / "broken.log"
    command = ["localhyper.export.start", *arguments(broken)]
    kill_after_step(start(command, log), 2 * save_every + 1, log)
    reached = load_state(broken)["step"]
    assert 2 * save_every <= reached < steps
    resumed = start(command, log)
    assert training.main(arguments(whole)) == 0
    lines = finish(resumed, log).splitlines()
    assert {"event": "resumed", "step": reached} in [json.loads(line) for line in lines]
    want, got = load_state(whole), load_state(broken)
    assert got["step"] == want["step"] == steps
    assert_same_state(want, got)


def run_as_two(start: Start, command: list[str], log: Path) -> None:
    """A run of two processes, over gloo, to its end."""
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    finish(start([*launcher, *command], log), log)


def run_as_two_and_as_one(start: Start, arguments: Callable[[str, Path], list[str]], folder: Path) -> tuple[Path, Path]:
    """Folders of two runs, `pair` by two processes and `single` by one; their first steps' answers cost the same.

    Args:
        start: Starts them.
        arguments: From the name of a recipe and a folder to the run's options.
        folder: To write to.
    """
    pair, single, log = folder / "pair", folder / "single", folder / "log"
    run_as_two(start, ["localhyper.export.start", *arguments("pair", pair)], log)
    finish(start(["localhyper.export.start", *arguments("single", single)], log), log)
    of_pair, of_single = (next(row for row in curve(out) if "seconds" in row)["answer"] for out in (pair, single))
    assert abs(of_pair - of_single) <= 1e-3 * abs(of_single)
    return pair, single


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
