"""Reading activations out of a llama.cpp graph while it runs, and stopping it after the last one or at the logits.

The scheduler asks for every node whether its data are wanted; wanted nodes are computed, handed over, and may end the
graph. One graph is one `decode` of at most one batch. Knows the names llama.cpp gives its nodes, nothing of contexts.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from localhyper.engine import Activations, BaseModelInfo, CaptureSpec, FloatArray
from localhyper.errors import ModelError

# Node that enters block 0, and node that enters ffn_down, by architecture (build_inp_embd and build_ffn in llama.cpp).
_EMBEDDING_NODE = {"llama": "embd", "qwen3": "embd", "gemma2": "inp_scaled"}
_FFN_NODE = {"llama": "ffn_swiglu", "qwen3": "ffn_swiglu", "gemma2": "ffn_geglu"}


def _never() -> bool:
    return False


class GraphCapture:
    """Copies the activations a `CaptureSpec` names, batch after batch, into one `Activations`."""

    def __init__(self, base: Any, info: BaseModelInfo) -> None:
        self._name = base.ggml_get_name
        self._nbytes = base.ggml_nbytes
        self._read = base.ggml_backend_tensor_get
        self._info = info
        self._targets: dict[bytes, list[FloatArray]] = {}
        self._missing: set[bytes] = set()
        self._rows = slice(0, 0)
        self._stop: Callable[[], bool] = _never
        self._to_end = False
        self._error: BaseException | None = None
        self._hidden: FloatArray = np.empty((0, 0, 0), np.float32)
        self._ffn: FloatArray = np.empty((0, 0, 0), np.float32)

    def begin(self, spec: CaptureSpec, tokens: int, stop: Callable[[], bool], *, to_end: bool = False) -> None:
        """Make room for `tokens` positions of everything in `spec`; graphs end early once `stop()` is true.

        `to_end`: they go on after the last of them, to the logits.
        """
        info = self._info
        self._hidden = np.empty((len(spec.taps), tokens, info.hidden_size), np.float32)
        self._ffn = np.empty((len(spec.ffn_blocks), tokens, info.ffn_size), np.float32)
        self._targets, self._stop, self._error, self._to_end = {}, stop, None, to_end
        for row, tap in enumerate(spec.taps):
            name = _EMBEDDING_NODE[info.architecture] if tap == 0 else f"l_out-{tap - 1}"
            self._targets.setdefault(name.encode(), []).append(self._hidden[row])
        for row, block in enumerate(spec.ffn_blocks):
            name = f"{_FFN_NODE[info.architecture]}-{block}"
            self._targets.setdefault(name.encode(), []).append(self._ffn[row])

    def expect(self, start: int, count: int) -> None:
        """The next graph computes positions start … start + count."""
        self._rows = slice(start, start + count)
        self._missing = set(self._targets)

    def finish_batch(self) -> None:
        """After a graph that was not stopped: raise what went wrong inside it.

        Raises:
            ModelError: The graph has no node of a wanted name.
        """
        if self._error is not None:
            raise self._error
        if self._missing:
            names = ", ".join(sorted(name.decode() for name in self._missing))
            message = f"llama.cpp computed no {names} for `{self._info.name}`"
            raise ModelError(message, "this build of llama.cpp is not supported")

    def result(self) -> Activations:
        """Everything captured since `begin`."""
        captured = Activations(hidden=self._hidden, ffn=self._ffn)
        self.release()
        return captured

    def release(self) -> None:
        """Drop the arrays, so that a big capture is not kept alive between calls."""
        self._targets, self._missing, self._stop, self._error = {}, set(), _never, None
        self._hidden = self._ffn = np.empty((0, 0, 0), np.float32)

    def callback(self, tensor: int, ask: bool, _user: object) -> bool:
        """The scheduler's callback. Runs inside C: no exception may leave it."""
        try:
            if ask:
                return self._wants(tensor)
            return self._take(tensor)
        except BaseException as error:
            self._error = error
            return ask  # as a question: "yes", so that the answer that stops the graph is asked for next

    def _wants(self, tensor: int) -> bool:
        if self._error is not None or not (self._missing or self._to_end):
            return True  # stop at the next opportunity: the graph may have further parts on another device
        if self._stop():
            return True
        return self._name(tensor) in self._missing

    def _take(self, tensor: int) -> bool:
        """Copy a computed node; whether the graph should go on."""
        if self._error is not None or self._stop():
            return False
        name = self._name(tensor)
        if name in self._missing:
            for array in self._targets[name]:
                rows = array[self._rows]
                if self._nbytes(tensor) != rows.nbytes:
                    raise ModelError(f"node {name.decode()} has {self._nbytes(tensor)} bytes, wanted {rows.nbytes}")
                self._read(tensor, ctypes.c_void_p(rows.ctypes.data), 0, rows.nbytes)
            self._missing.discard(name)
        return self._to_end or bool(self._missing)
