"""The association hypernetwork: one whitened key tied to one next-token value per document token, plus fact slots.

Every token t of a chunk writes one rank-1 association into the `ffn_down` of several blocks: "an input like the one
seen at t" → "the token that came after t". Its key is the block's own `ffn_down` input, whitened as in ROME (Meng et
al. 2022, arXiv 2202.05262), so it is specific before any training; what is learnt is *which* tokens to write (gates)
and how a token's embedding becomes a direction of the residual stream (value maps). Beside them a few slots, learnt
latents that attend to the chunk (Perceiver, Jaegle et al. 2021, arXiv 2103.03206), say the chunk's salient words where
no key matches. A context-free bias adapter (Doc-to-LoRA) takes up what does not depend on the document.

A document's adapter is the sum over its chunks, so what one chunk writes is noise to all others: the hypernetwork is
told how many chunks there are, and gates tokens and slots by it (write all of one page, but only the rare of a book).

One readable file; exports to ONNX as it is. Knows no training and no base model beyond its sizes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from localhyper.export.metric import LowRankMoment


@dataclass(frozen=True)
class AssociationConfig:
    """Sizes of an association hypernetwork.

    Attributes:
        hidden: Width of the base model's residual stream.
        ffn: Width of its `ffn_down` inputs.
        taps: Taps read; the first must be 0 (token embeddings), the rest feed the encoder.
        blocks: Adapted blocks, ascending.
        gains: Initial gain of each block's values (late blocks speak to the logits directly and bear more).
        metric_rank: Directions of the input second moment kept per block.
        width: Width of the chunk encoder.
        encoder_layers: Its bidirectional layers.
        heads: Its attention heads.
        slots: Fact slots; 0 = none.
        bias_rank: Rank of the context-free bias adapter; 0 = none.
        max_tokens: Most tokens of a chunk.
        whitening: Tokens that the generic moment counts for when keys are whitened by the document's own inputs
            (`localhyper.export.whitening`); 0 = by the generic moment alone.
        salience: Width of what tells by a token's encoding how little it may write into long documents; 0 = the
            number of chunks alone tells.
    """

    hidden: int = 576
    ffn: int = 1536
    taps: tuple[int, ...] = (0, 12)
    blocks: tuple[int, ...] = (6, 10, 14, 18, 22, 26)
    gains: tuple[float, ...] = (0.5, 0.5, 0.5, 1.0, 8.0, 8.0)
    metric_rank: int = 384
    width: int = 256
    encoder_layers: int = 2
    heads: int = 4
    slots: int = 16
    bias_rank: int = 8
    max_tokens: int = 256
    whitening: float = 2000.0
    salience: int = 0

    def as_dict(self) -> dict[str, object]:
        """The configuration as JSON-ready values."""
        return asdict(self)


def next_token(embeddings: Tensor) -> Tensor:
    """Embedding of the token after each token, zeros after the last; [batch, tokens, hidden]."""
    return F.pad(embeddings[:, 1:], (0, 0, 0, 1))


def chunk_feature(chunks: Tensor) -> Tensor:
    """Number of a document's chunks [batch] as a feature: 0 for one, 1 for sixteen, 2 for 256."""
    return chunks.clamp_min(1).log2() / 4


class Mlp(nn.Module):
    """Pre-norm two-layer perceptron with a residual path."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] to [..., width]."""
        out: Tensor = x + self.down(F.gelu(self.up(self.norm(x))))
        return out


