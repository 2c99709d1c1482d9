"""The Doc-to-LoRA hypernetwork: a Perceiver over a chunk's activations, residual MLPs and a head per block.

Written from a prose description of Doc-to-LoRA (Charakorn et al. 2026); parameter names and shapes are those of its
published checkpoints, so that their state dicts load strictly (a leading `_orig_mod.` taken off). Plain matrix products
with an additive mask: exports to ONNX with any number of chunks and tokens.

Knows neither checkpoint files nor training; which activations are its features is its caller's business (see
`PerceiverConfig.last_tap_normed`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from localhyper.errors import ConfigError

RMS_EPSILON = 1e-6
MASKED = -1e9  # far below any score, and finite: a row of -inf would make NaN


@dataclass(frozen=True)
class PerceiverConfig:
    """Sizes of a Doc-to-LoRA hypernetwork; defaults fit SmolLM2-135M at a width that a laptop can train.

    Attributes:
        hidden: Width h of the features.
        taps: Taps read. One for each block if `layer_to_layer`, else exactly one.
        blocks: Adapted blocks, ascending; their count is L.
        modules: Adapted modules in sorted order, by their published names; their count is M.
        inputs: Input width of each module.
        outputs: Output width of each module.
        layer_to_layer: The features of tap i make the adapter of block i, all with the same Perceiver.
        rank: LoRA rank r of one chunk.
        latent: Latent width d.
        queries: Latent queries of the encoder.
        cross_blocks: Cross-attention blocks of the encoder.
        self_blocks: Self-attention blocks after each of them.
        shared_weights: Cross blocks from the second on are one block, self blocks those of the first group.
        pre_head: Residual MLPs before the head.
        per_layer_processing: Each base block has its own weights in them.
        use_bias: There is a document-independent adapter.
        heads: Query heads; 16 in every published checkpoint, whatever d is.
        kv_heads: Key and value heads; likewise 4.
        head_size: Width of a head; likewise 128.
        last_tap_normed: `PerceiverHypernetwork` norms its last tap with the base model's final RMS norm, as the
            published context encoders do; False feeds the residual stream as it is.
        max_tokens: Most tokens of a chunk in training; the hypernetwork itself has no limit.
    """

    hidden: int = 576
    taps: tuple[int, ...] = (6, 10, 14, 18, 22, 26)
    blocks: tuple[int, ...] = (6, 10, 14, 18, 22, 26)
    modules: tuple[str, ...] = ("down_proj",)
    inputs: tuple[int, ...] = (1536,)
    outputs: tuple[int, ...] = (576,)
    layer_to_layer: bool = True
    rank: int = 8
    latent: int = 128
    queries: int = 8
    cross_blocks: int = 3
    self_blocks: int = 0
    shared_weights: bool = False
    pre_head: int = 1
    per_layer_processing: bool = True
    use_bias: bool = True
    heads: int = 16
    kv_heads: int = 4
    head_size: int = 128
    last_tap_normed: bool = True
    max_tokens: int = 256

    def __post_init__(self) -> None:
        """Sizes must fit each other."""
        wanted = len(self.blocks) if self.layer_to_layer else 1
        if len(self.taps) != wanted:
            kind = "layer-to-layer" if self.layer_to_layer else "single-tap"
            got = f"{len(self.taps)} for {len(self.blocks)} blocks"
            raise ConfigError(f"a {kind} perceiver needs {wanted} taps, got {got}")
        if not self.modules or list(self.modules) != sorted(set(self.modules)):
            raise ConfigError(f"modules must be distinct and in alphabetical order, got {self.modules}")
        if len(self.inputs) != len(self.modules) or len(self.outputs) != len(self.modules):
            raise ConfigError(f"{len(self.modules)} modules need as many inputs and outputs")
        if self.heads % self.kv_heads:
            raise ConfigError(f"heads must be a multiple of kv_heads, got {self.heads} and {self.kv_heads}")

    @property
    def scaling(self) -> float:
        """Factor of B^T A in the published convention: lora_alpha = 2 r^1.5, not divided by the rank."""
        return float(2 * self.rank**1.5)

    def as_dict(self) -> dict[str, object]:
        """The configuration as JSON-ready values."""
        return asdict(self)


class RmsNorm(nn.Module):
    """w * x / sqrt(mean(x^2) + 1e-6) over the last axis."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] to [..., width]."""
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + RMS_EPSILON))


