"""`LlamaEngine`: the `Engine` protocol over llama.cpp. One model in memory, a clean context to encode, one to chat.

Together with the other `llama_*` files the only code that knows llama_cpp. Both contexts are made when first needed:
attaching a document never pays for a chat window, and chatting never for an encoder. Everything that llama.cpp would
assert on (and so end the process) is checked here first.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from localhyper.base_header import BaseHeader, read_base_header
from localhyper.chat_template import ChatTemplate
from localhyper.engine import (
    Activations,
    AdapterUse,
    BaseModelInfo,
    CaptureSpec,
    ChatMessage,
    EngineConfig,
    FloatArray,
    Piece,
    Sampling,
    TakeRows,
    TokenArray,
)
from localhyper.errors import AdapterError, ConfigError, ContextError, ModelError
from localhyper.llama_adapters import AdapterCache, FileState
from localhyper.llama_capture import GraphCapture
from localhyper.llama_native import KV_TYPES, MAX_BATCH, MAX_OUTPUTS, NativeContext, NativeModel, ggml
from localhyper.llama_reading import Reader
from localhyper.llama_reply import ChatState, check_sampling, stream_reply
from localhyper.memory_check import available_memory, thread_counts
from localhyper.progress import CancelToken
from localhyper.respelling import Respeller

SMALLEST_CONTEXT = 64
MOST_TOGETHER = 32  # sequences in one batch
_CONTEXT_STEP = 256  # llama.cpp rounds contexts up to this
_OVERHEAD_BYTES = 64 << 20  # graphs, tokenizer tables, scratch
_CONTENT_MARK = "\ue000{}\ue001"  # private-use characters: no template and no vocabulary gives them a meaning


class LlamaEngine:
    """A base model in memory. Made by `LlamaEngine.load`; a context manager; not thread-safe."""

    def __init__(self, header: BaseHeader, config: EngineConfig, model: NativeModel) -> None:
        self._header = header
        self._config = config
        self._model: NativeModel | None = model
        self._threads = thread_counts(config.threads, config.threads_batch)
        self._n_ctx = _chat_window(header.info, config)
        self._capture = GraphCapture(ggml(), header.info)
        self._encoder: NativeContext | None = None
        self._chat: ChatState | None = None
        self._template: ChatTemplate | None = None
        self._adapter_cache = AdapterCache(model, header.info)
        self._adapters: tuple[AdapterUse, ...] = ()
        self._in_force: tuple[tuple[FileState, float], ...] = ()
        self._respeller: Respeller | None = None
        self._turn = 0

    @classmethod
    def load(cls, path: Path, config: EngineConfig | None = None) -> LlamaEngine:
        """Check a base model file and load it.

        Raises:
            ModelError: Missing, damaged, unsupported, or too big for the memory that is left.
            ConfigError: A value in `config` is out of range.
        """
        config = config or EngineConfig()
        _check_config(config)
        header = read_base_header(path)
        _check_memory(header, _chat_window(header.info, config), config.kv_type)
        model = NativeModel(path, config.gpu_layers)
        if model.vocab_size != header.info.vocab_size:
            model.close()
            raise ModelError(f"llama.cpp reads {model.vocab_size} tokens from `{path.name}`, its header says otherwise")
        return cls(header, config, model)

    def __enter__(self) -> LlamaEngine:
        """The engine itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    @property
    def info(self) -> BaseModelInfo:
        """The loaded base model."""
        return self._header.info

    @property
    def n_ctx(self) -> int:
        """Chat context in tokens."""
        return self._n_ctx

    @property
    def adapters(self) -> tuple[AdapterUse, ...]:
        """The adapters that act on the chat context now."""
        return self._adapters

    def tokenize(self, text: str, *, special: bool = False) -> TokenArray:
        """Token ids of `text`, int32 [tokens], without BOS. `special` = parse control tokens."""
        return self._open_model().tokenize(text, special)

    def detokenize(self, ids: Sequence[int] | TokenArray) -> str:
        """Text of token ids; control tokens give none, invalid UTF-8 is replaced."""
        model = self._open_model()
        tokens = self._checked_ids(ids)
        return b"".join(model.piece(int(token)) for token in tokens).decode("utf-8", "replace")

    def encode(self, ids: TokenArray, capture: CaptureSpec, *, cancel: CancelToken | None = None) -> Activations:
        """Run `ids` from position 0 through the clean context and capture activations; stops after the last one needed.

        Raises:
            ContextError: More tokens than the model's window.
            Cancelled: `cancel` was set.
        """
        return self.encode_together([ids], capture, cancel=cancel)[0]

    def encode_together(
        self, parts: Sequence[TokenArray], capture: CaptureSpec, *, cancel: CancelToken | None = None
    ) -> list[Activations]:
        """`encode` of each; short ones go through the model in one batch, which is faster than one after the other.

        What all of a batch begin with is read once.

        Raises:
            ContextError: One has more tokens than the model's window.
            Cancelled: `cancel` was set.
        """
        return self._reader(parts, capture, cancel).read([self._checked_ids(ids) for ids in parts])

    def read_together(
        self,
        parts: Sequence[TokenArray],
        capture: CaptureSpec,
        firsts: Sequence[int],
        take: TakeRows,
        *,
        cancel: CancelToken | None = None,
    ) -> list[Activations]:
        """Activations and logits of each under the adapters in force, in one pass, likewise together.

        Raises:
            ContextError: One has more tokens than the model's window.
            AdapterError: llama.cpp refuses the adapters.
            ValueError: A first position outside its sequence.
            Cancelled: `cancel` was set.
        """
        checked = [self._checked_ids(ids) for ids in parts]
        if not all(0 <= first <= len(ids) for first, ids in zip(firsts, checked, strict=True)):
            raise ValueError("logits are wanted from outside a sequence")
        reader = self._reader(checked, capture, cancel, logits=True)
        with self._under_adapters(reader.context):
            return reader.read(checked, firsts, take)

    def _reader(
        self, parts: Sequence[TokenArray], capture: CaptureSpec, cancel: CancelToken | None, *, logits: bool = False
    ) -> Reader:
        """What to read sequences with; a context with room for the longest."""
        self._check_capture(capture)
        longest = max(map(len, parts), default=0)
        self._check_length(longest)
        # The last block computes only the rows whose logits are wanted, so there all rows must be.
        all_rows = capture.last_block >= self.info.block_count - 1
        context = self._encode_context(longest, MAX_OUTPUTS if all_rows or logits else 1)
        return Reader(context, self._capture, capture, all_rows, cancel or CancelToken())

    @contextlib.contextmanager
    def _under_adapters(self, context: NativeContext) -> Iterator[None]:
        """The adapters in force act on the encoder, too, while inside: its cache is empty before and after."""
        if not context.set_adapters(self._adapter_cache.native(self._in_force)):
            raise AdapterError("llama.cpp refused the set of adapters", "the log file says why")
        try:
            yield
        finally:
            context.set_adapters(())

    def _check_length(self, tokens: int) -> None:
        if tokens > self.info.context_length:
            raise ContextError(
                f"{tokens} tokens to encode, the window of `{self.info.name}` is {self.info.context_length}",
                "use smaller chunks",
            )

    def _check_capture(self, capture: CaptureSpec) -> None:
        blocks = self.info.block_count
        wrong = [tap for tap in capture.taps if not 0 <= tap <= blocks]
        wrong += [block for block in capture.ffn_blocks if not 0 <= block < blocks]
        if wrong:
            raise ModelError(f"activations of block {wrong[0]} are asked for, `{self.info.name}` has {blocks} blocks")

    def _encode_context(self, tokens: int, outputs: int) -> NativeContext:
        """A clean context with room for `tokens` and rows of logits; made anew, twice as big, when one is too small."""
        current = self._encoder
        if current is not None and current.n_ctx >= tokens and current.outputs >= outputs:
            return current
        room = MAX_BATCH
        while room < tokens:
            room *= 2
        if current is not None:
            room, outputs = max(room, current.n_ctx), max(outputs, current.outputs)
            current.close()
            self._encoder = None
        self._encoder = NativeContext(
            self._open_model(),
            room,
            self._threads,
            outputs=outputs,
            sequences=MOST_TOGETHER,
            flash_attention=self._config.flash_attention,
            kv_type=self._config.kv_type,
            eval_callback=self._capture.callback,
        )
        return self._encoder

    def set_adapters(self, adapters: Sequence[AdapterUse]) -> None:
        """Make exactly these adapters act on the chat context; any change of the set clears the KV cache.

        Raises:
            AdapterError: A file is damaged or does not fit this base model; the set in force stays as it was.
        """
        self._open_model()
        wanted = self._adapter_cache.load(adapters)
        if wanted != self._in_force:
            self._apply(wanted)
        self._adapters = tuple(adapters)
        self._adapter_cache.drop_unused(self._in_force)

    def _apply(self, wanted: tuple[tuple[FileState, float], ...]) -> None:
        self._turn += 1
        if self._chat is not None:
            self._chat.clear()
            if not self._chat.context.set_adapters(self._adapter_cache.native(wanted)):
                self._chat.context.set_adapters(self._adapter_cache.native(self._in_force))
                raise AdapterError("llama.cpp refused the set of adapters", "the log file says why")
        self._in_force = wanted

    def _chat_state(self) -> ChatState:
        if self._chat is None:
            context = NativeContext(
                self._open_model(),
                self._n_ctx,
                self._threads,
                flash_attention=self._config.flash_attention,
                kv_type=self._config.kv_type,
            )
            if not context.set_adapters(self._adapter_cache.native(self._in_force)):
                context.close()
                raise AdapterError("llama.cpp refused the set of adapters", "the log file says why")
            self._chat = ChatState(context)
        return self._chat

    def render(self, messages: Sequence[ChatMessage]) -> str:
        """The model's own chat template applied to `messages`, with the assistant's turn opened.

        Raises:
            ModelError: The model has no template, or the template refuses the messages.
        """
        model = self._open_model()
        if self._template is None:
            source = self._header.chat_template
            self._template = ChatTemplate(source, self.info.name, model.text(model.bos), model.text(model.eos))
        return self._template.render(messages)

    def prompt_ids(self, messages: Sequence[ChatMessage]) -> TokenArray:
        """The tokens `generate` would start from, int32 [tokens].

        A message that spells out a control token (`<|im_end|>`) is tokenized as plain text, so that no document can
        speak in another role; all other prompts are tokenized in one piece, as in training.
        """
        model = self._open_model()
        if not any(token in message.content for message in messages for token in self._header.control_tokens):
            return self._with_bos(model.tokenize(self.render(messages), True))
        marked = [ChatMessage(m.role, _CONTENT_MARK.format(i)) for i, m in enumerate(messages)]
        rest, parts = self.render(marked), []
        for index, message in enumerate(messages):
            before, mark, rest = rest.partition(_CONTENT_MARK.format(index))
            parts.append(model.tokenize(before, True))
            parts.append(model.tokenize(message.content, False) if mark else np.empty(0, np.int32))
        parts.append(model.tokenize(rest, True))
        return self._with_bos(np.concatenate(parts))

    def _with_bos(self, ids: TokenArray) -> TokenArray:
        """BOS in front where the model wants one and the template printed none."""
        model = self._open_model()
        if not model.adds_bos or model.bos < 0 or (len(ids) and ids[0] == model.bos):
            return ids
        return np.concatenate([np.array([model.bos], np.int32), ids])

    def generate(
        self, messages: Sequence[ChatMessage], sampling: Sampling, *, cancel: CancelToken | None = None
    ) -> Iterator[Piece]:
        """Stream a reply; cancelling ends it with `finish_reason == "cancelled"`. Errors come at the call, not later.

        Tokens shared with the call before are not run again while the adapters are the same.

        Raises:
            ContextError: The prompt leaves no room for a reply.
            ConfigError: A sampling value is out of range.
        """
        started = time.perf_counter()
        check_sampling(sampling)
        prompt = self.prompt_ids(messages)
        if len(prompt) >= self._n_ctx:
            raise ContextError(
                f"the prompt has {len(prompt)} tokens, the window holds {self._n_ctx} with the reply",
                "start a new conversation, shorten the prompt, or attach the text as an adapter",
            )
        state = self._chat_state()
        self._turn += 1
        turn = self._turn

        def check_turn() -> None:
            if turn != self._turn or self._chat is not state:
                raise RuntimeError("the engine was used for something else while this reply was being read")

        return stream_reply(self._open_model(), state, prompt, sampling, cancel, started, check_turn, self._words())

    def _words(self) -> Respeller | None:
        """Where a document's adapter that says tokens stands beside another, which may want words without a space."""
        saying = self._adapter_cache.say_tokens(self._in_force)
        if not any(saying) or all(saying):
            return None
        if self._respeller is None:
            model = self._open_model()
            pieces = (model.piece(token) for token in range(model.vocab_size))
            self._respeller = Respeller(pieces, lambda text: model.tokenize(text, False).tolist())
        return self._respeller

    def score(self, prompt: str | Sequence[ChatMessage], continuation: str) -> FloatArray:
        """Natural log-probability of each token of `continuation` after `prompt`, float32 [tokens].

        Control tokens are parsed where the prompt is text, and plain text where it is messages, as in `generate`.
        Tokens shared with the call before are not run again while the adapters are the same.

        Raises:
            ContextError: Both together are longer than the window, or there is nothing before the continuation.
        """
        model = self._open_model()
        before = self._with_bos(model.tokenize(prompt, True)) if isinstance(prompt, str) else self.prompt_ids(prompt)
        after = model.tokenize(continuation, isinstance(prompt, str))
        if not len(before):
            raise ContextError(
                "an empty prompt gives no probability to a first token", "put at least one token before it"
            )
        if not len(after):
            return np.empty(0, np.float32)
        ids = np.concatenate([before, after])
        rows = self._rows(ids[:-1], len(before) - 1, reuse=True).astype(np.float64)
        rows -= rows.max(axis=1, keepdims=True)
        chosen: FloatArray = (rows[np.arange(len(after)), after] - np.log(np.exp(rows).sum(axis=1))).astype(np.float32)
        return chosen

    def logits(self, ids: TokenArray, first: int = 0) -> FloatArray:
        """Logits from position `first` on under the adapters in force, float32 [tokens - first, vocab].

        Always from an empty cache.

        Raises:
            ContextError: More tokens than the chat context holds.
        """
        return self._rows(self._checked_ids(ids), first)

    def _rows(self, ids: TokenArray, first: int, *, reuse: bool = False) -> FloatArray:
        if not len(ids):
            return np.empty((0, self.info.vocab_size), np.float32)
        if len(ids) > self._n_ctx:
            raise ContextError(f"{len(ids)} tokens, the chat window holds {self._n_ctx}", "shorten the text")
        self._turn += 1
        return self._chat_state().rows(ids, first, reuse=reuse)

    def _checked_ids(self, ids: Sequence[int] | TokenArray) -> TokenArray:
        """As int32; ids outside the vocabulary would make llama.cpp fail or read elsewhere."""
        wide = np.asarray(ids, np.int64).reshape(-1)
        if len(wide) and (wide.min() < 0 or wide.max() >= self.info.vocab_size):
            raise ModelError(f"token ids from {wide.min()} to {wide.max()}, the vocabulary has {self.info.vocab_size}")
        return wide.astype(np.int32)

    def _open_model(self) -> NativeModel:
        if self._model is None:
            raise ModelError(f"base model `{self.info.name}` is closed")
        return self._model

    def close(self) -> None:
        """Free everything native. Calling it twice is harmless."""
        self._turn += 1
        if self._chat is not None:
            self._chat.context.set_adapters(())
            self._chat.context.close()
            self._chat = None
        if self._encoder is not None:
            self._encoder.close()
            self._encoder = None
        if self._model is not None:
            self._adapter_cache.close()
            self._model.close()
            self._model = None
        self._adapters, self._in_force = (), ()


