"""What a base model's file says of itself, checked before llama.cpp sees it.

Turns a GGUF header into `BaseModelInfo`: supported architecture, sound hyperparameters, complete data, fingerprint.
Knows no native code and reads no weights.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from localhyper.engine import BaseModelInfo
from localhyper.errors import ModelError
from localhyper.gguf_header import GgufHeader, HeaderError, Value, read_header, shown

SUPPORTED_ARCHITECTURES = ("gemma2", "llama", "qwen3")
TOKENIZERS = ("gpt2", "llama")
ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")  # others are an assert in llama.cpp
_PULL_HINT = "fetch the file again, `localhyper models check` compares checksums"


@dataclass(frozen=True)
class BaseHeader:
    """A checked base model header.

    Attributes:
        info: The facts the rest of localhyper uses.
        shapes: Tensor name to shape in ggml order (columns first).
        key_length: Width of one attention head's keys.
        value_length: Width of one attention head's values.
        chat_template: Jinja source; empty when the file carries none.
        control_tokens: Texts of tokens that steer the model (`<|im_start|>`), which a document must not smuggle in.
    """

    info: BaseModelInfo
    shapes: Mapping[str, tuple[int, ...]]
    key_length: int
    value_length: int
    chat_template: str
    control_tokens: tuple[str, ...]

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes one token takes in a 16-bit KV cache."""
        return 2 * self.info.block_count * self.info.head_count_kv * (self.key_length + self.value_length)


def read_base_info(path: Path) -> BaseModelInfo:
    """Facts about a base model file.

    Raises:
        ModelError: Missing, damaged, cut off, or of an architecture that is not supported.
    """
    return read_base_header(path).info


def read_base_header(path: Path) -> BaseHeader:
    """Read and check a base model's header; remembered while the file stays the same.

    Raises:
        ModelError: Missing, damaged, cut off, or of an architecture that is not supported.
    """
    try:
        stat = path.stat()
        if not path.is_file():
            raise ModelError(f"`{path}` is not a file", "name a .gguf file")
        return _read_cached(path.absolute(), stat.st_mtime_ns, stat.st_size)
    except HeaderError as error:
        raise ModelError(f"base model `{path.name}` is unusable: {error}", _PULL_HINT) from error
    except FileNotFoundError as error:
        raise ModelError(f"base model file `{path}` does not exist", "`localhyper models pull` fetches one") from error
    except OSError as error:
        message = f"base model file `{path}` cannot be read: {error.strerror}"
        raise ModelError(message, "check its permissions") from error


@lru_cache(maxsize=4)
def _read_cached(path: Path, mtime_ns: int, size: int) -> BaseHeader:
    """The work of `read_base_header`; time and size are part of the key so that a changed file is read again."""
    header = read_header(path)
    architecture = header.text("general.architecture")
    if header.text("general.type") == "adapter":
        raise ModelError(f"`{path.name}` is an adapter, not a base model", "give it with `--with` instead")
    if architecture not in SUPPORTED_ARCHITECTURES:
        raise ModelError(
            f"base model `{path.name}` has architecture `{shown(architecture, 40)}`, "
            f"supported are {', '.join(SUPPORTED_ARCHITECTURES)}",
            "use a model of one of these families",
        )
    numbers = _Numbers(header, architecture)
    numbers.check_floats()
    _check_kind(header, architecture)
    _check_tokenizer(header)
    key_length, value_length = _head_widths(numbers)
    info = _info(header, numbers)
    shapes = {entry.name: entry.shape for entry in header.tensors}
    _check_shapes(info, shapes, key_length, value_length)
    return BaseHeader(info, shapes, key_length, value_length, header.text("tokenizer.chat_template"), _control(header))


def _check_kind(header: GgufHeader, architecture: str) -> None:
    """Variants of an architecture that llama.cpp asserts on, or that no tap was held to."""
    scaling = header.metadata.get(f"{architecture}.rope.scaling.type", "none")
    if scaling not in ROPE_SCALINGS:
        raise HeaderError(
            f"`{architecture}.rope.scaling.type` is {shown(repr(scaling), 40)}, wanted {', '.join(ROPE_SCALINGS)}"
        )
    for name in ("expert_count", "expert_used_count", "nextn_predict_layers"):
        if header.metadata.get(f"{architecture}.{name}", 0) != 0:
            raise HeaderError(
                f"`{architecture}.{name}` is not 0: mixtures of experts and predicting heads are not supported"
            )
    if header.metadata.get("split.count", 1) not in (0, 1):
        raise HeaderError("it is one part of a model in several files; join them with llama-gguf-split --merge")


def _check_tokenizer(header: GgufHeader) -> None:
    """What llama.cpp asserts of a vocabulary: distinct tokens (it names empty ones itself), bytes for SentencePiece."""
    kind = header.text("tokenizer.ggml.model")
    if kind not in TOKENIZERS:
        raise HeaderError(f"its tokenizer is `{shown(kind, 40)}`, wanted one of {', '.join(TOKENIZERS)}")
    tokens = header.strings("tokenizer.ggml.tokens")
    names = [token or f"[EMPTY_{index}]" for index, token in enumerate(tokens)]
    if len(set(names)) != len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise HeaderError(f"its tokenizer has the token `{shown(twice, 40)}` twice")
    if kind == "llama" and not {f"<0x{byte:02X}>" for byte in range(256)} <= set(names):
        raise HeaderError("its tokenizer is of kind `llama` and lacks some of the byte tokens `<0x00>` to `<0xFF>`")