class Attention(nn.Module):
    """Pre-norm multi-head attention from queries to a context, with a residual path."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_norm = nn.LayerNorm(width)
        self.context_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def _split(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        return x.view(batch, tokens, self.heads, width // self.heads).transpose(1, 2)

    def forward(self, x: Tensor, context: Tensor, bias: Tensor) -> Tensor:
        """X [batch, n, width], context [batch, tokens, width], bias [batch, 1, 1 or n, tokens] added to the scores."""
        c = self.context_norm(context)
        q, k, v = self._split(self.query(self.query_norm(x))), self._split(self.key(c)), self._split(self.value(c))
        scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5) + bias
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        out: Tensor = x + self.out(mixed)
        return out


class ChunkEncoder(nn.Module):
    """Bidirectional encoder over [activations, embedding, next embedding] of a chunk."""

    def __init__(self, config: AssociationConfig) -> None:
        super().__init__()
        inputs = (len(config.taps) + 1) * config.hidden
        self.project = nn.Linear(inputs, config.width)
        self.positions = nn.Parameter(torch.zeros(config.max_tokens, config.width))
        self.attentions = nn.ModuleList(Attention(config.width, config.heads) for _ in range(config.encoder_layers))
        self.mlps = nn.ModuleList(Mlp(config.width) for _ in range(config.encoder_layers))
        self.norm = nn.LayerNorm(config.width)
        self.length = nn.Parameter(torch.zeros(config.width))

    def forward(self, hidden: Tensor, following: Tensor, bias: Tensor, length: Tensor) -> Tensor:
        """Chunks and the feature of their documents' lengths to what the encoder makes of each token.

        Args:
            hidden: [batch, taps, tokens, hidden].
            following: Embeddings of the next tokens, [batch, tokens, hidden].
            bias: Added to attention scores, [batch, 1, 1, tokens].
            length: `chunk_feature`, [batch].

        Returns:
            [batch, tokens, width].
        """
        parts = [*hidden.unbind(1), following]
        normed = [F.layer_norm(part, part.shape[-1:]) for part in parts]
        x = self.project(torch.cat(normed, -1)) + self.positions[: hidden.shape[2]]
        x = x + length[:, None, None] * self.length
        for attention, mlp in zip(self.attentions, self.mlps, strict=True):
            x = mlp(attention(x, x, bias))
        out: Tensor = self.norm(x)
        return out


class Salience(nn.Module):
    """How little a token or slot may write into a long document, by what it is.

    Nothing of a document of one chunk depends on it, so it can be trained after all else, on sums alone.
    """

    def __init__(self, config: AssociationConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.width, config.salience)
        self.down = nn.Linear(config.salience, len(config.blocks))
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, x: Tensor) -> Tensor:
        """What is added to the gates' logits for each unit of `chunk_feature`; [..., width] to [..., blocks]."""
        out: Tensor = self.down(F.gelu(self.up(x)))
        return out


