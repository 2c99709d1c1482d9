"""An `Engine` without a model for pipeline tests: one token per word, activations that depend on the ids alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from localhyper.engine import (
    Activations,
    AdapterUse,
    BaseModelInfo,
    CaptureSpec,
    ChatMessage,
    FloatArray,
    Piece,
    Sampling,
    TakeRows,
    TokenArray,
)
from localhyper.progress import CancelToken
from tests.tiny_onnx import FINGERPRINT

HIDDEN, FFN, BLOCKS = 8, 12, 4


class ScriptedEngine:
    """Counts what it encodes; `on_encode` runs before each encode and may raise or cancel."""

    def __init__(self, fingerprint: str = FINGERPRINT, on_encode: Callable[[int], None] | None = None) -> None:
        """`on_encode` gets the number of encodes before this one."""
        self.info = BaseModelInfo(
            "scripted", Path("none.gguf"), "llama", BLOCKS, HIDDEN, FFN, 2, 2, 512, 1000, "F32", 1, fingerprint
        )
        self.n_ctx = 512
        self.adapters: tuple[AdapterUse, ...] = ()
        self.encoded: list[tuple[int, ...]] = []
        self._words: dict[str, int] = {}
        self._on_encode = on_encode

    def tokenize(self, text: str, *, special: bool = False) -> TokenArray:
        """One id per word, counted up as words appear."""
        return np.array([self._words.setdefault(word, len(self._words) + 1) for word in text.split()], np.int32)

    def detokenize(self, ids: Sequence[int] | TokenArray) -> str:
        """The words again."""
        words = {number: word for word, number in self._words.items()}
        return " ".join(words[int(number)] for number in ids)

    def encode(self, ids: TokenArray, capture: CaptureSpec, *, cancel: CancelToken | None = None) -> Activations:
        """Numbers that are a function of each id alone."""
        if self._on_encode is not None:
            self._on_encode(len(self.encoded))
        if cancel is not None:
            cancel.check()
        self.encoded.append(tuple(int(number) for number in ids))
        columns = [np.random.default_rng(int(number)).standard_normal(64).astype(np.float32) for number in ids]
        table = np.stack(columns)
        hidden = np.stack([table[:, tap : tap + HIDDEN] for tap in capture.taps])
        inner = [table[:, 16 + block : 16 + block + FFN] for block in capture.ffn_blocks]
        ffn = np.stack(inner) if inner else np.empty((0, len(ids), FFN), np.float32)
        return Activations(hidden, ffn)

    def encode_together(
        self, parts: Sequence[TokenArray], capture: CaptureSpec, *, cancel: CancelToken | None = None
    ) -> list[Activations]:
        """One after the other."""
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
        """Not used here."""
        raise NotImplementedError

    def set_adapters(self, adapters: Sequence[AdapterUse]) -> None:
        """Remember them."""
        self.adapters = tuple(adapters)

    def render(self, messages: Sequence[ChatMessage]) -> str:
        """Not used here."""
        raise NotImplementedError

    def prompt_ids(self, messages: Sequence[ChatMessage]) -> TokenArray:
        """Not used here."""
        raise NotImplementedError

    def generate(
        self, messages: Sequence[ChatMessage], sampling: Sampling, *, cancel: CancelToken | None = None
    ) -> Iterator[Piece]:
        """Not used here."""
        raise NotImplementedError

    def score(self, prompt: str | Sequence[ChatMessage], continuation: str) -> FloatArray:
        """Not used here."""
        raise NotImplementedError

    def logits(self, ids: TokenArray, first: int = 0) -> FloatArray:
        """Not used here."""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing to free."""
