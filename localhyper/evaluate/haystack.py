"""Haystacks: documents of a wanted length with one invented fact between sentences of filler.

Facts come from the word pools that training never sees. Knows no model but its tokenizer.
"""

from __future__ import annotations

import gzip
import random
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

from localhyper.engine import TokenArray
from localhyper.errors import ConfigError
from localhyper.evaluate.facts import KEY_KINDS, Fact, make_fact_about
from localhyper.evaluate.metrics import holds_value

Values = Literal["digits", "words", "both"]
SMALLEST_DOCUMENT = 48  # tokens; the longest fact has about thirty
DEPTHS = 25  # as many different ones, from 0 to 1 in even steps
FIFTHS = 5
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_GZIP_MAGIC = b"\x1f\x8b"

Tokenize = Callable[[str], TokenArray]


@dataclass(frozen=True)
class Haystack:
    """A document with its fact.

    Attributes:
        depth: Where the fact stands among the sentences, 0.0 (first) to 1.0 (last).
        tokens: Length of the text.
        values: What kind of value the fact has.
    """

    text: str
    fact: Fact
    depth: float
    tokens: int
    values: Literal["digits", "words"]


def depth_of(index: int) -> float:
    """Depth of case `index`: five cases after each other fall into the five fifths, 25 have all 25 depths.

    The first five stand at 0, 1/4, 1/2, 3/4 and 1. Kinds of names and values go round in threes and twos, which share
    no divisor with 25, so that every depth meets every kind.
    """
    turn, fifth = divmod(index % DEPTHS, FIFTHS)
    return (FIFTHS * fifth + (turn + fifth) % FIFTHS) / (DEPTHS - 1)


def fifth_of(depth: float) -> int:
    """Which fifth of the document a depth lies in, 0 to 4."""
    return min(FIFTHS - 1, int(depth * FIFTHS))


class HaystackMaker:
    """Case number to document; a case depends on the seed and its own number only. Each sentence is tokenized once.

    Args:
        sentences: Filler.
        tokenize: The base model's tokenizer.
        tokens: Length of each document, reached to within one sentence.
        values: What the facts hold.
        seed: Seed of facts and filler.
    """

    def __init__(
        self, sentences: Sequence[str], tokenize: Tokenize, tokens: int, values: Values = "digits", seed: int = 0
    ) -> None:
        self._sentences, self._tokenize = sentences, tokenize
        self._tokens, self._values, self._seed = tokens, values, seed
        self._lengths: dict[int, int] = {}

    def fact(self, index: int) -> Fact:
        """The fact of case `index`."""
        return self._fact(index, self._random(index))

    def make(self, index: int) -> Haystack:
        """The document of case `index`: consecutive filler sentences with the fact between two of them."""
        rng = self._random(index)
        fact, depth, values = self._fact(index, rng), depth_of(index), self._values_of(index)
        filler = self._filler(rng.randrange(len(self._sentences)), self._tokens - self._count(" " + fact.statement))
        while True:
            text = " ".join(self._insert(filler, fact.statement, depth))
            tokens = self._count(text)  # once as a rule: sentences have hardly ever more tokens joined than alone
            if tokens <= self._tokens or not filler:
                return Haystack(text, fact, depth, tokens, values)
            filler.pop()

    def _random(self, index: int) -> random.Random:
        return random.Random(f"{self._seed}/{index}")

    def _fact(self, index: int, rng: random.Random) -> Fact:
        kind, digits = KEY_KINDS[index % len(KEY_KINDS)], self._values_of(index) == "digits"
        while True:
            fact = make_fact_about(rng, "test", kind, digits=digits)
            if not holds_value(fact.question, fact.value):  # a reply that restates the question must not be right
                return fact

    def _values_of(self, index: int) -> Literal["digits", "words"]:
        if self._values == "both":
            return "words" if index % 2 else "digits"
        return self._values

    def _insert(self, filler: Sequence[str], statement: str, depth: float) -> list[str]:
        place = round(depth * len(filler))
        return [*filler[:place], statement, *filler[place:]]

    def _filler(self, start: int, room: int) -> list[str]:
        """Sentences from `start` on, over the end of the text to its beginning, as many as fit into `room` tokens."""
        chosen: list[str] = []
        number = start
        while (room := room - self._length(number % len(self._sentences))) >= 0:
            chosen.append(self._sentences[number % len(self._sentences)])
            number += 1
        return chosen

    def _length(self, number: int) -> int:
        if number not in self._lengths:
            self._lengths[number] = max(1, self._count(" " + self._sentences[number]))
        return self._lengths[number]

    def _count(self, text: str) -> int:
        return len(self._tokenize(text))


def read_sentences(path: Path | None) -> list[str]:
    """Sentences of a filler text, of 20 to 400 characters; None = the text in the package.

    Raises:
        ConfigError: The file is missing, damaged, not UTF-8, or holds no such sentence.
    """
    if path is None:
        text = resources.files("localhyper.evaluate").joinpath("filler.txt").read_text(encoding="utf-8")
    else:
        text = _read_text(path)
    sentences = [" ".join(sentence.split()) for sentence in _SENTENCE_END.split(text)]
    usable = [sentence for sentence in sentences if 20 <= len(sentence) <= 400]
    if not usable:
        raise ConfigError(f"filler file `{path}` holds no sentence of 20 to 400 characters", "give plain prose")
    return usable


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if data.startswith(_GZIP_MAGIC) else data).decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"filler file `{path}` does not exist", "name a .txt or .txt.gz file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"filler file `{path}` is not UTF-8 text", "convert it first") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ConfigError(f"filler file `{path}` is damaged: {error}", "fetch it again") from error
    except OSError as error:
        raise ConfigError(f"filler file `{path}` cannot be read: {error.strerror or error}") from error
