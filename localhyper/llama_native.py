"""The thin typed layer over llama-cpp-python's low-level bindings: log, model, context, sampler.

One of the `llama_*` files, the only ones that know llama_cpp. Everything here assumes checked arguments: a wrong one
ends the process in a ggml assert, so callers check first. It knows no chat, no adapters' files and no policy.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from localhyper.engine import FloatArray, Sampling, TokenArray
from localhyper.errors import ModelError
from localhyper.interrupts import DeferredInterrupt

MAX_BATCH = 512  # tokens in one native call; one call is one graph
MAX_OUTPUTS = 64  # rows of logits in one native call: 512 would cost 100 MB of buffers for a 49K vocabulary
ABORTED = 2  # llama_decode's answer when the abort callback said stop

_logger = logging.getLogger("localhyper.llama")
_logger.addHandler(logging.NullHandler())  # without any handler, warnings would go to stderr, over the user's screen
# By ggml.h (the bindings' comments are older): 1 debug, a line for every node, dropped; 2 info,
# pages at every load; 3 warn; 4 error.
_LEVELS = {2: logging.DEBUG, 3: logging.WARNING, 4: logging.ERROR}
_CONTINUED = 5
_last_level = logging.DEBUG
_init_lock = threading.Lock()


def _write_log(level: int, text: bytes, _user: object) -> None:
    """Native log line to `logging`; runs inside C, so nothing may escape."""
    global _last_level
    try:
        if level != _CONTINUED:
            _last_level = _LEVELS.get(level, logging.NOTSET)  # NOTSET = drop
        if _last_level and _logger.isEnabledFor(_last_level):
            line = text.decode("utf-8", "replace").strip()
            if line.strip("."):  # rows of dots are a progress bar
                _logger.log(_last_level, "%s", line)
    except BaseException:
        return  # a log handler's failure is no reason to lose the model


@cache
def library() -> Any:
    """llama_cpp, with its log going to the logger `localhyper.llama` only. The one place where types end.

    Raises:
        ModelError: llama-cpp-python is not installed or its library does not load.
    """
    # Should ggml abort after all, it must not start a debugger on the user's terminal.
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")
    with _init_lock:
        try:
            import llama_cpp
        except (ImportError, OSError, RuntimeError) as error:
            raise ModelError(
                f"llama-cpp-python cannot be loaded: {error}", "`localhyper doctor` says what is missing"
            ) from error
        llama: Any = llama_cpp
        callback = llama.llama_log_callback(_write_log)
        llama.llama_log_set(callback, ctypes.c_void_p(0))
        llama.localhyper_log_callback = callback  # native code keeps the pointer: it must live as long as the library
        llama.llama_backend_init()
    return llama


@cache
def ggml() -> Any:
    """libggml-base, with the three functions the capture needs."""
    from llama_cpp import _ctypes_extensions as extensions

    package = Path(str(library().__file__)).parent
    base: Any = extensions.load_shared_library("ggml-base", package / "lib")
    base.ggml_get_name.argtypes, base.ggml_get_name.restype = [ctypes.c_void_p], ctypes.c_char_p
    base.ggml_nbytes.argtypes, base.ggml_nbytes.restype = [ctypes.c_void_p], ctypes.c_size_t
    get = base.ggml_backend_tensor_get
    get.argtypes, get.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t], None
    return base


def system_info() -> dict[str, str | bool]:
    """What this build of llama.cpp can do, for `doctor`."""
    llama = library()
    return {
        "llama_cpp_python": str(llama.__version__),
        "features": llama.llama_print_system_info().decode("utf-8", "replace").strip(),
        "gpu_offload": bool(llama.llama_supports_gpu_offload()),
        "mmap": bool(llama.llama_supports_mmap()),
    }


def repacks_for_amx(llama: Any) -> bool:
    """Whether weights would be repacked for AMX, whose kernels end the process with SIGILL where GCC 12 built them.

    The compiler drops the stores that fill in the tiles' sizes (ggml-org/llama.cpp, pull request 26954). Without the
    repacking, which every other processor's build keeps, the AVX-512 kernels multiply.
    """
    return b"AMX_INT8 = 1" in llama.llama_print_system_info()


class NativeModel:
    """A loaded model and its vocabulary."""

    def __init__(self, path: Path, gpu_layers: int) -> None:
        self._llama = library()
        params = self._llama.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        params.use_extra_bufts = not repacks_for_amx(self._llama)
        self.pointer: Any = None
        try:
            with DeferredInterrupt():
                self.pointer = self._llama.llama_model_load_from_file(os.fsencode(path), params)
        except KeyboardInterrupt:
            self.close()
            raise
        if not self.pointer:
            raise ModelError(f"llama.cpp cannot load base model `{path.name}`", "the log file says why")
        self._vocab: Any = self._llama.llama_model_get_vocab(self.pointer)
        self.vocab_size = int(self._llama.llama_vocab_n_tokens(self._vocab))
        self.bos = int(self._llama.llama_vocab_bos(self._vocab))
        self.eos = int(self._llama.llama_vocab_eos(self._vocab))
        self.adds_bos = bool(self._llama.llama_vocab_get_add_bos(self._vocab))

    def tokenize(self, text: str, special: bool) -> TokenArray:
        """Token ids, int32 [tokens], without BOS or EOS."""
        raw = text.encode("utf-8", "replace")
        room = len(raw) + 8
        while True:
            buffer = (ctypes.c_int32 * room)()
            count = int(self._llama.llama_tokenize(self._vocab, raw, len(raw), buffer, room, False, special))
            if count >= 0:
                return np.array(buffer[:count], np.int32)
            room = -count

    def piece(self, token: int) -> bytes:
        """Bytes of one token; control tokens give none."""
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            count = int(self._llama.llama_token_to_piece(self._vocab, token, buffer, room, 0, False))
            if count >= 0:
                return buffer.raw[:count]
            room = -count

    def text(self, token: int) -> str:
        """The token's own spelling in the vocabulary (`<|im_end|>`); empty for -1."""
        if not 0 <= token < self.vocab_size:
            return ""
        return (self._llama.llama_vocab_get_text(self._vocab, token) or b"").decode("utf-8", "replace")

    def ends_turn(self, token: int) -> bool:
        """Whether the model says with this token that its reply is over."""
        return bool(self._llama.llama_vocab_is_eog(self._vocab, token))

    def load_adapter(self, path: Path) -> Any:
        """A native adapter (data copied: the file may go away), or None."""
        with DeferredInterrupt():
            return self._llama.llama_adapter_lora_init(self.pointer, os.fsencode(path))

    def free_adapter(self, adapter: Any) -> None:
        """Free an adapter that is set on no context."""
        self._llama.llama_adapter_lora_free(adapter)

    def close(self) -> None:
        """Free the model; contexts and adapters must be gone."""
        if self.pointer:
            self._llama.llama_model_free(self.pointer)
            self.pointer = None


