"""The base model in PyTorch, read from the same quantized GGUF file that llama.cpp runs.

Weights are dequantized, so training sees what the quantized model will do (up to llama.cpp's rounding of
activations). Llama-type blocks in llama.cpp's own weight layout: rotary pairs are interleaved, q and k need no
permutation, and neither does an adapter of them that was trained here. Knows nothing of hypernetworks; an adapter is a
pair of matrices per block and module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from localhyper.errors import ModelError
from localhyper.export.base_file import open_base


@dataclass(frozen=True)
class BaseShape:
    """Hyperparameters of a llama-type base model."""

    blocks: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    rope_base: float
    norm_epsilon: float
    vocab: int

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads

    @property
    def keys(self) -> int:
        """Width of all keys, and of all values."""
        return self.kv_heads * self.head_size


@dataclass(frozen=True)
class BlockLora:
    """LoRA on one module of one block for a batch of documents (or tasks).

    Attributes:
        a: [documents, rank, inputs]; one document stands for all rows.
        b: [documents, outputs, rank], scaling folded in, rows in llama.cpp's order.
        shared: [outputs, inputs], a dense update that all documents get beside their own; None = nothing.
    """

    a: Tensor
    b: Tensor
    shared: Tensor | None = None


# What adapts a block: LoRA by the module's GGUF name, or of `ffn_down` alone.
BlockAdapter = BlockLora | Mapping[str, BlockLora]
NONE: Mapping[str, BlockLora] = {}
# Number of a block, queries [batch, heads, tokens, head_size], keys and values [batch, kv_heads, …], to what queries
# find, of their shape.
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Captured:
    """Activations of a batch.

    Attributes:
        taps: Block l to what enters it, [batch, tokens, hidden].
        ffn: Block l to what enters its `ffn_down`, [batch, tokens, ffn].
    """

    taps: Mapping[int, Tensor]
    ffn: Mapping[int, Tensor]


def _scalar(reader: gguf.GGUFReader, key: str) -> float:
    field = reader.fields.get(key)
    if field is None:
        raise ModelError(f"the base model has no {key!r} in its header", "only llama-type GGUF files can be trained on")
    return float(field.contents())


def read_shape(reader: gguf.GGUFReader) -> BaseShape:
    """Hyperparameters from the header.

    Raises:
        ModelError: Not a llama-type model.
    """
    architecture = reader.fields["general.architecture"].contents()
    if architecture != "llama":
        raise ModelError(f"training knows the architecture 'llama', got {architecture!r}")
    names = {tensor.name: tensor for tensor in reader.tensors}
    return BaseShape(
        blocks=int(_scalar(reader, "llama.block_count")),
        hidden=int(_scalar(reader, "llama.embedding_length")),
        ffn=int(_scalar(reader, "llama.feed_forward_length")),
        heads=int(_scalar(reader, "llama.attention.head_count")),
        kv_heads=int(_scalar(reader, "llama.attention.head_count_kv")),
        rope_base=_scalar(reader, "llama.rope.freq_base"),
        norm_epsilon=_scalar(reader, "llama.attention.layer_norm_rms_epsilon"),
        vocab=int(names["token_embd.weight"].shape[1]),
    )


class TorchBase(nn.Module):
    """A frozen llama-type model whose blocks can be run from any block to any block."""

    cos: Tensor
    sin: Tensor

    def __init__(self, path: Path, dtype: torch.dtype = torch.float32, max_tokens: int = 2048) -> None:
        """Load and dequantize `path`; `max_tokens` bounds the rotary table.

        Raises:
            ModelError: Not a GGUF file, or not a llama-type model.
        """
        super().__init__()
        reader = open_base(path)
        self.shape = read_shape(reader)
        for tensor in reader.tensors:
            array = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
            value = torch.from_numpy(array).to(dtype)
            self.register_buffer(tensor.name.replace(".", "_"), value, persistent=False)
        if not hasattr(self, "output_weight"):
            self.register_buffer("output_weight", self.get_buffer("token_embd_weight"), persistent=False)
        size = self.shape.head_size
        inverse = self.shape.rope_base ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
        angles = torch.outer(torch.arange(max_tokens, dtype=torch.float64), inverse)
        self.register_buffer("cos", angles.cos().to(dtype), persistent=False)
        self.register_buffer("sin", angles.sin().to(dtype), persistent=False)

    def weight(self, block: int, name: str) -> Tensor:
        """A tensor of a block by its GGUF name, e.g. `ffn_down`."""
        return self.get_buffer(f"blk_{block}_{name}_weight")

    def embed(self, ids: Tensor) -> Tensor:
        """Token embeddings [batch, tokens, hidden] of ids [batch, tokens]."""
        return F.embedding(ids, self.get_buffer("token_embd_weight"))

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """RMS norm over the last axis."""
        return F.rms_norm(x, (x.shape[-1],), weight, self.shape.norm_epsilon)

    def _rotate(self, x: Tensor, places: Tensor | None = None) -> Tensor:
        """Rotary embedding on interleaved pairs; x [batch, heads, tokens, head_size], places [batch, tokens]."""
        even, odd = x[..., 0::2], x[..., 1::2]
        if places is None:
            cos, sin = self.cos[: x.shape[2]], self.sin[: x.shape[2]]
        else:
            cos, sin = self.cos[places][:, None], self.sin[places][:, None]
        return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)

    def _linear(self, block: int, name: str, x: Tensor, lora: Mapping[str, BlockLora]) -> Tensor:
        """W x of a module, and what its LoRA adds, for x [rows, tokens, inputs]."""
        out = F.linear(x, self.weight(block, name))
        return out + _apply_lora(lora[name], x) if name in lora else out

    def _attention(
        self, block: int, x: Tensor, lora: Mapping[str, BlockLora], attend: Attend | None, places: Tensor | None
    ) -> Tensor:
        batch, tokens, _ = x.shape

        def heads(name: str, count: int) -> Tensor:
            return self._linear(block, name, x, lora).view(batch, tokens, count, -1).transpose(1, 2)

        q, k = heads("attn_q", self.shape.heads), heads("attn_k", self.shape.kv_heads)
        q, k, v = self._rotate(q, places), self._rotate(k, places), heads("attn_v", self.shape.kv_heads)
        mixed = attend(block, q, k, v) if attend else find(q, k, v)
        return self._linear(block, "attn_output", mixed.transpose(1, 2).flatten(2), lora)

    def ffn_input(self, block: int, x: Tensor, lora: Mapping[str, BlockLora] = NONE) -> Tensor:
        """What enters `ffn_down` of a block, [batch, tokens, ffn], given the stream after attention."""
        h = self.norm(x, self.weight(block, "ffn_norm"))
        return F.silu(self._linear(block, "ffn_gate", h, lora)) * self._linear(block, "ffn_up", h, lora)

    def run(
        self,
        x: Tensor,
        start: int,
        end: int,
        *,
        lora: Mapping[int, BlockAdapter] | None = None,
        taps: Sequence[int] = (),
        ffn_blocks: Sequence[int] = (),
        attend: Attend | None = None,
        places: Tensor | None = None,
    ) -> tuple[Tensor, Captured]:
        """Run blocks start … end-1 on the residual stream x [batch, tokens, hidden], causal, right-padded.

        With `lora`, the batch is documents x rows of one document in that order. `attend` stands in for attention among
        the tokens of x, `places` [batch, tokens] are their positions; None = 0, 1, 2, …
        """
        given = {block: _by_module(adapter) for block, adapter in (lora or {}).items()}
        kept: dict[int, Tensor] = {}
        inner: dict[int, Tensor] = {}
        for block in range(start, end):
            if block in taps:
                kept[block] = x
            of_block = given.get(block, NONE)
            h = self.norm(x, self.weight(block, "attn_norm"))
            x = x + self._attention(block, h, of_block, attend, places)
            m = self.ffn_input(block, x, of_block)
            if block in ffn_blocks:
                inner[block] = m
            x = x + self._linear(block, "ffn_down", m, of_block)
        if end in taps:
            kept[end] = x
        return x, Captured(kept, inner)

    def logits(self, x: Tensor) -> Tensor:
        """Logits [..., vocab] from the stream after the last block."""
        return F.linear(self.norm(x, self.get_buffer("output_norm_weight")), self.get_buffer("output_weight"))


def find(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None) -> Tensor:
    """What queries find among keys and values, of the queries' shape.

    Args:
        q: [batch, heads, tokens, head_size].
        k: [batch, kv_heads, tokens, head_size].
        v: Likewise.
        seen: Which tokens (last axis) each token sees, bool [batch, 1, tokens, tokens]; None = itself and those before.
    """
    repeat = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeat, dim=1), v.repeat_interleave(repeat, dim=1)
    if q.device.type != "cpu" or not q.requires_grad:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, is_causal=seen is None)
    # On a CPU the fused kernel's backward pass takes five times as long as that of the products it stands for.
    if seen is None:
        seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril()
    hidden = q.new_zeros(seen.shape).masked_fill_(~seen, -torch.inf)
    weights = ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2) + hidden).softmax(-1)
    return torch.matmul(weights, v)


def _by_module(adapter: BlockAdapter) -> Mapping[str, BlockLora]:
    return {"ffn_down": adapter} if isinstance(adapter, BlockLora) else adapter


def _apply_lora(lora: BlockLora, m: Tensor) -> Tensor:
    """B @ a @ m for rows [documents * rows, tokens, inputs]."""
    documents = lora.a.shape[0]
    flat = m.reshape(documents, -1, m.shape[-1])
    low = torch.bmm(flat, lora.a.to(m.dtype).transpose(1, 2))
    out = torch.bmm(low, lora.b.to(m.dtype).transpose(1, 2)).view(*m.shape[:-1], -1)
    return out if lora.shared is None else out + F.linear(m, lora.shared.to(m.dtype))
