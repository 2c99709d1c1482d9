"""ONNX models in onnxruntime sessions, each over the wanted execution providers with the CPU as last resort.

With `onnx_probe`, the only file that knows onnxruntime (imported where a session is made). What the models are for is
not known here.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from localhyper.errors import LocalHyperError
from localhyper.memory_check import physical_cores
from localhyper.progress import CancelToken

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

logger = logging.getLogger(__name__)

CPU_PROVIDER = "CPUExecutionProvider"
UNREADABLE_HINT = "the file is damaged or needs a newer onnxruntime; fetch it again, or run `localhyper doctor`"
_QUIET = 4  # onnxruntime's ORT_LOGGING_LEVEL_FATAL: it prints over a TUI, and what it says of errors it raises too
_POLL_SECONDS = 0.05


class Value(Protocol):
    """What onnxruntime tells of one input or output."""

    name: str
    shape: list[int | str | None]
    type: str


def available_providers() -> tuple[str, ...]:
    """Execution providers this onnxruntime was built with; the empty tuple when it is not installed.

    Being listed does not mean that one loads: `OnnxHypernetwork.providers` says what a session really runs on.
    """
    try:
        import onnxruntime
    except ImportError:
        return ()
    return tuple(onnxruntime.get_available_providers())


def open_session(
    path: Path, what: str, error: type[LocalHyperError], *, threads: int = 0, providers: Sequence[str] = ()
) -> InferenceSession:
    """A session over a file that is known to be one ONNX model with its weights inside.

    Args:
        path: The `.onnx` file.
        what: The model in messages, such as: hypernetwork.
        error: Class of what is raised.
        threads: CPU threads for one operator; 0 = all physical cores.
        providers: Execution providers in order of preference; the CPU is always the last resort.

    Raises:
        LocalHyperError: An `error`: onnxruntime is not installed, or refuses the file.
    """
    try:
        import onnxruntime
    except ImportError as cause:
        raise error(
            f"onnxruntime is not installed, so no {what} can run",
            "install it with `pip install localhyper[cpu]` (or [gpu]), never both",
        ) from cause
    onnxruntime.set_default_logger_severity(_QUIET)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or physical_cores()
    # Threads that wait by spinning take a core away from each other as soon as another process is busy: on two cores a
    # chunk took 84 ms in place of 65; alone, it takes 48 in place of 42.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.inter_op_num_threads = 1
    options.log_severity_level = _QUIET
    wanted = _usable(providers, onnxruntime.get_available_providers())
    try:
        return onnxruntime.InferenceSession(os.fspath(path), options, providers=wanted)
    except Exception as cause:  # onnxruntime raises its own classes, which share no base but Exception
        if wanted != [CPU_PROVIDER]:
            logger.warning("%s did not load (%s); using the CPU", wanted[0], first_line(cause))
            return open_session(path, what, error, threads=threads)
        logger.exception("onnxruntime refused %s", path)
        raise error(f"{what} `{path}` cannot be loaded ({first_line(cause)})", UNREADABLE_HINT) from cause


def run_until_cancelled(
    session: InferenceSession, outputs: Sequence[str], feeds: Mapping[str, Any], cancel: CancelToken
) -> list[Any]:
    """Run a session in a thread, so that a stop is heard meanwhile; what onnxruntime raises comes through.

    Raises:
        Cancelled: `cancel` was set; the run has ended after the operator it was in.
    """
    from onnxruntime import RunOptions

    cancel.check()  # a short run ends before the first look
    options = RunOptions()
    with ThreadPoolExecutor(1) as pool:
        try:
            run = pool.submit(session.run, list(outputs), dict(feeds), options)
            while not wait((run,), _POLL_SECONDS).done:
                cancel.check()
            found: list[Any] = run.result()
            return found
        finally:
            options.terminate = True  # leaving the block waits for the thread


def _usable(providers: Sequence[str], built_in: Sequence[str]) -> list[str]:
    """The wanted providers this build has, with the CPU last."""
    for name in providers:
        if name not in built_in:
            logger.warning("execution provider %s is not in this onnxruntime; it has %s", name, ", ".join(built_in))
    return [name for name in providers if name in built_in and name != CPU_PROVIDER] + [CPU_PROVIDER]


def first_line(error: BaseException) -> str:
    """What an error of a library says, cut to one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