def _chat_window(info: BaseModelInfo, config: EngineConfig) -> int:
    """Chat context in tokens: as configured, at most the model's window, in llama.cpp's steps."""
    asked = config.n_ctx or info.context_length
    return min(-(-asked // _CONTEXT_STEP) * _CONTEXT_STEP, max(_CONTEXT_STEP, info.context_length))


def _check_config(config: EngineConfig) -> None:
    limits = (
        ("n_ctx", config.n_ctx, 0, 1 << 24),
        ("threads", config.threads, 0, 512),
        ("threads_batch", config.threads_batch, 0, 512),
        ("gpu_layers", config.gpu_layers, -1, 1 << 16),
    )
    for name, value, least, most in limits:
        if not least <= value <= most:
            raise ConfigError(f"`{name}` is {value}, wanted {least} to {most}")
    if config.kv_type not in KV_TYPES:
        raise ConfigError(f"`kv_type` is {config.kv_type!r}, wanted one of {', '.join(sorted(KV_TYPES))}")
    if 0 < config.n_ctx < SMALLEST_CONTEXT:
        raise ConfigError(f"`n_ctx` is {config.n_ctx}, wanted 0 (the model's window) or at least {SMALLEST_CONTEXT}")


def memory_needed(header: BaseHeader, n_ctx: int, kv_type: str = "f16") -> int:
    """Bytes a model and its two contexts take: weights, both KV caches, logits, scratch of a batch."""
    info = header.info
    kv = header.kv_bytes_per_token * (n_ctx + MAX_BATCH) * (2 if kv_type == "f32" else 1)
    batch = 4 * MAX_BATCH * (4 * info.hidden_size + 3 * info.ffn_size + info.head_count * header.key_length)
    logits = 4 * MAX_OUTPUTS * info.vocab_size * 2
    return info.size_bytes + kv + 2 * batch + logits + _OVERHEAD_BYTES


def _check_memory(header: BaseHeader, n_ctx: int, kv_type: str) -> None:
    needed, available = memory_needed(header, n_ctx, kv_type), available_memory()
    if available is not None and needed > available:
        raise ModelError(
            f"base model `{header.info.name}` with a window of {n_ctx} tokens needs {needed >> 20} MB of memory, "
            f"{available >> 20} MB are free",
            "lower `n_ctx`, use a smaller model, or close other programs",
        )