class GatedMlp(nn.Module):
    """(silu(x Wg^T) * (x Wu^T)) Wd^T, no biases."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(inputs, 4 * inputs, bias=False)
        self.up_proj = nn.Linear(inputs, 4 * inputs, bias=False)
        self.down_proj = nn.Linear(4 * inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] to [..., outputs]."""
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class GroupedAttention(nn.Module):
    """Attention of latents to a context (keys and values from the context only), query heads in groups a KV head."""

    def __init__(self, config: PerceiverConfig) -> None:
        super().__init__()
        self.kv_heads, self.group, self.size = config.kv_heads, config.heads // config.kv_heads, config.head_size
        width = config.heads * config.head_size
        self.q_proj = nn.Linear(config.latent, width, bias=False)
        self.k_proj = nn.Linear(config.latent, config.kv_heads * config.head_size, bias=False)
        self.v_proj = nn.Linear(config.latent, config.kv_heads * config.head_size, bias=False)
        self.o_proj = nn.Linear(width, config.latent, bias=False)

    def forward(self, z: Tensor, context: Tensor, bias: Tensor | None) -> Tensor:
        """Latents z [batch, n, d], context [batch, tokens, d], bias [batch, 1, 1, tokens] added to the scores."""
        count = z.shape[1]
        # Query heads of one KV head lie behind each other, so that keys and values need no copies.
        q = self.q_proj(z).unflatten(-1, (self.kv_heads, self.group, self.size)).permute(0, 2, 3, 1, 4).flatten(2, 3)
        k = self.k_proj(context).unflatten(-1, (self.kv_heads, self.size)).transpose(1, 2)
        v = self.v_proj(context).unflatten(-1, (self.kv_heads, self.size)).transpose(1, 2)
        scores = q @ k.transpose(-1, -2) * self.size**-0.5
        if bias is not None:
            scores = scores + bias
        mixed = (scores.softmax(-1) @ v).unflatten(2, (self.group, count)).permute(0, 3, 1, 2, 4).flatten(2)
        out: Tensor = self.o_proj(mixed)
        return out


class PerceiverBlock(nn.Module):
    """Attention and gated MLP, a norm before and after each; cross-attention or self-attention."""

    def __init__(self, config: PerceiverConfig, *, cross: bool) -> None:
        super().__init__()
        width = config.latent
        self.input_latents_layernorm = RmsNorm(width)
        self.input_context_layernorm = RmsNorm(width) if cross else None
        self.self_attn = GroupedAttention(config)
        self.post_attention_layernorm = RmsNorm(width)
        self.pre_ff_layernorm = RmsNorm(width)
        self.mlp = GatedMlp(width, width)
        self.post_ff_layernorm = RmsNorm(width)

    def forward(self, z: Tensor, context: Tensor, bias: Tensor | None) -> Tensor:
        """Latents z [batch, n, d] and context [batch, tokens, d] (unused in self-attention) to [batch, n, d]."""
        queries = self.input_latents_layernorm(z)
        if self.input_context_layernorm is None:
            attended = self.self_attn(queries, queries, None)
        else:
            attended = self.self_attn(queries, self.input_context_layernorm(context), bias)
        z = z + self.post_attention_layernorm(attended)
        out: Tensor = z + self.post_ff_layernorm(self.mlp(self.pre_ff_layernorm(z)))
        return out


