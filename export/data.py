"""Training documents with questions: invented facts in real filler, reading sets, continuations of plain text.

Batches are a pure function of (seed, step, process), so a run that is killed and resumed sees the very same data, and
several processes see different ones. Knows tokens only through the tokenizer it is given.
"""

from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from tokenizers import Tokenizer

from localhyper.errors import ConfigError
from localhyper.evaluate.facts import Fact, Split, make_facts
from localhyper.export.relations import make_relations

T = TypeVar("T")
OWN_REPLIES = 0.6  # share of the base's own replies among unrelated questions, where there are any
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'])")


@dataclass(frozen=True)
class Pair:
    """A question about a document and the answer to learn."""

    question: str
    answer: str


@dataclass(frozen=True)
class Example:
    """One document of at most one chunk and questions about it."""

    kind: str
    text: str
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class Mixture:
    """Shares of the kinds of documents, and how many facts an invented document holds.

    Attributes:
        facts: Share of documents with invented facts of one form (`localhyper.evaluate.facts`).
        relations: Share of documents with invented facts of many forms (`localhyper.export.relations`).
        reading: Share of documents of the reading sets.
        continuation: Share of plain passages that are to be continued.
        most_facts: Largest number of facts in one document; it grows with `facts_ramp`.
        facts_ramp: Documents' fact count is capped at 1 + step // facts_ramp (curriculum 1 → most_facts).
    """

    facts: float = 0.6
    reading: float = 0.3
    continuation: float = 0.1
    relations: float = 0.0
    most_facts: int = 6
    facts_ramp: int = 40

    def __post_init__(self) -> None:
        """Shares must not be negative and must sum to something."""
        shares = (self.facts, self.reading, self.continuation, self.relations)
        if min(shares) < 0 or sum(shares) <= 0:
            raise ConfigError(f"mixture shares must be ≥ 0 and not all 0, got {shares}")


@dataclass(frozen=True)
class Corpus:
    """What training documents are made from.

    Attributes:
        reading: Examples of reading sets; contexts of at most one chunk, questions whose answer is in them.
        sentences: Plain sentences in their order, one list a text: filler and continuations.
        instructions: Requests of instruction sets with a reply, which no document is about.
        replies: Everyday requests with the base model's own replies, likewise.
    """

    reading: Sequence[Example]
    sentences: Sequence[Sequence[str]] = field(default_factory=tuple)
    instructions: Sequence[Pair] = field(default_factory=tuple)
    replies: Sequence[Pair] = field(default_factory=tuple)


def read_rows(path: Path) -> Iterator[dict[str, object]]:
    """Rows of a JSON Lines file, gzip'd or not.

    Raises:
        ConfigError: The file is missing or holds a line that is not a JSON object.
    """
    if not path.is_file():
        raise ConfigError(f"training data file {path} is missing", "name files that exist in the recipe's [data] table")
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise ConfigError(f"{path} line {number} is not JSON: {error.msg}") from None


def read_reading(path: Path, tokenizer: Tokenizer, max_tokens: int) -> list[Example]:
    """A reading set (schema: `docs/data.md`): contexts cut to one chunk, questions whose answer survives the cut."""
    examples = []
    for row in read_rows(path):
        encoding = tokenizer.encode(str(row["context"]), add_special_tokens=False)
        text = tokenizer.decode(encoding.ids[:max_tokens])
        pairs = [
            Pair(str(qa["question"]).strip(), str(qa["answers"][0]).strip())
            for qa in row["qas"]  # type: ignore[attr-defined]
            if str(qa["answers"][0]).strip() in text
        ]
        if pairs:
            examples.append(Example("reading", text, tuple(pairs)))
    return examples


def read_instructions(path: Path, longest: int = 400, per_task: int = 20) -> list[Pair]:
    """Requests of an instruction set, one task a row: `{definition?, instances: [{input, output}]}`.

    Args:
        path: JSON Lines, gzip'd or not.
        longest: Most characters of a request.
        per_task: Most requests of one task.
    """
    pairs = []
    for row in read_rows(path):
        opening = f"{row['definition']}\n\n" if "definition" in row else ""
        instances: list[dict[str, str]] = row["instances"]  # type: ignore[assignment]
        found = [Pair(opening + i["input"].strip(), i["output"].strip()) for i in instances]
        pairs += [pair for pair in found if pair.answer and len(pair.question) <= longest][:per_task]
    return pairs


def read_replies(path: Path) -> list[Pair]:
    """Requests with the base model's own replies, as `localhyper.export.own_replies` writes them."""
    return [Pair(str(row["question"]), str(row["answer"])) for row in read_rows(path)]


