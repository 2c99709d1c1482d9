"""Training documents with questions: invented facts in real filler, reading sets, plain text continued or with gaps.

Batches are a pure function of (seed, step, process), so a run that is killed and resumed sees the very same data, and
several processes see different ones. Knows tokens only through the tokenizer it is given.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tokenizers import Tokenizer

from localhyper.errors import ConfigError
from localhyper.evaluate.facts import Fact, Split, make_facts
from localhyper.export.cloze import clozes
from localhyper.export.crossed_facts import make_crossed_facts
from localhyper.export.overview_texts import make_overview
from localhyper.export.quotes import make_quotes
from localhyper.export.relations import make_relations
from localhyper.export.texts import Corpus, Example, Pair

OWN_REPLIES = 0.6  # share of the base's own replies among unrelated questions, where there are any
DIGITS = 0.6  # share of 4-digit values among facts of one form; the others are words
AMONG = 0.5  # share of reading contexts that other sentences join
OVERVIEW, OVERVIEW_TRIES = 1.5, 10  # most tokens of an overview, in those of other documents, where tries find one
SPOKEN = 0.2  # share of passages to be quoted that are lines of a conversation
SPEAKER, QUOTE_TRIES = 0.2, 200  # share of a conversation's tokens that is who speaks, tries to find a topic
LINES = 0.2  # share of documents with invented facts that are lines, not running text


@dataclass(frozen=True)
class Mixture:
    """Shares of the kinds of documents, and how many facts an invented document holds.

    Attributes:
        facts: Share of documents with invented facts of one form (`localhyper.evaluate.facts`).
        relations: Share of documents with invented facts of many forms (`localhyper.export.relations`).
        reading: Share of documents of the reading sets.
        continuation: Share of plain passages that are to be continued.
        about: Share of passages that are asked about in general (`localhyper.export.own_summaries`).
        overviews: Share of overviews of documents (`localhyper.export.overview_texts`).
        crossed: Share of documents with invented facts that share names and attributes
            (`localhyper.export.crossed_facts`).
        gaps: Share of plain passages whose sentences are asked for with a gap (`localhyper.export.cloze`).
        quotes: Share of plain passages that are asked what they say of something (`localhyper.export.quotes`).
        most_facts: Largest number of facts in one document; it grows with `facts_ramp`.
        facts_ramp: Documents' fact count is capped at 1 + step // facts_ramp (curriculum 1 → most_facts).
    """

    facts: float = 0.6
    reading: float = 0.3
    continuation: float = 0.1
    relations: float = 0.0
    gaps: float = 0.0
    about: float = 0.0
    crossed: float = 0.0
    overviews: float = 0.0
    quotes: float = 0.0
    most_facts: int = 6
    facts_ramp: int = 40

    def __post_init__(self) -> None:
        """Shares must not be negative and must sum to something."""
        shares = self.shares.values()
        if min(shares) < 0 or sum(shares) <= 0:
            raise ConfigError(f"mixture shares must be ≥ 0 and not all 0, got {tuple(shares)}")

    @property
    def shares(self) -> dict[str, float]:
        """Kinds of documents and their shares."""
        return {
            "facts": self.facts,
            "reading": self.reading,
            "continuation": self.continuation,
            "relations": self.relations,
            "gaps": self.gaps,
            "about": self.about,
            "crossed": self.crossed,
            "overviews": self.overviews,
            "quotes": self.quotes,
        }

    def draw(self, rng: random.Random) -> str:
        """A kind, by the shares."""
        return rng.choices(tuple(self.shares), tuple(self.shares.values()))[0]


class ExampleMaker:
    """Draws examples from a corpus."""

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer, max_tokens: int, split: Split = "train") -> None:
        self.corpus, self.tokenizer, self.max_tokens, self.split = corpus, tokenizer, max_tokens, split

    def count(self, text: str) -> int:
        """Tokens of a text."""
        return len(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def filler(self, rng: random.Random, tokens: int, weights: Sequence[int] | None = None) -> list[str]:
        """Consecutive sentences of at most `tokens` tokens in all, of a text drawn by these weights (alike)."""
        source = rng.choices(self.corpus.sentences, weights)[0] if weights else rng.choice(self.corpus.sentences)
        at, out = rng.randrange(len(source)), []
        while at < len(source):
            tokens -= self.count(" " + source[at])
            if tokens < 0:
                break
            out.append(source[at])
            at += 1
        return out

    def facts(self, rng: random.Random, most: int) -> Example:
        """A document of invented facts of one form."""
        made = make_facts(rng, self.split, rng.randint(1, most), digits=rng.random() < DIGITS)
        return self._planted(rng, "facts", made)

    def relations(self, rng: random.Random, most: int) -> Example:
        """A document of invented facts of many forms."""
        return self._planted(rng, "relations", make_relations(rng, self.split, rng.randint(1, most)))

    def crossed(self, rng: random.Random, most: int) -> Example:
        """A document of invented facts that share names and attributes."""
        return self._planted(rng, "crossed", make_crossed_facts(rng, self.split, most))

    def _planted(self, rng: random.Random, kind: str, facts: Sequence[Fact]) -> Example:
        """A document with facts at random places in real filler."""
        statements = list(dict.fromkeys(fact.statement for fact in facts))  # some facts share one
        used = self.count(" ".join(statements)) + len(statements)
        room = self.max_tokens - used - 4
        sentences = self.filler(rng, int(room * rng.random())) if rng.random() < 0.85 else []
        for statement in statements:
            sentences.insert(rng.randint(0, len(sentences)), statement)
        pairs = tuple(Pair(fact.question, fact.answer, fact.value) for fact in facts)
        return Example(kind, ("\n" if rng.random() < LINES else " ").join(sentences), pairs)

    def _two_sentences(self, rng: random.Random) -> list[str]:
        for _ in range(200):
            sentences = self.filler(rng, self.max_tokens - 4)
            if len(sentences) >= 2:
                return sentences
        raise ConfigError(
            f"no two sentences of the texts fit in {self.max_tokens} tokens",
            "raise hypernetwork.max_tokens (or data.cut_tokens), or set mixture.continuation to 0",
        )

    def _among(self, rng: random.Random, example: Example) -> Example:
        """A context with sentences of a text before or after it where its chunk has room for them, or as it is.

        A chunk of a real document seldom begins where what is asked for does.
        """
        room = self.max_tokens - self.count(example.text) - 4
        if rng.random() >= AMONG or room <= 0 or not self.corpus.sentences:
            return example
        filler = " ".join(self.filler(rng, int(room * rng.random())))
        parts = (filler, example.text) if rng.random() < 0.5 else (example.text, filler)
        return replace(example, text=" ".join(part for part in parts if part))

    def gaps(self, rng: random.Random) -> Example:
        """A passage; the questions show a sentence of it with a gap."""
        for _ in range(20):
            sentences = self._two_sentences(rng)
            pairs = gap_pairs(rng, sentences)
            if pairs:
                return Example("gaps", " ".join(sentences), pairs)
        return self.continuation(rng)

    def overviews(self, rng: random.Random) -> Example:
        """What a document says of itself as a whole, if it can be in not many more tokens than other documents have.

        All documents of a batch are padded to its longest.
        """
        shortest: Example | None = None
        for _ in range(OVERVIEW_TRIES if self.corpus.reading else 0):
            made = make_overview(rng, self.corpus.reading)
            if made is not None and (shortest is None or len(made.text) < len(shortest.text)):
                shortest = made
            if shortest is not None and self.count(shortest.text) <= OVERVIEW * self.max_tokens:
                break
        if shortest is None:
            raise ConfigError("recipe key mixture.overviews wants contexts with text", "name files in data.reading")
        return shortest

    def quotes(self, rng: random.Random) -> Example:
        """A passage that is asked what it says of something; sentences of longer texts are drawn more often."""
        weights = [len(sentences) for sentences in self.corpus.sentences]
        for _ in range(QUOTE_TRIES if weights else 0):
            spoken = rng.random() < SPOKEN
            sentences = self.filler(rng, int((1 - SPEAKER * spoken) * self.max_tokens) - 4, weights)
            text, pairs = make_quotes(rng, sentences, spoken=spoken)
            if pairs:
                return Example("quotes", text, pairs)
        raise ConfigError(
            f"no passage of {self.max_tokens} tokens has a sentence to be quoted",
            "name files with running text in data.texts, or set mixture.quotes to 0",
        )

    def continuation(self, rng: random.Random) -> Example:
        """A passage; the questions quote the start of a sentence, the answers give the rest."""
        sentences = self._two_sentences(rng)
        pairs = continuation_pairs(rng, sentences)
        pairs = pairs or (Pair("Continue the text: " + sentences[0], sentences[1]),)
        return Example("continuation", " ".join(sentences), pairs)

    def unrelated(self, rng: random.Random) -> Pair:
        """A question that has nothing to do with the document at hand."""
        if self.corpus.replies and rng.random() < OWN_REPLIES:
            return rng.choice(self.corpus.replies)
        if self.corpus.instructions and rng.random() < 0.5:
            return rng.choice(self.corpus.instructions)
        if rng.random() < 0.5:
            simple = rng.random() < 0.5
            made = make_facts(rng, self.split, 1, digits=True) if simple else make_relations(rng, self.split, 1)
            return Pair(made[0].question, made[0].answer)
        return rng.choice(rng.choice(self.corpus.reading).pairs)

    def draw(self, rng: random.Random, mixture: Mixture, step: int) -> Example:
        """One example of a random kind; fact counts follow the curriculum."""
        kind = mixture.draw(rng)
        most = min(mixture.most_facts, 1 + step // mixture.facts_ramp)
        if kind == "facts":
            return self.facts(rng, most)
        if kind == "relations":
            return self.relations(rng, most)
        if kind == "crossed":
            return self.crossed(rng, most)
        if kind == "gaps":
            return self.gaps(rng)
        if kind == "about":
            if not self.corpus.about:
                raise ConfigError("recipe key mixture.about wants files in data.about", "make one with own_summaries")
            return rng.choice(self.corpus.about)
        if kind == "overviews":
            return self.overviews(rng)
        if kind == "quotes":
            return self.quotes(rng)
        if kind == "reading":
            return self._among(rng, rng.choice(self.corpus.reading))
        return self.continuation(rng)


def gap_pairs(rng: random.Random, sentences: Sequence[str]) -> tuple[Pair, ...]:
    """Questions that show a sentence with a gap."""
    return tuple(Pair(*pair) for pair in clozes(rng, sentences))


def continuation_pairs(rng: random.Random, sentences: Sequence[str]) -> tuple[Pair, ...]:
    """Questions that quote the start of a sentence; the answers give the rest."""
    pairs = []
    for sentence in sentences:
        words = sentence.split()
        if len(words) >= 8:
            cut = rng.randint(4, len(words) // 2)
            rest = " ".join(words[cut : cut + 16])
            pairs.append(Pair("Continue the sentence: " + " ".join(words[:cut]), rest))
    return tuple(pairs)


def pick_pairs(rng: random.Random, example: Example, count: int) -> list[Pair]:
    """`count` questions of an example: all different while they last."""
    pairs = list(example.pairs)
    rng.shuffle(pairs)
    return [pairs[index % len(pairs)] for index in range(count)]
