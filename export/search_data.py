"""Questions with the paragraph that each is about, and paragraphs that only look like it.

Negatives are other paragraphs of a batch, and those that share most words with a question (BM25 of FTS5, as at run
time), without its answer: what words alone would choose wrongly. Where paragraphs are cut into chunks, the other chunks
of a question's own paragraph are negatives, too: what stands around an answer looks most like it.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from localhyper.errors import ConfigError
from localhyper.export.cutting import cut_text, place_pairs
from localhyper.export.data_files import hold_out, read_reading
from localhyper.export.search_config import SearchDataConfig
from localhyper.export.texts import Example
from localhyper.full_text import any_word

COMMON = 2000  # contexts with a word from which on it tells little of them, and BM25 reads long lists for it


@dataclass(frozen=True)
class Asked:
    """A question, the number of its context, and numbers of contexts that look like it, and of those around it."""

    question: str
    context: int
    negatives: Sequence[int]
    around: Sequence[int] = ()


@dataclass(frozen=True)
class SearchSet:
    """Contexts and what is asked about them."""

    contexts: Sequence[str]
    asked: Sequence[Asked]


def load_search_sets(
    root: Path, config: SearchDataConfig, tokenizer: Tokenizer, max_tokens: int, seed: int
) -> tuple[SearchSet, SearchSet]:
    """Training and held-out sets.

    Raises:
        ConfigError: A file is missing or not readable, or too little is left to tell contexts apart.
    """
    examples = [example for name in config.reading for example in read_reading(root / name, tokenizer, max_tokens)]
    random.Random(f"{seed}/search").shuffle(examples)
    train, held = hold_out(examples[: config.contexts or None], config.holdout)
    if len(held) < 2:
        raise ConfigError(f"{len(examples)} contexts are too few", "name larger reading sets in the recipe")
    most = config.cut_tokens or max_tokens
    cut_train, cut_held = ([_cut(one, tokenizer, most) for one in part] for part in (train, held))
    return _search_set(cut_train, config, seed), _search_set(cut_held, config, seed)


def _cut(example: Example, tokenizer: Tokenizer, most: int) -> list[Example]:
    """A context in chunks of at most so many tokens, each with the questions whose answer it alone spells."""
    texts = [chunk.text for chunk in cut_text(tokenizer, example.text, most)]
    if len(texts) < 2:
        return [example]
    placed = place_pairs(texts, example.pairs)
    return [replace(example, text=text, pairs=tuple(own)) for text, own in zip(texts, placed, strict=True)]


def _search_set(cut: Sequence[Sequence[Example]], config: SearchDataConfig, seed: int) -> SearchSet:
    """Of contexts, each in its chunks."""
    rng, asked = random.Random(f"{seed}/questions"), []
    chunks = [chunk for parts in cut for chunk in parts]
    begins = np.cumsum([0, *map(len, cut)]).tolist()
    with closing(_index(chunks)) as index:
        common = _common(index)
        for begin, parts in zip(begins, cut, strict=False):
            pairs = [(begin + place, pair) for place, chunk in enumerate(parts) for pair in chunk.pairs]
            for number, pair in rng.sample(pairs, min(config.questions, len(pairs))):
                alike = _alike(index, pair.question, common, config.negatives)
                others = [n for n in alike if n != number and pair.answer.lower() not in chunks[n].text.lower()]
                around = [n for n in range(begin, begin + len(parts)) if n != number]
                asked.append(Asked(pair.question, number, others, around))
    return SearchSet([chunk.text for chunk in chunks], asked)


def _index(examples: Sequence[Example]) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE VIRTUAL TABLE contexts USING fts5(text, tokenize = 'unicode61 remove_diacritics 2')")
    connection.executemany(
        "INSERT INTO contexts(rowid, text) VALUES (?, ?)", [(number, e.text) for number, e in enumerate(examples)]
    )
    return connection


def _common(index: sqlite3.Connection) -> frozenset[str]:
    """Words that many contexts have."""
    index.execute("CREATE VIRTUAL TABLE words USING fts5vocab(contexts, row)")
    return frozenset(word for (word,) in index.execute("SELECT term FROM words WHERE doc > ?", [COMMON]))


def _alike(index: sqlite3.Connection, question: str, common: frozenset[str], most: int) -> list[int]:
    match = any_word(question, common) or any_word(question)
    if not match:
        return []
    found = index.execute(
        "SELECT rowid FROM contexts WHERE contexts MATCH ? ORDER BY bm25(contexts), rowid LIMIT ?", [match, most]
    )
    return [number for (number,) in found]


@dataclass(frozen=True)
class Drawn:
    """A batch: questions, and contexts of which the first are those asked about, in the questions' order.

    Attributes:
        unrelated: Of each question, whether each context is from another text than the one asked about.
    """

    questions: Sequence[str]
    contexts: Sequence[str]
    unrelated: Sequence[Sequence[bool]] = ()


def draw(found: SearchSet, rng: random.Random, pairs: int) -> Drawn:
    """Questions of different contexts, and for each one that looks like its own and one around it, if there are any."""
    taken: dict[int, Asked] = {}
    for one in rng.sample(found.asked, len(found.asked)):
        taken.setdefault(one.context, one)
        if len(taken) == pairs:
            break
    numbers = list(taken)
    for one in taken.values():
        for others in (one.negatives, one.around):
            left = [number for number in others if number not in numbers]
            if left:
                numbers.append(rng.choice(left))
    unrelated = [[number not in (one.context, *one.around) for number in numbers] for one in taken.values()]
    return Drawn([one.question for one in taken.values()], [found.contexts[number] for number in numbers], unrelated)


def groups(found: SearchSet, size: int) -> Iterator[Sequence[Asked]]:
    """All questions, so many at a time."""
    for start in range(0, len(found.asked), size):
        yield found.asked[start : start + size]
