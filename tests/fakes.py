"""A scripted engine: implements `Engine` wholly, deterministic, without any model; can be told to fail or to be slow.

Tokens are UTF-8 bytes (ids 0…255) plus three control tokens, so every count in a test can be worked out by hand.
"""

from __future__ import annotations

import hashlib
import time
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
    GenerationStats,
    Piece,
    Sampling,
    TakeRows,
    TokenArray,
)
from localhyper.errors import AdapterError, ContextError
from localhyper.progress import CancelToken

CONTROL = {"<|endoftext|>": 256, "<|im_start|>": 257, "<|im_end|>": 258}
_CONTROL_TEXT = {number: text for text, number in CONTROL.items()}
VOCABULARY = 259


def fake_info(*, blocks: int = 4, hidden: int = 16, ffn: int = 32, context: int = 512) -> BaseModelInfo:
    """A base model that exists nowhere; its fingerprint depends on its sizes."""
    fingerprint = hashlib.sha256(f"fake {blocks} {hidden} {ffn}".encode()).hexdigest()
    return BaseModelInfo(
        name="fake", path=Path("fake.gguf"), architecture="llama", block_count=blocks, hidden_size=hidden, ffn_size=ffn,
        head_count=2, head_count_kv=1, context_length=context, vocab_size=VOCABULARY, quantization="F32",
        size_bytes=1000, fingerprint=fingerprint, parameter_count=1000,
    )  # fmt: skip


