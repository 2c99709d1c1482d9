"""Examples to tensors: padded to fixed length buckets, so that few shapes occur."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from localhyper.chunking import Chunk
from localhyper.export.data import pick_pairs
from localhyper.export.packing import PADDING, Packed, Packing, pack
from localhyper.export.prompts import PromptFormat
from localhyper.export.texts import Example, Pair

SHORTEST_ANSWER = 8  # tokens of a row that an overlong question must leave to the answer


@dataclass(frozen=True)
class Batch:
    """Documents with the same number of question rows each.

    Attributes:
        documents: int64 [documents, prefix + tokens], right-padded.
        document_mask: float32 [documents, tokens], 1 on chunk tokens (without the prefix).
        rows: int64 [documents * rows, row tokens], prompt + answer + end of turn, right-padded; packed, one sequence a
            document.
        targets: int64, of the shape of `rows`: the next token where it is to be learnt, -100 elsewhere.
        unrelated: int64 [documents, tokens] or None: rows of questions that are not about the document.
        unrelated_targets: Likewise; their positions only mark where the base model is to be kept.
    """

    documents: Tensor
    document_mask: Tensor
    rows: Tensor
    targets: Tensor
    unrelated: Tensor | None
    unrelated_targets: Tensor | None
    kinds: tuple[str, ...]
    packing: Packing | None = None

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""
        tensors: dict[str, Any] = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        moved = {name: value.to(device, non_blocking=True) for name, value in tensors.items()}
        return replace(self, **moved, packing=self.packing.to(device) if self.packing else None)


@dataclass(frozen=True)
class ChunkTokens:
    """Chunks, right-padded.

    Attributes:
        ids: int64 [chunks, prefix + tokens].
        mask: float32 [chunks, tokens], 1 on chunk tokens (without the prefix).
    """

    ids: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def chosen(self, rows: Sequence[int]) -> ChunkTokens:
        """Those of these numbers."""
        return ChunkTokens(self.ids[list(rows)], self.mask[list(rows)])

    def to(self, device: torch.device | str) -> ChunkTokens:
        """The same on a device."""
        return ChunkTokens(self.ids.to(device, non_blocking=True), self.mask.to(device, non_blocking=True))


def bucket(length: int, size: int) -> int:
    """`length` rounded up to a multiple of `size`."""
    return -(-length // size) * size


class Collator:
    """Builds batches for one base model."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompts: PromptFormat,
        max_tokens: int,
        max_row: int,
        bucket_size: int,
        reply_start: str = "",
    ) -> None:
        """`reply_start` comes before every answer about a document."""
        self.tokenizer, self.prompts, self.reply_start = tokenizer, prompts, reply_start
        self.max_tokens, self.max_row, self.bucket_size = max_tokens, max_row, bucket_size
        self.prefix = self.encode(prompts.chunk_prefix)

    def encode(self, text: str) -> list[int]:
        """Token ids with control tokens parsed."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def row(self, pair: Pair, *, about: bool = True) -> tuple[list[int], list[int]]:
        """Ids of prompt + answer + end of turn and their next-token targets (-100 on the prompt).

        `about` says whether the answer is about a document.
        """
        prompt = self.encode(self.prompts.render(pair.question))
        answer = self.encode((self.reply_start if about else "") + pair.answer + self.prompts.end_of_turn)
        prompt = prompt[max(0, len(prompt) - self.max_row + SHORTEST_ANSWER) :]
        ids = (prompt + answer)[: self.max_row]
        targets = [-100] * (len(prompt) - 1) + (prompt + answer)[len(prompt) : self.max_row] + [-100]
        return ids, targets[: len(ids)]

    def _pad(self, rows: Sequence[Sequence[int]], fill: int, width: int) -> Tensor:
        out = torch.full((len(rows), width), fill, dtype=torch.long)
        for index, row in enumerate(rows):
            out[index, : len(row)] = torch.tensor(row, dtype=torch.long)
        return out

    def pad_chunks(self, chunks: Sequence[Chunk]) -> ChunkTokens:
        """Chunks, each with the prefix, padded to as many tokens as a chunk may have."""
        rows = [chunk.token_ids.tolist() for chunk in chunks]
        ids = self._pad([self.prefix + row for row in rows], 0, len(self.prefix) + self.max_tokens)
        return ChunkTokens(ids, self._pad([[1] * len(row) for row in rows], 0, self.max_tokens).float())

    def pad_texts(self, texts: Sequence[str]) -> ChunkTokens:
        """Texts, each with the prefix, cut at the most tokens of a chunk, padded to one length."""
        chunks = [self.tokenizer.encode(text, add_special_tokens=False).ids[: self.max_tokens] for text in texts]
        width = min(bucket(max(map(len, chunks)), self.bucket_size), self.max_tokens)
        ids = self._pad([self.prefix + chunk for chunk in chunks], 0, len(self.prefix) + width)
        return ChunkTokens(ids, self._pad([[1] * len(chunk) for chunk in chunks], 0, width).float())

    def pad_rows(self, rows: Sequence[tuple[list[int], list[int]]]) -> tuple[Tensor, Tensor]:
        """Ids and targets [rows, tokens] of what `row` gives, padded to one length."""
        width = bucket(max(len(ids) for ids, _ in rows), self.bucket_size // 2)
        return self._pad([ids for ids, _ in rows], 0, width), self._pad([marks for _, marks in rows], -100, width)

    def _pad_packed(self, packed: Sequence[Packed]) -> tuple[Tensor, Tensor, Packing]:
        """Ids, targets and which row each token belongs to, [documents, tokens], padded to one length."""
        width = bucket(max(len(one.ids) for one in packed), self.bucket_size // 2)
        parts = self._pad([one.parts for one in packed], PADDING, width)
        packing = Packing(parts, self._pad([one.places for one in packed], 0, width))
        targets = self._pad([one.targets for one in packed], -100, width)
        return self._pad([one.ids for one in packed], 0, width), targets, packing

    def __call__(
        self,
        rngs: Sequence[random.Random],
        examples: Sequence[Example],
        rows: int,
        unrelated: Sequence[Pair] = (),
        *,
        packed: bool = False,
    ) -> Batch:
        """A batch.

        Args:
            rngs: One generator a document, which picks its questions.
            examples: The documents.
            rows: Questions a document; packed, at most so many, none of them twice, while they fit in `max_row` tokens.
            unrelated: For each document a question that is not about it; or none at all.
            packed: A document's rows in one sequence.
        """
        documents = self.pad_texts([example.text for example in examples])
        picked = [pick_pairs(rng, example, rows) for rng, example in zip(rngs, examples, strict=True)]
        packing = None
        if packed:
            kept = [list(dict.fromkeys(pairs)) for pairs in picked]
            sequences = [pack([self.row(pair) for pair in pairs], self.max_row) for pairs in kept]
            rows_ids, targets, packing = self._pad_packed(sequences)
        else:
            rows_ids, targets = self.pad_rows([self.row(pair) for pairs in picked for pair in pairs])
        others = [self.row(pair, about=False) for pair in unrelated]
        other_ids, other_targets = self.pad_rows(others) if others else (None, None)
        kinds = tuple(example.kind for example in examples)
        return Batch(documents.ids, documents.mask, rows_ids, targets, other_ids, other_targets, kinds, packing)