class _Numbers:
    """Hyperparameters under `<architecture>.`, each checked for type and range as it is asked for."""

    def __init__(self, header: GgufHeader, architecture: str) -> None:
        self._metadata = header.metadata
        self._prefix = architecture

    def get(self, name: str, default: int = 0, most: int = 1 << 24) -> int:
        """A whole number in 1..most; `default` 0 = required."""
        key = f"{self._prefix}.{name}"
        value: Value = self._metadata.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            got = "absent" if key not in self._metadata else shown(repr(value), 40)
            raise HeaderError(f"`{key}` is {got}, wanted a whole number from 1 to {most}")
        return value

    def check_floats(self) -> None:
        """All fractions finite and none negative: a negative or undefined epsilon is an assert inside every block."""
        for key, value in self._metadata.items():
            if key.startswith(f"{self._prefix}.") and isinstance(value, float) and not 0.0 <= value < math.inf:
                raise HeaderError(f"`{shown(key)}` is {value}, wanted a finite number that is not negative")


def _head_widths(numbers: _Numbers) -> tuple[int, int]:
    hidden, heads = numbers.get("embedding_length"), numbers.get("attention.head_count", most=1 << 12)
    plain = hidden // heads
    if plain < 1:
        raise HeaderError(f"{heads} attention heads do not fit a hidden size of {hidden}")
    key = numbers.get("attention.key_length", plain, 1 << 12)
    value = numbers.get("attention.value_length", plain, 1 << 12)
    if key != value or numbers.get("rope.dimension_count", key, 1 << 12) != key:
        raise HeaderError(f"attention widths of keys ({key}), values ({value}) and rotary embedding differ")
    return key, value


def _info(header: GgufHeader, numbers: _Numbers) -> BaseModelInfo:
    architecture = header.text("general.architecture")
    tokens = header.strings("tokenizer.ggml.tokens")
    if not tokens:
        raise HeaderError("it carries no tokenizer (`tokenizer.ggml.tokens` is absent)")
    heads = numbers.get("attention.head_count", most=1 << 12)
    heads_kv = numbers.get("attention.head_count_kv", heads, 1 << 12)
    if heads % heads_kv:
        raise HeaderError(f"{heads} attention heads are no multiple of {heads_kv} key/value heads")
    return BaseModelInfo(
        name=shown(header.text("general.name")) or header.path.stem,
        path=header.path,
        architecture=architecture,
        block_count=numbers.get("block_count", most=1 << 10),
        hidden_size=numbers.get("embedding_length"),
        ffn_size=numbers.get("feed_forward_length"),
        head_count=heads,
        head_count_kv=heads_kv,
        context_length=numbers.get("context_length", most=1 << 30),
        vocab_size=len(tokens),
        quantization=_main_type(header),
        size_bytes=header.size_bytes,
        fingerprint=fingerprint(architecture, header.metadata),
        parameter_count=sum(entry.elements for entry in header.tensors),
    )


def fingerprint(architecture: str, metadata: Mapping[str, Value]) -> str:
    """sha256 hex over architecture, scalar hyperparameters and token strings: the same for every quantization."""
    scalars = {
        key: value
        for key, value in sorted(metadata.items())
        if key.startswith(f"{architecture}.") and not isinstance(value, tuple)
    }
    content = {
        "architecture": architecture,
        "hyperparameters": scalars,
        "tokens": list(metadata.get("tokenizer.ggml.tokens", ())),  # type: ignore[arg-type]  # a tuple, checked by _info
    }
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8", "replace")).hexdigest()


def _main_type(header: GgufHeader) -> str:
    """The type that holds most weights of the blocks, which is what people call the quantization."""
    counts: dict[str, int] = {}
    for entry in header.tensors:
        if entry.name.startswith("blk."):
            counts[entry.type_name] = counts.get(entry.type_name, 0) + entry.elements
    return max(counts, key=lambda name: counts[name], default="unknown")


def _check_shapes(
    info: BaseModelInfo, shapes: Mapping[str, tuple[int, ...]], key_length: int, value_length: int
) -> None:
    """Every matrix the adapters and taps rely on, in every block, as the hyperparameters say."""
    wanted = {"token_embd.weight": (info.hidden_size, info.vocab_size)}
    for block in range(info.block_count):
        for module, shape in module_shapes(info, key_length, value_length).items():
            wanted[f"blk.{block}.{module}.weight"] = shape
    for name, shape in wanted.items():
        got = shapes.get(name)
        if got != shape:
            found = "is absent" if got is None else f"has shape {list(got)}"
            raise HeaderError(f"tensor `{name}` {found}, wanted {list(shape)}")


def module_shapes(info: BaseModelInfo, key_length: int, value_length: int) -> dict[str, tuple[int, int]]:
    """Module name to (inputs, outputs), which is also the ggml shape of its matrix."""
    hidden, ffn = info.hidden_size, info.ffn_size
    return {
        "attn_q": (hidden, info.head_count * key_length),
        "attn_k": (hidden, info.head_count_kv * key_length),
        "attn_v": (hidden, info.head_count_kv * value_length),
        "attn_output": (info.head_count * value_length, hidden),
        "ffn_gate": (hidden, ffn),
        "ffn_up": (hidden, ffn),
        "ffn_down": (ffn, hidden),
    }


def _control(header: GgufHeader) -> tuple[str, ...]:
    """Token texts that are parsed as one token: control (3) and user-defined (4)."""
    tokens = header.strings("tokenizer.ggml.tokens")
    kinds = header.metadata.get("tokenizer.ggml.token_type", ())
    if not isinstance(kinds, tuple) or (kinds and len(kinds) != len(tokens)):
        raise HeaderError("`tokenizer.ggml.token_type` does not match the number of tokens")
    return tuple(token for token, kind in zip(tokens, kinds, strict=False) if kind in (3, 4) and token)
