"""Which onnxruntime execution providers really load here: being built in is no proof.

Each is tried on a model of one addition, in a child process: a broken GPU driver can end a process or print to it.
Run as `python -m localhyper.onnx_probe`, it writes its findings as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass

TIMEOUT_SECONDS = 60
_FATAL = 4  # onnxruntime's level that keeps it quiet
_FLOAT = 1
_REMOTE = ("AzureExecutionProvider",)  # sends models elsewhere: not for an offline program


@dataclass(frozen=True)
class ProviderReport:
    """What onnxruntime offers and what works.

    Attributes:
        version: Of onnxruntime; empty when it is not installed or does not load.
        built_in: Providers this build names.
        loaded: Providers that really computed.
        problem: Why nothing could be said; empty when all went well.
    """

    version: str = ""
    built_in: tuple[str, ...] = ()
    loaded: tuple[str, ...] = ()
    problem: str = ""


def probe_providers() -> ProviderReport:
    """Try every execution provider in a child process; never raises."""
    command = [sys.executable, "-m", "localhyper.onnx_probe"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return ProviderReport(problem=f"the trial did not end: {type(error).__name__}")
    lines = done.stdout.decode("utf-8", "replace").strip().splitlines()
    try:
        found = json.loads(lines[-1])
        return ProviderReport(found["version"], tuple(found["built_in"]), tuple(found["loaded"]), found["problem"])
    except (IndexError, ValueError, KeyError, TypeError):
        return ProviderReport(problem=f"the trial ended with exit code {done.returncode}")


def tiny_model() -> bytes:
    """An ONNX model that computes y = x + x on float32 [1], written by hand: the onnx package is not needed."""
    shape = _field(1, _number(1, 1))  # one dimension of 1
    tensor = _field(1, _number(1, _FLOAT) + _field(2, shape))
    node = _field(1, b"x") + _field(1, b"x") + _field(2, b"y") + _field(4, b"Add")
    graph = _field(1, node) + _field(2, b"probe")
    graph += _field(11, _field(1, b"x") + _field(2, tensor)) + _field(12, _field(1, b"y") + _field(2, tensor))
    return _number(1, 8) + _field(7, graph) + _field(8, _number(2, 13))  # IR version 8, operator set 13


def _number(field: int, value: int) -> bytes:
    """A protobuf field that holds a small whole number."""
    return bytes([field << 3, value])


def _field(field: int, content: bytes) -> bytes:
    """A protobuf field that holds bytes, fewer than 128."""
    return bytes([field << 3 | 2, len(content)]) + content


def _try_all() -> dict[str, object]:
    try:
        import onnxruntime
    except Exception as error:  # a damaged install raises anything from ImportError to OSError
        return {"version": "", "built_in": [], "loaded": [], "problem": f"{type(error).__name__}: {error}"[:300]}
    onnxruntime.set_default_logger_severity(_FATAL)
    built_in = [name for name in onnxruntime.get_available_providers() if name not in _REMOTE]
    loaded = [name for name in built_in if _loads(name)]
    return {"version": onnxruntime.__version__, "built_in": built_in, "loaded": loaded, "problem": ""}


def _loads(provider: str) -> bool:
    """Whether a session computes, and on this provider (onnxruntime silently takes another)."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    try:
        session = onnxruntime.InferenceSession(tiny_model(), options, providers=[provider], enable_fallback=0)
        (result,) = session.run(None, {"x": np.array([2.0], np.float32)})
    except Exception:  # onnxruntime's classes share no base but Exception; whatever it is, it does not load
        return False
    return provider in session.get_providers() and float(result[0]) == 4.0


if __name__ == "__main__":
    print(json.dumps(_try_all()))