class LatentStack(nn.Module):
    """Learned queries through Perceiver blocks and a final norm: the encoder, and the decoder likewise."""

    def __init__(self, queries: int, width: int, blocks: Sequence[PerceiverBlock]) -> None:
        super().__init__()
        self.latents_q = nn.Parameter(torch.randn(queries, width))
        self.layers = nn.ModuleList(blocks)
        self.layernorm = RmsNorm(width)

    def forward(self, context: Tensor, bias: Tensor | None) -> Tensor:
        """Context [batch, tokens, d] to [batch, queries, d]."""
        z = self.latents_q.expand(context.shape[0], -1, -1)
        for layer in self.layers:
            z = layer(z, context, bias)
        out: Tensor = self.layernorm(z)
        return out


def encoder_blocks(config: PerceiverConfig) -> list[PerceiverBlock]:
    """`cross_blocks` times [one cross block, `self_blocks` self blocks]; shared ones occur several times."""
    blocks: list[PerceiverBlock] = []
    group = 1 + config.self_blocks
    for _ in range(config.cross_blocks):
        for place in range(group):
            first = group if place == 0 else place  # the block that stands here when weights are shared
            shared = config.shared_weights and len(blocks) > first
            blocks.append(blocks[first] if shared else PerceiverBlock(config, cross=place == 0))
    return blocks


class Perceiver(nn.Module):
    """Features of one sequence to its output queries."""

    def __init__(self, config: PerceiverConfig) -> None:
        super().__init__()
        outputs = len(config.modules) * config.rank * (1 if config.layer_to_layer else len(config.blocks))
        self.modality_projection = GatedMlp(config.hidden, config.latent)
        self.encoder = LatentStack(config.queries, config.latent, encoder_blocks(config))
        self.decoder = LatentStack(outputs, config.latent, [PerceiverBlock(config, cross=True)])

    def forward(self, features: Tensor, bias: Tensor) -> Tensor:
        """Features [batch, tokens, h], bias [batch, 1, 1, tokens] to [batch, output queries, d]."""
        out: Tensor = self.decoder(self.encoder(self.modality_projection(features), bias), None)
        return out


