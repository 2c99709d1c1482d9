"""A scripted engine for the terminal app's tests: streams given words, can wait, fail and stop slowly."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from localhyper.engine import (
    Activations,
    AdapterUse,
    BaseModelInfo,
    CaptureSpec,
    ChatMessage,
    FloatArray,
    GenerationStats,
    Piece,
    Sampling,
    TakeRows,
    TokenArray,
)
from localhyper.progress import CancelToken
from tests.tiny_onnx import FINGERPRINT

INFO = BaseModelInfo(
    name="Scripted-135M",
    path=Path("scripted.gguf"),
    architecture="llama",
    block_count=4,  # these sizes and the fingerprint are those of the tests' tiny bundle, so it can be attached to
    hidden_size=8,
    ffn_size=12,
    head_count=9,
    head_count_kv=3,
    context_length=8192,
    vocab_size=49152,
    quantization="Q4_1",
    size_bytes=98_000_000,
    fingerprint=FINGERPRINT,
    parameter_count=134_515_008,
)


@dataclass
class Script:
    """How the fake behaves.

    Attributes:
        replies: One per question, in order; the last one repeats. An exception is raised in its place.
        gate: The engine waits for this before every piece after the first; None = never waits.
        stop_gate: Having seen the cancel, it waits for this before it says so (a slow native call).
        endless: The reply repeats until it is cancelled.
        encode_gate: A chunk waits for this before it is encoded; None = never waits.
        encode_error: Raised in place of a chunk.
    """

    replies: Sequence[str | Exception] = ("The notice period is **three months**.",)
    gate: threading.Event | None = None
    stop_gate: threading.Event | None = None
    endless: bool = False
    piece_seconds: float = 0.0
    set_adapters_error: Exception | None = None
    encode_gate: threading.Event | None = None
    encode_error: Exception | None = None
    encode_seconds: float = 0.0


@dataclass
class FakeEngine:
    """Implements `localhyper.engine.Engine` as far as a chat needs it, and notes what it was asked."""

    script: Script = field(default_factory=Script)
    asked: list[tuple[ChatMessage, ...]] = field(default_factory=list)
    samplings: list[Sampling] = field(default_factory=list)
    adapter_sets: list[tuple[AdapterUse, ...]] = field(default_factory=list)
    encoded: list[tuple[int, ...]] = field(default_factory=list)
    encoded_before: list[int] = field(default_factory=list)  # chunks encoded when each question came
    threads: set[str] = field(default_factory=set)
    closed: int = 0
    adapters: tuple[AdapterUse, ...] = ()
    info: BaseModelInfo = INFO
    n_ctx: int = 2048

    def set_adapters(self, adapters: Sequence[AdapterUse]) -> None:
        self.threads.add(threading.current_thread().name)
        if self.script.set_adapters_error is not None:
            raise self.script.set_adapters_error
        self.adapters = tuple(adapters)
        self.adapter_sets.append(self.adapters)

    def generate(
        self, messages: Sequence[ChatMessage], sampling: Sampling, *, cancel: CancelToken | None = None
    ) -> Iterator[Piece]:
        self.threads.add(threading.current_thread().name)
        self.asked.append(tuple(messages))
        self.samplings.append(sampling)
        self.encoded_before.append(len(self.encoded))
        reply = self.script.replies[min(len(self.asked), len(self.script.replies)) - 1]
        if isinstance(reply, Exception):
            raise reply
        made, cancelled = 0, False
        for text in self._pieces(reply):
            if cancelled := self._cancelled_while_waiting(cancel, made):
                break
            made += 1
            yield Piece(text, (made,))
        yield Piece("", (), self._stats(made, "cancelled" if cancelled else "stop"))

    def _pieces(self, reply: str) -> Iterator[str]:
        while True:
            for start in range(0, len(reply), 4):
                yield reply[start : start + 4]
            if not self.script.endless:
                return

    def _cancelled_while_waiting(self, cancel: CancelToken | None, made: int) -> bool:
        """Wait as scripted; whether a cancel came meanwhile."""
        time.sleep(self.script.piece_seconds)
        gate = self.script.gate
        while gate is not None and made > 0 and not gate.wait(0.01) and not (cancel and cancel.cancelled):
            pass
        if cancel is None or not cancel.cancelled:
            return False
        if self.script.stop_gate is not None:
            self.script.stop_gate.wait(10)
        return True

    @staticmethod
    def _stats(made: int, finish_reason: str) -> GenerationStats:
        return GenerationStats(
            prompt_tokens=12,
            reused_tokens=0,
            generated_tokens=made,
            prompt_seconds=0.25,
            first_token_seconds=0.31,
            decode_seconds=max(0, made - 1) / 20,
            finish_reason=finish_reason,
        )

    def close(self) -> None:
        self.threads.add(threading.current_thread().name)
        self.closed += 1

    def tokenize(self, text: str, *, special: bool = False) -> TokenArray:
        return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int32)

    def detokenize(self, ids: Sequence[int] | TokenArray) -> str:
        return bytes(int(token) for token in ids).decode(errors="replace")

    def encode(self, ids: TokenArray, capture: CaptureSpec, *, cancel: CancelToken | None = None) -> Activations:
        self.threads.add(threading.current_thread().name)
        gate = self.script.encode_gate
        while gate is not None and not gate.wait(0.01) and not (cancel and cancel.cancelled):
            pass
        time.sleep(self.script.encode_seconds)
        if cancel is not None:
            cancel.check()
        if self.script.encode_error is not None:
            raise self.script.encode_error
        self.encoded.append(tuple(int(token) for token in ids))
        noise = np.random.default_rng(len(ids)).standard_normal
        hidden = noise((len(capture.taps), len(ids), self.info.hidden_size)).astype(np.float32)
        return Activations(hidden, noise((len(capture.ffn_blocks), len(ids), self.info.ffn_size)).astype(np.float32))

    def encode_together(
        self, parts: Sequence[TokenArray], capture: CaptureSpec, *, cancel: CancelToken | None = None
    ) -> list[Activations]:
        return [self.encode(ids, capture, cancel=cancel) for ids in parts]

    def read_together(
        self,
        parts: Sequence[TokenArray],
        capture: CaptureSpec,
        firsts: Sequence[int],
        take: TakeRows,
        *,
        cancel: CancelToken | None = None,
    ) -> list[Activations]:
        raise AssertionError("a chat learns no examples")

    def render(self, messages: Sequence[ChatMessage]) -> str:
        return "".join(f"{message.role}: {message.content}\n" for message in messages)

    def prompt_ids(self, messages: Sequence[ChatMessage]) -> TokenArray:
        return self.tokenize(self.render(messages), special=True)

    def score(self, prompt: str | Sequence[ChatMessage], continuation: str) -> FloatArray:
        raise AssertionError("a chat scores nothing")

    def logits(self, ids: TokenArray, first: int = 0) -> FloatArray:
        raise AssertionError("a chat reads no logits")
