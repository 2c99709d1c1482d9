"""Documents with several invented facts in filler text, and the questions for them.

Facts come from the word pools that training never sees. Knows tokens by their number only, no model.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Literal

from localhyper.engine import TokenArray
from localhyper.errors import ConfigError
from localhyper.evaluate.facts import make_facts
from localhyper.evaluate.reading_set import Passage, Question

MOST_FACTS = {"digits": 64, "words": 16}  # a document's values differ, and the pool of words is small

Tokenize = Callable[[str], TokenArray]


class FactDocuments:
    """Document number to document; a document depends on the seed and its own number only."""

    def __init__(
        self,
        sentences: Sequence[str],
        tokenize: Tokenize,
        tokens: int,
        facts: int,
        values: Literal["digits", "words"],
        seed: int,
    ) -> None:
        """Put `facts` facts into documents of `tokens` tokens, between filler `sentences`."""
        self._sentences, self._tokenize, self._seed = sentences, tokenize, seed
        self._tokens, self._facts, self._digits = tokens, facts, values == "digits"

    def make(self, index: int) -> Passage:
        """Consecutive filler sentences with the facts at random depths; one question a fact.

        The first answer of a question restates it, the last one is the value alone.

        Raises:
            ConfigError: The facts alone have too many tokens.
        """
        rng = random.Random(f"{self._seed}/{index}")
        facts = make_facts(rng, "test", self._facts, digits=self._digits)
        statements, depths = [fact.statement for fact in facts], [rng.random() for _ in facts]
        filler = self._filler(rng.randrange(len(self._sentences)), self._tokens - self._count(" ".join(statements)))
        while self._count(text := insert(filler, statements, depths)) > self._tokens:
            if not filler:
                raise ConfigError(f"documents of {self._tokens} tokens cannot hold {self._facts} facts")
            filler.pop()  # sentences may have more tokens joined than alone
        questions = tuple(Question(fact.question, (fact.answer, fact.value)) for fact in facts)
        return Passage(str(index), f"case {index + 1}", text, questions)

    def _filler(self, start: int, room: int) -> list[str]:
        """Sentences from `start` on, over the end of the text to its beginning, as many as fit into `room` tokens."""
        chosen: list[str] = []
        while True:
            sentence = self._sentences[(start + len(chosen)) % len(self._sentences)]
            room -= max(1, self._count(" " + sentence))
            if room < 0:
                return chosen
            chosen.append(sentence)

    def _count(self, text: str) -> int:
        return len(self._tokenize(text))


def insert(filler: Sequence[str], statements: Sequence[str], depths: Sequence[float]) -> str:
    """Filler sentences in their order, each statement after its share of them (0 to 1)."""
    places = [((place + 1) / (len(filler) + 1), sentence) for place, sentence in enumerate(filler)]
    everything = sorted([*zip(depths, statements, strict=True), *places], key=lambda pair: pair[0])
    return " ".join(sentence for _, sentence in everything)