# ggml_type numbers of the precisions a KV cache may have.
KV_TYPES = {"f32": 0, "f16": 1}


class NativeContext:
    """A context of one sequence. `decode` appends; `clear` and `truncate` take back."""

    def __init__(
        self,
        model: NativeModel,
        n_ctx: int,
        threads: tuple[int, int],
        *,
        outputs: int = MAX_OUTPUTS,
        sequences: int = 1,
        flash_attention: bool = True,
        kv_type: str = "f16",
        eval_callback: Callable[[int, bool, object], bool] | None = None,
    ) -> None:
        self._llama = llama = library()
        params = llama.llama_context_default_params()
        params.n_ctx, params.n_seq_max = n_ctx, sequences
        params.kv_unified = sequences > 1  # they share the cache, and a batch stays in its order
        params.n_batch = params.n_ubatch = min(MAX_BATCH, n_ctx)
        params.n_outputs_max = min(max(outputs, sequences), params.n_batch)  # llama.cpp asserts on fewer than sequences
        params.n_threads, params.n_threads_batch = threads
        params.type_k = params.type_v = KV_TYPES[kv_type]
        params.flash_attn_type = -1 if flash_attention else 0  # -1 = where the backend has it
        if eval_callback is not None:
            self._eval_callback = llama.ggml_backend_sched_eval_callback(eval_callback)
            params.cb_eval = self._eval_callback
        self.batch = int(params.n_batch)
        self.outputs = int(params.n_outputs_max)
        self.sequences = sequences
        self._vocab_size = model.vocab_size
        self.pointer: Any = None
        self._interrupt = DeferredInterrupt()
        try:
            with DeferredInterrupt():
                self.pointer = llama.llama_init_from_model(model.pointer, params)
        except KeyboardInterrupt:
            self.close()
            raise
        if not self.pointer:
            message = f"llama.cpp cannot make a context of {n_ctx} tokens"
            raise ModelError(message, "lower `n_ctx`, the log file says more")
        self.n_ctx = int(llama.llama_n_ctx(self.pointer))
        self._memory: Any = llama.llama_get_memory(self.pointer)
        self._no_abort = llama.ggml_abort_callback()

    def decode(self, ids: Sequence[int] | TokenArray, start: int, wanted: NDArray[np.bool_]) -> int:
        """Run tokens at positions start…; rows of logits are kept where `wanted` is set.

        At most `batch` tokens, `outputs` rows, and `start + len(ids)` ≤ n_ctx. Returns llama.cpp's status, 0 = done.
        """
        tokens = np.ascontiguousarray(ids, np.int32)
        count = len(tokens)
        return self._decode(tokens, np.arange(start, start + count, dtype=np.int32), [(0,)] * count, wanted)

    def decode_together(self, parts: Sequence[TokenArray], wanted: NDArray[np.bool_], shared: int = 0) -> int:
        """The same of several sequences in one graph, each from position 0, none of which sees another.

        At most `sequences` of them, `batch` tokens in all. Nodes have the `shared` tokens that all begin with once, and
        then each one's own; each must have one.
        """
        everyone = tuple(range(len(parts)))
        tokens = np.concatenate([parts[0][:shared], *(part[shared:] for part in parts)])
        positions = np.concatenate([np.arange(shared), *(np.arange(shared, len(part)) for part in parts)])
        own = [everyone] * shared + [(number,) for number in everyone for _ in parts[number][shared:]]
        return self._decode(
            np.ascontiguousarray(tokens, np.int32), np.ascontiguousarray(positions, np.int32), own, wanted
        )

    def _decode(
        self,
        tokens: TokenArray,
        positions: NDArray[np.int32],
        own: Sequence[tuple[int, ...]],
        wanted: NDArray[np.bool_],
    ) -> int:
        """One batch; `own` says of each token which sequences it is of."""
        count = len(tokens)
        flags = np.ascontiguousarray(wanted, np.int8)
        numbers = {of_one: (ctypes.c_int32 * len(of_one))(*of_one) for of_one in set(own)}
        number = ctypes.POINTER(ctypes.c_int32)
        pointers = {of_one: ctypes.cast(array, number) for of_one, array in numbers.items()}
        batch = self._llama.llama_batch(
            n_tokens=count,
            token=tokens.ctypes.data_as(number),
            pos=positions.ctypes.data_as(number),
            n_seq_id=(ctypes.c_int32 * count)(*map(len, own)),
            seq_id=(number * count)(*[pointers[of_one] for of_one in own]),
            logits=flags.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )
        with DeferredInterrupt() as self._interrupt:
            return int(self._llama.llama_decode(self.pointer, batch))

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl+C came during the `decode` that is running now; for the callbacks inside it."""
        return self._interrupt.struck

    def logits(self, rows: int) -> FloatArray:
        """The rows of logits of the last `decode`, float32 [rows, vocab], copied."""
        pointer = self._llama.llama_get_logits(self.pointer)
        return np.ctypeslib.as_array(pointer, shape=(rows, self._vocab_size)).astype(np.float32, copy=True)

    def clear(self) -> None:
        """Forget all tokens."""
        self._llama.llama_memory_clear(self._memory, False)

    def truncate(self, keep: int) -> bool:
        """Forget all tokens from position `keep` on; False when this cache cannot and nothing changed."""
        return bool(self._llama.llama_memory_seq_rm(self._memory, 0, keep, -1))

    def set_adapters(self, adapters: Sequence[tuple[Any, float]]) -> bool:
        """Make exactly these native adapters act, with their scales."""
        kind = self._llama.llama_cpp.llama_adapter_lora_p_ctypes
        pointers = (kind * len(adapters))(*[pointer for pointer, _ in adapters])
        scales = (ctypes.c_float * len(adapters))(*[scale for _, scale in adapters])
        return int(self._llama.llama_set_adapters_lora(self.pointer, pointers, len(adapters), scales)) == 0

    @contextlib.contextmanager
    def abort_when(self, stop: Callable[[], bool]) -> Iterator[None]:
        """While inside, native work ends early once `stop()` is true or Ctrl+C came.

        Asked at every graph node: a small cost for a batch, too much for a single token.
        """
        caught: list[BaseException] = []

        def ask(_user: object) -> bool:
            try:
                return bool(caught) or self._interrupt.struck or stop()
            except BaseException as error:  # must not cross the C frames
                caught.append(error)
                return True

        callback = self._llama.ggml_abort_callback(ask)
        self._llama.llama_set_abort_callback(self.pointer, callback, None)
        try:
            yield
        finally:
            self._llama.llama_set_abort_callback(self.pointer, self._no_abort, None)
        if caught:
            raise caught[0]

    def close(self) -> None:
        """Free the context."""
        if self.pointer:
            self._llama.llama_free(self.pointer)
            self.pointer = None


class NativeSampler:
    """A sampler chain for one reply. The repeat penalty looks at the reply only, so a question's words stay usable."""

    PENALTY_TOKENS = 256

    def __init__(self, model: NativeModel, sampling: Sampling) -> None:
        self._llama = llama = library()
        self.pointer: Any = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
        parts = []
        if sampling.repeat_penalty != 1.0:
            parts.append(
                llama.llama_sampler_init_penalties(
                    model.vocab_size, self.PENALTY_TOKENS, sampling.repeat_penalty, 0.0, 0.0
                )
            )
        if sampling.temperature == 0.0:
            parts.append(llama.llama_sampler_init_greedy())
        else:
            if sampling.top_k > 0:
                parts.append(llama.llama_sampler_init_top_k(sampling.top_k))
            parts.append(llama.llama_sampler_init_top_p(sampling.top_p, 1))
            parts.append(llama.llama_sampler_init_min_p(sampling.min_p, 1))
            parts.append(llama.llama_sampler_init_temp(sampling.temperature))
            parts.append(llama.llama_sampler_init_dist(sampling.seed & 0xFFFFFFFF))
        for part in parts:
            llama.llama_sampler_chain_add(self.pointer, part)

    def next(self, context: NativeContext) -> int:
        """Choose and remember a token from the last row of logits."""
        return int(self._llama.llama_sampler_sample(self.pointer, context.pointer, -1))

    def close(self) -> None:
        """Free the chain."""
        if self.pointer:
            self._llama.llama_sampler_free(self.pointer)
            self.pointer = None
