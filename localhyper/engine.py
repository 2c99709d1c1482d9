"""The border to the base model: what the rest of localhyper may ask of it.

`llama_engine.LlamaEngine` implements `Engine` over llama.cpp; tests use scripted fakes. This file knows no native code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from localhyper.progress import CancelToken

FloatArray = NDArray[np.float32]
TokenArray = NDArray[np.int32]
# Number of a sequence, position of the first of these rows of logits, and they, float32 [n, vocab], to be used up.
TakeRows = Callable[[int, int, FloatArray], None]


@dataclass(frozen=True)
class BaseModelInfo:
    """What is known of a base model file from its header.

    Attributes:
        name: `general.name` or the file's stem.
        architecture: GGUF `general.architecture`, e.g. `llama`.
        block_count: Transformer blocks, L.
        hidden_size: Width of the residual stream.
        ffn_size: Width inside the MLP (input width of `ffn_down`).
        context_length: Window the model was trained with, in tokens.
        vocab_size: Number of tokens.
        quantization: Name of the file's main type, e.g. `Q4_1`.
        size_bytes: Size of the file.
        fingerprint: sha256 hex over architecture, hyperparameters and tokens: the same for every quantization.
        parameter_count: Number of weights.
    """

    name: str
    path: Path
    architecture: str
    block_count: int
    hidden_size: int
    ffn_size: int
    head_count: int
    head_count_kv: int
    context_length: int
    vocab_size: int
    quantization: str
    size_bytes: int
    fingerprint: str
    parameter_count: int = 0


@dataclass(frozen=True)
class EngineConfig:
    """How to load a base model.

    Attributes:
        n_ctx: Chat context in tokens; 0 = the model's own window.
        threads: CPU threads for decoding; 0 = physical cores minus one, at least one.
        threads_batch: CPU threads for prefill; 0 = all physical cores.
        gpu_layers: Blocks to offload; 0 = none, -1 = all.
        flash_attention: Whether to use llama.cpp's flash attention.
        kv_type: Precision of the KV caches, `f16` or `f32` (twice the memory, activations exact to float32).
    """

    n_ctx: int = 0
    threads: int = 0
    threads_batch: int = 0
    gpu_layers: int = 0
    flash_attention: bool = True
    kv_type: str = "f16"


@dataclass(frozen=True)
class CaptureSpec:
    """Which activations `encode` brings back.

    Attributes:
        taps: Tap l = residual stream entering block l (0 = scaled token embeddings).
        ffn_blocks: Blocks whose `ffn_down` input is captured.
    """

    taps: tuple[int, ...]
    ffn_blocks: tuple[int, ...] = ()

    @property
    def last_block(self) -> int:
        """Index of the last block that has to run at all (early exit after it); -1 = none."""
        return max([tap - 1 for tap in self.taps] + list(self.ffn_blocks), default=-1)


@dataclass(frozen=True)
class Activations:
    """Captured activations of one token sequence.

    Attributes:
        hidden: float32 [taps, tokens, hidden_size], in the order of `CaptureSpec.taps`.
        ffn: float32 [ffn_blocks, tokens, ffn_size], in the order of `CaptureSpec.ffn_blocks`.
    """

    hidden: FloatArray
    ffn: FloatArray


@dataclass(frozen=True)
class ChatMessage:
    """One message. `role` is `system`, `user` or `assistant`."""

    role: str
    content: str


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen, and what ends a reply. `temperature` 0 = greedy."""

    temperature: float = 0.0
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    max_tokens: int = 256
    seed: int = 0
    stop: tuple[str, ...] = ()
    end_loops: bool = True


@dataclass(frozen=True)
class AdapterUse:
    """An adapter file at a strength. Scale 1.0 = as made, 0.0 = off, negative allowed."""

    path: Path
    scale: float = 1.0


@dataclass(frozen=True)
class GenerationStats:
    """What one reply cost.

    Attributes:
        finish_reason: `stop` (end of turn or stop string), `length`, `loop` (it went in circles) or `cancelled`.
        prompt_seconds: Prefill, including a graph reserve after an adapter change.
        first_token_seconds: From the call to the first token.
        decode_seconds: From the first token to the last.
    """

    prompt_tokens: int
    reused_tokens: int
    generated_tokens: int
    prompt_seconds: float
    first_token_seconds: float
    decode_seconds: float
    finish_reason: str

    @property
    def tokens_per_second(self) -> float:
        """Decode speed; 0 when fewer than two tokens were made."""
        steps = self.generated_tokens - 1
        return steps / self.decode_seconds if steps > 0 and self.decode_seconds > 0 else 0.0


