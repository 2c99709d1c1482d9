"""The upper blocks of a base model as float32 matrices, read from the quantized file that llama.cpp runs.

Which parts a block has depends on the family. What a file has beyond them is not computed here, so such a model is
turned down, as is one that takes too much memory. Knows no adapter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from localhyper.base_header import BaseHeader, read_base_header
from localhyper.engine import FloatArray
from localhyper.gguf_header import GgufHeader, HeaderError, TensorEntry, read_header
from localhyper.gguf_tensors import read_rows
from localhyper.lora import LoraWeights
from localhyper.memory_check import available_memory
from localhyper.output_head import HEADS, head_entry
from localhyper.upper_math import Activation

MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
_STRETCH = "rope_freqs.weight"
SHARE = 0.5  # of free memory that may be taken
HELD_STREAMS, HELD_INNER = 14, 6  # arrays as wide as the stream, and as the MLP, that a pass holds of a block


class NotComputedHereError(Exception):
    """What a base model has and is not computed here, in a few words."""


@dataclass(frozen=True)
class Family:
    """What blocks of an architecture have.

    Attributes:
        halves: How rotary pairs lie (`upper_math.rotate`).
        activation: Of the gate.
        norms: Names of all norms of a block.
        caps: Defaults of the caps of attention and of logits; 0 = none.
        window: Default window of every other block, beginning with the first; 0 = none.
    """

    halves: bool
    activation: Activation
    norms: tuple[str, ...]
    caps: tuple[float, float] = (0.0, 0.0)
    window: int = 0


_TWO = ("attn_norm", "ffn_norm")
FAMILIES = {
    "llama": Family(False, "silu", _TWO),
    "qwen3": Family(True, "silu", (*_TWO, "attn_q_norm", "attn_k_norm")),
    "gemma2": Family(True, "gelu", (*_TWO, "post_attention_norm", "post_ffw_norm"), (50.0, 30.0), 4096),
}


@dataclass(frozen=True)
class UpperShape:
    """Hyperparameters of the blocks.

    Attributes:
        start: The first of them.
        end: One after the last, which is the model's last.
        width: Of one attention head.
        frequencies: Of the rotary embedding, radians a token, float32 [width / 2].
        window: Of every other block, beginning with block 0; 0 = none.
    """

    family: Family
    start: int
    end: int
    kv_heads: int
    width: int
    epsilon: float
    frequencies: FloatArray
    attention_cap: float
    logits_cap: float
    window: int

    def window_of(self, block: int) -> int:
        """Tokens that one sees in a block; 0 = all before it."""
        return 0 if block % 2 else self.window


@dataclass(frozen=True)
class UpperWeights:
    """All matrices from block `shape.start` on.

    Attributes:
        matrices: (Block, module) to float32 [outputs, inputs].
        norms: (Block, norm) to float32 [width].
        output_norm: float32 [hidden].
        output: float32 [vocab, hidden].
    """

    shape: UpperShape
    matrices: Mapping[tuple[int, str], FloatArray]
    norms: Mapping[tuple[int, str], FloatArray]
    output_norm: FloatArray
    output: FloatArray

    def with_adapter(self, adapter: LoraWeights) -> UpperWeights:
        """The same with an adapter's updates inside; matrices that it leaves alone are shared."""
        changed = {
            (block, name): self.matrices[block, name] + b @ a
            for name, target in adapter.targets.items()
            for block, a, b in zip(target.layers, target.a, target.b, strict=True)
            if (block, name) in self.matrices
        }
        return replace(self, matrices={**self.matrices, **changed})


def check_upper(path: Path, start: int, tokens: int = 0, longest: int = 0) -> None:
    """Whether the blocks from `start` on can be computed here, by the header alone.

    Args:
        path: A base model.
        start: First block.
        tokens: Of how many at once gradients are wanted: what a pass holds of them takes memory, too.
        longest: Tokens of the longest sequence among them.

    Raises:
        NotComputedHereError: The model has parts that are unknown here, or is too large.
        ModelError: The file is no base model.
    """
    parts = _find_parts(path, start)
    info, matrices = parts.base.info, parts.matrices.values()
    each = HELD_STREAMS * info.hidden_size + HELD_INNER * info.ffn_size + info.head_count * longest
    _check_memory(tokens * len(parts.blocks) * each + sum(entry.elements for entry in (*matrices, parts.head)))


