"""One streamed reply: sample, decode, turn tokens into text, until the model or a limit ends it.

One of the `llama_*` files. It gets a prefilled `ChatState` from the engine and keeps no state beyond the reply.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from localhyper.engine import FloatArray, GenerationStats, Piece, Sampling, TokenArray
from localhyper.errors import ConfigError, ModelError
from localhyper.llama_choice import TokenChooser
from localhyper.llama_native import ABORTED, NativeContext, NativeModel
from localhyper.progress import CancelToken
from localhyper.reply_loops import LoopWatch
from localhyper.respelling import Respeller
from localhyper.text_stream import TextStream


def check_sampling(sampling: Sampling) -> None:
    """Refuse what the native samplers would assert on.

    Raises:
        ConfigError: A value is out of range.
    """
    limits = (
        ("temperature", sampling.temperature, 0.0, 100.0),
        ("top_p", sampling.top_p, 0.0, 1.0),
        ("min_p", sampling.min_p, 0.0, 1.0),
        ("top_k", sampling.top_k, 0, 1 << 30),
        ("max_tokens", sampling.max_tokens, 1, 1 << 30),
    )
    for name, value, least, most in limits:
        if not (math.isfinite(value) and least <= value <= most):
            raise ConfigError(f"sampling value `{name}` is {value}, wanted {least} to {most}")
    if not (math.isfinite(sampling.repeat_penalty) and 0.0 < sampling.repeat_penalty <= 100.0):
        raise ConfigError(f"sampling value `repeat_penalty` is {sampling.repeat_penalty}, wanted above 0, 1 = none")


class ChatState:
    """A context and the tokens in its KV cache; whatever interrupts a native call, the two never disagree."""

    def __init__(self, context: NativeContext) -> None:
        self.context = context
        self._tokens: list[int] = []
        self._sound = True

    @property
    def used(self) -> int:
        """Tokens in the cache."""
        return len(self._tokens)

    def clear(self) -> None:
        """Forget all tokens."""
        self.context.clear()
        self._tokens.clear()
        self._sound = True

    def keep_prefix(self, ids: TokenArray) -> int:
        """Forget all but the longest common beginning with `ids`, which leaves at least its last token to run."""
        if not self._sound:
            self.clear()
        known = np.asarray(self._tokens[: len(ids) - 1], np.int32)
        differing = np.flatnonzero(known != ids[: len(known)])
        keep = int(differing[0]) if len(differing) else len(known)
        if keep < len(self._tokens):
            if keep == 0 or not self.context.truncate(keep):
                self.clear()
                return 0
            del self._tokens[keep:]
        return keep

    def run(self, ids: Sequence[int] | TokenArray, wanted: Sequence[bool] | None = None) -> int:
        """Append tokens, at most one batch; logits of the last one, or of the `wanted` ones. Returns 0 or `ABORTED`.

        Raises:
            ModelError: llama.cpp failed; the cache is empty afterwards.
        """
        flags = np.zeros(len(ids), np.bool_)
        if wanted is None:
            flags[-1] = True
        else:
            flags[:] = wanted
        self._sound = False
        status = self.context.decode(ids, len(self._tokens), flags)
        if status == 0:
            self._tokens.extend(int(token) for token in ids)
            self._sound = True
            return 0
        self.clear()
        if status != ABORTED:
            raise ModelError(f"llama.cpp failed with status {status} while reading tokens", "the log file says why")
        return status

    def prefill(self, ids: TokenArray, cancel: CancelToken | None) -> bool:
        """Append tokens in batches; False when cancelled (the cache is then empty)."""

        def stop() -> bool:
            return cancel is not None and cancel.cancelled

        with self.context.abort_when(stop):
            for start in range(0, len(ids), self.context.batch):
                if stop() or self.run(ids[start : start + self.context.batch]) == ABORTED:
                    return False
        return True

    def rows(self, ids: TokenArray, first: int, *, reuse: bool = False) -> FloatArray:
        """Run `ids` and return the logits at positions first…, float32 [len(ids) - first, vocab].

        From an empty cache, or with `reuse` from what the cache and the tokens up to `first` have in common.
        """
        start = self.keep_prefix(ids[: first + 1]) if reuse else 0
        if not start:
            self.clear()
        parts: list[FloatArray] = []
        while start < len(ids):
            end = min(len(ids), start + self.context.batch, max(start, first) + self.context.outputs)
            flags = [position >= first for position in range(start, end)]
            flags[-1] = True  # llama.cpp wants at least one row; a row nobody asked for is dropped below
            self.run(ids[start:end], flags)
            got = self.context.logits(sum(flags))
            parts.append(got[len(got) - max(0, end - max(start, first)) :])
            start = end
        return np.concatenate(parts)


class _Stopwatch:
    """Times of one reply, in seconds since the call."""

    def __init__(self, started: float) -> None:
        self.started = started
        self.prompt = self.first = self.last = 0.0

    def now(self) -> float:
        """Seconds since the call."""
        return time.perf_counter() - self.started

    def tick(self) -> None:
        """A token is there."""
        self.last = self.now()
        self.first = self.first or self.last


def stream_reply(
    model: NativeModel,
    state: ChatState,
    prompt: TokenArray,
    sampling: Sampling,
    cancel: CancelToken | None,
    started: float,
    check_turn: Callable[[], None],
    words: Respeller | None = None,
) -> Iterator[Piece]:
    """Prefill `prompt` and yield pieces; the last one carries the stats.

    Args:
        model: For token texts and ends of turn.
        state: The chat context.
        prompt: Token ids, shorter than the context.
        sampling: Checked options.
        cancel: Ends the reply with `cancelled`.
        started: `time.perf_counter()` of the call.
        check_turn: Raises when the engine has been used for something else since the last piece.
        words: Spells words without a space before them; None = the model does.
    """
    watch = _Stopwatch(started)
    check_turn()
    reused = state.keep_prefix(prompt)
    prefill_from = watch.now()
    complete = state.prefill(prompt[reused:], cancel)
    watch.prompt = watch.now() - prefill_from
    end = _End("cancelled", 0, "", ())
    if complete:
        chooser = TokenChooser(model, sampling, words)
        try:
            end = yield from _decode(model, state, chooser, sampling, cancel, watch, check_turn)
        finally:
            chooser.close()
    decode_seconds = max(0.0, watch.last - watch.first)
    stats = GenerationStats(len(prompt), reused, end.made, watch.prompt, watch.first, decode_seconds, end.reason)
    yield Piece(end.text, end.token_ids, stats)


@dataclass(frozen=True)
class _End:
    """How a reply ended, and the text and tokens not yet shown."""

    reason: str
    made: int
    text: str
    token_ids: tuple[int, ...]


def _decode(
    model: NativeModel,
    state: ChatState,
    chooser: TokenChooser,
    sampling: Sampling,
    cancel: CancelToken | None,
    watch: _Stopwatch,
    check_turn: Callable[[], None],
) -> Generator[Piece, None, _End]:
    """Sample and decode until something ends the reply. The token that ends the turn is neither shown nor counted."""
    text, made = TextStream(sampling.stop), 0
    pending: list[int] = []
    watch_loops = LoopWatch() if sampling.end_loops else None
    while True:
        if cancel is not None and cancel.cancelled:
            return _End("cancelled", made, text.finish(), tuple(pending))
        token = chooser.next(state.context)
        watch.tick()
        if model.ends_turn(token):
            return _End("stop", made, text.finish(), tuple(pending))
        made += 1
        pending.append(token)
        shown = text.feed(model.piece(token))
        if text.stopped:
            return _End("stop", made, shown, tuple(pending))
        if watch_loops is not None and watch_loops.goes_in_circles(token):
            return _End("loop", made, shown + text.finish(), tuple(pending))
        if made >= sampling.max_tokens or state.used >= state.context.n_ctx:
            return _End("length", made, shown + text.finish(), tuple(pending))
        if shown:
            yield Piece(shown, tuple(pending))
            check_turn()
            pending = []
        state.run([token])