@dataclass(frozen=True)
class Piece:
    """A piece of a streamed reply. The last piece carries `stats` (and may have empty text)."""

    text: str
    token_ids: tuple[int, ...] = ()
    stats: GenerationStats | None = None


@dataclass(frozen=True)
class Reply:
    """A whole reply."""

    text: str
    token_ids: tuple[int, ...]
    stats: GenerationStats
    adapters: tuple[AdapterUse, ...] = field(default=())


class Engine(Protocol):
    """One base model in memory with a clean context for encoding and one for chat.

    Not thread-safe by contract: one thread owns an engine. `CancelToken`s may be set from any thread.
    """

    @property
    def info(self) -> BaseModelInfo:
        """The loaded base model."""
        ...

    @property
    def n_ctx(self) -> int:
        """Chat context in tokens."""
        ...

    @property
    def adapters(self) -> tuple[AdapterUse, ...]:
        """The adapters that act on the chat context now."""
        ...

    def tokenize(self, text: str, *, special: bool = False) -> TokenArray:
        """Token ids of `text`, int32 [tokens], without BOS. `special` = parse control tokens such as `<|im_start|>`."""
        ...

    def detokenize(self, ids: Sequence[int] | TokenArray) -> str:
        """Text of token ids (invalid UTF-8 replaced)."""
        ...

    def encode(self, ids: TokenArray, capture: CaptureSpec, *, cancel: CancelToken | None = None) -> Activations:
        """Run `ids` from position 0 through the clean context without any adapter and capture activations.

        Raises:
            ContextError: More tokens than the encode context holds.
            Cancelled: `cancel` was set.
        """
        ...

    def encode_together(
        self, parts: Sequence[TokenArray], capture: CaptureSpec, *, cancel: CancelToken | None = None
    ) -> list[Activations]:
        """`encode` of each of several sequences, none of which sees another; faster than one after the other.

        Raises:
            ContextError: One has more tokens than the encode context holds.
            Cancelled: `cancel` was set.
        """
        ...

    def read_together(
        self,
        parts: Sequence[TokenArray],
        capture: CaptureSpec,
        firsts: Sequence[int],
        take: TakeRows,
        *,
        cancel: CancelToken | None = None,
    ) -> list[Activations]:
        """Activations of several sequences under the adapters in force, and logits, of one pass; none sees another.

        Args:
            parts: int32 [tokens] each.
            capture: Which activations.
            firsts: From which position on the logits of each are wanted; its length = none.
            take: Is given them, sequence by sequence, each from its first position on, a few at a time.
            cancel: Stops it.

        Raises:
            ContextError: One has more tokens than the encode context holds.
            Cancelled: `cancel` was set.
        """
        ...

    def set_adapters(self, adapters: Sequence[AdapterUse]) -> None:
        """Make exactly these adapters act on the chat context; files are checked first, KV state is never stale.

        Raises:
            AdapterError: A file is damaged or does not fit this base model; the set in force stays as it was.
        """
        ...

    def render(self, messages: Sequence[ChatMessage]) -> str:
        """The model's own chat template applied to `messages`, with the assistant's turn opened."""
        ...

    def prompt_ids(self, messages: Sequence[ChatMessage]) -> TokenArray:
        """The tokens that `generate` would start from, int32 [tokens]; control tokens in messages are plain text."""
        ...

    def generate(
        self, messages: Sequence[ChatMessage], sampling: Sampling, *, cancel: CancelToken | None = None
    ) -> Iterator[Piece]:
        """Stream a reply; cancelling ends it with `finish_reason == "cancelled"`.

        Raises:
            ContextError: The prompt leaves no room for a reply.
        """
        ...

    def score(self, prompt: str | Sequence[ChatMessage], continuation: str) -> FloatArray:
        """Natural log-probability of each token of `continuation` after `prompt`, float32 [tokens].

        Both are tokenized apart from each other. A prompt given as text is taken as rendered already: control tokens
        are parsed in it and in `continuation`. A prompt given as messages is what `generate` would start from, and
        control tokens spelled out in a message or in `continuation` are plain text: data may hold any text.

        Raises:
            ContextError: Both together are longer than the window.
        """
        ...

    def logits(self, ids: TokenArray, first: int = 0) -> FloatArray:
        """Logits from position `first` on under the adapters in force, float32 [tokens - first, vocab]."""
        ...

    def close(self) -> None:
        """Free everything native. Calling it twice is harmless."""
        ...