def read_upper(path: Path, start: int) -> UpperWeights:
    """Read the blocks from `start` on.

    Raises:
        NotComputedHereError: The model has parts that are unknown here, or is too large.
        ModelError: The file is no base model.
    """
    parts = _find_parts(path, start)
    _check_memory(sum(entry.elements for entry in (*parts.matrices.values(), parts.head)))
    try:
        return UpperWeights(
            _shape(parts),
            {module: read_rows(path, entry) for module, entry in parts.matrices.items()},
            {norm: read_rows(path, entry)[0] for norm, entry in parts.norms.items()},
            read_rows(path, parts.last_norm)[0],
            read_rows(path, parts.head),
        )
    except (HeaderError, OSError) as error:
        raise NotComputedHereError(str(error)) from error


@dataclass(frozen=True)
class _Parts:
    """What is read of a file whose upper blocks can be computed."""

    base: BaseHeader
    header: GgufHeader
    family: Family
    blocks: range
    matrices: Mapping[tuple[int, str], TensorEntry]
    norms: Mapping[tuple[int, str], TensorEntry]
    last_norm: TensorEntry
    head: TensorEntry


def _find_parts(path: Path, start: int) -> _Parts:
    base = read_base_header(path)
    try:
        header = read_header(path)
    except (HeaderError, OSError) as error:
        raise NotComputedHereError(str(error)) from error
    family, blocks = FAMILIES[base.info.architecture], range(start, base.info.block_count)
    _check_parts(header, family, blocks)
    entries = {entry.name: entry for entry in header.tensors}
    matrices, norms = (
        {(block, name): entries[f"blk.{block}.{name}.weight"] for block in blocks for name in names}
        for names in (MATRICES, family.norms)
    )
    head = head_entry(entries)
    assert head is not None, "a base model's header names its embeddings"
    return _Parts(base, header, family, blocks, matrices, norms, entries["output_norm.weight"], head)


def _check_parts(header: GgufHeader, family: Family, blocks: range) -> None:
    """Exactly the tensors that are computed, and no kind of rotary embedding or scale that is not."""
    known = {f"{name}.weight" for name in (*MATRICES, *family.norms)}
    wanted = {f"blk.{block}.{name}" for block in blocks for name in known} | {"output_norm.weight"}
    beyond, below = {_STRETCH, *HEADS}, tuple(f"blk.{block}." for block in range(blocks.start))
    above = {entry.name for entry in header.tensors if not entry.name.startswith(below)}
    if above - beyond != wanted:
        name = min((above - beyond) ^ wanted)
        raise NotComputedHereError(f"it {'lacks' if name in wanted else 'has'} `{name}`")
    architecture = header.text("general.architecture")
    scaling = header.text(f"{architecture}.rope.scaling.type") or "none"
    if scaling not in ("none", "linear"):
        raise NotComputedHereError(f"its rotary embedding is scaled by `{scaling}`")
    for name in ("attention.scale", "logit_scale", "residual_scale", "attention.clamp_kqv"):
        if header.metadata.get(f"{architecture}.{name}"):
            raise NotComputedHereError(f"it has `{architecture}.{name}`")


def _check_memory(floats: int) -> None:
    needed, free = 4 * floats, available_memory()
    if free is not None and needed > SHARE * free:
        raise NotComputedHereError(
            f"its upper blocks take {needed >> 20:,} MiB, {int(SHARE * free) >> 20:,} can be had"
        )


def _shape(parts: _Parts) -> UpperShape:
    base, header, family = parts.base, parts.header, parts.family
    prefix = base.info.architecture

    def number(name: str, default: float) -> float:
        value = header.metadata.get(f"{prefix}.{name}", default)
        return float(value) if isinstance(value, int | float) else default

    width = base.key_length
    exponents = np.arange(0, width, 2, dtype=np.float64) / width
    frequencies = number("rope.freq_base", 10000.0) ** -exponents
    if header.text(f"{prefix}.rope.scaling.type") == "linear":
        frequencies /= number("rope.scaling.factor", 1.0) or 1.0
    stretch = next((entry for entry in header.tensors if entry.name == _STRETCH), None)
    if stretch is not None:
        if stretch.shape != frequencies.shape:
            raise HeaderError(f"`{_STRETCH}` has shape {list(stretch.shape)}, wanted {list(frequencies.shape)}")
        frequencies /= read_rows(header.path, stretch)[0]
    return UpperShape(
        family,
        parts.blocks.start,
        parts.blocks.stop,
        base.info.head_count_kv,
        width,
        number("attention.layer_norm_rms_epsilon", 1e-5),
        frequencies.astype(np.float32),
        number("attn_logit_softcapping", family.caps[0]),
        number("final_logit_softcapping", family.caps[1]),
        int(number("attention.sliding_window", family.window)) if family.window else 0,
    )
