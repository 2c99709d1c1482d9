"""Long texts that training takes chunks out of: books, and reading sets whose contexts follow each other.

Chunks of one text share words and subject, and what they write in common adds up in the sum that a long document's
adapter is. `localhyper.export.surround` cuts texts into chunks, some of which are asked about among the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'])")


@dataclass(frozen=True)
class Pair:
    """A question about a document and the answer to learn; `value` is what was asked for where the answer is more."""

    question: str
    answer: str
    value: str = ""


@dataclass(frozen=True)
class Example:
    """One document of at most one chunk and questions about it; `article` names what its context was taken from."""

    kind: str
    text: str
    pairs: tuple[Pair, ...]
    article: str = ""


@dataclass(frozen=True)
class Text:
    """A long text.

    Attributes:
        sentences: In their order.
        examples: Documents with questions made from it, and the number of each one's first sentence.
    """

    sentences: Sequence[str]
    examples: Sequence[tuple[int, Example]] = ()


@dataclass(frozen=True)
class Corpus:
    """What training documents are made from.

    Attributes:
        reading: Examples of reading sets; contexts of at most one chunk, questions whose answer is in them.
        sentences: Plain sentences in their order, one list a text: filler, continuations and gaps.
        instructions: Requests of instruction sets with a reply, which no document is about.
        replies: Everyday requests with the base model's own replies, likewise.
        about: Passages with general questions and what the base model says of them with the passage in its prompt.
    """

    reading: Sequence[Example]
    sentences: Sequence[Sequence[str]] = field(default_factory=tuple)
    instructions: Sequence[Pair] = field(default_factory=tuple)
    replies: Sequence[Pair] = field(default_factory=tuple)
    about: Sequence[Example] = field(default_factory=tuple)


def split_sentences(text: str) -> list[str]:
    """Sentences of 20 to 400 characters."""
    return [sentence for sentence in split_passage(text) if 20 <= len(sentence) <= 400]


def split_passage(text: str) -> list[str]:
    """All sentences, however short or long, with single spaces."""
    return SENTENCE_END.split(re.sub(r"\s+", " ", text))


def article_texts(examples: Sequence[Example]) -> Iterator[Text]:
    """One text for each article of reading sets, its contexts in their order."""
    articles: dict[str, list[Example]] = {}
    for example in examples:
        articles.setdefault(example.article, []).append(example)
    for members in articles.values():
        sentences: list[str] = []
        placed = []
        for example in members:
            placed.append((len(sentences), example))
            # Whole contexts where a sentence is too long or too short for filler: an article must not have holes.
            sentences += split_passage(example.text)
        yield Text(sentences, placed)


def long_texts(corpus: Corpus) -> tuple[list[Text], list[Text]]:
    """Plain texts, and those of the reading sets."""
    return [Text(sentences) for sentences in corpus.sentences if sentences], list(article_texts(corpus.reading))
