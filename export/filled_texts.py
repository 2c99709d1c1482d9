"""Long texts with invented facts planted in them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from localhyper.evaluate.facts import Fact, make_facts
from localhyper.export.cutting import spelled_in
from localhyper.export.data import DIGITS, ExampleMaker
from localhyper.export.relations import make_relations
from localhyper.export.texts import Pair, Text

FORMED = 0.35  # share of facts of one form among planted ones
PARAGRAPH = 0.15  # share of sentences that end a paragraph
SENTENCE_TOKENS = 22  # of a book, about
TRIES = 20


class Planter:
    """Invented facts for one text: no two of them answer the same question."""

    def __init__(self, rng: random.Random, maker: ExampleMaker) -> None:
        self._rng, self._maker = rng, maker
        self._known: set[tuple[str, str]] = set()

    def fact(self) -> tuple[str, Fact] | None:
        """A fact and its kind; None where all that were drawn are known already."""
        for _ in range(TRIES):
            formed = self._rng.random() < FORMED
            if formed:
                (fact,) = make_facts(self._rng, self._maker.split, 1, digits=self._rng.random() < DIGITS)
            else:
                (fact,) = make_relations(self._rng, self._maker.split, 1)
            if (fact.attribute, fact.name) not in self._known:
                self._known.add((fact.attribute, fact.name))
                return ("facts" if formed else "relations"), fact
        return None


@dataclass(frozen=True)
class FilledText:
    """Consecutive sentences of a text with facts among them.

    Attributes:
        text: All of it, in paragraphs.
        planted: Facts and their kinds, each with the character its statement begins at.
        sentences: Those of the source, each with the character it begins at.
        reading: Questions that came with the source, each with the character its context begins at.
    """

    text: str
    planted: Sequence[tuple[int, str, Fact]]
    sentences: Sequence[tuple[int, str]]
    reading: Sequence[tuple[int, Pair]]

    def asked(self, start: int, end: int) -> dict[str, list[Pair]]:
        """Questions by kind about what stands in a part of the text, given by its characters."""
        shown = self.text[start:end]
        asked: dict[str, list[Pair]] = {"facts": [], "relations": []}
        for at, kind, fact in self.planted:
            if start <= at and at + len(fact.statement) <= end:
                asked[kind].append(Pair(fact.question, fact.answer))
        asked["reading"] = [pair for at, pair in self.reading if start <= at < end and spelled_in(shown, pair.answer)]
        return asked

    def whole_sentences(self, start: int, end: int) -> list[str]:
        """Sentences of the source that stand whole in a part of the text."""
        return [sentence for at, sentence in self.sentences if start <= at and at + len(sentence) <= end]


def fill_text(rng: random.Random, maker: ExampleMaker, text: Text, tokens: int, facts: float) -> FilledText:
    """About `tokens` tokens from a random place of a text, fewer if it ends, `facts` facts a chunk on average."""
    # Begin where enough is left, if there is so much at all.
    first = rng.randrange(max(1, len(text.sentences) - tokens // SENTENCE_TOKENS))
    planter, at, used = Planter(rng, maker), 0, 0
    parts: list[str] = []
    planted: list[tuple[int, str, Fact]] = []
    sentences: list[tuple[int, str]] = []
    for sentence in text.sentences[first:]:
        if used >= tokens:
            break
        length = maker.count(" " + sentence)
        found = planter.fact() if rng.random() < facts * length / maker.max_tokens else None
        if found is not None:
            planted.append((at, *found))
            parts.append(found[1].statement + " ")
            at += len(parts[-1])
            used += maker.count(" " + found[1].statement)
        sentences.append((at, sentence))
        parts.append(sentence + ("\n\n" if rng.random() < PARAGRAPH else " "))
        at, used = at + len(parts[-1]), used + length
    begun = {number: where for number, (where, _) in enumerate(sentences, first)}
    reading = [(begun[start], pair) for start, example in text.examples if start in begun for pair in example.pairs]
    return FilledText("".join(parts), planted, sentences, reading)