def read_sentences(path: Path) -> list[str]:
    """Sentences of a text file (gzip'd or not), of 20 to 400 characters."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as stream:
        text = re.sub(r"\s+", " ", stream.read())
    return [s for s in SENTENCE_END.split(text) if 20 <= len(s) <= 400]


class ExampleMaker:
    """Draws examples from a corpus."""

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer, max_tokens: int, split: Split = "train") -> None:
        self.corpus, self.tokenizer, self.max_tokens, self.split = corpus, tokenizer, max_tokens, split

    def count(self, text: str) -> int:
        """Tokens of a text."""
        return len(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def filler(self, rng: random.Random, tokens: int) -> list[str]:
        """Consecutive sentences of at most `tokens` tokens in all."""
        source = rng.choice(self.corpus.sentences)
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
        made = make_facts(rng, self.split, rng.randint(1, most), digits=rng.random() < 0.6)
        return self._planted(rng, "facts", made)

    def relations(self, rng: random.Random, most: int) -> Example:
        """A document of invented facts of many forms."""
        return self._planted(rng, "relations", make_relations(rng, self.split, rng.randint(1, most)))

    def _planted(self, rng: random.Random, kind: str, facts: Sequence[Fact]) -> Example:
        """A document with facts at random places in real filler."""
        used = self.count(" ".join(fact.statement for fact in facts)) + len(facts)
        room = self.max_tokens - used - 4
        sentences = self.filler(rng, int(room * rng.random())) if rng.random() < 0.85 else []
        for fact in facts:
            sentences.insert(rng.randint(0, len(sentences)), fact.statement)
        pairs = tuple(Pair(fact.question, fact.answer) for fact in facts)
        return Example(kind, " ".join(sentences), pairs)

    def _two_sentences(self, rng: random.Random) -> list[str]:
        for _ in range(200):
            sentences = self.filler(rng, self.max_tokens - 4)
            if len(sentences) >= 2:
                return sentences
        raise ConfigError(
            f"no two sentences of the texts fit in {self.max_tokens} tokens",
            "raise hypernetwork.max_tokens, or set mixture.continuation to 0",
        )

    def continuation(self, rng: random.Random) -> Example:
        """A passage; the questions quote the start of a sentence, the answers give the rest."""
        sentences = self._two_sentences(rng)
        pairs = []
        for sentence in sentences:
            words = sentence.split()
            if len(words) >= 8:
                cut = rng.randint(4, len(words) // 2)
                rest = " ".join(words[cut : cut + 16])
                pairs.append(Pair("Continue the sentence: " + " ".join(words[:cut]), rest))
        pairs = pairs or [Pair("Continue the text: " + sentences[0], sentences[1])]
        return Example("continuation", " ".join(sentences), tuple(pairs))

    def filler_chunk(self, rng: random.Random) -> str:
        """Text of about one chunk that no question is about: consecutive sentences, or contexts one after the other."""
        parts: list[str] = []
        while self.count(" ".join(parts)) < self.max_tokens:
            parts += self.filler(rng, self.max_tokens) if rng.random() < 0.5 else [rng.choice(self.corpus.reading).text]
        return " ".join(parts)

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
        shares = (mixture.facts, mixture.reading, mixture.continuation, mixture.relations)
        kind = rng.choices(("facts", "reading", "continuation", "relations"), shares)[0]
        most = min(mixture.most_facts, 1 + step // mixture.facts_ramp)
        if kind == "facts":
            return self.facts(rng, most)
        if kind == "relations":
            return self.relations(rng, most)
        if kind == "reading":
            return rng.choice(self.corpus.reading)
        return self.continuation(rng)


def pick_pairs(rng: random.Random, example: Example, count: int) -> list[Pair]:
    """`count` questions of an example: all different while they last."""
    pairs = list(example.pairs)
    rng.shuffle(pairs)
    return [pairs[index % len(pairs)] for index in range(count)]


def load_corpus(
    root: Path,
    reading: Sequence[str],
    texts: Sequence[str],
    tokenizer: Tokenizer,
    max_tokens: int,
    holdout: int,
    instructions: Sequence[str] = (),
    replies: Sequence[str] = (),
) -> tuple[Corpus, Corpus]:
    """Training and held-out corpora.

    Args:
        root: Folder the names are relative to.
        reading: Reading-set files.
        texts: Plain-text files.
        tokenizer: The base model's tokenizer.
        max_tokens: Most tokens of a context.
        holdout: Every `holdout`-th reading context, request and reply is held out, and the last tenth of every text.
        instructions: Instruction-set files.
        replies: Files of the base model's own replies.
    """
    examples, held_examples = hold_out(
        [example for name in reading for example in read_reading(root / name, tokenizer, max_tokens)], holdout
    )
    requests, held_requests = hold_out([p for name in instructions for p in read_instructions(root / name)], holdout)
    own, held_own = hold_out([p for name in replies for p in read_replies(root / name)], holdout)
    sentences = [read_sentences(root / name) for name in texts]
    cut = [len(s) * 9 // 10 for s in sentences]
    train = Corpus(examples, [s[:c] for s, c in zip(sentences, cut, strict=True)], requests, own)
    held = Corpus(held_examples, [s[c:] for s, c in zip(sentences, cut, strict=True)], held_requests, held_own)
    return train, held


def hold_out(items: Sequence[T], every: int) -> tuple[list[T], list[T]]:
    """All but every `every`-th item, from the first, and those."""
    return [item for i, item in enumerate(items) if i % every], list(items[::every])
