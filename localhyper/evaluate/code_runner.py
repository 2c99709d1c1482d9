"""Does a program pass its tests? A model wrote it, so it runs in a confined child process that can only compute.

The child has its own empty folder and no environment; `code_child` says what it shuts. Where the system lets it
(`unshare` of util-linux, with user namespaces), it also has no network and no view of other processes, and whatever it
started ends with it. Knows nothing of benchmarks.
"""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from localhyper.errors import ConfigError
from localhyper.progress import CancelToken
from localhyper.sources.child import Ended, run_process
from localhyper.sources.frames import pack
from localhyper.sources.limits import MIB

SECONDS = 5.0
MEMORY_BYTES = 512 * MIB
MAX_PROGRAM_BYTES = MIB
_ANSWER_BYTES = 4096
_CHILD = "localhyper.evaluate.code_child"
_CAGE = ("--user", "--map-root-user", "--net", "--ipc", "--pid", "--fork", "--kill-child")
_CAGE_SECONDS = 10.0


@dataclass(frozen=True)
class CodeResult:
    """How a program ended.

    Attributes:
        passed: It ran to its end within the limits.
        reason: `passed`, or in a few words what went wrong.
    """

    passed: bool
    reason: str


def run_program(program: str, *, seconds: float = SECONDS, cancel: CancelToken | None = None) -> CodeResult:
    """Run Python code with its tests below it; it passes when no exception comes out of it.

    Raises:
        Cancelled: `cancel` was set; the process is gone.
        ConfigError: This Python cannot start the child at all.
    """
    data = program.encode("utf-8", "replace")
    if len(data) > MAX_PROGRAM_BYTES:
        return CodeResult(False, "too long")
    token = secrets.token_hex(8)  # what only the child's own code knows: a program cannot simply print its success
    head = pack({"seconds": seconds, "memory_bytes": MEMORY_BYTES, "token": token})
    with tempfile.TemporaryDirectory(prefix="localhyper-code-") as folder:
        ended = run_process(
            _CHILD,
            head,
            data,
            out_bytes=_ANSWER_BYTES,
            seconds=seconds,
            cancel=cancel,
            launcher=cage(),
            folder=Path(folder),
        )
    return _judge(ended, token)


def _judge(ended: Ended, token: str) -> CodeResult:
    if ended.late:
        return CodeResult(False, "takes too long")
    try:
        answer = json.loads(ended.out)
        if answer["token"] == token:
            return CodeResult(answer["passed"] is True, str(answer["reason"]))
    except (ValueError, KeyError, TypeError):
        pass
    if b"ModuleNotFoundError" in ended.errors:
        raise ConfigError(
            f"the child that runs programs could not start: {ended.errors.decode('utf-8', 'replace')[-160:].strip()}",
            "install localhyper again",
        )
    return CodeResult(False, f"ends without an answer (exit {ended.code})")


@cache
def cage() -> tuple[str, ...]:
    """Words that start a command without network among its own processes only; empty where the system has no such."""
    program = shutil.which("unshare") if sys.platform == "linux" else None
    if program is None:
        return ()
    try:
        tried = subprocess.run(
            [program, *_CAGE, sys.executable, "-I", "-c", ""], capture_output=True, timeout=_CAGE_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return (program, *_CAGE) if tried.returncode == 0 else ()