class FactSlots(nn.Module):
    """Latents that attend to the chunk; each yields a pooled token embedding, its key, and a gate.

    The keys of slot i of all chunks are alike, so ungated slots of chunks about something else add up in phase.
    """

    def __init__(self, config: AssociationConfig) -> None:
        super().__init__()
        blocks, width = len(config.blocks), config.width
        self.latents = nn.Parameter(torch.randn(config.slots, width) * 0.02)
        self.attentions = nn.ModuleList(Attention(width, config.heads) for _ in range(2))
        self.mlps = nn.ModuleList(Mlp(width) for _ in range(2))
        self.point_query = nn.Linear(width, width, bias=False)
        self.point_key = nn.Linear(width, width, bias=False)
        self.norm = nn.LayerNorm(width)
        # The key starts at zero: a slot says nothing until it has learnt when to speak.
        self.key_base = nn.Parameter(torch.zeros(blocks, config.slots, config.ffn))
        self.key_maps = nn.ParameterList(nn.Parameter(torch.zeros(config.ffn, width)) for _ in config.blocks)
        self.gate = nn.Linear(width, blocks)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)
        self.length = nn.Parameter(torch.full((blocks,), -6.0))
        self.salience = Salience(config) if config.salience else None

    def forward(self, x: Tensor, embeddings: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What each slot would write with its gate open, and what `gates` are made of.

        Returns:
            Keys [batch, blocks, slots, ffn] in units of the inputs, pooled embeddings [batch, slots, hidden], and what
            a slot has read [batch, slots, width].
        """
        z = self.latents.expand(x.shape[0], -1, -1)
        for attention, mlp in zip(self.attentions, self.mlps, strict=True):
            z = mlp(attention(z, x, bias))
        z = self.norm(z)
        scores = self.point_query(z) @ self.point_key(x).transpose(1, 2) * (x.shape[-1] ** -0.5) + bias[:, 0]
        pooled = scores.softmax(-1) @ embeddings
        keys = torch.stack([self.key_base[i] + z @ m.T for i, m in enumerate(self.key_maps)], 1)
        return keys, pooled, z

    def gates(self, z: Tensor, length: Tensor) -> Tensor:
        """From 0 to 2, [batch, blocks, slots], for what slots have read [batch, slots, width]."""
        opened = 2 * torch.sigmoid(_logits(z, self.gate, self.length, self.salience, length))
        return opened.transpose(1, 2)


def _logits(x: Tensor, gate: nn.Linear, by_length: Tensor, salience: Salience | None, length: Tensor) -> Tensor:
    """Logits of gates, [batch, n, blocks], for x [batch, n, width] and `chunk_feature` [batch]."""
    shift = by_length if salience is None else by_length + salience(x)
    logits: Tensor = gate(x) + length[:, None, None] * shift
    return logits


@dataclass(frozen=True)
class Parts:
    """What chunks would write with all gates open.

    Attributes:
        keys: [batch, blocks, rank, ffn], tokens before slots.
        values: [batch, blocks, rank, hidden].
        tokens: What the encoder made of each token, [batch, tokens, width].
        slots: What each slot has read, [batch, slots, width].
        has_next: [batch, tokens], 1 for tokens that another one of the chunk follows: the others write nothing.
    """

    keys: Tensor
    values: Tensor
    tokens: Tensor
    slots: Tensor
    has_next: Tensor


class AssociationHypernetwork(nn.Module):
    """Activations of a chunk to LoRA matrices of `ffn_down` in several blocks. Rank = tokens + slots."""

    basis: Tensor
    excess: Tensor
    energy: Tensor

    def __init__(self, config: AssociationConfig, moment: LowRankMoment | None = None) -> None:
        """`moment` may be None when a state dict that carries it is loaded afterwards."""
        super().__init__()
        self.config = config
        blocks, hidden = len(config.blocks), config.hidden
        shape = (blocks, config.ffn, config.metric_rank)
        self.register_buffer("basis", moment.basis.clone() if moment else torch.zeros(shape))
        self.register_buffer("excess", moment.excess.clone() if moment else torch.zeros(blocks, config.metric_rank))
        self.register_buffer("energy", moment.energy.clone() if moment else torch.ones(blocks))
        self.encoder = ChunkEncoder(config)
        self.gate = nn.Linear(config.width, blocks)
        self.length = nn.Parameter(torch.full((blocks,), -2.5))
        self.salience = Salience(config) if config.salience else None
        self.gain = nn.Parameter(torch.tensor(config.gains).log())
        self.value_maps = nn.ParameterList(nn.Parameter(torch.zeros(hidden, hidden)) for _ in config.blocks)
        self.slots = FactSlots(config) if config.slots else None
        self.slot_gain = nn.Parameter(torch.tensor(config.gains).log())
        if config.bias_rank:
            self.bias_a = nn.Parameter(torch.randn(blocks, config.bias_rank, config.ffn) * config.ffn**-0.5)
            self.bias_b = nn.Parameter(torch.zeros(blocks, hidden, config.bias_rank))

    def floor(self) -> Tensor:
        """The floor of C per block, [blocks]: C = floor (I + U diag(excess) Uᵀ)."""
        return self.energy / (self.config.ffn + self.excess.sum(-1))

    def moment(self) -> Tensor:
        """C per block, float32 [blocks, ffn, ffn]."""
        directions = (self.basis * self.excess[:, None]) @ self.basis.transpose(1, 2)
        identity = torch.eye(self.config.ffn, device=directions.device)
        return self.floor()[:, None, None] * (identity + directions)

    def whiten(self, m: Tensor) -> Tensor:
        """C⁻¹ m up to a factor per block; m [batch, blocks, n, ffn]."""
        shrink = self.excess / (1 + self.excess)
        return m - ((m @ self.basis) * shrink[:, None]) @ self.basis.transpose(1, 2)

    def spread(self, m: Tensor) -> Tensor:
        """Σ mᵀ C⁻¹ m over inputs [batch, blocks, n, ffn]: [batch, blocks]."""
        shrink = self.excess / (1 + self.excess)
        inner = m.square().sum((2, 3)) - ((m @ self.basis).square() * shrink[:, None]).sum((2, 3))
        return inner / self.floor()

    def token_keys(self, ffn: Tensor) -> Tensor:
        """k_t = C⁻¹ m_t / (m_tᵀ C⁻¹ m_t): the update answers 1 on m_t itself, and next to nothing on usual inputs."""
        whitened = self.whiten(ffn)
        return whitened / (ffn * whitened).sum(-1, keepdim=True).clamp_min(1e-6)

    def values(self, embeddings: Tensor, gain: Tensor) -> Tensor:
        """g_l (I + G_l) LN(e) of embeddings [batch, n, hidden]: [batch, blocks, n, hidden]."""
        normed = F.layer_norm(embeddings, embeddings.shape[-1:])
        mapped = [normed + normed @ value_map.T for value_map in self.value_maps]
        return torch.stack(mapped, 1) * gain.exp()[:, None, None]

    def forward(self, hidden: Tensor, ffn: Tensor, mask: Tensor, chunks: Tensor) -> tuple[Tensor, Tensor]:
        """Chunks to LoRA matrices.

        Args:
            hidden: [batch, taps, tokens, hidden].
            ffn: [batch, blocks, tokens, ffn].
            mask: [batch, tokens], 1 for tokens of the chunk, 0 for padding (right).
            chunks: float32 [batch], chunks of the document that each one belongs to, ≥ 1.

        Returns:
            a [batch, blocks, rank, ffn] and b [batch, blocks, hidden, rank], rank = tokens + slots, without the bias
            adapter. Padding gives columns of zeros in b.
        """
        # `parts` and `gates` are the same in another order. Weights of a shipped bundle are found by this one's nodes.
        bias, following, has_next = self._around(hidden, mask)
        length = chunk_feature(chunks)
        x = self.encoder(hidden, following, bias, length)
        gate = self._token_gates(x, has_next, length)
        a = self.token_keys(ffn)
        b = self.values(following, self.gain) * gate[..., None]
        if self.slots is not None:
            keys, pooled, z = self.slots(x, hidden[:, 0], bias)
            slot_gate = self.slots.gates(z, length)
            a = torch.cat((a, self._slot_keys(keys)), 2)
            b = torch.cat((b, self.values(pooled, self.slot_gain) * slot_gate[..., None]), 2)
        return a, b.transpose(2, 3)

    def parts(self, hidden: Tensor, ffn: Tensor, mask: Tensor, length: Tensor) -> Parts:
        """What chunks would write with all gates open; arguments as of `forward`, `length` being `chunk_feature`."""
        bias, following, has_next = self._around(hidden, mask)
        x = self.encoder(hidden, following, bias, length)
        keys, values = self.token_keys(ffn), self.values(following, self.gain)
        if self.slots is None:
            return Parts(keys, values, x, x[:, :0], has_next)
        slot_keys, pooled, z = self.slots(x, hidden[:, 0], bias)
        keys = torch.cat((keys, self._slot_keys(slot_keys)), 2)
        return Parts(keys, torch.cat((values, self.values(pooled, self.slot_gain)), 2), x, z, has_next)

    def gates(self, parts: Parts, length: Tensor) -> Tensor:
        """How much of its values each token and slot writes, [batch, blocks, rank], for `chunk_feature` [batch]."""
        gates = self._token_gates(parts.tokens, parts.has_next, length)
        return gates if self.slots is None else torch.cat((gates, self.slots.gates(parts.slots, length)), 2)

    def _around(self, hidden: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What is added to attention scores, embeddings of next tokens, and which tokens have one."""
        bias = ((1 - mask) * -1e4)[:, None, None]
        has_next = F.pad(mask[:, 1:], (0, 1))
        # Padding behind the last token must look like the end of the chunk does at run time: nothing follows.
        return bias, next_token(hidden[:, 0]) * has_next[..., None], has_next

    def _token_gates(self, x: Tensor, has_next: Tensor, length: Tensor) -> Tensor:
        """From 0 to 1, [batch, blocks, tokens]."""
        opened = torch.sigmoid(_logits(x, self.gate, self.length, self.salience, length))
        return opened.transpose(1, 2) * has_next[:, None]

    def _slot_keys(self, keys: Tensor) -> Tensor:
        """Divided by the mean squared norm of the inputs, so that a key equal to a typical input answers about 1."""
        return keys / self.energy[:, None, None]

    def with_bias(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Append the context-free bias adapter along the rank axis."""
        if not self.config.bias_rank:
            return a, b
        batch = a.shape[0]
        return (
            torch.cat((a, self.bias_a.expand(batch, -1, -1, -1)), 2),
            torch.cat((b, self.bias_b.expand(batch, -1, -1, -1)), 3),
        )
