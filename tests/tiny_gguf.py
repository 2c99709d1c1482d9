"""Tiny base models: complete GGUF files of a few hundred kilobytes with random weights and a byte-level tokenizer.

`write_tiny_gguf` makes the file, `reference_forward` is an independent numpy forward of the same weights. Both follow
the published architectures, not llama.cpp's code, so that a wrong tap shows as wrong numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from localhyper.lora import LoraTarget, LoraWeights

FloatArray = NDArray[np.float32]
Wide = NDArray[np.float64]

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MERGES = ("t h", "Ġ th", "Ġth e", "i n", "e r", "a n")
EPSILON = 1e-5
SOFTCAP_ATTENTION, SOFTCAP_LOGITS = 50.0, 30.0


@dataclass(frozen=True)
class TinySpec:
    """Size of a tiny model. `architecture` is `llama`, `qwen3` or `gemma2`."""

    architecture: str = "llama"
    blocks: int = 2
    hidden: int = 64
    ffn: int = 96
    heads: int = 4
    heads_kv: int = 2
    context: int = 1024
    seed: int = 0
    rope_base: float = 10000.0
    chat_template: str = CHATML
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads


def _byte_characters() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes, in byte order."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


def tiny_tokens() -> list[str]:
    """The vocabulary: control tokens, bytes, merges."""
    return [*CONTROL, *_byte_characters(), *(merge.replace(" ", "") for merge in MERGES)]


def tiny_weights(spec: TinySpec) -> dict[str, FloatArray]:
    """All tensors by GGUF name, float32, numpy order `[outputs, inputs]`."""
    random = np.random.default_rng(spec.seed)
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (len(tiny_tokens()), spec.hidden)}
    width = spec.head_width
    for block in range(spec.blocks):
        prefix = f"blk.{block}."
        for name, rows, columns in (
            ("attn_q", spec.heads * width, spec.hidden),
            ("attn_k", spec.heads_kv * width, spec.hidden),
            ("attn_v", spec.heads_kv * width, spec.hidden),
            ("attn_output", spec.hidden, spec.heads * width),
            ("ffn_gate", spec.ffn, spec.hidden),
            ("ffn_up", spec.ffn, spec.hidden),
            ("ffn_down", spec.hidden, spec.ffn),
        ):
            shapes[f"{prefix}{name}.weight"] = (rows, columns)
        for name in _norm_names(spec.architecture):
            shapes[f"{prefix}{name}.weight"] = (width if name in ("attn_q_norm", "attn_k_norm") else spec.hidden,)
    shapes["output_norm.weight"] = (spec.hidden,)
    return {
        name: random.normal(
            1.0 if len(shape) == 1 else 0.0, 0.1 if len(shape) == 1 else shape[-1] ** -0.5, shape
        ).astype(np.float32)
        for name, shape in shapes.items()
    }


def _norm_names(architecture: str) -> tuple[str, ...]:
    extra = {"qwen3": ("attn_q_norm", "attn_k_norm"), "gemma2": ("post_attention_norm", "post_ffw_norm")}
    return ("attn_norm", "ffn_norm", *extra.get(architecture, ()))


def write_tiny_gguf(path: Path, spec: TinySpec | None = None) -> Path:
    """Write a model file; `spec.metadata` is added last and may replace nothing."""
    spec = spec or TinySpec()
    writer = gguf.GGUFWriter(path, spec.architecture)
    writer.add_type("model")
    writer.add_name(f"tiny-{spec.architecture}")
    writer.add_block_count(spec.blocks)
    writer.add_context_length(spec.context)
    writer.add_embedding_length(spec.hidden)
    writer.add_feed_forward_length(spec.ffn)
    writer.add_head_count(spec.heads)
    writer.add_head_count_kv(spec.heads_kv)
    writer.add_key_length(spec.head_width)
    writer.add_value_length(spec.head_width)
    writer.add_rope_freq_base(spec.rope_base)
    writer.add_layer_norm_rms_eps(EPSILON)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    if spec.architecture == "llama":
        writer.add_rope_dimension_count(spec.head_width)
    if spec.architecture == "gemma2":
        writer.add_attn_logit_softcapping(SOFTCAP_ATTENTION)
        writer.add_final_logit_softcapping(SOFTCAP_LOGITS)
        writer.add_sliding_window(4096)
    _add_tokenizer(writer, spec)
    for key, value in spec.metadata.items():
        writer.add_string(key, value) if isinstance(value, str) else writer.add_uint32(key, value)
    for name, array in tiny_weights(spec).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: gguf.GGUFWriter, spec: TinySpec) -> None:
    tokens = tiny_tokens()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in CONTROL else 1 for token in tokens])
    writer.add_token_merges(list(MERGES))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    if spec.chat_template:
        writer.add_chat_template(spec.chat_template)


@dataclass(frozen=True)
class ReferenceRun:
    """What the numpy forward saw.

    Attributes:
        taps: float32 [blocks + 1, tokens, hidden]: residual stream entering each block, and after the last.
        ffn: float32 [blocks, tokens, ffn]: input of each `ffn_down`.
        logits: float32 [tokens, vocab].
    """

    taps: FloatArray
    ffn: FloatArray
    logits: FloatArray


def reference_forward(
    spec: TinySpec, ids: NDArray[np.int32], deltas: Mapping[str, FloatArray] | None = None
) -> ReferenceRun:
    """Forward in float64; `deltas` are added to the named weights (a LoRA's `b @ a`)."""
    weights = {name: array.astype(np.float64) for name, array in tiny_weights(spec).items()}
    for name, delta in (deltas or {}).items():
        weights[name] = weights[name] + delta
    hidden = weights["token_embd.weight"][ids]
    if spec.architecture == "gemma2":
        hidden = hidden * np.sqrt(spec.hidden)
    taps, ffns = [hidden], []
    for block in range(spec.blocks):
        part = {key.split(".")[2]: value for key, value in weights.items() if key.startswith(f"blk.{block}.")}
        attended = _attention(spec, part, _norm(hidden, part["attn_norm"]))
        if "post_attention_norm" in part:
            attended = _norm(attended, part["post_attention_norm"])
        hidden = hidden + attended
        normed = _norm(hidden, part["ffn_norm"])
        gate = normed @ part["ffn_gate"].T
        inner = (_gelu(gate) if spec.architecture == "gemma2" else gate / (1 + np.exp(-gate))) * (
            normed @ part["ffn_up"].T
        )
        out = inner @ part["ffn_down"].T
        hidden = hidden + (_norm(out, part["post_ffw_norm"]) if "post_ffw_norm" in part else out)
        taps.append(hidden)
        ffns.append(inner)
    logits = _norm(hidden, weights["output_norm.weight"]) @ weights["token_embd.weight"].T
    if spec.architecture == "gemma2":
        logits = np.tanh(logits / SOFTCAP_LOGITS) * SOFTCAP_LOGITS
    as_float = np.float32
    return ReferenceRun(np.stack(taps).astype(as_float), np.stack(ffns).astype(as_float), logits.astype(as_float))


def _norm(x: Wide, weight: Wide) -> Wide:
    root: Wide = np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + EPSILON)
    return x / root * weight


