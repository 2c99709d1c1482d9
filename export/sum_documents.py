"""Long documents with questions, cut into chunks by the very code that cuts them when they are attached."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from localhyper.chunking import split_document
from localhyper.errors import ConfigError
from localhyper.evaluate.columns import make_document
from localhyper.evaluate.facts import Fact
from localhyper.export.data import ExampleMaker, Mixture, continuation_pairs, gap_pairs
from localhyper.export.data_files import spelled_in
from localhyper.export.surround import Planter
from localhyper.export.texts import Pair, Text, long_texts

BOOKS = 0.5  # share of documents that are taken out of plain texts
PARAGRAPH = 0.15  # share of sentences that end a paragraph
SENTENCE_TOKENS = 22  # of a book, about
SLACK = 1.25  # what a document is longer than its share of sentences, until it has been cut
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


@dataclass(frozen=True)
class _Filled:
    """A text of some sentences, the facts planted in it with their kinds, and how many sentences it took."""

    text: str
    planted: Sequence[tuple[str, Fact]]
    sentences: int


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
        wanted = round(SLACK * chunks * self._max_tokens / SENTENCE_TOKENS)
        first = rng.randrange(max(1, len(text.sentences) - wanted))
        filled = self._fill(rng, text.sentences[first:], round(chunks * self._max_tokens * SLACK), facts)
        document = make_document("training", filled.text)
        pieces = split_document(document, self.tokenize, self._detokenize, self._max_tokens)[:chunks]
        if len(pieces) < chunks:
            return None
        shown, last = filled.text[: pieces[-1].end], first + filled.sentences
        asked: dict[str, list[Pair]] = {"facts": [], "relations": []}
        for kind, fact in filled.planted:
            if fact.statement in shown:
                asked[kind].append(Pair(fact.question, fact.answer))
        reading = [pair for start, example in text.examples if first <= start < last for pair in example.pairs]
        asked["reading"] = [pair for pair in reading if spelled_in(shown, pair.answer)]
        sentences = [sentence for sentence in text.sentences[first:last] if sentence in shown]
        asked["gaps"] = list(gap_pairs(rng, sentences))
        asked["continuation"] = list(continuation_pairs(rng, sentences))
        return LongDocument([piece.token_ids.tolist() for piece in pieces], asked)

    def _fill(self, rng: random.Random, sentences: Sequence[str], tokens: int, facts: float) -> _Filled:
        """Sentences up to so many tokens, in paragraphs, with facts planted among them."""
        planter, parts, planted, used, taken = Planter(rng, self._maker), [], [], 0, 0
        for sentence in sentences:
            length = self._maker.count(" " + sentence)
            found = planter.fact() if rng.random() < facts * length / self._max_tokens else None
            if found is not None:
                planted.append(found)
                parts.append(found[1].statement)
            parts.append(sentence + ("\n" if rng.random() < PARAGRAPH else ""))
            used, taken = used + length, taken + 1
            if used >= tokens:
                break
        return _Filled(" ".join(parts).replace("\n ", "\n\n"), planted, taken)

    def tokenize(self, text: str) -> NDArray[np.int32]:
        """Ids, int32 [tokens]."""
        return np.array(self._maker.tokenizer.encode(text, add_special_tokens=False).ids, np.int32)

    def _detokenize(self, ids: Sequence[int] | NDArray[np.int32]) -> str:
        text: str = self._maker.tokenizer.decode([int(i) for i in ids])
        return text
