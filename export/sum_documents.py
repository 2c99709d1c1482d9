"""Long documents with questions, cut into chunks by the very code that cuts them when they are attached."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from localhyper.errors import ConfigError
from localhyper.export.cutting import cut_text
from localhyper.export.data import ExampleMaker, Mixture, continuation_pairs, gap_pairs
from localhyper.export.filled_texts import fill_text
from localhyper.export.texts import Pair, Text, long_texts

BOOKS = 0.5  # share of documents that are taken out of plain texts
SLACK = 1.25  # chunks are not full: tokens to begin with, until they have been cut
TRIES = 50


@dataclass(frozen=True)
class LongDocument:
    """A document.

    Attributes:
        chunks: Token ids of each chunk.
        asked: Questions about it, by their kind.
    """

    chunks: Sequence[Sequence[int]]
    asked: Mapping[str, Sequence[Pair]]

    def draw(self, rng: random.Random, mixture: Mixture, count: int) -> list[Pair]:
        """Questions of kinds as the mixture has them, or of another kind; all different while they last."""
        left = {kind: rng.sample(pairs, len(pairs)) for kind, pairs in self.asked.items() if pairs}
        found: list[Pair] = []
        while len(found) < count:
            kind = mixture.draw(rng)
            if not left.get(kind):
                kind = rng.choice(sorted(left))
            found.append(left[kind].pop())
            if not left[kind]:
                left[kind] = rng.sample(self.asked[kind], len(self.asked[kind]))
        return found


class DocumentMaker:
    """Makes documents of texts of a corpus."""

    def __init__(self, maker: ExampleMaker, max_tokens: int) -> None:
        self._maker, self._max_tokens = maker, max_tokens
        self._plain, self._articles = long_texts(maker.corpus)

    def make(self, rng: random.Random, chunks: int, facts: float) -> LongDocument:
        """A document of so many chunks, with so many facts planted a chunk on average.

        Raises:
            ConfigError: No text is long enough.
        """
        for _ in range(TRIES):
            books = self._plain and (not self._articles or rng.random() < BOOKS)
            texts = self._plain if books else self._articles
            text = rng.choices(texts, [len(text.sentences) for text in texts])[0]
            document = self._cut(rng, text, chunks, facts)
            if document is not None:
                return document
        raise ConfigError(f"no text of this recipe gives {chunks} chunks", "give longer texts, or smaller sums.chunks")

    def _cut(self, rng: random.Random, text: Text, chunks: int, facts: float) -> LongDocument | None:
        """From a random place of a text on; None where it ends before."""
        filled = fill_text(rng, self._maker, text, round(chunks * self._max_tokens * SLACK), facts)
        pieces = cut_text(self._maker.tokenizer, filled.text, self._max_tokens)[:chunks]
        if len(pieces) < chunks:
            return None
        end = pieces[-1].end
        asked, sentences = filled.asked(0, end), filled.whole_sentences(0, end)
        asked["gaps"] = list(gap_pairs(rng, sentences))
        asked["continuation"] = list(continuation_pairs(rng, sentences))
        return LongDocument([piece.token_ids.tolist() for piece in pieces], asked)