def _gelu(x: Wide) -> Wide:
    bend: Wide = np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))
    return 0.5 * x * (1 + bend)


def _attention(spec: TinySpec, part: Mapping[str, Wide], x: Wide) -> Wide:
    tokens, width = len(x), spec.head_width
    q = (x @ part["attn_q"].T).reshape(tokens, spec.heads, width)
    k = (x @ part["attn_k"].T).reshape(tokens, spec.heads_kv, width)
    v = (x @ part["attn_v"].T).reshape(tokens, spec.heads_kv, width)
    if "attn_q_norm" in part:
        q, k = _norm(q, part["attn_q_norm"]), _norm(k, part["attn_k_norm"])
    q, k = _rope(spec, q), _rope(spec, k)
    k, v = (np.repeat(array, spec.heads // spec.heads_kv, axis=1) for array in (k, v))
    scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(width)
    if spec.architecture == "gemma2":
        scores = np.tanh(scores / SOFTCAP_ATTENTION) * SOFTCAP_ATTENTION
    scores = np.where(np.tri(tokens, dtype=bool), scores, -np.inf)
    share = np.exp(scores - scores.max(axis=-1, keepdims=True))
    share /= share.sum(axis=-1, keepdims=True)
    mixed: Wide = np.einsum("hqk,khd->qhd", share, v).reshape(tokens, -1)
    return mixed @ part["attn_output"].T


def _rope(spec: TinySpec, x: Wide) -> Wide:
    """Rotary embedding: neighbouring pairs in llama's GGUF layout, halves elsewhere."""
    width = spec.head_width
    angles = np.outer(np.arange(len(x)), spec.rope_base ** (-np.arange(0, width, 2) / width))[:, None, :]
    cos, sin = np.cos(angles), np.sin(angles)
    if spec.architecture == "llama":
        first, second = x[..., 0::2], x[..., 1::2]
        return np.stack([first * cos - second * sin, first * sin + second * cos], axis=-1).reshape(x.shape)
    first, second = x[..., : width // 2], x[..., width // 2 :]
    return np.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)


def tiny_lora(
    spec: TinySpec | None = None,
    *,
    rank: int = 3,
    seed: int = 1,
    modules: tuple[str, ...] = ("ffn_down",),
    size: float = 0.5,
) -> LoraWeights:
    """Random adapter weights for every block of a tiny model; `size` 0 = all zeros."""
    spec = spec or TinySpec()
    random = np.random.default_rng(seed)
    weights = tiny_weights(spec)
    targets = {}
    for module in modules:
        d_out, d_in = weights[f"blk.0.{module}.weight"].shape
        a = random.normal(0, d_in**-0.5, (spec.blocks, rank, d_in)).astype(np.float32)
        b = random.normal(0, size, (spec.blocks, d_out, rank)).astype(np.float32) if size else None
        targets[module] = LoraTarget(
            tuple(range(spec.blocks)), a, b if b is not None else np.zeros((spec.blocks, d_out, rank), np.float32)
        )
    return LoraWeights(targets)


def lora_deltas(weights: LoraWeights, scale: float = 1.0) -> dict[str, FloatArray]:
    """What an adapter adds to each matrix, for `reference_forward`."""
    return {
        f"blk.{block}.{module}.weight": scale * (target.b[row] @ target.a[row])
        for module, target in weights.targets.items()
        for row, block in enumerate(target.layers)
    }


def write_raw_adapter(
    path: Path, tensors: Mapping[str, FloatArray], add: Callable[[gguf.GGUFWriter], None] = lambda _writer: None
) -> Path:
    """An adapter file as others write it: these tensors, and what `add` adds to the required keys."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    add(writer)
    for name, array in tensors.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def down_pair(rank: int, value: float = 1.0) -> dict[str, FloatArray]:
    """Both halves for `ffn_down` of block 0 of the default size."""
    return {
        "blk.0.ffn_down.weight.lora_a": np.full((rank, 96), value, np.float32),
        "blk.0.ffn_down.weight.lora_b": np.full((64, rank), value, np.float32),
    }
