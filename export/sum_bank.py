"""What chunks of long documents write with all gates open, whitened by their document's own inputs; made once.

Base model, encoder, keys and values stay as they are while sums are trained, and so does the whitening, which depends
on inputs alone. What is left of an adapter is a product of three: values, gates, keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from localhyper.export.hypernetwork import AssociationHypernetwork, Parts, chunk_feature
from localhyper.export.objectives import MetaModel
from localhyper.export.sum_documents import LongDocument
from localhyper.export.torch_base import BlockLora
from localhyper.export.whitening import alone, surrounded

GROUP = 8  # chunks that go through the base model at once

Written = tuple[Tensor, Tensor, Tensor]  # keys [blocks, n, ffn], values [blocks, n, hidden], what gates read [n, width]


@dataclass(frozen=True)
class SumParts:
    """A document's chunks.

    Attributes:
        document: What they were made of.
        keys: float16 [blocks, rank of all chunks, ffn], of length 1.
        values: float16 [blocks, hidden, rank of all chunks], with what keys lack in length.
        tokens: What the encoder made of tokens that another one of their chunk follows, float32 [tokens, width].
        slots: What slots have read, float32 [slots of all chunks, width].
    """

    document: LongDocument
    keys: Tensor
    values: Tensor
    tokens: Tensor
    slots: Tensor

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        return len(self.document.chunks)

    def adapter(self, hypernetwork: AssociationHypernetwork) -> dict[int, BlockLora]:
        """The document's adapter with the gates of now, as a dense update of each block; with the bias once."""
        device = self.tokens.device
        length = feature_of(self.document, device)
        parts = Parts(
            self.keys, self.values, self.tokens[None], self.slots[None], self.tokens.new_ones(1, len(self.tokens))
        )
        gates = hypernetwork.gates(parts, length)[0]
        bias_a, bias_b = hypernetwork.with_bias(*_nothing(hypernetwork, device))
        return {
            block: BlockLora(bias_a[:, i], bias_b[:, i], (self.values[i].float() * gates[i]) @ self.keys[i].float())
            for i, block in enumerate(hypernetwork.config.blocks)
        }


def feature_of(document: LongDocument, device: torch.device) -> Tensor:
    """What the hypernetwork is told of a document's length, [1]."""
    return chunk_feature(torch.tensor([float(len(document.chunks))], device=device))


def _nothing(hypernetwork: AssociationHypernetwork, device: torch.device) -> tuple[Tensor, Tensor]:
    c = hypernetwork.config
    blocks = len(c.blocks)
    return torch.zeros(1, blocks, 0, c.ffn, device=device), torch.zeros(1, blocks, c.hidden, 0, device=device)


@torch.no_grad()
def read_document(
    model: MetaModel, hypernetwork: AssociationHypernetwork, prefix: Sequence[int], document: LongDocument
) -> SumParts:
    """Run a document's chunks through base model and hypernetwork."""
    device = hypernetwork.energy.device
    blocks, width = len(hypernetwork.config.blocks), hypernetwork.config.ffn
    second, length = torch.zeros(blocks, width, width, device=device), feature_of(document, device)
    tokens: list[Written] = []
    slots: list[Written] = []
    for start in range(0, len(document.chunks), GROUP):
        ids, mask = _padded(document.chunks[start : start + GROUP], prefix, device)
        hidden, ffn = model.encode_cached(ids, mask)
        flat = ffn.transpose(0, 1).flatten(1, 2)
        second += torch.bmm(flat.transpose(1, 2), flat)
        parts = hypernetwork.parts(hidden, ffn, mask, length.expand(len(mask)))
        for number, has_next in enumerate(parts.has_next):
            tokens.append(_of_tokens(parts, number, has_next.nonzero()[:, 0]))
            slots.append(_of_slots(parts, number))
    (keys, values, read), (slot_keys, slot_values, slots_read) = _joined(tokens), _joined(slots)
    keys = _whitened(torch.cat((keys, slot_keys), 1), hypernetwork, second)
    lengths = keys.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    values = (torch.cat((values, slot_values), 1) * lengths).transpose(1, 2).half().contiguous()
    return SumParts(document, (keys / lengths).half(), values, read, slots_read)


def _of_tokens(parts: Parts, number: int, kept: Tensor) -> Written:
    """What chunk `number` of a group writes by its tokens at `kept`."""
    return parts.keys[number][:, kept], parts.values[number][:, kept], parts.tokens[number][kept]


def _of_slots(parts: Parts, number: int) -> Written:
    """What it writes by its slots."""
    first = parts.tokens.shape[1]
    return parts.keys[number][:, first:], parts.values[number][:, first:], parts.slots[number]


def _joined(written: Sequence[Written]) -> Written:
    """Those of all chunks, side by side."""
    keys, values, read = (torch.cat(tensors, -2) for tensors in zip(*written, strict=True))
    return keys, values, read


def _whitened(keys: Tensor, hypernetwork: AssociationHypernetwork, second: Tensor) -> Tensor:
    """Keys after whitening, s A C (λ C + S)⁻¹ of `export.whitening`, [blocks, rank, ffn]."""
    given = surrounded(alone(hypernetwork.moment(), hypernetwork.config.whitening), second)
    assert given.turn is not None
    after = (second * given.inverse).sum((1, 2))
    return torch.bmm(keys, given.turn) * (given.spread / after)[:, None, None]


def _padded(chunks: Sequence[Sequence[int]], prefix: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids [n, prefix + tokens] and mask [n, tokens] of chunks."""
    ids = [torch.tensor([*prefix, *chunk], device=device) for chunk in chunks]
    ones = [torch.ones(len(chunk), device=device) for chunk in chunks]
    return pad_sequence(ids, batch_first=True), pad_sequence(ones, batch_first=True)