class FakeEngine:
    """Answers with `replies` in turn (the last one repeats), word by word; activations depend on the ids only.

    Args:
        replies: Texts, or a function of the messages.
        info: Sizes to pretend.
        n_ctx: Chat context in tokens (bytes).
        piece_seconds: Time each piece takes.
        encode_seconds: Time each `encode` takes.
        fail_encode_at: Number of the `encode` call (from 0) that raises `encode_error`.
        encode_error: What it raises.
        generate_error: Raised after the first piece of every reply, if set.
        bad_adapters: File names that `set_adapters` refuses.

    Attributes:
        encoded: Ids of every `encode` call.
        prompts: Rendered prompt of every `generate` call.
        samplings: Sampling of every `generate` call.
        closed: Whether `close` was called.
    """

    def __init__(
        self,
        replies: Sequence[str] | Callable[[Sequence[ChatMessage]], str] = ("a scripted reply",),
        *,
        info: BaseModelInfo | None = None,
        n_ctx: int = 512,
        piece_seconds: float = 0.0,
        encode_seconds: float = 0.0,
        fail_encode_at: int = -1,
        encode_error: BaseException | None = None,
        generate_error: BaseException | None = None,
        bad_adapters: Sequence[str] = (),
    ) -> None:
        self._replies = replies
        self._info = info or fake_info()
        self._n_ctx = n_ctx
        self._piece_seconds, self._encode_seconds = piece_seconds, encode_seconds
        self._fail_encode_at, self._encode_error = fail_encode_at, encode_error
        self._generate_error = generate_error
        self._bad_adapters = set(bad_adapters)
        self._adapters: tuple[AdapterUse, ...] = ()
        self.encoded: list[TokenArray] = []
        self.prompts: list[str] = []
        self.samplings: list[Sampling] = []
        self.closed = False

    @property
    def info(self) -> BaseModelInfo:
        """The pretended base model."""
        return self._info

    @property
    def n_ctx(self) -> int:
        """Chat context in tokens."""
        return self._n_ctx

    @property
    def adapters(self) -> tuple[AdapterUse, ...]:
        """The adapters in force."""
        return self._adapters

    def tokenize(self, text: str, *, special: bool = False) -> TokenArray:
        """Bytes as ids; with `special`, control tokens as one id each."""
        ids: list[int] = []
        while text:
            name = next((name for name in CONTROL if special and text.startswith(name)), "")
            ids += [CONTROL[name]] if name else text[0].encode()
            text = text[len(name) or 1 :]
        return np.array(ids, np.int32)

    def detokenize(self, ids: Sequence[int] | TokenArray) -> str:
        """The bytes as text; control tokens give none."""
        return bytes(int(i) for i in ids if int(i) < 256).decode("utf-8", "replace")

    def encode(self, ids: TokenArray, capture: CaptureSpec, *, cancel: CancelToken | None = None) -> Activations:
        """Numbers that depend on ids, tap and position only."""
        call = len(self.encoded)
        self.encoded.append(np.asarray(ids, np.int32).copy())
        if cancel is not None:
            cancel.check()
        time.sleep(self._encode_seconds)
        if call == self._fail_encode_at and self._encode_error is not None:
            raise self._encode_error
        if len(ids) > self._info.context_length:
            raise ContextError(f"{len(ids)} tokens, the window holds {self._info.context_length}")
        return Activations(
            hidden=self._noise("tap", capture.taps, ids, self._info.hidden_size),
            ffn=self._noise("ffn", capture.ffn_blocks, ids, self._info.ffn_size),
        )

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

    @staticmethod
    def _noise(kind: str, rows: Sequence[int], ids: TokenArray, width: int) -> FloatArray:
        out = np.empty((len(rows), len(ids), width), np.float32)
        for i, row in enumerate(rows):
            seed = hashlib.sha256(f"{kind} {row} ".encode() + np.asarray(ids, np.int32).tobytes()).digest()
            out[i] = np.random.default_rng(list(seed)).normal(size=(len(ids), width))
        return out

    def set_adapters(self, adapters: Sequence[AdapterUse]) -> None:
        """Remember them; refuse the file names in `bad_adapters`."""
        for use in adapters:
            if use.path.name in self._bad_adapters:
                raise AdapterError(f"adapter `{use.path.name}` is unusable: scripted", "none")
        self._adapters = tuple(adapters)

    def render(self, messages: Sequence[ChatMessage]) -> str:
        """ChatML."""
        turns = "".join(f"<|im_start|>{m.role}\n{m.content}<|im_end|>\n" for m in messages)
        return f"{turns}<|im_start|>assistant\n"

    def prompt_ids(self, messages: Sequence[ChatMessage]) -> TokenArray:
        """The rendered conversation's."""
        return self.tokenize(self.render(messages), special=True)

    def generate(
        self, messages: Sequence[ChatMessage], sampling: Sampling, *, cancel: CancelToken | None = None
    ) -> Iterator[Piece]:
        """The next scripted reply, a word at a time; one token = one byte."""
        prompt = self.render(messages)
        count = len(self.tokenize(prompt, special=True))
        if count >= self._n_ctx:
            raise ContextError(f"the prompt has {count} tokens, the window holds {self._n_ctx}")
        number = len(self.prompts)
        self.prompts.append(prompt)
        self.samplings.append(sampling)
        script = self._replies
        text = script(messages) if callable(script) else script[min(number, len(script) - 1)]
        return self._stream(text, count, sampling, cancel)

    def _stream(self, text: str, prompt: int, sampling: Sampling, cancel: CancelToken | None) -> Iterator[Piece]:
        made, reason = 0, "stop"
        for word in text.split(" "):
            if cancel is not None and cancel.cancelled:
                reason = "cancelled"
                break
            ids = tuple((f" {word}" if made else word).encode())
            if made + len(ids) > min(sampling.max_tokens, self._n_ctx - prompt):
                reason = "length"
                break
            time.sleep(self._piece_seconds)
            made += len(ids)
            yield Piece(bytes(ids).decode(), ids)
            if self._generate_error is not None:
                raise self._generate_error
        yield Piece("", (), GenerationStats(prompt, 0, made, 0.01, 0.02, 0.01 * made, reason))

    def score(self, prompt: str | Sequence[ChatMessage], continuation: str) -> FloatArray:
        """-1 for each token; -0.5 under any adapter."""
        each = -0.5 if self._adapters else -1.0
        return np.full(len(self.tokenize(continuation, special=isinstance(prompt, str))), each, np.float32)

    def logits(self, ids: TokenArray, first: int = 0) -> FloatArray:
        """Numbers that depend on ids and adapters only, float32 [tokens, vocab]."""
        kind = f"logits {[(use.path.name, use.scale) for use in self._adapters]}"
        rows: FloatArray = self._noise(kind, (0,), ids, VOCABULARY)[0, first:]
        return rows

    def close(self) -> None:
        """Remember it."""
        self.closed = True
