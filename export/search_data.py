"""Questions with the paragraph that each is about, and paragraphs that only look like it.

Negatives are other paragraphs of a batch, and those that share most words with a question (BM25 of FTS5, as at run
time), without its answer: what words alone would choose wrongly.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from localhyper.errors import ConfigError
from localhyper.export.data_files import hold_out, read_reading
from localhyper.export.search_config import SearchDataConfig
from localhyper.export.texts import Example
from localhyper.full_text import any_word


@dataclass(frozen=True)
class Asked:
    """A question, the number of its context, and numbers of contexts that look like it."""

    question: str
    context: int
    negatives: Sequence[int]


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
    return _search_set(train, config, seed), _search_set(held, config, seed)


def _search_set(examples: Sequence[Example], config: SearchDataConfig, seed: int) -> SearchSet:
    rng, asked = random.Random(f"{seed}/questions"), []
    with closing(_index(examples)) as index:
        for number, example in enumerate(examples):
            for pair in rng.sample(example.pairs, min(config.questions, len(example.pairs))):
                alike = _alike(index, pair.question, config.negatives)
                others = [n for n in alike if n != number and pair.answer.lower() not in examples[n].text.lower()]
                asked.append(Asked(pair.question, number, others))
    return SearchSet([example.text for example in examples], asked)


def _index(examples: Sequence[Example]) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE VIRTUAL TABLE contexts USING fts5(text, tokenize = 'unicode61 remove_diacritics 2')")
    connection.executemany(
        "INSERT INTO contexts(rowid, text) VALUES (?, ?)", [(number, e.text) for number, e in enumerate(examples)]
    )
    return connection


def _alike(index: sqlite3.Connection, question: str, most: int) -> list[int]:
    match = any_word(question)
    if not match:
        return []
    found = index.execute(
        "SELECT rowid FROM contexts WHERE contexts MATCH ? ORDER BY bm25(contexts), rowid LIMIT ?", [match, most]
    )
    return [number for (number,) in found]


@dataclass(frozen=True)
class Drawn:
    """A batch: questions, and contexts of which the first are those asked about, in the questions' order."""

    questions: Sequence[str]
    contexts: Sequence[str]


def draw(found: SearchSet, rng: random.Random, pairs: int) -> Drawn:
    """Questions of different contexts, and for each a context that looks like its own, as far as there are any."""
    taken: dict[int, Asked] = {}
    for one in rng.sample(found.asked, len(found.asked)):
        taken.setdefault(one.context, one)
        if len(taken) == pairs:
            break
    numbers = list(taken)
    for one in taken.values():
        left = [number for number in one.negatives if number not in numbers]
        if left:
            numbers.append(rng.choice(left))
    return Drawn([one.question for one in taken.values()], [found.contexts[number] for number in numbers])


def groups(found: SearchSet, size: int) -> Iterator[Sequence[Asked]]:
    """All questions, so many at a time."""
    for start in range(0, len(found.asked), size):
        yield found.asked[start : start + size]