class Aggregator(nn.Module):
    """Holds the Perceiver under its published name."""

    def __init__(self, config: PerceiverConfig) -> None:
        super().__init__()
        self.perceiver = Perceiver(config)
        self.shape = (len(config.blocks), len(config.modules), config.rank, config.latent)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Features [chunks, taps, tokens, h], mask [chunks, tokens] to lora_emb [chunks, L, M, r, d]."""
        bias = ((1 - mask.to(features.dtype)) * MASKED)[:, None].expand(-1, features.shape[1], -1)
        # With one tap the outputs run over (L, M, r); with one tap a block, sequences over (chunk, L): the same order.
        z: Tensor = self.perceiver(features.flatten(0, 1), bias.flatten(0, 1)[:, None, None])
        return z.reshape(-1, *self.shape)


class LayerwiseLinear(nn.Module):
    """One linear layer per base block, on [chunks, L, M, r, inputs]."""

    def __init__(self, blocks: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(blocks, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(1, blocks, 1, 1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """[chunks, L, M, r, inputs] to [chunks, L, M, r, outputs]."""
        return x @ self.weight[:, None] + self.bias


class LayerwiseMlp(nn.Module):
    """Residual MLP between layer norms, with own linear layers for each base block."""

    def __init__(self, blocks: int, d: int) -> None:
        super().__init__()
        into, out = LayerwiseLinear(blocks, d, 4 * d), LayerwiseLinear(blocks, 4 * d, d)
        self.layers = nn.Sequential(nn.LayerNorm(d), into, nn.SiLU(), out, nn.LayerNorm(d))

    def forward(self, x: Tensor) -> Tensor:
        """[chunks, L, M, r, d] to the same."""
        out: Tensor = x + self.layers(x)
        return out


class SharedMlp(nn.Module):
    """The same with one MLP for all base blocks. Places 1 and 4 held dropout in training and are empty."""

    def __init__(self, d: int) -> None:
        super().__init__()
        into, out = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)
        parts = (nn.LayerNorm(d), nn.Identity(), into, nn.SiLU(), nn.Identity(), out, nn.LayerNorm(d))
        self.mlp = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        """[..., d] to the same."""
        out: Tensor = x + self.mlp(x)
        return out


class Head(nn.Module):
    """One matrix without bias per base block and module; stored without the module axis if there is one module."""

    def __init__(self, blocks: int, modules: int, inputs: int, outputs: int) -> None:
        super().__init__()
        shape = (blocks, inputs, outputs) if modules == 1 else (blocks, modules, inputs, outputs)
        self.weight = nn.Parameter(torch.randn(shape) * inputs**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """[chunks, L, M, r, d] to [chunks, L, M, r, outputs]."""
        return x @ (self.weight[:, None] if self.weight.ndim == 3 else self.weight)


@dataclass(frozen=True)
class ModuleLora:
    """LoRA of one module in the published layout, rank as the row index on both sides.

    Attributes:
        a: [chunks or documents, L, rank, inputs].
        b: [chunks or documents, L, rank, outputs], scaling not applied.
    """

    a: Tensor
    b: Tensor


class DocToLora(nn.Module):
    """The published hypernetwork: features of chunks to LoRA matrices."""

    def __init__(self, config: PerceiverConfig) -> None:
        """Random weights as training starts: generated B, its bias and so the whole update are zero."""
        super().__init__()
        self.config = config
        blocks, rank, d = len(config.blocks), config.rank, config.latent
        sizes = list(zip(config.modules, config.inputs, config.outputs, strict=True))
        self.aggregator = Aggregator(config)
        mlps = (
            LayerwiseMlp(blocks, d) if config.per_layer_processing else SharedMlp(d) for _ in range(config.pre_head)
        )
        self.layers = nn.ModuleList(mlps)
        self.head = Head(blocks, len(sizes), d, max(into + out for _, into, out in sizes))
        self.scaler_A = nn.ParameterDict({m: nn.Parameter(torch.ones(1, blocks, rank, 1)) for m in config.modules})
        self.scaler_B = nn.ParameterDict({m: nn.Parameter(torch.zeros(1, blocks, rank, 1)) for m in config.modules})
        if config.use_bias:
            a = {m: nn.Parameter(torch.randn(blocks, rank, into) * into**-0.5) for m, into, _ in sizes}
            b = {m: nn.Parameter(torch.zeros(blocks, rank, out)) for m, _, out in sizes}
            self.bias_A, self.bias_B = nn.ParameterDict(a), nn.ParameterDict(b)

    def forward(self, features: Tensor, mask: Tensor) -> dict[str, ModuleLora]:
        """LoRA matrices of each chunk, before bias and combination.

        Args:
            features: float32 [chunks, taps, tokens, h], finite also where masked; [chunks, tokens, h] if one tap.
            mask: [chunks, tokens], 1 on tokens of the chunk (at least one), 0 on padding.
        """
        return self.emit(self.aggregator(features[:, None] if features.ndim == 3 else features, mask))

    def emit(self, x: Tensor) -> dict[str, ModuleLora]:
        """LoRA matrices from what the aggregator made of the chunks, lora_emb [chunks, L, M, r, d]."""
        for layer in self.layers:
            x = layer(x)
        flat = self.head(x / x.square().sum(-1, keepdim=True).sqrt())
        made = {}
        sizes = zip(self.config.modules, self.config.inputs, self.config.outputs, strict=True)
        for index, (name, into, out) in enumerate(sizes):
            rows = flat[:, :, index]
            a = rows[..., :into] * self.scaler_A[name]
            made[name] = ModuleLora(a, rows[..., into : into + out] * self.scaler_B[name])
        return made

    def combine(
        self,
        generated: Mapping[str, ModuleLora],
        chunks: Sequence[int],
        *,
        chunk_gains: Tensor | None = None,
        bias_gain: float = 1.0,
        gain: float = 1.0,
    ) -> dict[str, ModuleLora]:
        """Adapters of documents: ranks of their chunks one after another, then one bias, zeros up to the largest rank.

        Args:
            generated: What `forward` gave for the chunks of all documents, document after document.
            chunks: Number of chunks of each document.
            chunk_gains: [all chunks], multiplies generated A only, so its effect is linear.
            bias_gain: Multiplies both sides of the bias: quadratic.
            gain: Multiplies both generated sides: quadratic.

        Returns:
            a [documents, L, (most chunks + 1) * r, inputs] and b likewise, a module.
        """
        out = {}
        for name, lora in generated.items():
            a = lora.a * gain if chunk_gains is None else lora.a * gain * chunk_gains[:, None, None, None]
            bias_a = self.bias_A[name] * bias_gain if self.config.use_bias else None
            bias_b = self.bias_B[name] * bias_gain if self.config.use_bias else None
            out[name] = ModuleLora(_stack_ranks(a, chunks, bias_a), _stack_ranks(lora.b * gain, chunks, bias_b))
        return out


def _stack_ranks(rows: Tensor, chunks: Sequence[int], bias: Tensor | None) -> Tensor:
    """[all chunks, L, r, n] and bias [L, r, n] to [documents, L, (most chunks + 1) * r, n]."""
    rank, documents = (max(chunks) + 1) * rows.shape[2], []
    for part in torch.split(rows, list(chunks)):
        joined = part.transpose(0, 1).flatten(1, 2)
        joined = joined if bias is None else torch.cat((joined, bias), 1)
        documents.append(F.pad(joined, (0, 0, 0, rank - joined.shape[1])))
    return torch.stack(documents)


class PerceiverHypernetwork(nn.Module):
    """Doc-to-LoRA with the interface of `AssociationHypernetwork`: adapts `ffn_down`, scaling folded into b.

    The published hypernetwork reads hidden states of which the last went through the base model's final RMS norm. Given
    raw taps, this class norms the last one itself with `final_norm`, unless the configuration says otherwise.
    """

    final_norm: Tensor

    def __init__(self, config: PerceiverConfig, final_norm: Tensor | None = None, norm_epsilon: float = 1e-5) -> None:
        """`final_norm` [hidden] is the base model's; it may be None when a state dict that carries it is loaded.

        Raises:
            ConfigError: The configuration adapts anything but the one module `down_proj`.
        """
        super().__init__()
        if config.modules != ("down_proj",):
            raise ConfigError(f"training adapts the module 'down_proj' only, got {config.modules}")
        self.config, self.norm_epsilon = config, norm_epsilon
        weight = torch.ones(config.hidden) if final_norm is None else final_norm.detach().float().clone()
        self.register_buffer("final_norm", weight)
        self.net = DocToLora(config)

    def features(self, hidden: Tensor) -> Tensor:
        """Taps [batch, taps, tokens, hidden] with the last one normed, if the configuration says so."""
        if not self.config.last_tap_normed:
            return hidden
        last = hidden[:, -1:]
        scale = torch.rsqrt(last.square().mean(-1, keepdim=True) + self.norm_epsilon)
        return torch.cat((hidden[:, :-1], last * scale * self.final_norm), 1)

    def forward(self, hidden: Tensor, ffn: Tensor, mask: Tensor, chunks: Tensor) -> tuple[Tensor, Tensor]:
        """Chunks to LoRA matrices, without the bias adapter.

        Args:
            hidden: [batch, taps, tokens, hidden], raw residual streams.
            ffn: Not read; there because the association hypernetwork reads it.
            mask: [batch, tokens], 1 for tokens of the chunk, 0 for padding.
            chunks: Not read either.

        Returns:
            a [batch, blocks, rank, ffn] and b [batch, blocks, hidden, rank].
        """
        lora = self.net(self.features(hidden), mask)["down_proj"]
        return lora.a, lora.b.transpose(2, 3) * self.config.scaling

    def with_bias(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Append the document-independent adapter along the rank axis."""
        if not self.config.use_bias:
            return a, b
        bias_b = self.net.bias_B["down_proj"].transpose(1, 2) * self.config.scaling
        bias_a = self.net.bias_A["down_proj"].expand(a.shape[0], -1, -1, -1)
        return torch.cat((a, bias_a), 2), torch.cat((b, bias_b.expand(a.shape[0], -1, -1, -1)), 3)
